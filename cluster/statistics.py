"""Estimates with intervals. Samples of one problem are not independent, so the problem is the unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_Z_95 = 1.959964


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 % interval (normal approximation over ``num_problems`` problem means)."""

    mean: float
    low: float
    high: float
    num_problems: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_over_problems(values: Sequence[float]) -> Estimate:
    """Estimate from one mean a problem. With fewer than two problems the interval is unbounded."""
    if not values:
        raise ValueError("no problem was measured")
    data = np.asarray(values, np.float64)
    if len(data) < 2:
        return Estimate(float(data[0]), -np.inf, np.inf, 1)
    half = _Z_95 * float(data.std(ddof=1)) / np.sqrt(len(data))
    mean = float(data.mean())
    return Estimate(mean, mean - half, mean + half, len(data))


def paired_difference(before: Mapping[str, float], after: Mapping[str, float]) -> Estimate:
    """Mean of ``after - before`` over the problems that both measured; raises ValueError if they differ in problems."""
    if before.keys() != after.keys():
        odd = sorted(before.keys() ^ after.keys())[0]
        raise ValueError(f"the two evaluations measured different problems; {odd!r} is in one of them only")
    return mean_over_problems([after[key] - before[key] for key in before])
