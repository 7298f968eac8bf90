"""The record that flows through the system: what was sampled, by which weights, and what it earned. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from problems.identity import TrajectoryId, WeightsVersion


class FinishReason(StrEnum):
    """Why generation ended."""

    STOP = "stop"  # an end-of-sequence id (part of the completion) or a stop string (not part of it)
    LENGTH = "length"  # cut by the token limit: a rule of its own decides what it earns
    ABORTED = "aborted"  # the engine was told to give it up; never trained


@dataclass(frozen=True, slots=True)
class VersionSpan:
    """Completion tokens [start, end) were sampled by these weights."""

    version: WeightsVersion
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Turn:
    """One exchange. P prompt tokens, T completion tokens.

    Attributes:
        prompt_ids: int32 [P], what the engine was given in this turn (after all earlier turns).
        completion_ids: int32 [T], what it sampled, the end-of-sequence id included.
        loss_mask: bool [T], True where the token is trained.
        behaviour_logprobs: float32 [T], log-probability under the distribution sampled from (temperature included).
        spans: versions, covering [0, T) without gap.
        finish_reason: see FinishReason.
    """

    prompt_ids: NDArray[np.int32]
    completion_ids: NDArray[np.int32]
    loss_mask: NDArray[np.bool_]
    behaviour_logprobs: NDArray[np.float32]
    spans: tuple[VersionSpan, ...]
    finish_reason: FinishReason

    def __post_init__(self) -> None:
        num_tokens = len(self.completion_ids)
        if len(self.loss_mask) != num_tokens or len(self.behaviour_logprobs) != num_tokens:
            raise ValueError(
                f"turn has {num_tokens} completion ids, {len(self.loss_mask)} mask entries, "
                f"{len(self.behaviour_logprobs)} behaviour log-probabilities"
            )
        ends = [span.end for span in self.spans]
        if [span.start for span in self.spans] != [0, *ends[:-1]][: len(ends)] or (ends or [0])[-1] != num_tokens:
            raise ValueError(f"version spans {self.spans} do not cover the {num_tokens} completion tokens")


@dataclass(frozen=True, slots=True)
class RewardEvent:
    """``value`` earned by term ``term`` at a token of the last turn's completion; token None: at its last token."""

    term: str
    value: float
    token: int | None = None


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One sampled answer to one problem.

    Attributes:
        id: its identity.
        group: number of the group (one issue of one prompt) within the stage: members are compared with each other.
        turns: at least one.
        events: rewards, in the order of the reward terms.
        kept: None before the filter has spoken.
        drop_reason: why it is not trained, such as ``filter:bw``, ``aborted``, ``infrastructure``.
        passed: the executor's verdict, None where nothing was executed.
    """

    id: TrajectoryId
    group: int
    turns: tuple[Turn, ...]
    events: tuple[RewardEvent, ...] = ()
    kept: bool | None = None
    drop_reason: str | None = None
    passed: bool | None = None

    @property
    def reward(self) -> float:
        """Raw reward: the sum of all events, before any KL term."""
        return float(sum(event.value for event in self.events))

    @property
    def oldest_version(self) -> WeightsVersion:
        """Version of its oldest token; the staleness bound counts from here."""
        return min(span.version for turn in self.turns for span in turn.spans)

    @property
    def num_completion_tokens(self) -> int:
        return sum(len(turn.completion_ids) for turn in self.turns)
