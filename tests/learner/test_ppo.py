import copy
import dataclasses
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from learner import losses
from learner.config import (
    GAE,
    AdaptiveKLConfig,
    Correction,
    CriticConfig,
    GroupBaseline,
    KLConfig,
    OverlongPenalty,
    PPOConfig,
)
from learner.errors import (
    CheckpointError,
    EmptyCompletionError,
    GroupTooSmallError,
    NonFiniteGradientError,
    NonFiniteLogprobError,
    NonFiniteRewardError,
    NonFiniteValueError,
    TokenOutsideVocabularyError,
    TooLongError,
)
from learner.experience import admit, apply_filter, lay_out
from learner.filter_config import BestOfN, BestRandom, BestWorst, KeepAll, PowerK, RandomK
from learner.model_config import OptimizerConfig
from learner.normalise import RunningMoments
from learner.packing import as_sequence, pack
from learner.policy import Policy
from learner.ppo import PPOLearner
from learner.rewards import raw_reward
from learner.scalar_head import ScalarHeadModel
from learner.signals import advantages_of, logprobs_of, score
from learner.trajectory import FinishReason, RewardEvent

METRICS = Path(__file__).parents[2] / "docs" / "metrics.md"
OF_THE_MACHINE = ("learner/time", "learner/tokens_per_s", "learner/mfu", "learner/memory")
SMALL = {"row_tokens": 64, "max_trajectory_tokens": 32, "minibatch_trajectories": 4, "num_steps": 4}
CRITIC = CriticConfig(warmup_steps=6, warmup_batch_trajectories=8)


def config(**settings):
    return PPOConfig(**{"advantage": GAE(critic=CRITIC), **SMALL, **settings})


@pytest.fixture
def groups(tiny_model, make_trajectory):
    return rollouts(tiny_model, make_trajectory, num_groups=4, size=5)


def rollouts(model, make_trajectory, *, num_groups, size, first=0, reward=None):
    """Random completions of ragged length, with the model's own log-probabilities."""
    rng = np.random.default_rng(first)
    policy = Policy(model)
    made = []
    for group in range(first, first + num_groups):
        members = []
        for sample in range(size):
            tokens = (*(int(t) for t in rng.integers(2, 40, rng.integers(1, 9))), 1)
            earned = float(rng.random()) if reward is None else reward(tokens)
            bare = make_trajectory(group, sample, reward=earned, completion=tokens)
            logprobs = logprobs_of(policy, [as_sequence(bare)], 64).tolist()
            members.append(
                make_trajectory(
                    group,
                    sample,
                    reward=earned,
                    completion=tokens,
                    behaviour_logprobs=tuple(min(x, 0) for x in logprobs),
                )
            )
        made.append(members)
    return made


def weights_of(model):
    return torch.cat([parameter.detach().flatten().clone() for parameter in model.parameters()])


# --- it learns, and by the tested functions


def test_what_is_rewarded_becomes_likelier(tiny_model, make_trajectory):
    def likes_seven(tokens):
        return tokens.count(7) / len(tokens)

    groups = rollouts(tiny_model, make_trajectory, num_groups=24, size=6, reward=likes_seven)
    learner = PPOLearner(tiny_model, config(advantage=GroupBaseline(), optimizer=OptimizerConfig(learning_rate=3e-3)))
    good = [as_sequence(t) for group in groups for t in group if t.reward > 0.2]
    before = logprobs_of(learner.policy, good, 64).mean()
    learner.step(groups)
    assert logprobs_of(learner.policy, good, 64).mean() > before


def test_the_loss_comes_from_the_tested_function(tiny_model, groups, monkeypatch):
    plain = weights_of(tiny_model)
    learner = PPOLearner(copy.deepcopy(tiny_model), config())
    learner.step(groups)
    trained = weights_of(learner.policy)
    assert not torch.equal(trained, plain)

    original, calls = losses.clipped_policy_loss, []

    def reversed_loss(**arguments):
        calls.append(sorted(arguments))
        result = original(**arguments)
        return result._replace(loss=-result.loss)

    monkeypatch.setattr(losses, "clipped_policy_loss", reversed_loss)
    other = PPOLearner(copy.deepcopy(tiny_model), config())
    other.step(groups)
    assert calls
    assert not torch.equal(weights_of(other.policy), trained)


