"""GSPO and CISPO: by hand, as special cases, inert padding, signs and zeros of the gradient."""

import math

import pytest
import torch
from torch import tensor

from learner.aggregate import token_weights
from learner.losses import clipped_importance_loss, clipped_policy_loss, sequence_clipped_policy_loss

F64 = torch.float64


def evaluated(loss, ratios, advantages, weights, **settings):
    current = tensor(ratios, dtype=F64).log().requires_grad_()
    result = loss(
        current_logprobs=current,
        proximal_logprobs=torch.zeros(len(ratios), dtype=F64),
        advantages=tensor(advantages, dtype=F64),
        weights=tensor(weights, dtype=F64),
        **settings,
    )
    (gradient,) = torch.autograd.grad(result.loss, current)
    return result._replace(loss=result.loss.detach()), gradient.tolist()


def gspo(ratios, advantages, weights, lengths, clip=(0.2, 0.2)):
    return evaluated(
        sequence_clipped_policy_loss, ratios, advantages, weights,
        lengths=tensor(lengths), clip_low=clip[0], clip_high=clip[1],
    )  # fmt: skip


def cispo(ratios, advantages, weights, clip=(1.0, 0.2)):
    return evaluated(clipped_importance_loss, ratios, advantages, weights, clip_low=clip[0], clip_high=clip[1])


# --- GSPO


def test_a_trajectory_s_ratio_is_the_geometric_mean_of_its_tokens():
    # ratios (2, 0.5) -> 1; (1.21, 1) -> 1.1: no token's own ratio counts
    weights = token_weights("sequence_mean_token_mean", lengths=tensor([2, 2]), dtype=F64).tolist()
    result, gradient = gspo([2.0, 0.5, 1.21, 1.0], [3.0, 3.0, -1.0, -1.0], weights, [2, 2])
    assert float(result.loss) == pytest.approx(-(1.0 * 3.0 + 1.1 * -1.0) / 2)
    assert float(result.clip_fraction) == 0.0
    # d/dlog pi_t of -(1/B) s_i A_i = -(1/B) s_i A_i / L_i
    assert gradient == pytest.approx([-3 / 4, -3 / 4, 1.1 / 4, 1.1 / 4])


def test_gspo_is_the_derivative_of_the_sequence_objective():
    logprobs = tensor([0.02, -0.05, 0.1, 0.03, -0.08], dtype=F64)
    lengths, advantages = tensor([2, 3]), tensor([0.7, -0.4], dtype=F64)
    current = logprobs.clone().requires_grad_()
    ratios = torch.stack([current[:2].mean(), current[2:].mean()]).exp()
    gain = torch.minimum(ratios * advantages, ratios.clamp(0.8, 1.2) * advantages).mean()
    (expected,) = torch.autograd.grad(-gain, current)
    weights = token_weights("sequence_mean_token_mean", lengths=lengths, dtype=F64)
    result, gradient = gspo(logprobs.exp().tolist(), [0.7, 0.7, -0.4, -0.4, -0.4], weights.tolist(), lengths.tolist())
    assert float(result.loss) == pytest.approx(float(-gain.detach()))
    assert gradient == pytest.approx(expected.tolist())


def test_gspo_of_one_token_trajectories_is_ppo():
    ratios, advantages, weights = [1.5, 0.5, 1.1], [1.0, -1.0, 2.0], [0.2, 0.5, 0.3]
    ours, gradient = gspo(ratios, advantages, weights, [1, 1, 1])
    ppo, expected = evaluated(clipped_policy_loss, ratios, advantages, weights, clip_low=0.2, clip_high=0.2)
    assert float(ours.loss) == pytest.approx(float(ppo.loss))
    assert gradient == pytest.approx(expected)
    assert float(ours.clip_fraction) == float(ppo.clip_fraction)


def test_gspo_cuts_the_gradient_of_a_whole_trajectory():
    _, gradient = gspo([1.6, 1.6, 0.9, 0.9], [1.0, 1.0, 1.0, 1.0], [0.25] * 4, [2, 2])
    assert gradient[:2] == [0.0, 0.0]
    assert all(value < 0 for value in gradient[2:])


def test_padding_within_a_trajectory_is_inert_for_gspo():
    nan = float("nan")
    plain, gradient = gspo([1.1, 0.9, 1.2], [1.0, 1.0, -1.0], [0.25, 0.25, 0.5], [2, 1])
    padded, more = gspo([1.1, nan, 0.9, 1.2, nan], [1.0, nan, 1.0, -1.0, nan], [0.25, 0, 0.25, 0.5, 0], [3, 2])
    for name in plain._fields:
        assert float(getattr(padded, name)) == pytest.approx(float(getattr(plain, name))), name
    assert [more[0], more[2], more[3]] == pytest.approx(gradient)
    assert more[1] == more[4] == 0.0


# --- CISPO


def test_the_ratio_is_a_clipped_weight_and_no_gradient_is_cut():
    result, gradient = cispo([2.0, 0.5, 2.0], [1.0, 1.0, -1.0], [0.5, 0.25, 0.25])
    # weights 1.2, 0.5, 1.2; the loss is their policy gradient
    assert gradient == pytest.approx([-0.6, -0.125, 0.3])
    assert float(result.loss) == pytest.approx(
        -(0.5 * 1.2 * math.log(2.0) + 0.25 * 0.5 * math.log(0.5) - 0.25 * 1.2 * math.log(2.0))
    )
    assert float(result.clip_fraction) == pytest.approx(2 / 3)
    assert cispo([0.5], [1.0], [1.0], clip=(0.2, 0.2))[1] == pytest.approx([-0.8])


def test_at_ratio_one_cispo_has_ppo_s_gradient():
    advantages, weights = [0.3, -2.0, 0.7], [0.2, 0.3, 0.5]
    _, ppo = evaluated(clipped_policy_loss, [1.0] * 3, advantages, weights, clip_low=0.2, clip_high=0.2)
    assert cispo([1.0] * 3, advantages, weights)[1] == pytest.approx(ppo)


def test_padding_is_inert_for_cispo():
    nan = float("nan")
    plain, gradient = cispo([1.1, 2.0], [1.0, -1.0], [0.5, 0.5])
    padded, more = cispo([1.1, nan, 2.0], [1.0, nan, -1.0], [0.5, 0.0, 0.5])
    for name in plain._fields:
        assert float(getattr(padded, name)) == float(getattr(plain, name)), name
    assert more == [gradient[0], 0.0, gradient[1]]


@pytest.mark.parametrize("loss", [sequence_clipped_policy_loss, clipped_importance_loss])
def test_importance_multiplies_a_token_s_gradient(loss):
    lengths = {"lengths": tensor([1, 1])} if loss is sequence_clipped_policy_loss else {}
    settings = {"clip_low": 0.2, "clip_high": 0.2, **lengths}
    _, plain = evaluated(loss, [1.0, 1.0], [1.0, -1.0], [0.5, 0.5], **settings)
    _, doubled = evaluated(
        loss, [1.0, 1.0], [1.0, -1.0], [0.5, 0.5], importance=tensor([2.0, 0.5], dtype=F64), **settings
    )
    assert doubled == pytest.approx([2 * plain[0], 0.5 * plain[1]])
