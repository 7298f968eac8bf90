"""An alarm for a score that parts from what it stands for: it rises while the tests pass less often."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Window(NamedTuple):
    """Means over the window, and whether score and truth have parted."""

    score: float
    pass_rate: float
    is_parted: bool
    correlation: float | None


class PartingWatch:
    """Looks at the answers of the last steps.

    They have parted when the mean score is above that of the window in which the tests passed most, while they now pass
    less often by more than two standard errors of the difference.
    """

    def __init__(self, window: int = 10) -> None:
        """``window``: steps."""
        self._steps: deque[tuple[Array, Array]] = deque(maxlen=window)
        self._window = window
        self._best: tuple[float, float] | None = None  # (pass rate, mean score) of the best window

    def step(self, scores: Array, passed: Array) -> Window | None:
        """After one more step's answers (score and 0 or 1 of each); None before the window is full."""
        self._steps.append((scores, passed))
        scores, passed = (np.concatenate([step[part] for step in self._steps]) for part in (0, 1))
        if len(self._steps) < self._window or not len(passed):
            return None
        rate, score = float(passed.mean()), float(scores.mean())
        if self._best is None or rate > self._best[0]:
            self._best = (rate, score)
        error = float(np.sqrt(max(self._best[0] * (1 - self._best[0]), 1e-12) / len(passed)))
        is_parted = self._best[0] - rate > 2 * np.sqrt(2) * error and score > self._best[1]
        varies = scores.std() > 0 and passed.std() > 0
        correlation = float(np.corrcoef(scores, passed)[0, 1]) if varies else None
        return Window(score, rate, bool(is_parted), correlation)