def test_the_first_update_is_that_of_the_plain_policy_gradient(tiny_model, groups):
    """One epoch, one mini-batch: ratio 1, so that the gradient is that of -sum A log p / tokens."""
    settings = config(
        advantage=GroupBaseline(),
        kl=KLConfig(coefficient=0),
        epochs=1,
        minibatch_trajectories=99,
        whiten_advantages=False,
    )
    learner = PPOLearner(copy.deepcopy(tiny_model), settings)
    result = learner.step(groups)
    policy, total, tokens = Policy(tiny_model), torch.zeros(()), 0
    for group in groups:
        mean = sum(t.reward for t in group) / len(group)
        for t in group:
            logprobs = policy(pack([as_sequence(t)], 64)[0]).logprobs
            total = total - (t.reward - mean) * logprobs.sum()
            tokens += len(logprobs)
    (total / tokens).backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in tiny_model.parameters()])
    assert result.metrics["policy/grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    assert result.metrics["policy/ratio_mean"] == pytest.approx(1.0, abs=1e-5)
    assert result.metrics["policy/clip_fraction"] == 0.0


def test_equal_rewards_teach_nothing(tiny_model, make_trajectory):
    groups = rollouts(tiny_model, make_trajectory, num_groups=3, size=4, reward=lambda _: 0.5)
    for baseline in ("mean", "leave_one_out", "grpo"):
        learner = PPOLearner(
            copy.deepcopy(tiny_model), config(advantage=GroupBaseline(baseline=baseline), kl=KLConfig(coefficient=0))
        )
        before = weights_of(learner.policy)
        learner.step(groups)
        assert torch.equal(weights_of(learner.policy), before)


def test_the_critic_learns_the_returns_of_the_frozen_policy(tiny_model, make_trajectory):
    def likes_seven(tokens):
        return float(7 in tokens)

    train, held_out = (
        [
            t
            for group in rollouts(tiny_model, make_trajectory, num_groups=60, size=4, first=n, reward=likes_seven)
            for t in group
        ]
        for n in (0, 1000)
    )
    critic = CriticConfig(
        warmup_steps=150, warmup_optimizer=OptimizerConfig(learning_rate=1e-2), warmup_batch_trajectories=32
    )
    learner = PPOLearner(tiny_model, config(advantage=GAE(critic=critic)))
    before, seen = weights_of(learner.policy), []
    metrics = learner.warm_up_critic(train, held_out, progress=lambda done, figures: seen.append((done, figures)))
    assert metrics["critic/held_out_explained_variance"] > 0.2
    assert metrics["critic/held_out_explained_variance_last"] > metrics["critic/held_out_explained_variance_first"]
    assert torch.equal(weights_of(learner.policy), before)
    assert len(seen) == 150
    assert 0 <= seen[0][0] < seen[-1][0] < 1


# --- the filter, and what passes through the models


@pytest.mark.parametrize(
    ("rule", "share"), [(BestRandom(), 2 / 5), (BestWorst(), 2 / 5), (BestOfN(), 1 / 5), (KeepAll(), 1)]
)
def test_what_is_filtered_passes_through_neither_model(tiny_model, groups, rule, share):
    passed = []
    learner = PPOLearner(
        tiny_model, config(filter=rule, advantage=GAE(critic=CRITIC.model_copy(update={"train_on": "kept"})))
    )
    models = (learner.policy.model.base_model, learner.reference.model.base_model, learner.critic.model)
    for module in models:
        module.register_forward_hook(
            lambda _m, _a, kwargs, _o: passed.append(kwargs["position_ids"].numel()), with_kwargs=True
        )
    result = learner.step(groups)
    assert len(result.trained_ids) == share * 20
    kept = {outcome.id for outcome in result.outcomes if outcome.kept}
    assert set(result.trained_ids) == kept
    tokens = sum(as_sequence(t).num_tokens for group in groups for t in group if t.id in kept)
    assert result.policy_tokens == result.critic_tokens == tokens
    # policy: two epochs; reference: once; critic: values and one epoch
    assert sum(passed) == 5 * tokens
    assert result.metrics["learner/tokens_policy"] == tokens
    assert result.metrics["learner/samples_given"] == 20
    assert result.metrics["learner/samples_trained"] == share * 20
    given = sum(as_sequence(t).num_tokens for group in groups for t in group)
    assert result.metrics["learner/tokens_given"] == given


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (BestWorst(), {("p0", 4), ("p0", 0), ("p1", 4), ("p1", 0)}),
        (BestOfN(), {("p0", 4), ("p1", 4)}),
    ],
)
def test_answers_are_ranked_among_those_of_their_own_prompt(make_trajectory, rule, expected):
    """Each reward of one prompt lies above all of the other: ranked over the batch, one prompt would lose all."""
    rewards = [range(10, 15), range(-14, -9)]
    groups = [[make_trajectory(g, s, reward=float(r)) for s, r in enumerate(rewards[g])] for g in (0, 1)]
    settings = config(filter=rule)
    admitted, _, _ = admit(groups, settings, vocab_size=40)
    kept, passed_over = apply_filter(admitted, settings)
    assert {(sample.trajectory.id.problem_id, sample.trajectory.id.sample_index) for sample in kept} == expected
    assert len(passed_over) == 10 - len(expected)


