"""The problem stream: an endless, seeded order of problems whose position is one number."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from problems.identity import derive_seed
from problems.problem import Problem

_BLOCK = 4096  # places of a mixture that are drawn together


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

    def reseeded(self, seed: int) -> ProblemStream:
        """The same problems in another order."""
        return ProblemStream(self._problems, seed)

    def _order(self, epoch: int) -> list[int]:
        if epoch not in self._orders:
            order = list(range(len(self._problems)))
            random.Random(derive_seed("problem-order", self._seed, epoch)).shuffle(order)
            self._orders = {known: kept for known, kept in self._orders.items() if known >= epoch - 1}
            self._orders[epoch] = order
        return self._orders[epoch]


class MixedStream:
    """A weighted mixture: at each place one set is drawn by weight, and gives its own next problem.

    Sets of different size keep their share: a small one comes round more often, each time in an order of its own. The
    draws are made in blocks, each from a seed of its own, so that a place is still a function of its number alone.
    """

    def __init__(self, sets: Sequence[tuple[Sequence[Problem], float]], seed: int) -> None:
        """``sets``: problems and weight of each; weights are above 0 and need not sum to 1."""
        ProblemStream([problem for problems, _ in sets for problem in problems], seed)  # no id may be in two sets
        self._sets = [(list(problems), weight) for problems, weight in sets]
        self._streams = [
            ProblemStream(problems, derive_seed("mixture-set", seed, index)) for index, (problems, _) in enumerate(sets)
        ]
        weights = np.array([weight for _, weight in sets], np.float64)
        self._shares = weights / weights.sum()
        self._seed = seed
        self._counts = [np.zeros(len(sets), np.int64)]  # of each set, before each block
        self._latest: tuple[int, NDArray[np.int64]] | None = None

    @property
    def problems(self) -> Sequence[Problem]:
        """All problems of all sets, by id."""
        return sorted((problem for problems, _ in self._sets for problem in problems), key=lambda problem: problem.id)

    def __len__(self) -> int:
        return sum(len(problems) for problems, _ in self._sets)

    def at(self, position: int) -> Draw:
        """The problem at ``position`` (from 0); its epoch is that of its set."""
        block, index = divmod(position, _BLOCK)
        while len(self._counts) <= block:
            drawn = np.bincount(self._drawn(len(self._counts) - 1), minlength=len(self._sets))
            self._counts.append(self._counts[-1] + drawn)
        drawn = self._drawn(block)
        chosen = int(drawn[index])
        before = int(self._counts[block][chosen] + np.count_nonzero(drawn[:index] == chosen))
        draw = self._streams[chosen].at(before)
        return Draw(position, draw.epoch, draw.problem)

    def reseeded(self, seed: int) -> MixedStream:
        """The same mixture in another order."""
        return MixedStream(self._sets, seed)

    def _drawn(self, block: int) -> NDArray[np.int64]:
        if self._latest is None or self._latest[0] != block:
            rng = np.random.default_rng(derive_seed("mixture", self._seed, block))
            self._latest = block, rng.choice(len(self._sets), size=_BLOCK, p=self._shares)
        return self._latest[1]


Stream = ProblemStream | MixedStream


def stream_of(sets: Sequence[tuple[Sequence[Problem], float | None]], seed: int) -> Stream:
    """A mixture where weights are given, else all problems in one order."""
    weighted = [(problems, weight) for problems, weight in sets if weight is not None]
    if weighted:
        return MixedStream(weighted, seed)
    return ProblemStream([problem for problems, _ in sets for problem in problems], seed)
