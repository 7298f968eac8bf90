import math

import pytest
import torch
from torch import tensor

from learner.losses import clipped_policy_loss, clipped_value_loss, likelihood_loss
from learner.mismatch import truncated_importance

F64 = torch.float64


def policy_loss(ratios, advantages, weights=None, clip=(0.2, 0.2), dual_clip=None, importance=None):
    """Loss with the ratios given, and its gradient in the current log-probabilities."""
    current = tensor(ratios, dtype=F64).log().requires_grad_()
    result = clipped_policy_loss(
        current_logprobs=current,
        proximal_logprobs=torch.zeros(len(ratios), dtype=F64),
        advantages=tensor(advantages, dtype=F64),
        weights=tensor(weights, dtype=F64) if weights else torch.full((len(ratios),), 1 / len(ratios), dtype=F64),
        clip_low=clip[0],
        clip_high=clip[1],
        dual_clip=dual_clip,
        importance=None if importance is None else tensor(importance, dtype=F64),
    )
    (gradient,) = torch.autograd.grad(result.loss, current)
    return result._replace(loss=result.loss.detach()), gradient.tolist()


def test_four_tokens_by_hand():
    # gains: min(1.5, 1.2) * 1; max-side for A < 0: min(-1.5, -1.2); min(.5, .8); min(-.5, -.8)
    result, _ = policy_loss([1.5, 1.5, 0.5, 0.5], [1.0, -1.0, 1.0, -1.0])
    assert float(result.loss) == pytest.approx(-(1.2 - 1.5 + 0.5 - 0.8) / 4)
    assert float(result.clip_fraction) == 0.5
    assert float(result.ratio_mean) == pytest.approx(1.0)
    assert float(result.ratio_max) == pytest.approx(1.5)
    assert float(result.approx_kl) == pytest.approx((1.5 - 1 - math.log(1.5) + 0.5 - 1 - math.log(0.5)) / 2)


def test_the_gradient_ascends_the_advantage_and_is_zero_where_clipped():
    _, gradient = policy_loss([1.5, 1.5, 0.5, 0.5], [1.0, -1.0, 1.0, -1.0])
    assert gradient[0] == 0.0  # already far up: no more pull
    assert gradient[1] > 0.0  # went up although bad: pushed down
    assert gradient[2] < 0.0  # went down although good: pulled up
    assert gradient[3] == 0.0  # already far down


def test_at_ratio_one_it_reduces_to_the_policy_gradient():
    result, gradient = policy_loss([1.0, 1.0, 1.0], [0.3, -2.0, 0.7])
    assert gradient == pytest.approx([-0.1, 2 / 3, -0.7 / 3])
    assert float(result.loss) == pytest.approx(1.0 / 3)


def test_bounds_may_differ():
    result, gradient = policy_loss([1.25, 0.75], [1.0, -1.0], clip=(0.3, 0.28))
    assert float(result.clip_fraction) == 0.0
    assert gradient[0] < 0 < gradient[1]
    assert policy_loss([1.25], [1.0], clip=(0.3, 0.2))[1] == [0.0]


def test_padding_is_inert():
    nan = float("nan")
    plain, gradient = policy_loss([1.1, 0.7], [1.0, -1.0], weights=[0.5, 0.5])
    padded, padded_gradient = policy_loss([1.1, nan, 0.7, nan], [1.0, nan, -1.0, nan], weights=[0.5, 0.0, 0.5, 0.0])
    for name in plain._fields:
        assert float(getattr(padded, name)) == float(getattr(plain, name)), name
    assert padded_gradient == [gradient[0], 0.0, gradient[1], 0.0]


def test_no_gradient_flows_into_advantages_or_behaviour():
    behaviour, advantages = torch.zeros(2, requires_grad=True), torch.ones(2, requires_grad=True)
    result = clipped_policy_loss(
        current_logprobs=torch.zeros(2, requires_grad=True),
        proximal_logprobs=behaviour,
        advantages=advantages,
        weights=torch.ones(2),
        clip_low=0.2,
        clip_high=0.2,
    )
    result.loss.backward()
    assert behaviour.grad is None
    assert advantages.grad is None