def test_the_critic_may_learn_from_what_the_policy_does_not(tiny_model, groups):
    result = PPOLearner(tiny_model, config(filter=BestWorst())).step(groups)
    assert result.policy_tokens < result.critic_tokens == sum(as_sequence(t).num_tokens for g in groups for t in g)
    assert "critic/explained_variance_all" in result.metrics


def test_every_trajectory_is_accounted_for(tiny_model, groups, make_trajectory):
    groups[0][1] = make_trajectory(0, 1, finish_reason=FinishReason.ABORTED)
    groups[1][2] = make_trajectory(1, 2, drop_reason="infrastructure")
    groups[2][0] = make_trajectory(2, 0, finish_reason=FinishReason.LENGTH, reward=1.0)
    settings = config(filter=BestWorst(), advantage=GroupBaseline(), cut_by_length="drop")
    outcomes = PPOLearner(tiny_model, settings).step(groups).outcomes
    assert [o.id for o in outcomes] == [t.id for group in groups for t in group]
    reasons = [o.drop_reason for o in outcomes]
    assert (reasons[1], reasons[7], reasons[10]) == ("aborted", "infrastructure", "cut_by_length")
    assert reasons.count("filter:bw") == 20 - 3 - 8
    assert all(o.kept == (o.drop_reason is None) for o in outcomes)


def test_a_group_that_lost_its_fellows_is_dropped_and_not_an_error(tiny_model, groups, make_trajectory):
    for sample in range(4):
        groups[0][sample] = make_trajectory(0, sample, drop_reason="infrastructure")
    outcomes = PPOLearner(tiny_model, config(advantage=GroupBaseline())).step(groups).outcomes
    assert outcomes[4].drop_reason == "group_of_one"


def test_a_step_of_which_nothing_is_left_changes_nothing_but_counts(tiny_model, make_trajectory):
    learner = PPOLearner(tiny_model, config())
    before = weights_of(learner.policy)
    result = learner.step([[make_trajectory(0, i, drop_reason="infrastructure") for i in range(3)]])
    assert result.trained_ids == ()
    assert learner.num_steps == 1
    assert torch.equal(weights_of(learner.policy), before)


def test_the_order_of_groups_and_members_does_not_change_what_is_kept(tiny_model, groups):
    settings = config(filter=RandomK(k=2), advantage=GroupBaseline())
    one = PPOLearner(copy.deepcopy(tiny_model), settings).step(groups)
    other = PPOLearner(copy.deepcopy(tiny_model), settings).step([group[::-1] for group in groups[::-1]])
    assert set(one.trained_ids) == set(other.trained_ids)


# --- repeatable


@pytest.mark.parametrize("advantage", [GAE(critic=CRITIC), GroupBaseline()], ids=["critic", "group"])
def test_resumed_it_goes_on_bit_for_bit(tiny_model, make_trajectory, tmp_path, advantage):
    batches = [rollouts(tiny_model, make_trajectory, num_groups=2, size=4, first=n) for n in (0, 10, 20)]
    settings = config(advantage=advantage)
    straight = PPOLearner(copy.deepcopy(tiny_model), settings)
    for batch in batches:
        expected = straight.step(batch)
    broken = PPOLearner(copy.deepcopy(tiny_model), settings)
    for batch in batches[:2]:
        broken.step(batch)
    broken.save(tmp_path / "checkpoint")
    resumed = PPOLearner(copy.deepcopy(tiny_model), settings)
    resumed.load(tmp_path / "checkpoint")
    assert resumed.num_steps == 2
    result = resumed.step(batches[2])
    assert torch.equal(weights_of(resumed.policy), weights_of(straight.policy))
    for name, value in expected.metrics.items():
        assert name.startswith(OF_THE_MACHINE) or result.metrics[name] == value, name
    if straight.critic is not None:
        assert torch.equal(weights_of(resumed.critic), weights_of(straight.critic))


