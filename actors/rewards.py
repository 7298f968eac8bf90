"""The reward terms: those of a verdict, which are pure arithmetic, and that of a learned reward model.

A completion that was cut by the length limit is not executed: it earns ``length_cut`` and nothing else, since what a
half program does when it runs says nothing about the program that the model meant.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, pstdev
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from actors.terms import Attempt, Failed, RewardTerm
from learner.trajectory import FinishReason, RewardEvent, Trajectory
from sandbox.verdict import Outcome, Verdict

Tokens = NDArray[np.int32]
_EPSILON = 1e-6


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ShareOfTestsConfig(_Settings):
    """Pays ``weight`` times the share of the suite's cases that passed."""

    kind: Literal["test_share"] = "test_share"
    weight: float = 0.5
    """Reward for passing all cases; a share of it for a share of them."""


class AllPassedConfig(_Settings):
    """Pays ``weight`` if every case passed."""

    kind: Literal["all_passed"] = "all_passed"
    weight: float = 0.5
    """Reward of a program that passes."""


class CompileErrorConfig(_Settings):
    """Pays ``value`` if the program does not compile (for Python: does not parse)."""

    kind: Literal["compile_error"] = "compile_error"
    value: float = -0.2
    """Usually negative."""


class LengthCutConfig(_Settings):
    """Pays ``value`` if the completion was cut by the token limit; no other term of execution pays then."""

    kind: Literal["length_cut"] = "length_cut"
    value: float = -0.2
    """Usually negative."""


class RewardModelTermConfig(_Settings):
    """Pays what a learned reward model says of the whole answer, cut ones too."""

    kind: Literal["reward_model"] = "reward_model"
    model: str
    """A scalar-head model: ``stage:NAME`` or a folder."""
    weight: float = 1.0
    """Times the score."""
    normalise: Literal["none", "within_prompt"] = "none"
    """``within_prompt``: weight (score - mean) / (standard deviation + 1e-6) over the answers to one prompt, as the
    paper's reward normalisation has it (over what, it does not say). It hides that a prompt is hard, and reduces
    hacking."""


ExecutionTermConfig = Annotated[
    ShareOfTestsConfig | AllPassedConfig | CompileErrorConfig | LengthCutConfig, Field(discriminator="kind")
]


def is_cut(attempt: Attempt) -> bool:
    """True if the last turn ended at the token limit."""
    return attempt.trajectory.turns[-1].finish_reason is FinishReason.LENGTH


def _value(config: ShareOfTestsConfig | AllPassedConfig | CompileErrorConfig, verdict: Verdict) -> float:
    match config:
        case ShareOfTestsConfig():
            return config.weight * verdict.num_passed / verdict.num_cases
        case AllPassedConfig():
            return config.weight if verdict.passed else 0.0
        case CompileErrorConfig():
            return config.value if verdict.outcome is Outcome.COMPILE_ERROR else 0.0


@dataclass(frozen=True, slots=True)
class ExecutionTerm:
    """A reward term of the verdict alone (``RewardTerm``); the event falls on the completion's last token."""

    config: ExecutionTermConfig

    @property
    def name(self) -> str:
        return self.config.kind

    async def score(self, attempts: Sequence[Attempt]) -> list[tuple[RewardEvent, ...] | Failed]:
        return [self._score_one(attempt) for attempt in attempts]

    def _score_one(self, attempt: Attempt) -> tuple[RewardEvent, ...] | Failed:
        if is_cut(attempt):
            return (RewardEvent(self.name, self.config.value),) if isinstance(self.config, LengthCutConfig) else ()
        if isinstance(self.config, LengthCutConfig):
            return ()
        if attempt.verdict is None:
            return Failed("the program was not executed")
        if attempt.verdict.outcome is Outcome.INFRASTRUCTURE_ERROR:
            return Failed(f"sandbox: {attempt.verdict.detail}")
        value = _value(self.config, attempt.verdict)
        return (RewardEvent(self.name, value),) if value else ()


ScoreAnswer = Callable[[Tokens, Tokens], Awaitable[float | Failed]]
"""(prompt ids, completion ids) -> a learned model's score, or why there is none."""


@dataclass(frozen=True, slots=True)
class RewardModelTerm:
    """A reward term that asks a learned model (``RewardTerm``); the event falls on the completion's last token."""

    config: RewardModelTermConfig
    ask: ScoreAnswer

    @property
    def name(self) -> str:
        return self.config.kind

    async def score(self, attempts: Sequence[Attempt]) -> list[tuple[RewardEvent, ...] | Failed]:
        return list(await asyncio.gather(*(self._score_one(attempt) for attempt in attempts)))

    async def _score_one(self, attempt: Attempt) -> tuple[RewardEvent, ...] | Failed:
        turn = attempt.trajectory.turns[-1]
        score = await self.ask(turn.prompt_ids, turn.completion_ids)
        return score if isinstance(score, Failed) else (RewardEvent(self.name, self.config.weight * score),)


def normalised_within_prompt(trajectories: Sequence[Trajectory], term: str, weight: float = 1.0) -> list[Trajectory]:
    """One group's trajectories with the events of ``term`` brought to mean 0 and standard deviation ``|weight|``.

    Over those that have such an event; equal scores become 0. The events' values have been weighted already, so that
    their sign is that of ``weight``.
    """
    values = [event.value for trajectory in trajectories for event in trajectory.events if event.term == term]
    if not values or not weight:
        return list(trajectories)
    mean, scale = fmean(values), abs(weight) / (pstdev(values) + abs(weight) * _EPSILON)

    def moved(event: RewardEvent) -> RewardEvent:
        return replace(event, value=(event.value - mean) * scale) if event.term == term else event

    return [replace(t, events=tuple(moved(event) for event in t.events)) for t in trajectories]


def build_terms(
    configs: Sequence[ExecutionTermConfig | RewardModelTermConfig], ask: ScoreAnswer | None = None
) -> list[RewardTerm]:
    """The terms in the recipe's order; ``ask`` answers for the reward model, where there is one.

    Raises ValueError if one kind is named twice.
    """
    kinds = [config.kind for config in configs]
    if len(set(kinds)) != len(kinds):
        raise ValueError(f"reward terms {kinds} name one kind twice")
    terms: list[RewardTerm] = []
    for config in configs:
        if isinstance(config, RewardModelTermConfig):
            assert ask is not None, "a reward_model term needs a scorer"
            terms.append(RewardModelTerm(config, ask))
        else:
            terms.append(ExecutionTerm(config))
    return terms
