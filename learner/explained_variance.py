"""How much of the returns' variance the critic's values explain."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def explained_variance(*, values: Float[Tensor, " C"], returns: Float[Tensor, " C"]) -> Float[Tensor, ""]:
    """1 - Var(returns - values) / Var(returns): 1 is perfect, 0 is a constant, below 0 is worse than a constant.

    A constant offset of the values costs nothing (it cancels in the variance). Over tokens: each trained token counts
    once, so that long trajectories count more, as they do in the loss.

    Args:
        values: predicted, one for each trained token, in units of reward.
        returns: what was earned from there on.

    Returns:
        A scalar; 0 where the returns do not vary (nothing can be explained).
    """
    exact = returns.double()  # in float32 a thousand times 0.7 has a spread, and whatever is divided by it explodes
    spread = exact.var(unbiased=False)
    residual = (exact - values.double()).var(unbiased=False)
    return (1 - residual / spread).where(spread > 0, spread.new_zeros(())).to(returns.dtype)
