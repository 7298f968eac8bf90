import math

import pytest
import torch
from torch import tensor

from learner.mismatch import matching_trajectories, truncated_importance

LN2 = math.log(2)
PROXIMAL, BEHAVIOUR, LENGTHS = tensor([-1.0, -1.0, -3.0]), tensor([-1.0 - LN2, -1.0 - LN2, -3.0 + LN2]), tensor([2, 1])


def weights(level, cap=100.0, proximal=PROXIMAL):
    return truncated_importance(
        level, proximal_logprobs=proximal, behaviour_logprobs=BEHAVIOUR, lengths=LENGTHS, cap=cap
    )


def matching(low, high):
    return matching_trajectories(
        proximal_logprobs=PROXIMAL, behaviour_logprobs=BEHAVIOUR, lengths=LENGTHS, low=low, high=high
    ).tolist()


def test_weights_by_hand():
    assert weights("token").tolist() == pytest.approx([2.0, 2.0, 0.5])
    assert weights("sequence").tolist() == pytest.approx([4.0, 4.0, 0.5])


def test_the_cap_bounds_them_from_above_only():
    assert weights("sequence", cap=3.0).tolist() == pytest.approx([3.0, 3.0, 0.5])


def test_where_the_policies_agree_weights_are_one():
    assert weights("token", proximal=BEHAVIOUR).tolist() == [1.0] * 3
    assert weights("sequence", proximal=BEHAVIOUR).tolist() == [1.0] * 3


def test_trajectories_of_one_token_know_no_level():
    lengths = tensor([1, 1, 1])
    token, sequence = (
        truncated_importance(level, proximal_logprobs=PROXIMAL, behaviour_logprobs=BEHAVIOUR, lengths=lengths, cap=9.0)
        for level in ("token", "sequence")
    )
    assert torch.equal(token, sequence)


def test_no_gradient_flows_into_weights():
    assert not weights("token", proximal=PROXIMAL.clone().requires_grad_()).requires_grad


def test_hopeless_tokens_stay_finite():
    assert weights("sequence", cap=2.0, proximal=tensor([500.0, 500.0, -500.0])).isfinite().all()


def test_the_mask_looks_at_the_geometric_mean():
    # means of the ratio: 2 over two tokens (their product is 4), and 1/2
    assert matching(0.0, math.inf) == [True, True]
    assert matching(0.4, 2.1) == [True, True]
    assert matching(0.6, 2.1) == [True, False]
    assert matching(0.4, 1.9) == [False, True]
