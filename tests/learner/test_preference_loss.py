import math

import pytest
import torch

from learner.preference_loss import bradley_terry_loss


def losses(chosen, rejected, **settings):
    return bradley_terry_loss(
        chosen_scores=torch.tensor(chosen, dtype=torch.float64),
        rejected_scores=torch.tensor(rejected, dtype=torch.float64),
        **settings,
    )


def test_numbers_by_hand():
    # -ln(1 / (1 + e^-1)) = ln(1 + e^-1), and ln(1 + e^2) for a pair in the wrong order by 2
    assert losses([2.0, 0.5], [1.0, 2.5]).tolist() == pytest.approx(
        [math.log(1 + math.exp(-1)), math.log(1 + math.e**2)]
    )


def test_equal_scores_cost_ln_2():
    assert losses([3.0], [3.0]).item() == pytest.approx(math.log(2))


def test_only_differences_count():
    assert losses([1.0, 4.0], [0.0, 5.0]).tolist() == pytest.approx(losses([11.0, 14.0], [10.0, 15.0]).tolist())


def test_a_margin_is_a_handicap_of_the_better_answer():
    assert losses([1.0], [0.0], margin=0.25).item() == pytest.approx(losses([0.75], [0.0]).item())


def test_centring_charges_the_squared_sum():
    assert losses([2.0], [1.0], centring=0.1).item() == pytest.approx(losses([2.0], [1.0]).item() + 0.1 * 9)
    assert losses([2.0], [-2.0], centring=0.1).item() == pytest.approx(losses([2.0], [-2.0]).item())


def test_the_gradient_parts_the_scores_and_never_overflows():
    chosen = torch.tensor([0.0, -500.0, 500.0], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([0.0, 500.0, -500.0], dtype=torch.float64, requires_grad=True)
    bradley_terry_loss(chosen_scores=chosen, rejected_scores=rejected).sum().backward()
    assert chosen.grad.tolist() == pytest.approx([-0.5, -1.0, 0.0])  # sigmoid(difference) - 1
    assert rejected.grad.tolist() == pytest.approx([0.5, 1.0, 0.0])