def test_a_checkpoint_needs_its_own_reference(tiny_model, tmp_path):
    PPOLearner(copy.deepcopy(tiny_model), config()).save(tmp_path / "checkpoint")
    with torch.no_grad():
        next(tiny_model.parameters()).add_(0.1)
    learner = PPOLearner(tiny_model, config())
    before = weights_of(learner.policy)
    with pytest.raises(CheckpointError, match="another reference policy"):
        learner.load(tmp_path / "checkpoint")
    assert torch.equal(weights_of(learner.policy), before)


def test_a_given_reference_and_critic_are_used(tiny_model, groups):
    reference = copy.deepcopy(tiny_model)
    with torch.no_grad():
        next(reference.parameters()).mul_(1.5)
    critic = ScalarHeadModel.from_causal_lm(tiny_model, bias=0.7)
    learner = PPOLearner(tiny_model, config(), reference=reference, critic=critic)
    assert learner.critic is critic
    assert abs(learner.step(groups).metrics["policy/kl_reference"]) > 1e-4


# --- variants change what they should


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_kl_as_a_loss_pulls_towards_the_reference(tiny_model, groups, estimator):
    def after(coefficient):
        reference = copy.deepcopy(tiny_model)
        with torch.no_grad():
            next(reference.parameters()).mul_(1.3)
        kl = KLConfig(coefficient=coefficient, estimator=estimator, place="loss")
        model = copy.deepcopy(tiny_model)
        PPOLearner(model, config(kl=kl, advantage=GroupBaseline()), reference=reference).step(groups)
        sequences = [as_sequence(t) for group in groups for t in group]
        apart = logprobs_of(Policy(model), sequences, 64) - logprobs_of(Policy(reference), sequences, 64)
        return float(apart.square().mean())

    assert after(5.0) < after(1e-6)


