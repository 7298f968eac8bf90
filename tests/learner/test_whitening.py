import pytest
import torch
from torch import tensor

from learner.explained_variance import explained_variance
from learner.whitening import whiten


def test_by_hand():
    # mean 2, unbiased variance 1
    assert whiten(tensor([1.0, 2.0, 3.0])).tolist() == pytest.approx([-1.0, 0.0, 1.0])
    assert whiten(tensor([1.0, 2.0, 3.0]), shift_mean=False).tolist() == pytest.approx([1.0, 2.0, 3.0])


def test_whitened_twice_is_whitened_once():
    once = whiten(torch.randn(50, dtype=torch.float64))
    torch.testing.assert_close(whiten(once), once)


def test_padding_is_inert():
    nan = float("nan")
    mask = tensor([[True, True], [True, False]])
    assert whiten(tensor([[1.0, 2.0], [3.0, nan]]), mask=mask).tolist() == [[-1.0, 0.0], [1.0, 0.0]]


def test_equal_values_give_zeros_and_a_single_one_too():
    assert whiten(tensor([0.5, 0.5])).tolist() == [0.0, 0.0]
    assert whiten(tensor([0.5])).tolist() == [0.0]


def test_equal_values_give_zeros_however_many_and_in_single_precision():
    for count in (3, 7, 1000):
        assert not whiten(torch.full((count,), 0.7)).any()
    assert whiten(torch.full((7,), 0.7)).dtype == torch.float32
    assert whiten(torch.zeros(0)).shape == (0,)


def test_explained_variance_by_hand():
    returns = tensor([0.0, 1.0, 0.0, 1.0])
    assert float(explained_variance(values=returns, returns=returns)) == 1.0
    assert float(explained_variance(values=returns + 7, returns=returns)) == 1.0  # an offset costs nothing
    assert float(explained_variance(values=torch.full((4,), 0.5), returns=returns)) == 0.0
    assert float(explained_variance(values=1 - returns, returns=returns)) == -3.0
    # residuals (0, .5, 0, .5): variance 1/16 of returns' 1/4
    assert float(explained_variance(values=tensor([0.0, 0.5, 0.0, 0.5]), returns=returns)) == 0.75


def test_equal_returns_have_nothing_to_explain_however_many_and_in_single_precision():
    """In float32 the spread of seven times 0.7 is 4e-15, and what was divided by it was -1e14."""
    for count in (3, 7, 60, 1000):
        for value in (0.7, 0.1, -1 / 3):
            returns = torch.full((count,), value)
            assert float(explained_variance(values=torch.linspace(0, 1, count), returns=returns)) == 0.0


def test_returns_that_do_not_vary_have_nothing_to_explain():
    assert float(explained_variance(values=tensor([0.1, 0.9]), returns=tensor([0.5, 0.5]))) == 0.0
    assert float(explained_variance(values=tensor([0.1]), returns=tensor([0.5]))) == 0.0
