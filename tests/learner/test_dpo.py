import copy
import math

import numpy as np
import pytest
import torch

from learner.dpo import judge_dpo, pair_logprobs, train_dpo
from learner.errors import TooLongError
from learner.model_config import OptimizerConfig
from learner.policy import Policy
from learner.preferences import PreferencePair, ScoredAnswer
from learner.scalar_config import DPOConfig
from learner.scalar_training import Saving

CONFIG = DPOConfig(optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=5), row_tokens=64, batch_examples=8)


def pair(index):
    """A good answer holds token 5, a bad one token 7; lengths differ at random."""
    rng = np.random.default_rng(index)
    prompt, good, bad = (tuple(int(t) for t in rng.integers(10, 40, rng.integers(1, 6))) for _ in range(3))
    chosen = ScoredAnswer(f"p{index}", f"p{index}/good", prompt, (*good, 5, 1), 1.0, True)
    rejected = ScoredAnswer(f"p{index}", f"p{index}/bad", prompt, (*bad, 7, 1), 0.0, False)
    return PreferencePair(chosen, rejected)


UNSEEN = [pair(index) for index in range(500, 540)]


def test_it_prefers_the_better_of_pairs_that_it_has_not_seen(tiny_model):
    trained = copy.deepcopy(tiny_model)
    seen = []
    train_dpo(trained, CONFIG, [pair(index) for index in range(200)], progress=seen.append)
    assert seen[0].loss == pytest.approx(math.log(2))  # the policy is its own reference
    figures = judge_dpo(trained, tiny_model, CONFIG, UNSEEN)
    assert figures.num_pairs == 40
    assert figures.accuracy > 0.95
    assert figures.loss < 0.5 * math.log(2)
    assert figures.chosen_drift > figures.rejected_drift


def test_cut_short_it_goes_on_against_the_reference_that_it_began_with(tiny_model, tmp_path):
    class KilledError(Exception):
        pass

    def killed(latest):
        if latest.step == 4:
            raise KilledError

    pairs, saving = [pair(index) for index in range(200)], Saving(tmp_path / "newest", every_s=0.0)
    straight, broken, resumed = (copy.deepcopy(tiny_model) for _ in range(3))
    final = train_dpo(straight, CONFIG, pairs)
    with pytest.raises(KilledError):
        train_dpo(broken, CONFIG, pairs, progress=killed, saving=saving)
    assert train_dpo(resumed, CONFIG, pairs, saving=saving) == final
    for one, other in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_before_training_nothing_is_preferred(tiny_model):
    figures = judge_dpo(tiny_model, tiny_model, CONFIG, UNSEEN)
    assert (figures.accuracy, figures.chosen_drift, figures.rejected_drift) == (0.5, 0.0, 0.0)
    assert figures.loss == pytest.approx(math.log(2))


def test_the_first_gradient_is_that_of_the_plain_difference(tiny_model):
    """At the reference: d/dtheta = -beta / 2 (d log pi(y+) - d log pi(y-)), averaged over the batch's pairs."""
    pairs = [pair(index) for index in range(5)]
    trained = copy.deepcopy(tiny_model)
    result = train_dpo(trained, CONFIG.model_copy(update={"batch_examples": 5}), pairs)
    policy = Policy(tiny_model)
    total = torch.zeros(())
    for each in pairs:
        for answer, sign in ((each.chosen, 1), (each.rejected, -1)):
            ids = torch.tensor([*answer.prompt_ids, *answer.completion_ids])
            logits = policy.model(input_ids=ids[None], use_cache=False, packed_lengths=(len(ids),)).logits[0]
            logprobs = logits.log_softmax(-1)[torch.arange(len(ids) - 1), ids[1:]]
            total = total - sign * 0.1 / 2 * logprobs[len(answer.prompt_ids) - 1 :].sum() / 5
    total.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in tiny_model.parameters()])
    assert result.grad_norm == pytest.approx(float(norm), rel=1e-4)


def test_answers_are_summed_whole_and_each_by_itself(tiny_model):
    pairs = [pair(index) for index in range(9)]
    together = pair_logprobs(Policy(tiny_model), pairs, row_tokens=64)
    assert together.shape == (9, 2)
    for index, each in enumerate(pairs):
        torch.testing.assert_close(pair_logprobs(Policy(tiny_model), [each], row_tokens=64)[0], together[index])


def test_the_larger_beta_the_nearer_it_stays(tiny_model):
    def drift(beta):
        trained = copy.deepcopy(tiny_model)
        train_dpo(trained, CONFIG.model_copy(update={"beta": beta}), [pair(index) for index in range(100)])
        figures = judge_dpo(trained, tiny_model, CONFIG, UNSEEN)
        return abs(figures.chosen_drift) + abs(figures.rejected_drift)

    assert drift(1.0) < drift(0.05)


def test_bad_input_is_named(tiny_model):
    with pytest.raises(ValueError, match="no examples"):
        train_dpo(tiny_model, CONFIG, [])
    with pytest.raises(ValueError, match="no pairs to judge"):
        judge_dpo(tiny_model, tiny_model, CONFIG, [])
    with pytest.raises(TooLongError, match="p3/good"):
        train_dpo(tiny_model, CONFIG.model_copy(update={"row_tokens": 16}), [pair(3)])
