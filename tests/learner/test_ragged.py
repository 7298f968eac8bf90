import torch
from torch import tensor

from learner.ragged import flatten, owner, pad, places, sum_by_trajectory, to_go

LENGTHS = tensor([3, 1, 2])
FLAT = tensor([1.0, 2.0, 3.0, 10.0, 20.0, 30.0])


def test_padded_and_back():
    padded = pad(FLAT, LENGTHS, fill=-1.0)
    assert padded.tolist() == [[1.0, 2.0, 3.0], [10.0, -1.0, -1.0], [20.0, 30.0, -1.0]]
    assert torch.equal(flatten(padded, LENGTHS), FLAT)


def test_sums_owners_and_rewards_to_go():
    assert owner(LENGTHS).tolist() == [0, 0, 0, 1, 2, 2]
    assert sum_by_trajectory(FLAT, LENGTHS).tolist() == [6.0, 10.0, 50.0]
    assert to_go(FLAT, LENGTHS).tolist() == [6.0, 5.0, 3.0, 10.0, 50.0, 30.0]


def test_places_of_some_trajectories_in_the_order_named():
    assert places(LENGTHS, tensor([2, 0])).tolist() == [4, 5, 0, 1, 2]
    assert places(LENGTHS, tensor([0, 1, 2])).tolist() == list(range(6))


def test_padding_is_inert():
    padded = pad(FLAT, LENGTHS, fill=float("nan"))
    assert torch.equal(flatten(padded * 2, LENGTHS), FLAT * 2)
