"""Estimators of the divergence of the current policy from the reference, one token at a time.

With x = log pi_current(token) - log pi_reference(token) for a token sampled from the current policy:

    k1 = x                      unbiased, can be negative, high variance
    k2 = x^2 / 2                biased, never negative, low variance; its gradient as a loss is that of KL
    k3 = exp(-x) - 1 + x        unbiased, never negative

Source: J. Schulman, "Approximating KL divergence" (blog, 2020). As a *reward* the value counts and k1 is the papers'
choice; as a *loss* the gradient counts: that of k1 has mean zero and teaches nothing.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

Estimator = Literal["k1", "k2", "k3"]
MAX_LOG_RATIO = 20.0  # exp of more overflows float32 sums; tokens that far off have lost their meaning anyway


def kl_estimate(
    estimator: Estimator,
    *,
    current_logprobs: Float[Tensor, "*tokens"],
    reference_logprobs: Float[Tensor, "*tokens"],
) -> Float[Tensor, "*tokens"]:
    """KL(current || reference), estimated at each token, in nats.

    Args:
        estimator: k1, k2 or k3, see above.
        current_logprobs: of the tokens under the policy that is trained.
        reference_logprobs: of the same tokens under the anchor.

    Returns:
        One estimate a token; differentiable in ``current_logprobs``.
    """
    log_ratio = current_logprobs - reference_logprobs
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return 0.5 * log_ratio.square()
    bounded = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return (-bounded).expm1() + bounded  # exp - 1 of a small ratio loses its digits: float32 then goes below 0
