"""Running normalisation of rewards: their scale over the whole run, not over one batch.

A batch's own statistics would make a reward depend on its neighbours; a reward model's scale, on the other hand, is
arbitrary and drifts. Part of the checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

EPS = 1e-8


@dataclass(frozen=True, slots=True)
class RunningMoments:
    """Count, mean and sum of squared deviations of all rewards seen, merged batch by batch (Chan et al., 1979)."""

    count: int = 0
    mean: float = 0.0
    deviation: float = 0.0

    def updated(self, values: Sequence[float]) -> RunningMoments:
        """With a batch taken in; how values were split into batches does not matter (up to rounding)."""
        if not values:
            return self
        num, batch_mean = len(values), math.fsum(values) / len(values)
        batch_deviation = math.fsum((value - batch_mean) ** 2 for value in values)
        total, delta = self.count + num, batch_mean - self.mean
        return RunningMoments(
            count=total,
            mean=self.mean + delta * num / total,
            deviation=self.deviation + batch_deviation + delta**2 * self.count * num / total,
        )

    @property
    def std(self) -> float:
        """Unbiased; 1 as long as fewer than two values were seen or all were equal."""
        variance = self.deviation / (self.count - 1) if self.count > 1 else 0.0
        return math.sqrt(variance) if variance > EPS else 1.0
