"""The losses of PPO. Pure: tensors and floats in, a named result out.

Every loss takes the aggregation weights of its tokens (``learner.aggregate``), zero where a token is padding or masked;
such tokens are inert, whatever stands there. Sums over the parts of a mini-batch are the mini-batch's loss.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from learner.aggregate import weighted_sum
from learner.kl import MAX_LOG_RATIO
from learner.ragged import owner, sum_by_trajectory


class PolicyLoss(NamedTuple):
    """The clipped policy loss of one part of a mini-batch. All but ``loss`` are without gradient.

    Attributes:
        loss: sum of weighted token losses; its gradient ascends the advantage.
        num_tokens: tokens of non-zero weight.
        clip_fraction: share of them where the clip bounds the gain, so that their gradient is zero.
        dual_clip_fraction: share of them where the dual clip does.
        approx_kl: mean k3 estimate of KL(proximal || current), nats.
        ratio_mean: mean of current over proximal probability; 1 before the first update.
        ratio_max: largest such ratio.
    """

    loss: Float[Tensor, ""]
    num_tokens: int
    clip_fraction: Float[Tensor, ""]
    dual_clip_fraction: Float[Tensor, ""]
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


def _policy_loss(
    losses: Float[Tensor, "*tokens"],
    weights: Float[Tensor, "*tokens"],
    importance: Float[Tensor, "*tokens"] | None,
    log_ratio: Float[Tensor, "*tokens"],
    *,
    clipped: Bool[Tensor, "*tokens"],
    bounded: Bool[Tensor, "*tokens"],
) -> PolicyLoss:
    """Token losses summed under weights and importance, with the figures that every policy loss reports."""
    real, log_ratio = weights != 0, log_ratio.detach()
    factor = weights if importance is None else weights * _inert(importance.detach(), real)
    log_ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio = log_ratio.exp()
    return PolicyLoss(
        loss=weighted_sum(losses, factor),
        num_tokens=int(real.sum()),
        clip_fraction=_mean(clipped.to(weights.dtype), real),
        dual_clip_fraction=_mean(bounded.to(weights.dtype), real),
        approx_kl=_mean(log_ratio.expm1() - log_ratio, real),
        ratio_mean=_mean(ratio, real),
        ratio_max=_inert(ratio, real).max() if real.any() else ratio.new_zeros(()),
    )


def clipped_policy_loss(
    *,
    current_logprobs: Float[Tensor, "*tokens"],
    proximal_logprobs: Float[Tensor, "*tokens"],
    advantages: Float[Tensor, "*tokens"],
    weights: Float[Tensor, "*tokens"],
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
    importance: Float[Tensor, "*tokens"] | None = None,
) -> PolicyLoss:
    """PPO's clipped surrogate, with what was added to it since.

        ratio = exp(current - proximal)
        gain  = min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A)
        gain  = max(gain, dual_clip A)  where A < 0, if dual_clip is given
        loss  = - sum_t w_t importance_t gain_t

    PPO (arXiv 1707.06347): the proximal policy *is* the behaviour policy and importance is 1. DAPO (arXiv 2503.14476):
    clip_high above clip_low. Dual clip (arXiv 1912.09729): bounds what a token of negative advantage can cost when its
    ratio has run away. Decoupled PPO (arXiv 2110.00641, for stale data arXiv 2505.24298): the clip is around a recent
    policy, and ``importance`` brings in proximal over behaviour probability (``learner.mismatch``).

    Args:
        current_logprobs: under the policy that is trained; carries the gradient.
        proximal_logprobs: under the policy around which is clipped; in plain PPO the recorded behaviour ones.
        advantages: of the tokens; no gradient flows into them.
        weights: aggregation weights, 0 at padding.
        clip_low: in [0, 1]; how far the ratio may fall before a token of negative advantage stops pushing.
        clip_high: at least 0; how far it may rise before a token of positive advantage stops pulling.
        dual_clip: c, above 1 (usually 3); None: none.
        importance: factor of each token, without gradient; None: 1.
    """
    real = weights != 0
    advantages = _inert(advantages.detach(), real)
    log_ratio = _inert(current_logprobs, real) - _inert(proximal_logprobs.detach(), real)
    ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    unclipped, clipped = ratio * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    gain, bounded = torch.minimum(unclipped, clipped), torch.zeros_like(real)
    if dual_clip is not None:
        bounded = (advantages < 0) & (gain < dual_clip * advantages)
        gain = gain.where(~bounded, dual_clip * advantages)
    return _policy_loss(-gain, weights, importance, log_ratio, clipped=clipped < unclipped, bounded=bounded)


def sequence_clipped_policy_loss(
    *,
    current_logprobs: Float[Tensor, " C"],
    proximal_logprobs: Float[Tensor, " C"],
    advantages: Float[Tensor, " C"],
    weights: Float[Tensor, " C"],
    lengths: Int[Tensor, " B"],
    clip_low: float,
    clip_high: float,
    importance: Float[Tensor, " C"] | None = None,
) -> PolicyLoss:
    """GSPO: the clipped surrogate with one ratio for a whole trajectory, the geometric mean of its tokens' ratios.

        s_i   = exp(mean_t (current_t - proximal_t))
        s_it  = sg(s_i) exp(current_t - sg(current_t))      value s_i, gradient s_i d log pi_t
        loss  = clipped_policy_loss with s_it in place of the token's ratio

    arXiv 2507.18071, in its token form (GSPO-token), so that advantages may differ by token; where they do not and
    tokens are aggregated by ``sequence_mean_token_mean`` it is GSPO itself. Clip ranges are far narrower than PPO's
    (theirs: 3e-4 below, 4e-4 above), since the mean of a trajectory moves less than a token.

    Args:
        lengths: tokens of each trajectory; all other arguments as in ``clipped_policy_loss``.
    """
    real = weights != 0
    log_ratio = _inert(current_logprobs, real) - _inert(proximal_logprobs.detach(), real)
    counted = sum_by_trajectory(real.to(log_ratio.dtype), lengths).clamp(min=1)
    mean = (sum_by_trajectory(log_ratio.detach(), lengths) / counted)[owner(lengths)]
    return clipped_policy_loss(
        current_logprobs=mean + log_ratio - log_ratio.detach(),
        proximal_logprobs=torch.zeros_like(mean),
        advantages=advantages,
        weights=weights,
        clip_low=clip_low,
        clip_high=clip_high,
        importance=importance,
    )


def clipped_importance_loss(
    *,
    current_logprobs: Float[Tensor, "*tokens"],
    proximal_logprobs: Float[Tensor, "*tokens"],
    advantages: Float[Tensor, "*tokens"],
    weights: Float[Tensor, "*tokens"],
    clip_low: float,
    clip_high: float,
    importance: Float[Tensor, "*tokens"] | None = None,
) -> PolicyLoss:
    """CISPO: the ratio is a clipped weight without gradient, so that no token's gradient is cut to zero.

        loss = - sum_t w_t importance_t sg(clip(ratio_t, 1 - clip_low, 1 + clip_high)) A_t current_t

    arXiv 2506.13585 (MiniMax-M1), which leaves the lower side open (``clip_low`` 1). ``clip_fraction`` is here the
    share of tokens whose weight the clip changed. Arguments as in ``clipped_policy_loss``.
    """
    real = weights != 0
    current = _inert(current_logprobs, real)
    log_ratio = current.detach() - _inert(proximal_logprobs.detach(), real)
    ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    weight = ratio.clamp(1 - clip_low, 1 + clip_high)
    losses = -weight * _inert(advantages.detach(), real) * current
    none = torch.zeros_like(real)
    return _policy_loss(losses, weights, importance, log_ratio, clipped=weight != ratio, bounded=none)


def likelihood_loss(
    *,
    current_logprobs: Float[Tensor, "*tokens"],
    proximal_logprobs: Float[Tensor, "*tokens"],
    weights: Float[Tensor, "*tokens"],
) -> PolicyLoss:
    """RAFT: what the filter kept is fine-tuned on, whatever it earned.

        loss = - sum_t w_t current_t

    Dong et al. (arXiv 2304.06767), with the filter ``bon``. The proximal policy is there for the figures alone.

    Args:
        current_logprobs: under the policy that is trained; carries the gradient.
        proximal_logprobs: under the policy that sampled them.
        weights: aggregation weights, 0 at padding.
    """
    real = weights != 0
    current = _inert(current_logprobs, real)
    none = torch.zeros_like(real)
    log_ratio = current - _inert(proximal_logprobs.detach(), real)
    return _policy_loss(-current, weights, None, log_ratio, clipped=none, bounded=none)


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
