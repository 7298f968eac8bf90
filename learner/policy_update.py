"""The policy's part of a PPO step: the loss of one packed row, put together as the config says."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from learner import kl, losses
from learner.aggregate import weighted_sum
from learner.config import PPOConfig
from learner.minibatch import RowLoss
from learner.packing import PackedRow
from learner.policy import Policy
from learner.signals import Anchor, Signals

LOSS_FIGURES = ("clip_fraction", "dual_clip_fraction", "approx_kl", "ratio_mean", "ratio_max")


def policy_row_loss(
    policy: Policy,
    anchor: Anchor,
    signals: Signals,
    advantages: Float[Tensor, " C"],
    *,
    config: PPOConfig,
    kl_coefficient: float,
) -> RowLoss:
    """Policy loss, minus entropy bonus, plus KL term where it is a loss; for ``learner.minibatch``.

    Args:
        policy: that is trained.
        anchor: around which the ratio is clipped, of the trained tokens.
        signals: of the studied tokens, of which the trained ones are the first.
        advantages: of the trained tokens.
        config: of the stage.
        kl_coefficient: beta of this step.
    """

    def loss(row: PackedRow, flat: Tensor, weights: Tensor) -> tuple[Tensor, dict[str, float]]:
        current = policy(row)
        tokens: dict[str, Any] = {
            "current_logprobs": current.logprobs,
            "proximal_logprobs": anchor.logprobs[flat],
            "weights": weights,
        }
        weighed: dict[str, Any] = {
            "advantages": advantages[flat],
            "importance": None if anchor.importance is None else anchor.importance[flat],
            "clip_low": config.clip_low,
            "clip_high": config.clip_high,
        }
        if config.policy_loss == "likelihood":
            result = losses.likelihood_loss(**tokens)
        elif config.policy_loss == "gspo":
            result = losses.sequence_clipped_policy_loss(**tokens, **weighed, lengths=row.trained_lengths)
        elif config.policy_loss == "cispo":
            result = losses.clipped_importance_loss(**tokens, **weighed)
        else:
            result = losses.clipped_policy_loss(**tokens, **weighed, dual_clip=config.dual_clip)
        total = result.loss
        if config.entropy_coefficient:
            total = total - config.entropy_coefficient * weighted_sum(current.entropy, weights)
        if config.kl.coefficient and config.kl.place == "loss":  # without a coefficient no reference is held
            divergence = kl.kl_estimate(
                config.kl.estimator,
                current_logprobs=current.logprobs,
                reference_logprobs=signals.reference_logprobs[flat],
            )
            total = total + kl_coefficient * weighted_sum(divergence, weights)
        figures = {name: float(value) for name, value in result._asdict().items() if name in LOSS_FIGURES}
        return total, {**figures, "entropy": float(current.entropy.detach().mean())}

    return loss
