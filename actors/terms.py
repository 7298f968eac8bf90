"""Reward terms: what a sampled answer earned, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from learner.trajectory import RewardEvent, Trajectory
from problems.bytemap import ByteMap, Extraction
from problems.problem import Problem
from sandbox.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Attempt:
    """All that is known of one sampled answer when its rewards are computed.

    Attributes:
        problem: what was asked.
        trajectory: what was sampled; its events are still empty.
        extraction: the program, with its place in the completion.
        byte_map: token <-> line and column.
        verdict: of the executor; None where the stage executes nothing.
    """

    problem: Problem
    trajectory: Trajectory
    extraction: Extraction
    byte_map: ByteMap
    verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class Failed:
    """The term could not be computed. Never a reward: the work is retried once, then dropped and counted."""

    reason: str


class RewardTerm(Protocol):
    """One named source of reward. Asynchronous and batched."""

    @property
    def name(self) -> str:
        """The name its events bear."""
        ...

    async def score(self, attempts: Sequence[Attempt]) -> list[tuple[RewardEvent, ...] | Failed]:
        """For each attempt, in order, its events (possibly none) or Failed. Never a default in place of Failed."""
        ...
