"""The reward terms that come from running the program. Each is pure arithmetic on a verdict.

A completion that was cut by the length limit is not executed: it earns ``length_cut`` and nothing else, since what a
half program does when it runs says nothing about the program that the model meant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from actors.terms import Attempt, Failed, RewardTerm
from learner.trajectory import FinishReason, RewardEvent
from sandbox.verdict import Outcome, Verdict


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


ExecutionTermConfig = Annotated[
    ShareOfTestsConfig | AllPassedConfig | CompileErrorConfig | LengthCutConfig, Field(discriminator="kind")
]


def is_cut(attempt: Attempt) -> bool:
    """True if the last turn ended at the token limit."""
    return attempt.trajectory.turns[-1].finish_reason is FinishReason.LENGTH


def _value(config: ExecutionTermConfig, verdict: Verdict) -> float:
    match config:
        case ShareOfTestsConfig():
            return config.weight * verdict.num_passed / verdict.num_cases
        case AllPassedConfig():
            return config.weight if verdict.passed else 0.0
        case CompileErrorConfig():
            return config.value if verdict.outcome is Outcome.COMPILE_ERROR else 0.0
        case LengthCutConfig():
            return 0.0


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
        if attempt.verdict is None:
            return Failed("the program was not executed")
        if attempt.verdict.outcome is Outcome.INFRASTRUCTURE_ERROR:
            return Failed(f"sandbox: {attempt.verdict.detail}")
        value = _value(self.config, attempt.verdict)
        return (RewardEvent(self.name, value),) if value else ()


def build_terms(configs: Sequence[ExecutionTermConfig]) -> list[RewardTerm]:
    """The terms in the recipe's order. Raises ValueError if one kind is named twice."""
    kinds = [config.kind for config in configs]
    if len(set(kinds)) != len(kinds):
        raise ValueError(f"reward terms {kinds} name one kind twice")
    return [ExecutionTerm(config) for config in configs]
