"""Whitening: mean 0 and variance 1."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

EPS = 1e-8  # inside the root, so that equal values give zeros and not NaN


def whiten(
    values: Float[Tensor, "*tokens"], *, mask: Bool[Tensor, "*tokens"] | None = None, shift_mean: bool = True
) -> Float[Tensor, "*tokens"]:
    """(x - mean) / sqrt(var + 1e-8), with the unbiased variance over the masked entries.

    In PPO it comes *after* the filter: statistics over samples that are not trained would scale those that are.

    Args:
        values: any shape.
        mask: True where a value counts; None: all. Elsewhere the result is 0, whatever stood there.
        shift_mean: False keeps the mean: x / sqrt(var + eps) with the mean added back.

    Returns:
        Whitened values. A single value has no variance and gives 0 (its mean is itself).
    """
    exact = values.double()  # a float32 mean of equal values is not that value, and EPS would blow the rest up
    kept = exact if mask is None else exact[mask]
    mean = kept.mean() if kept.numel() else exact.new_zeros(())
    variance = kept.var(unbiased=True) if kept.numel() > 1 else exact.new_zeros(())
    whitened = (exact - mean) * (variance + EPS).rsqrt()
    whitened = (whitened if shift_mean else whitened + mean).to(values.dtype)
    return whitened if mask is None else whitened.where(mask, whitened.new_zeros(()))
