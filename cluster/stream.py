"""The problem stream: an endless, seeded order of problems whose position is one number."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from problems.identity import derive_seed
from problems.problem import Problem


@dataclass(frozen=True, slots=True)
class Draw:
    """One problem at one place of the stream."""

    position: int
    epoch: int
    problem: Problem


class ProblemStream:
    """Every problem once in each epoch, each epoch in its own order.

    The order is a function of the seed and the problems' ids alone. So the position is all that a checkpoint must hold,
    and work that was lost is issued again by asking for the same position.
    """

    def __init__(self, problems: Sequence[Problem], seed: int) -> None:
        if not problems:
            raise ValueError("the problem stream is empty: no problem is left after filtering by use, split and length")
        ids = [problem.id for problem in problems]
        if len(set(ids)) != len(ids):
            twice = next(problem_id for problem_id in ids if ids.count(problem_id) > 1)
            raise ValueError(f"problem id {twice!r} occurs twice in the stream's problems")
        self._problems = sorted(problems, key=lambda problem: problem.id)
        self._seed = seed
        self._orders: dict[int, list[int]] = {}

    @property
    def problems(self) -> Sequence[Problem]:
        """All problems, by id."""
        return self._problems

    def __len__(self) -> int:
        return len(self._problems)

    def at(self, position: int) -> Draw:
        """The problem at ``position`` (from 0)."""
        epoch, index = divmod(position, len(self._problems))
        return Draw(position, epoch, self._problems[self._order(epoch)[index]])

    def _order(self, epoch: int) -> list[int]:
        if epoch not in self._orders:
            order = list(range(len(self._problems)))
            random.Random(derive_seed("problem-order", self._seed, epoch)).shuffle(order)
            self._orders = {known: kept for known, kept in self._orders.items() if known >= epoch - 1}
            self._orders[epoch] = order
        return self._orders[epoch]
