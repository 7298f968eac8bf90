"""Dense rewards of lines (arXiv 2410.17621): what a process reward model says, as rewards that cannot be farmed.

    reward of line m = weight / T * R_phi(x, y^(<=m))

at the line's last token. T counts only the lines that are not neutral, and a neutral line earns nothing whatever the
model says of it: so neither more lines nor more comments raise a total, which lies within [-weight, weight] as long as
R does within [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def line_rewards(
    scores: NDArray[np.float64], *, is_neutral: Sequence[bool], weight: float, bound: float | None = 1.0
) -> NDArray[np.float64]:
    """[L] rewards of an answer's lines, in units of reward.

    Args:
        scores: [L] R_phi at the end of each line; those of neutral lines are not looked at.
        is_neutral: [L].
        weight: lambda; the paper has 0.25 for a program that fails and 0.025 for one that passes.
        bound: scores are cut to [-bound, bound], the range of the labels that they were learned from; None: not cut.
            The paper does not say.
    """
    counts = ~np.asarray(is_neutral, dtype=np.bool_)
    if not counts.any():
        return np.zeros(len(scores))
    cut = scores if bound is None else np.clip(scores, -bound, bound)
    return np.where(counts, cut, 0.0) * (weight / int(counts.sum()))
