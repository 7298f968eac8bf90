import math

import pytest
import torch

from learner.preference_loss import bradley_terry_loss, dpo_loss


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


def dpo(chosen, rejected, reference=(-2.0, -3.0), beta=0.5):
    pairs = {"chosen_logprobs": chosen, "rejected_logprobs": rejected}
    return dpo_loss(
        **{name: torch.as_tensor(value, dtype=torch.float64) for name, value in pairs.items()},
        chosen_reference_logprobs=torch.tensor([reference[0]], dtype=torch.float64),
        rejected_reference_logprobs=torch.tensor([reference[1]], dtype=torch.float64),
        beta=beta,
    )


def test_dpo_by_hand():
    # rewards 0.5 (-1 + 2) = 0.5 and 0.5 (-5 + 3) = -1: ln(1 + e^-1.5)
    assert dpo([-1.0], [-5.0]).item() == pytest.approx(math.log(1 + math.exp(-1.5)))


def test_dpo_costs_ln_2_where_the_policy_is_the_reference_whatever_that_prefers():
    assert dpo([-2.0], [-3.0]).item() == dpo([-2.0], [-3.0], beta=9.0).item() == pytest.approx(math.log(2))
    assert dpo([-70.0], [-3.0], reference=(-70.0, -3.0)).item() == pytest.approx(math.log(2))


def test_dpo_is_bradley_terry_on_the_policy_s_own_reward():
    expected = losses([0.3 * (-1.0 + 2.0)], [0.3 * (-5.0 + 3.0)]).item()
    assert dpo([-1.0], [-5.0], beta=0.3).item() == pytest.approx(expected)


def test_dpo_raises_the_better_answer_and_lowers_the_worse_by_beta_times_the_doubt():
    chosen, rejected = (torch.tensor([x], dtype=torch.float64, requires_grad=True) for x in (-1.0, -5.0))
    reference = torch.tensor([-2.0], dtype=torch.float64, requires_grad=True)
    dpo_loss(
        chosen_logprobs=chosen, rejected_logprobs=rejected, chosen_reference_logprobs=reference,
        rejected_reference_logprobs=torch.tensor([-3.0], dtype=torch.float64), beta=0.5,
    ).sum().backward()  # fmt: skip
    doubt = 1 / (1 + math.exp(1.5))  # sigmoid(-1.5)
    assert chosen.grad.item() == pytest.approx(-0.5 * doubt)
    assert rejected.grad.item() == pytest.approx(0.5 * doubt)
    assert reference.grad is None
