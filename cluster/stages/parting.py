"""An alarm for a score that parts from what it stands for: it rises while the tests pass less often."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_FIRST = 3  # steps in the first window, which grows to the whole: a policy may be worse than it began within ten
# Of the difference. The best of many windows is the luckiest, too: of 50 steps in which nothing changes but the score,
# a half of all runs would see an alarm at 2.0, a fifth at 2.5; of runs whose pass rate falls from .30 to .15, 90 %.
_ERRORS = 2.5


class Window(NamedTuple):
    """Means over the window, and whether score and truth have parted."""

    score: float
    pass_rate: float
    is_parted: bool
    correlation: float | None


class PartingWatch:
    """Looks at the answers of the last steps.

    They have parted when the mean score is above that of the window in which the tests passed most, while they now pass
    less often by more than 2.5 standard errors of the difference. Answers to one prompt are alike, so the error is that
    of a mean over groups.
    """

    def __init__(self, window: int = 10) -> None:
        """``window``: steps, at most; the first one has three."""
        self._steps: deque[list[tuple[Array, Array]]] = deque(maxlen=window)
        self._first = min(window, _FIRST)
        self._best: tuple[float, float, float] | None = None  # (pass rate, its error, mean score) of the best window

    def step(self, groups: Sequence[tuple[Array, Array]]) -> Window | None:
        """After one more step's answers (scores, and 0 or 1, of each group's); None before the first window."""
        self._steps.append([group for group in groups if len(group[0])])
        seen = [group for step in self._steps for group in step]
        if len(self._steps) < self._first or not seen:
            return None
        scores, passed = (np.concatenate([group[part] for group in seen]) for part in (0, 1))
        rate, score, error = float(passed.mean()), float(scores.mean()), _error([group[1] for group in seen])
        if self._best is None or rate > self._best[0]:
            self._best = (rate, error, score)
        is_parted = self._best[0] - rate > _ERRORS * np.hypot(error, self._best[1]) and score > self._best[2]
        varies = scores.std() > 0 and passed.std() > 0
        correlation = float(np.corrcoef(scores, passed)[0, 1]) if varies else None
        return Window(score, rate, bool(is_parted), correlation)


def _error(groups: Sequence[Array]) -> float:
    """Standard error of the pass rate over all answers: that of a ratio of sums over groups. Of one group alone, and
    never less than, that of answers which have nothing to do with each other."""
    passed = np.concatenate(groups)
    rate = float(passed.mean())
    apart = np.sqrt(rate * (1 - rate) / len(passed))
    if len(groups) < 2:
        return float(apart)
    residuals = np.array([group.sum() - rate * len(group) for group in groups])
    clustered = np.sqrt((residuals**2).sum() * len(groups) / (len(groups) - 1)) / len(passed)
    return float(max(apart, clustered))
