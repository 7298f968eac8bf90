"""Adaptive KL coefficient: beta follows a target divergence.

    error = clip(kl / target - 1, -0.2, 0.2)
    beta <- beta * (1 + error * samples / horizon)

Ziegler et al., "Fine-Tuning Language Models from Human Preferences" (arXiv 1909.08593). A batch of several horizons
would turn beta negative: one observation at most halves it, which the paper does not need.
"""

from __future__ import annotations

from learner.config import KLConfig

MAX_ERROR = 0.2  # of one observation, as in the paper
MAX_CUT = 0.5


def next_coefficient(config: KLConfig, coefficient: float, divergence: float, *, num_samples: int) -> float:
    """Beta after a batch of ``num_samples`` trajectories with this mean divergence; unchanged if it does not adapt.

    Args:
        config: target and horizon.
        coefficient: beta now.
        divergence: from the reference, nats a token.
        num_samples: trajectories in the batch.
    """
    if config.adaptive is None:
        return coefficient
    error = min(max(divergence / config.adaptive.target - 1, -MAX_ERROR), MAX_ERROR)
    return coefficient * (1 + max(error * num_samples / config.adaptive.horizon, -MAX_CUT))
