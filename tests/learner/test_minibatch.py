"""Gradients of a mini-batch do not depend on how it is cut into rows, and no token is counted twice or forgotten."""

import copy

import numpy as np
import pytest
import torch

from learner.aggregate import weighted_sum
from learner.minibatch import PassFigures, minibatches, update
from learner.model_config import OptimizerConfig
from learner.optim import ScheduledOptimizer
from learner.packing import TokenSequence
from learner.policy import Policy

WAYS = ("token_mean", "sequence_mean_token_mean", "sequence_mean_token_sum", "constant_length")


def ragged(count=11):
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 20, count)
    return [
        TokenSequence(f"s{i}", rng.integers(2, 40, n).astype(np.int64), np.arange(n) >= rng.integers(1, n))
        for i, n in enumerate(lengths)
    ]


def gradient_by(tiny_model, aggregation, row_tokens):
    """Of the whole set as one mini-batch; the rate is so small that the weights stay."""
    policy = Policy(copy.deepcopy(tiny_model).double())
    optimizer = ScheduledOptimizer(policy, OptimizerConfig(learning_rate=1e-30))
    seen = []
    optimizer.step = lambda **_: seen.append([p.grad.clone() for p in policy.parameters()]) or 1.0
    figures, sequences = PassFigures(), ragged()
    per_token = torch.randn(sum(s.num_trained for s in sequences), dtype=torch.float64)

    def row_loss(row, flat, weights):
        return weighted_sum(-policy(row).logprobs * per_token[flat], weights.double()), {"share": 1.0}

    for batch in minibatches(sequences, size=99, aggregation=aggregation, constant_length=20, order_seed=5):
        update(
            batch, model_name="policy", optimizer=optimizer, row_tokens=row_tokens, row_loss=row_loss, progress=0.0,
            figures=figures,
        )  # fmt: skip
    assert figures.num_tokens == sum(s.num_tokens for s in sequences)
    return figures.losses[-1], seen[-1]


@pytest.mark.parametrize("aggregation", WAYS)
def test_uneven_rows_add_up_to_the_gradient_of_the_whole(tiny_model, aggregation):
    torch.manual_seed(0)
    whole, expected = gradient_by(tiny_model, aggregation, 1000)  # one row
    for row_tokens in (19, 40):  # as good as one by one, and a few uneven rows
        torch.manual_seed(0)
        loss, gradients = gradient_by(tiny_model, aggregation, row_tokens)
        assert loss == pytest.approx(whole, rel=1e-12)
        for ours, theirs in zip(gradients, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-13)


def test_mini_batches_cover_the_set_once_in_an_order_of_the_seed_and_differ_by_one_at_most():
    sequences = ragged()
    batches = list(minibatches(sequences, size=4, aggregation="token_mean", order_seed=3))
    assert sorted(len(batch.sequences) for batch in batches) == [3, 4, 4]
    assert sorted(s.name for batch in batches for s in batch.sequences) == sorted(s.name for s in sequences)
    assert sorted(torch.cat([batch.flat for batch in batches]).tolist()) == list(
        range(sum(s.num_trained for s in sequences))
    )
    again, other = (
        [s.name for batch in minibatches(sequences, size=4, aggregation="token_mean", order_seed=seed)
         for s in batch.sequences]
        for seed in (3, 4)
    )  # fmt: skip
    assert again == [s.name for batch in batches for s in batch.sequences]
    assert other != again