def test_the_dual_clip_bounds_what_a_bad_token_can_cost():
    plain, free = policy_loss([5.0, 2.0], [-1.0, -1.0])
    assert float(plain.loss) == pytest.approx(3.5)
    bounded, gradient = policy_loss([5.0, 2.0], [-1.0, -1.0], dual_clip=3.0)
    assert float(bounded.loss) == pytest.approx((3.0 + 2.0) / 2)
    assert float(bounded.dual_clip_fraction) == 0.5
    assert gradient == [0.0, free[1]]
    wide, _ = policy_loss([5.0, 2.0], [-1.0, -1.0], dual_clip=1e9)
    assert float(wide.loss) == float(plain.loss)
    assert (
        float(policy_loss([5.0], [1.0], dual_clip=3.0)[0].dual_clip_fraction) == 0.0
    )  # good tokens are not its concern


def test_importance_scales_loss_and_gradient():
    plain, gradient = policy_loss([1.1, 0.9], [1.0, -1.0])
    twice, double = policy_loss([1.1, 0.9], [1.0, -1.0], importance=[2.0, 2.0])
    assert float(twice.loss) == pytest.approx(2 * float(plain.loss))
    assert double == pytest.approx([2 * g for g in gradient])
    nan = float("nan")
    padded, _ = policy_loss([1.1, 0.9, nan], [1.0, -1.0, nan], weights=[0.5, 0.5, 0], importance=[2.0, 2.0, nan])
    assert float(padded.loss) == pytest.approx(float(twice.loss))


def test_decoupled_ppo_at_its_start_is_the_truncated_importance_policy_gradient():
    # current = proximal, so that nothing is clipped: -w min(proximal / behaviour, C) A
    proximal, behaviour, lengths = tensor([0.5, 0.9], dtype=F64).log(), tensor([0.1, 0.6], dtype=F64).log(), [2]
    weights = truncated_importance(
        "token", proximal_logprobs=proximal, behaviour_logprobs=behaviour, lengths=tensor(lengths), cap=2.0
    )
    current = proximal.clone().requires_grad_()
    result = clipped_policy_loss(
        current_logprobs=current, proximal_logprobs=proximal, advantages=tensor([1.0, -2.0], dtype=F64),
        weights=tensor([0.5, 0.5], dtype=F64), clip_low=0.2, clip_high=0.2, importance=weights,
    )  # fmt: skip
    (gradient,) = torch.autograd.grad(result.loss, current)
    assert gradient.tolist() == pytest.approx([-0.5 * 2.0 * 1.0, 0.5 * 1.5 * 2.0])
    assert float(result.loss.detach()) == pytest.approx(-0.5 * 2.0 + 0.5 * 1.5 * 2.0)


def test_decoupled_ppo_clips_around_the_proximal_policy_and_not_the_behaviour():
    # 1.5 times the behaviour probability, yet equal to the proximal: inside the clip
    current = tensor([0.6], dtype=F64).log().requires_grad_()
    result = clipped_policy_loss(
        current_logprobs=current, proximal_logprobs=current.detach(), advantages=tensor([1.0], dtype=F64),
        weights=tensor([1.0], dtype=F64), clip_low=0.2, clip_high=0.2, importance=tensor([1.5], dtype=F64),
    )  # fmt: skip
    assert torch.autograd.grad(result.loss, current)[0].tolist() == pytest.approx([-1.5])


def test_a_ratio_that_has_run_away_costs_a_finite_loss_and_no_gradient():
    current = tensor([0.0, -500.0], dtype=F64, requires_grad=True)
    result = clipped_policy_loss(
        current_logprobs=current, proximal_logprobs=tensor([-500.0, 0.0], dtype=F64),
        advantages=tensor([-1.0, 1.0], dtype=F64), weights=tensor([0.5, 0.5], dtype=F64), clip_low=0.2, clip_high=0.2,
    )  # fmt: skip
    result.loss.backward()
    assert float(result.loss.detach()) == pytest.approx(0.5 * math.e**20)
    assert current.grad.tolist() == [0.0, 0.0]


def test_a_row_that_counts_for_nothing_adds_nothing():
    """Ranks with a row less pass one of weight 0."""
    nan = float("nan")
    result, gradient = policy_loss([nan, 2.0], [nan, 1.0], weights=[0.0, 0.0], importance=[nan, 1.0])
    assert [float(value) for value in result] == [0.0] * 7
    assert gradient == [0.0, 0.0]


def test_a_token_that_is_not_a_number_is_not_hidden():
    assert math.isnan(float(policy_loss([float("nan"), 1.0], [1.0, 1.0])[0].loss))
    assert math.isnan(float(value_loss([float("nan"), 1.0], [0.0, 0.0], [1.0, 1.0], clip=0.2)[0].loss))