def test_k1_as_a_loss_adds_the_score_of_what_was_sampled(tiny_model, groups):
    """Its gradient is beta times the mean of grad log pi: of mean zero over samples, and not zero for these."""
    once = {"advantage": GroupBaseline(), "epochs": 1, "minibatch_trajectories": 99, "aggregation": "token_mean"}

    def change(coefficient):
        model = copy.deepcopy(tiny_model)
        kl = KLConfig(coefficient=coefficient, estimator="k1", place="loss")
        learner = PPOLearner(model, config(kl=kl, **once), reference=copy.deepcopy(tiny_model))
        gradients = {}
        step = learner.policy_optimizer.step

        def watched(**fields):
            gradients.update({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
            return step(**fields)

        learner.policy_optimizer.step = watched
        learner.step(groups)
        return gradients

    without, with_kl = change(1e-12), change(0.5)
    policy = Policy(copy.deepcopy(tiny_model))
    sequences = [as_sequence(t) for group in groups for t in group]
    (row,) = pack(sequences, sum(s.num_tokens for s in sequences))
    policy(row).logprobs.mean().mul(0.5).backward()
    for name, parameter in policy.model.named_parameters():
        added = with_kl[name] - without[name]
        assert torch.allclose(added, parameter.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "function"),
    [
        ({"policy_loss": "gspo", "clip_low": 3e-4, "clip_high": 4e-4}, "sequence_clipped_policy_loss"),
        ({"policy_loss": "cispo", "clip_low": 1.0}, "clipped_importance_loss"),
    ],
    ids=["gspo", "cispo"],
)
def test_other_policy_losses_come_from_their_tested_functions(tiny_model, groups, monkeypatch, settings, function):
    """At the first update all three have the gradient of the plain policy gradient; then they part."""
    once = config(advantage=GroupBaseline(), epochs=1, minibatch_trajectories=99,
                  aggregation="sequence_mean_token_mean")  # fmt: skip
    plain = PPOLearner(copy.deepcopy(tiny_model), once).step(groups)
    original, calls = getattr(losses, function), []
    monkeypatch.setattr(losses, function, lambda **arguments: calls.append(1) or original(**arguments))
    first = PPOLearner(copy.deepcopy(tiny_model), once.model_copy(update=settings)).step(groups)
    assert first.metrics["policy/grad_norm"] == pytest.approx(plain.metrics["policy/grad_norm"], rel=1e-3)
    later = [
        PPOLearner(copy.deepcopy(tiny_model), config(advantage=GroupBaseline(), epochs=3, **extra))
        for extra in ({}, settings)
    ]
    assert later[0].step(groups).metrics["policy/grad_norm"] != later[1].step(groups).metrics["policy/grad_norm"]
    assert calls


def test_raft_makes_the_best_answers_likelier_and_trains_no_other(tiny_model, groups):
    raft = config(
        policy_loss="likelihood", filter=BestOfN(), advantage=GroupBaseline(baseline="none"),
        kl=KLConfig(coefficient=0), optimizer=OptimizerConfig(learning_rate=3e-3),
    )  # fmt: skip
    learner = PPOLearner(tiny_model, raft)
    best = [max(group, key=lambda t: t.reward) for group in groups]
    before = logprobs_of(learner.policy, [as_sequence(t) for t in best], 64).mean()
    result = learner.step(groups)
    assert set(result.trained_ids) == {t.id for t in best}
    assert logprobs_of(learner.policy, [as_sequence(t) for t in best], 64).mean() > before


def test_an_overlong_completion_earns_less_and_the_filter_sees_it(tiny_model, make_trajectory):
    group = [make_trajectory(0, i, reward=1.0, completion=(5,) * (4 + 4 * i) + (1,)) for i in range(3)]
    overlong = OverlongPenalty(max_tokens=13, buffer_tokens=6, scale=0.5)
    result = PPOLearner(tiny_model, config(filter=BestOfN(), overlong=overlong)).step([group])
    assert result.trained_ids == (group[0].id,)
    assert result.metrics["reward/mean"] == pytest.approx((1 + (1 - 0.5 * 2 / 6) + 0.5) / 3)


def test_groups_of_one_reward_may_be_dropped(tiny_model, groups, make_trajectory):
    groups[1] = [make_trajectory(1, i, reward=0.5) for i in range(4)]
    result = PPOLearner(tiny_model, config(advantage=GroupBaseline(), drop_uniform_groups=True)).step(groups)
    reasons = {outcome.id: outcome.drop_reason for outcome in result.outcomes if not outcome.kept}
    assert reasons == {t.id: "uniform_group" for t in groups[1]}


def test_critic_and_figures_see_the_groups_of_one_reward_that_are_dropped(tiny_model, groups, make_trajectory):
    groups[1] = [make_trajectory(1, i, reward=0.5) for i in range(4)]
    learner = PPOLearner(tiny_model, config(drop_uniform_groups=True))
    learner.warm_up_critic(groups[0], groups[2])  # a new one explains nothing
    learner.moments = RunningMoments()
    result = learner.step(groups)
    assert result.metrics["learner/samples_trained"] == sum(map(len, groups)) - 4
    assert result.critic_tokens == result.policy_tokens + sum(as_sequence(t).num_tokens for t in groups[1])
    rewards = [raw_reward(t.events) for group in groups for t in group]
    assert result.metrics["reward/mean"] == pytest.approx(np.mean(rewards))
    assert result.metrics["reward/running_std"] == pytest.approx(np.std(rewards, ddof=1), rel=1e-5)
    kept, everywhere = (result.metrics[f"critic/explained_variance_{part}"] for part in ("kept", "all"))
    assert kept != everywhere


@pytest.mark.parametrize("train_on", ["all", "kept"])
def test_explained_variance_on_all_is_given_where_all_were_seen(tiny_model, groups, train_on):
    critic = CRITIC.model_copy(update={"train_on": train_on})
    plain = PPOLearner(copy.deepcopy(tiny_model), config(advantage=GAE(critic=critic))).step(groups).metrics
    assert plain["critic/explained_variance_all"] == plain["critic/explained_variance_kept"]
    filtered = PPOLearner(tiny_model, config(advantage=GAE(critic=critic), filter=BestWorst())).step(groups).metrics
    assert ("critic/explained_variance_all" in filtered) == (train_on == "all")


def test_a_critic_s_warm_up_without_a_usable_rollout_is_refused(tiny_model, make_trajectory):
    cut = [dataclasses.replace(t, turns=(dataclasses.replace(t.turns[-1], finish_reason=FinishReason.LENGTH),))
           for t in (make_trajectory(0, i, reward=0.0) for i in range(3))]  # fmt: skip
    learner = PPOLearner(tiny_model, config(cut_by_length="drop"))
    with pytest.raises(ValueError, match="none of the critic's warm-up rollouts can be used"):
        learner.warm_up_critic(cut, cut)
    assert torch.isfinite(weights_of(learner.critic)).all()


def test_a_length_penalty_makes_no_group_less_uniform(tiny_model, groups, make_trajectory):
    groups[1] = [make_trajectory(1, i, reward=0.0, completion=(5,) * (4 + 4 * i) + (1,)) for i in range(3)]
    overlong = OverlongPenalty(max_tokens=13, buffer_tokens=6, scale=0.5)
    learner = PPOLearner(tiny_model, config(advantage=GroupBaseline(), overlong=overlong, drop_uniform_groups=True))
    dropped = {o.id for o in learner.step(groups).outcomes if o.drop_reason == "uniform_group"}
    assert {t.id for t in groups[1]} <= dropped


@pytest.mark.parametrize("baseline", ["mean", "leave_one_out", "grpo"])
def test_a_group_of_equal_rewards_beside_others_teaches_nothing(make_trajectory, baseline):
    """As whitening over the batch would: it moves the mean of tokens, which long answers weigh down."""
    mixed = [make_trajectory(0, i, reward=float(i == 0), completion=(5,) * (4 + 8 * i) + (1,)) for i in range(2)]
    equal = [make_trajectory(1, i, reward=0.0) for i in range(2)]
    settings = config(advantage=GroupBaseline(baseline=baseline), kl=KLConfig(coefficient=0))
    samples = [sample for group in admit([mixed, equal], settings, 40)[0] for sample in group]
    experience = lay_out(samples)
    signals = score(experience, reference=None, critic=None, kl_coefficient=0.0, config=settings)
    advantages = advantages_of(experience, experience, signals, settings)
    num_mixed = sum(len(sample.rewards) for sample in samples[:2])
    assert not advantages[num_mixed:].any()
    assert advantages[:num_mixed].all()


def test_what_is_whitened_unless_it_is_said():
    assert config().whitens
    assert config(advantage=GroupBaseline(baseline="none")).whitens
    assert not config(advantage=GroupBaseline()).whitens
    assert config(advantage=GroupBaseline(), whiten_advantages=True).whitens
    assert not config(whiten_advantages=False).whitens


def test_reinforce_plus_plus_trains_groups_of_one(tiny_model, groups):
    learner = PPOLearner(tiny_model, config(advantage=GroupBaseline(baseline="none")))
    assert len(learner.step([group[:1] for group in groups]).trained_ids) == len(groups)


def test_an_entropy_bonus_raises_the_entropy(tiny_model, groups):
    def after(coefficient):
        learner = PPOLearner(
            copy.deepcopy(tiny_model), config(advantage=GroupBaseline(), entropy_coefficient=coefficient, epochs=4)
        )
        learner.step(groups)
        return learner.step(groups).metrics["policy/entropy"]

    assert after(0.5) > after(0.0)


def test_a_correction_reduces_to_plain_ppo_where_trainer_and_generator_agree(tiny_model, groups):
    plain, corrected = (
        PPOLearner(copy.deepcopy(tiny_model), config(advantage=GroupBaseline(), correction=correction))
        for correction in (None, Correction())
    )
    plain.step(groups)
    result = corrected.step(groups)
    assert result.metrics["policy/importance_mean"] == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(weights_of(corrected.policy), weights_of(plain.policy), rtol=1e-3, atol=1e-5)


def test_a_trajectory_of_another_policy_is_masked(tiny_model, groups):
    stranger = groups[1][2]
    turn = dataclasses.replace(stranger.turns[0], behaviour_logprobs=stranger.turns[0].behaviour_logprobs - 3)
    groups[1][2] = dataclasses.replace(stranger, turns=(turn,))
    settings = config(advantage=GroupBaseline(), correction=Correction(mask_low=0.5, mask_high=2.0))
    result = PPOLearner(tiny_model, settings).step(groups)
    dropped = {outcome.id: outcome.drop_reason for outcome in result.outcomes if not outcome.kept}
    assert dropped == {stranger.id: "mismatch"}


def test_one_whose_fellows_are_all_masked_has_nobody_to_be_compared_with(tiny_model, groups):
    for index in (0, 1, 2, 3):
        stranger = groups[1][index]
        turn = dataclasses.replace(stranger.turns[0], behaviour_logprobs=stranger.turns[0].behaviour_logprobs - 3)
        groups[1][index] = dataclasses.replace(stranger, turns=(turn,))
    correction = Correction(mask_low=0.5, mask_high=2.0)
    for over, reason in (("kept", "group_of_one"), ("generated", None)):
        settings = config(advantage=GroupBaseline(over=over), correction=correction)
        outcomes = PPOLearner(copy.deepcopy(tiny_model), settings).step(groups).outcomes
        assert [outcome.drop_reason for outcome in outcomes[5:10]] == ["mismatch"] * 4 + [reason]


def test_the_critic_s_returns_are_discounted(tiny_model, make_trajectory):
    """Warm-up without a step leaves the head's constant: the mean return of 0.25, 0.5 and 1."""
    critic = CRITIC.model_copy(update={"warmup_steps": 0})
    learner = PPOLearner(tiny_model, config(advantage=GAE(gamma=0.5, critic=critic), kl=KLConfig(coefficient=0)))
    earned = [make_trajectory(0, i, reward=1.0) for i in range(2)]
    learner.warm_up_critic(earned, earned)
    assert float(learner.critic.score.bias.detach()) == pytest.approx(1.75 / 3)


def test_explained_variance_is_of_discounted_returns(tiny_model, make_trajectory, monkeypatch):
    learner = PPOLearner(tiny_model, config(advantage=GAE(gamma=0.5, critic=CRITIC), kl=KLConfig(coefficient=0)))
    monkeypatch.setattr("learner.signals.values_of", lambda *_: torch.tensor([0.25, 0.5, 1.0]))
    metrics = learner.step([[make_trajectory(0, 0, reward=1.0)]]).metrics
    assert metrics["critic/explained_variance_kept"] == pytest.approx(1.0)


def test_an_adaptive_coefficient_and_running_moments_go_into_the_checkpoint(tiny_model, groups, tmp_path):
    settings = config(
        kl=KLConfig(adaptive=AdaptiveKLConfig(target=1e-6, horizon=100.0)), reward_normalisation="standardise"
    )
    learner = PPOLearner(copy.deepcopy(tiny_model), settings)
    learner.step(groups)
    learner.step(groups)
    learner.save(tmp_path / "checkpoint")
    resumed = PPOLearner(copy.deepcopy(tiny_model), settings)
    resumed.load(tmp_path / "checkpoint")
    assert resumed.kl_coefficient == learner.kl_coefficient != 0.02
    assert resumed.moments == learner.moments
    assert learner.moments.count == 40


def test_normalised_rewards_do_not_change_what_is_kept(tiny_model, groups):
    kept = [
        PPOLearner(copy.deepcopy(tiny_model), config(filter=BestRandom(), reward_normalisation=how))
        .step(groups)
        .trained_ids
        for how in ("none", "scale", "standardise")
    ]
    assert kept[0] == kept[1] == kept[2]


# --- metrics


def test_every_metric_is_documented_and_every_documented_one_occurs(tiny_model, groups):
    learner = PPOLearner(tiny_model, config(filter=BestWorst(), correction=Correction(), peak_flops=1e12))
    flat = [t for group in groups for t in group]
    seen = {**learner.warm_up_critic(flat, flat), **learner.step(groups).metrics}
    section = METRICS.read_text().split("## Learner")[1].split("\n## ")[0]
    documented = set(re.findall(r"^\| `([^`]+)`", section, re.MULTILINE))
    assert set(seen) == documented
    assert all(isinstance(value, float) and np.isfinite(value) for value in seen.values())


# --- bad input


@pytest.mark.parametrize(
    ("change", "error", "complaint"),
    [
        ({"completion": (), "behaviour_logprobs": ()}, EmptyCompletionError, "no token"),
        ({"loss_mask": (False, False, False)}, EmptyCompletionError, "no token"),
        ({"reward": float("nan")}, NonFiniteRewardError, "gave nan"),
        ({"behaviour_logprobs": (-1.0, float("nan"), -1.0)}, NonFiniteLogprobError, "nan at trained token 1 of 3"),
        ({"behaviour_logprobs": (-1.0, -1.0, 0.5)}, NonFiniteLogprobError, "0.5 at trained token 2"),
        ({"completion": tuple(range(2, 38))}, TooLongError, "39 tokens, limit 32"),
        ({"completion": (5, 40, 1)}, TokenOutsideVocabularyError, "token id 40 outside the vocabulary of 40"),
    ],
)
def test_a_bad_trajectory_is_named_and_nothing_changes(tiny_model, groups, make_trajectory, change, error, complaint):
    groups[1][3] = make_trajectory(1, 3, **change)
    learner = PPOLearner(tiny_model, config())
    before = weights_of(learner.policy)
    with pytest.raises(error, match=rf"run/ppo/0/p1/3/0: .*{complaint}") as caught:
        learner.step(groups)
    assert torch.equal(weights_of(learner.policy), before)
    assert learner.num_steps == 0
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize(
    ("which", "settings", "error", "complaint"),
    [
        ("reference", {}, NonFiniteLogprobError, "reference log-probability nan at trained token"),
        ("critic", {}, NonFiniteValueError, "value nan at trained token"),
        ("policy", {"correction": Correction()}, NonFiniteLogprobError, "proximal log-probability nan"),
    ],
)
def test_a_model_that_says_nan_is_found_before_it_spreads(tiny_model, groups, which, settings, error, complaint):
    """One embedding is broken: the first trajectory that holds its token is named, and no other is taken for guilty."""
    learner = PPOLearner(tiny_model, config(**settings))
    broken = learner.critic.model if which == "critic" else getattr(learner, which).model
    token = 7
    victim = next(s for s in (as_sequence(t) for group in groups for t in group) if token in s.ids[:-1])
    with torch.no_grad():
        broken.get_input_embeddings().weight[token] = float("nan")
        if which != "critic":  # tied: every logit would be NaN
            broken.get_output_embeddings().weight = torch.nn.Parameter(broken.get_output_embeddings().weight.clone())
            broken.get_output_embeddings().weight[token] = 0.0
    with pytest.raises(error, match=f"{re.escape(victim.name)}: {complaint}"):
        learner.step(groups)
    assert learner.num_steps == 0


@pytest.mark.parametrize("normalisation", ["none", "scale", "standardise"])
@pytest.mark.parametrize("rule", [KeepAll(), BestWorst(), PowerK()], ids=lambda rule: rule.kind)
def test_rewards_that_are_all_equal_are_no_reason_for_a_number_that_is_none(
    tiny_model, make_trajectory, normalisation, rule
):
    groups = rollouts(tiny_model, make_trajectory, num_groups=3, size=5, reward=lambda _: 0.7)
    learner = PPOLearner(
        tiny_model, config(reward_normalisation=normalisation, filter=rule, kl=KLConfig(coefficient=0))
    )
    flat = [t for group in groups for t in group]
    metrics = learner.warm_up_critic(flat, flat) | learner.step(groups).metrics
    assert all(np.isfinite(value) for value in metrics.values())
    for name in ("held_out_explained_variance", "explained_variance_kept"):
        assert metrics[f"critic/{name}"] == 0.0
    assert torch.isfinite(weights_of(learner.policy)).all()


def test_a_group_of_one_or_of_two_prompts_is_refused(tiny_model, groups):
    learner = PPOLearner(tiny_model, config(advantage=GroupBaseline()))
    with pytest.raises(GroupTooSmallError, match="run/ppo/0/p0/0/0: a group of one"):
        learner.step([groups[0][:1]])
    with pytest.raises(ValueError, match="came in a group with"):
        learner.step([[groups[0][0], groups[1][0]]])
    assert PPOLearner(tiny_model, config()).step([groups[0][:1]]).trained_ids  # plain PPO compares nothing


def test_a_gradient_that_is_not_finite_undoes_the_step_and_names_the_trajectory(tiny_model, groups, monkeypatch):
    learner = PPOLearner(tiny_model, config())
    before = (weights_of(learner.policy), weights_of(learner.critic))
    original, calls = losses.clipped_policy_loss, []

    def poisoned(**arguments):
        calls.append(1)
        result = original(**arguments)
        bad = (arguments["advantages"] == marked).any() and len(calls) > 2
        return result._replace(loss=result.loss * (float("nan") if bad else 1.0))

    culprit = groups[2][1]
    groups[2][1] = make_outlier(culprit)
    learner.config = config(whiten_advantages=False)
    marked = find_mark(learner, groups)
    monkeypatch.setattr(losses, "clipped_policy_loss", poisoned)
    with pytest.raises(NonFiniteGradientError) as caught:
        learner.step(groups)
    assert caught.value.trajectories == ("run/ppo/0/p2/1/0",)
    assert torch.equal(weights_of(learner.policy), before[0])
    assert torch.equal(weights_of(learner.critic), before[1])
    assert learner.policy_optimizer.num_steps == 0
    assert learner.num_steps == 0


def make_outlier(trajectory):
    """The same with a reward no other has, so that its advantages are its own."""
    return dataclasses.replace(trajectory, events=(RewardEvent("tests", 77.0),))


def find_mark(learner, groups):
    """The advantage of the outlier's last token: its reward minus the critic's 0 and the KL term of that token."""
    admitted, _, _ = admit(groups, learner.config, learner.vocab_size)
    studied = lay_out(apply_filter(admitted, learner.config)[0])
    signals = learner._score(studied)
    return advantages_of(studied, studied, signals, learner.config).max()
