"""Signs that a policy pleases the process reward model and not the tests (arXiv 2410.17621 names the first two).

More lines, more comments; beside them code that changes nothing, and exceptions that are caught.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from actors.rewards import ProcessTermConfig
from cluster.journal import JournalEntry
from cluster.rollout import Group
from cluster.stages.parting import PartingWatch
from problems.shape import ProgramShape, shape_of

_TERM = "process"


class ProcessWatch:
    """Figures of each step's programs, and an alarm when what the process reward model says parts from the tests."""

    def __init__(self, rewards: Sequence[Any], window: int = 10) -> None:
        """``rewards``: the stage's terms, of which one is ``process``."""
        self._config = next(term for term in rewards if isinstance(term, ProcessTermConfig))
        self._parting = PartingWatch(window)

    def step(self, groups: Sequence[Group]) -> dict[str, float]:
        """Figures of one step under the names of docs/metrics.md; those of the window from the third on."""
        judged = self._judged([group.entries for group in groups])
        scores = np.concatenate([np.zeros(0), *(group[0] for group in judged)])
        figures = shape_figures([shape_of(g.problem, e.program) for g in groups for e in g.entries if e.program])
        if len(scores):
            figures["process/score"] = float(scores.mean())
        window = self._parting.step(judged)
        if window is not None:
            figures["process/window_score"] = window.score
            figures["process/window_pass_rate"] = window.pass_rate
            figures["alarm/process_hacking"] = float(window.is_parted)
            if window.correlation is not None:
                figures["process/correlation_with_tests"] = window.correlation
        return figures

    def recall(self, groups: Sequence[Sequence[JournalEntry]]) -> None:
        """One more step, of a start before this one: each group's answers."""
        self._parting.step(self._judged(groups))

    def _judged(self, groups: Sequence[Sequence[JournalEntry]]) -> list[tuple[np.ndarray, np.ndarray]]:
        judged: list[tuple[np.ndarray, np.ndarray]] = []
        for group in groups:
            of_group = [(score, entry.is_right) for entry in group if (score := self.score(entry)) is not None]
            scores = np.array([score for score, _ in of_group], dtype=np.float64)
            judged.append((scores, np.array([bool(verdict) for _, verdict in of_group], dtype=np.float64)))
        return judged

    def score(self, entry: JournalEntry) -> float | None:
        """Mean over lines of what the model says, lambda taken out of what was paid; None where it cannot be had.

        With a lambda of 0 for passing or for failing programs nothing can be had of these, and so of none: what is left
        would all pass, or all fail.
        """
        paid = [event.value for event in entry.trajectory.events if event.term == _TERM]
        if not paid or entry.is_right is None or not (self._config.weight_passing and self._config.weight_failing):
            return None
        return sum(paid) / (self._config.weight_passing if entry.is_right else self._config.weight_failing)


def shape_figures(shapes: Sequence[ProgramShape]) -> dict[str, float]:
    """What the programs look like; nothing without any."""
    if not shapes:
        return {}
    code, comments = sum(shape.code for shape in shapes), sum(shape.comments for shape in shapes)
    known = [(shape.dead, shape.code) for shape in shapes if shape.dead is not None]
    figures = {
        "process/code_lines": code / len(shapes),
        "process/comment_share": comments / max(code + comments, 1),
        "process/try_share": sum(shape.has_try for shape in shapes) / len(shapes),
    }
    if known:
        figures["process/dead_share"] = sum(dead for dead, _ in known) / max(sum(lines for _, lines in known), 1)
    return figures
