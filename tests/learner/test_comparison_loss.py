"""RLCF's comparison and its losses, by hand."""

import math

import pytest
import torch

from learner.comparison_loss import comparison, comparison_losses


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_comparison_is_the_tangent_of_half_the_log_odds_by_hand():
    # tanh(0.5) = (e - 1) / (e + 1) = 0.462117
    assert comparison(t(1.5, 2.0), t(1.0, 2.0)).tolist() == pytest.approx([0.462117, 0.0], abs=1e-6)


def test_it_is_antisymmetric_bounded_and_zero_for_equal_programs():
    first, second = torch.randn(100, generator=torch.manual_seed(0)) * 5, torch.randn(100) * 5
    assert torch.equal(comparison(first, second), -comparison(second, first))
    assert comparison(first, second).abs().max() <= 1
    assert torch.equal(comparison(first, first), torch.zeros(100))


@pytest.mark.parametrize(
    ("loss", "difference", "target", "expected"),
    [
        ("logistic", 0.0, 1.0, math.log(2)),
        ("logistic", 0.5, 1.0, 0.313262),  # -log((1 + 0.462117) / 2)
        ("logistic", 0.5, -1.0, 1.313262),  # -log((1 - 0.462117) / 2)
        ("squared", 0.0, 1.0, 1.0),
        ("squared", 0.5, 1.0, 0.289318),  # (0.462117 - 1)^2
        ("squared", 0.5, -1.0, 2.137786),  # (0.462117 + 1)^2
    ],
)
def test_losses_by_hand(loss, difference, target, expected):
    losses = comparison_losses(loss, first_scores=t(difference), second_scores=t(0.0), targets=t(target))
    assert losses.tolist() == pytest.approx([expected], abs=1e-6)


@pytest.mark.parametrize("loss", ["logistic", "squared"])
def test_the_order_of_the_two_programs_does_not_matter(loss):
    first, second, targets = t(0.3, -1.0, 2.0), t(0.1, 1.0, -3.0), t(1, -1, 1)
    one = comparison_losses(loss, first_scores=first, second_scores=second, targets=targets)
    other = comparison_losses(loss, first_scores=second, second_scores=first, targets=-targets)
    assert one.tolist() == pytest.approx(other.tolist())


@pytest.mark.parametrize("loss", ["logistic", "squared"])
def test_the_reference_is_pulled_up_and_the_other_down(loss):
    scores = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    comparison_losses(loss, first_scores=scores[:1], second_scores=scores[1:], targets=t(1.0)).sum().backward()
    assert scores.grad is not None
    assert scores.grad[0] < 0 < scores.grad[1]
    assert scores.grad.sum().abs() < 1e-12


def test_a_mistake_of_certainty_still_has_a_gradient_under_the_logistic_loss_alone():
    def slope(loss):
        score = torch.tensor([8.0], dtype=torch.float64, requires_grad=True)
        comparison_losses(loss, first_scores=score, second_scores=t(0.0), targets=t(-1.0)).sum().backward()
        return float(score.grad)

    assert slope("logistic") == pytest.approx(2.0, abs=1e-5)
    assert abs(slope("squared")) < 1e-5  # tanh is flat there: why the logistic loss is the default