def value_loss(values, old_values, returns, clip, weights=None):
    predicted = tensor(values, dtype=F64, requires_grad=True)
    result = clipped_value_loss(
        values=predicted,
        old_values=tensor(old_values, dtype=F64),
        returns=tensor(returns, dtype=F64),
        weights=tensor(weights, dtype=F64) if weights else torch.ones(len(values), dtype=F64),
        clip=clip,
    )
    (gradient,) = torch.autograd.grad(result.loss, predicted)
    return result._replace(loss=result.loss.detach()), gradient.tolist()


def test_value_loss_by_hand():
    # moved .5 towards a return of 1: clipped to .2, whose error (.8)^2 is the larger one
    result, gradient = value_loss([0.5, 0.1], [0.0, 0.0], [1.0, 1.0], clip=0.2)
    assert float(result.loss) == pytest.approx(0.5 * (0.64 + 0.81))
    assert float(result.clip_fraction) == 0.5
    assert gradient == pytest.approx([0.0, -0.9])  # zero where clipped, the error elsewhere


def test_the_value_clip_never_holds_a_value_that_moved_away_from_the_return():
    # to -0.5, away from 1: the clipped error (1.2)^2 is the smaller one, so the value is pulled back
    result, gradient = value_loss([-0.5], [0.0], [1.0], clip=0.2)
    assert float(result.loss) == pytest.approx(0.5 * 1.5**2)
    assert float(result.clip_fraction) == 0.0
    assert gradient == pytest.approx([-1.5])


def test_no_gradient_flows_into_returns_or_old_values():
    old, returns = torch.zeros(2, requires_grad=True), torch.ones(2, requires_grad=True)
    values = tensor([0.1, 0.5], requires_grad=True)
    clipped_value_loss(values=values, old_values=old, returns=returns, weights=torch.ones(2), clip=0.2).loss.backward()
    assert old.grad is None
    assert returns.grad is None


def test_without_clip_the_value_loss_reduces_to_half_the_squared_error():
    result, gradient = value_loss([0.5, 2.0], [0.0, 0.0], [1.0, 1.0], clip=None)
    assert float(result.loss) == pytest.approx(0.5 * (0.25 + 1.0))
    assert gradient == pytest.approx([-0.5, 1.0])
    wide, wide_gradient = value_loss([0.5, 2.0], [0.0, 0.0], [1.0, 1.0], clip=1e9)
    assert float(wide.loss) == float(result.loss)
    assert wide_gradient == gradient


def test_padding_is_inert_in_the_value_loss():
    nan = float("nan")
    plain, gradient = value_loss([0.5, 0.1], [0.0, 0.0], [1.0, 1.0], clip=0.2)
    padded, padded_gradient = value_loss(
        [0.5, nan, 0.1], [0.0, nan, 0.0], [1.0, nan, 1.0], 0.2, weights=[1.0, 0.0, 1.0]
    )
    assert float(padded.loss) == float(plain.loss)
    assert padded_gradient == [gradient[0], 0.0, gradient[1]]


def likelihood(probabilities, weights, proximal=None):
    current = tensor(probabilities, dtype=F64).log().requires_grad_()
    result = likelihood_loss(
        current_logprobs=current,
        proximal_logprobs=current.detach() if proximal is None else tensor(proximal, dtype=F64).log(),
        weights=tensor(weights, dtype=F64),
    )
    (gradient,) = torch.autograd.grad(result.loss, current)
    return result._replace(loss=result.loss.detach()), gradient.tolist()


def test_the_likelihood_loss_by_hand():
    result, gradient = likelihood([0.5, 0.25], [0.5, 0.5], proximal=[0.25, 0.25])
    assert float(result.loss) == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert gradient == [-0.5, -0.5]  # every kept token is pulled up
    assert float(result.ratio_mean) == pytest.approx(1.5)
    assert float(result.clip_fraction) == 0.0


def test_the_likelihood_loss_has_the_gradient_of_ppo_at_its_start_with_advantages_of_one():
    weights = [0.25, 0.75]
    _, gradient = likelihood([0.5, 0.25], weights)
    assert gradient == pytest.approx(policy_loss([1.0, 1.0], [1.0, 1.0], weights=weights)[1])


def test_padding_is_inert_in_the_likelihood_loss():
    nan = float("nan")
    plain, gradient = likelihood([0.5, 0.25], [0.5, 0.5])
    padded, more = likelihood([0.5, nan, 0.25], [0.5, 0.0, 0.5], proximal=[0.5, nan, 0.25])
    assert [float(value) for value in padded] == [float(value) for value in plain]
    assert more == [gradient[0], 0.0, gradient[1]]
