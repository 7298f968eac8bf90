"""Line rewards and an initial value function in PPO: what they change, and what they leave alone when switched off."""

import copy

import pytest
import torch

from learner.config import GAE, CriticConfig, PPOConfig
from learner.critic import values_of
from learner.experience import admit, lay_out
from learner.packing import as_sequence
from learner.ppo import PPOLearner
from learner.scalar_head import ScalarHeadModel
from learner.trajectory import RewardEvent

CRITIC = CriticConfig(warmup_steps=4, warmup_batch_trajectories=8)
CONFIG = PPOConfig(
    advantage=GAE(critic=CRITIC), row_tokens=64, max_trajectory_tokens=32, minibatch_trajectories=4, num_steps=4
)


def batch(make_trajectory, lines):
    """Three groups of answers; ``lines``: (value, token) events beside the outcome."""
    completions = [(5, 6, 7, 8, 1), (9, 6, 7, 1), (5, 12, 1)]
    return [
        [
            make_trajectory(
                group,
                sample,
                completion=tokens,
                events=(*(RewardEvent("process", value, token) for value, token in lines), RewardEvent("passed", 1.0)),
            )
            for sample, tokens in enumerate(completions)
        ]
        for group in range(3)
    ]


def weights_of(learner):
    return torch.cat([p.detach().flatten() for model in (learner.policy, learner.critic) for p in model.parameters()])


@pytest.fixture
def judge(tiny_model):
    """A model with a head that says something."""
    torch.manual_seed(1)
    model = ScalarHeadModel.from_causal_lm(tiny_model, bias=0.3)
    with torch.no_grad():
        model.score.weight.normal_(0, 0.5)
    return model


def test_lines_are_paid_on_their_tokens_and_the_outcome_on_the_last(make_trajectory):
    admitted, _, _ = admit(batch(make_trajectory, [(0.125, 0), (-0.0625, 2)]), CONFIG, 40)
    assert admitted[0][0].rewards.tolist() == [0.125, 0.0, -0.0625, 0.0, 1.0]
    assert admitted[0][0].reward == 1.0625
    assert lay_out(admitted[0]).rewards.tolist()[5:9] == [0.125, 0.0, -0.0625, 1.0]


def test_with_lambda_0_and_no_initial_value_function_it_is_the_baseline_bit_for_bit(tiny_model, make_trajectory):
    results = []
    for lines in ([], [(0.0, 0), (-0.0, 1), (0.0, 2)]):
        learner = PPOLearner(copy.deepcopy(tiny_model), CONFIG)
        groups = batch(make_trajectory, lines)
        flat = [trajectory for group in groups for trajectory in group]
        learner.warm_up_critic(flat[:6], flat[6:])
        learner.step(groups)
        learner.step(groups)
        results.append(weights_of(learner))
    assert torch.equal(*results)


def test_with_a_lambda_it_is_not(tiny_model, make_trajectory):
    results = []
    for lines in ([], [(0.1, 0), (-0.1, 1)]):
        learner = PPOLearner(copy.deepcopy(tiny_model), CONFIG)
        learner.step(batch(make_trajectory, lines))
        results.append(weights_of(learner))
    assert not torch.equal(*results)


def test_before_the_first_update_the_critic_says_what_the_process_reward_model_says(
    tiny_model, judge, make_trajectory, tmp_path
):
    judge.save_pretrained(tmp_path / "prm", reads="line_ends")
    learner = PPOLearner(tiny_model, CONFIG, critic=ScalarHeadModel.from_pretrained(tmp_path / "prm"))
    sequences = [as_sequence(t) for group in batch(make_trajectory, []) for t in group]
    assert learner.critic is not None
    values = values_of(learner.critic, sequences, 64)
    assert torch.equal(values, values_of(judge, sequences, 64))
    assert values.std() > 0


def test_a_warm_up_goes_on_from_the_given_head_and_sets_the_constant_of_a_new_one(tiny_model, judge, make_trajectory):
    flat = [trajectory for group in batch(make_trajectory, []) for trajectory in group]
    config = CONFIG.model_copy(update={"advantage": GAE(critic=CRITIC.model_copy(update={"warmup_steps": 0}))})
    given = PPOLearner(copy.deepcopy(tiny_model), config, critic=copy.deepcopy(judge))
    given.warm_up_critic(flat[:6], flat[6:])
    assert torch.equal(given.critic.score.bias, judge.score.bias)
    new = PPOLearner(copy.deepcopy(tiny_model), config)
    new.warm_up_critic(flat[:6], flat[6:])
    assert new.critic.score.bias.item() == pytest.approx(1.0)
