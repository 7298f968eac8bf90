"""The losses of PPO. Pure: tensors and floats in, a named result out.

Every loss takes the aggregation weights of its tokens (``learner.aggregate``), zero where a token is padding or masked;
such tokens are inert, whatever stands there. Sums over the parts of a mini-batch are the mini-batch's loss.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from learner.aggregate import weighted_sum


class PolicyLoss(NamedTuple):
    """The clipped policy loss of one part of a mini-batch. All but ``loss`` are without gradient.

    Attributes:
        loss: sum of weighted token losses; its gradient ascends the advantage.
        num_tokens: tokens of non-zero weight.
        clip_fraction: share of them whose gradient the clip cut to zero.
        approx_kl: mean k3 estimate of KL(behaviour || current), nats.
        ratio_mean: mean of current over behaviour probability; 1 before the first step.
        ratio_max: largest ratio.
    """

    loss: Float[Tensor, ""]
    num_tokens: int
    clip_fraction: Float[Tensor, ""]
    approx_kl: Float[Tensor, ""]
    ratio_mean: Float[Tensor, ""]
    ratio_max: Float[Tensor, ""]


class ValueLoss(NamedTuple):
    """The clipped value loss of one part of a mini-batch.

    Attributes:
        loss: sum of weighted token losses.
        num_tokens: tokens of non-zero weight.
        clip_fraction: share of them where the clipped error was the larger one.
    """

    loss: Float[Tensor, ""]
    num_tokens: int
    clip_fraction: Float[Tensor, ""]


def _inert(values: Float[Tensor, "*tokens"], real: Bool[Tensor, "*tokens"]) -> Float[Tensor, "*tokens"]:
    """Zero where a token is not real, so that a NaN there reaches neither the sum nor a gradient."""
    return values.where(real, values.new_zeros(()))


def _mean(values: Tensor, real: Bool[Tensor, "*tokens"]) -> Float[Tensor, ""]:
    return _inert(values.detach(), real).sum() / max(int(real.sum()), 1)


def clipped_policy_loss(
    *,
    current_logprobs: Float[Tensor, "*tokens"],
    behaviour_logprobs: Float[Tensor, "*tokens"],
    advantages: Float[Tensor, "*tokens"],
    weights: Float[Tensor, "*tokens"],
    clip_low: float,
    clip_high: float,
) -> PolicyLoss:
    """PPO's clipped surrogate.

        ratio = exp(current - behaviour)
        loss  = - sum_t w_t min(ratio_t A_t, clip(ratio_t, 1 - clip_low, 1 + clip_high) A_t)

    Schulman et al., "Proximal Policy Optimization Algorithms" (arXiv 1707.06347); unequal bounds as in DAPO.

    Args:
        current_logprobs: under the policy that is trained; carries the gradient.
        behaviour_logprobs: recorded when the tokens were sampled.
        advantages: of the tokens; no gradient flows into them.
        weights: aggregation weights, 0 at padding.
        clip_low: in [0, 1]; how far the ratio may fall before a token of negative advantage stops pushing.
        clip_high: at least 0; how far it may rise before a token of positive advantage stops pulling.
    """
    real = weights != 0
    advantages = _inert(advantages.detach(), real)
    log_ratio = _inert(current_logprobs, real) - _inert(behaviour_logprobs.detach(), real)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    unclipped_gain, clipped_gain = ratio * advantages, clipped * advantages
    loss = weighted_sum(-torch.minimum(unclipped_gain, clipped_gain), weights)
    return PolicyLoss(
        loss=loss,
        num_tokens=int(real.sum()),
        clip_fraction=_mean((clipped_gain < unclipped_gain).to(weights.dtype), real),
        approx_kl=_mean(ratio - 1 - log_ratio, real),
        ratio_mean=_mean(ratio, real),
        ratio_max=_inert(ratio.detach(), real).max() if real.any() else ratio.new_zeros(()),
    )


def clipped_value_loss(
    *,
    values: Float[Tensor, "*tokens"],
    old_values: Float[Tensor, "*tokens"],
    returns: Float[Tensor, "*tokens"],
    weights: Float[Tensor, "*tokens"],
    clip: float | None,
) -> ValueLoss:
    """Squared error of the critic, clipped around its values before the step.

        loss = sum_t w_t / 2 max((v - G)^2, (v_old + clip(v - v_old, -c, c) - G)^2)

    From OpenAI baselines' PPO2; the factor 1/2 makes the gradient the plain error. ``clip=None`` is the plain loss.

    Args:
        values: of the critic that is trained; carries the gradient.
        old_values: of the critic before the step.
        returns: targets; no gradient flows into them.
        weights: aggregation weights, 0 at padding.
        clip: c, in units of reward.
    """
    real = weights != 0
    values, old_values, returns = (_inert(x, real) for x in (values, old_values.detach(), returns.detach()))
    error = (values - returns).square()
    if clip is None:
        return ValueLoss(weighted_sum(0.5 * error, weights), int(real.sum()), error.new_zeros(()))
    bounded = old_values + (values - old_values).clamp(-clip, clip)
    bounded_error = (bounded - returns).square()
    loss = weighted_sum(0.5 * torch.maximum(error, bounded_error), weights)
    return ValueLoss(loss, int(real.sum()), _mean((bounded_error > error).to(weights.dtype), real))
