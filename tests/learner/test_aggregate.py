import pytest
import torch
from torch import tensor

from learner.aggregate import token_weights, weighted_sum

LENGTHS = tensor([3, 1])
LOSSES = tensor([1.0, 2.0, 3.0, 10.0])


def aggregated(name, **kwargs):
    return float(weighted_sum(LOSSES, token_weights(name, lengths=LENGTHS, **kwargs)))


def test_four_ways_by_hand():
    assert aggregated("token_mean") == pytest.approx(16 / 4)
    assert aggregated("sequence_mean_token_mean") == pytest.approx((2 + 10) / 2)
    assert aggregated("sequence_mean_token_sum") == pytest.approx((6 + 10) / 2)
    assert aggregated("constant_length", constant_length=8) == pytest.approx((6 + 10) / 16)


def test_equal_lengths_make_all_but_the_sum_agree():
    lengths, losses = tensor([2, 2]), tensor([1.0, 2.0, 3.0, 10.0])
    values = [
        float(weighted_sum(losses, token_weights(name, lengths=lengths, constant_length=2)))
        for name in ("token_mean", "sequence_mean_token_mean", "constant_length")
    ]
    assert values == pytest.approx([4.0, 4.0, 4.0])


def test_parts_add_up_to_the_whole():
    for name in ("token_mean", "sequence_mean_token_mean", "sequence_mean_token_sum"):
        weights = token_weights(name, lengths=LENGTHS)
        parts = weighted_sum(LOSSES[:3], weights[:3]) + weighted_sum(LOSSES[3:], weights[3:])
        assert float(parts) == pytest.approx(aggregated(name))


def test_a_token_of_weight_zero_is_inert():
    losses = tensor([1.0, float("nan")], requires_grad=True)
    total = weighted_sum(losses, tensor([2.0, 0.0]))
    total.backward()
    assert float(total.detach()) == 2.0
    assert losses.grad is not None
    assert losses.grad.tolist() == [2.0, 0.0]


def test_the_constant_length_must_be_given():
    with pytest.raises(ValueError, match="constant_length"):
        token_weights("constant_length", lengths=LENGTHS)


def test_weights_of_means_sum_to_one():
    for name in ("token_mean", "sequence_mean_token_mean"):
        assert float(token_weights(name, lengths=tensor([5, 2, 9]), dtype=torch.float64).sum()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "name", ["token_mean", "sequence_mean_token_mean", "sequence_mean_token_sum", "constant_length"]
)
def test_a_trajectory_without_tokens_counts_for_nothing(name):
    """It is not among the B either, as in the library whose figures are in test_reference_numerics."""
    plain = token_weights(name, lengths=LENGTHS, constant_length=8)
    assert torch.equal(token_weights(name, lengths=tensor([0, 3, 0, 1]), constant_length=8), plain)
    for nothing in ([], [0], [0, 0]):
        lengths = tensor(nothing, dtype=torch.int64)
        assert token_weights(name, lengths=lengths, constant_length=8).shape == (0,)
