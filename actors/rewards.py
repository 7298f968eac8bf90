"""The reward terms: those of a verdict, which are pure arithmetic, and those of learned models.

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
from pydantic import Field

from actors.checking import CheckProgram, ProgramChecker
from actors.comparison import CompareAnswers, ComparingTerm, ComparingTermConfig, ComparisonTermConfig, JudgeTermConfig
from actors.compiler import CompilerTerm, CompilerTermConfig
from actors.term_settings import TermSettings, is_cut
from actors.terms import Attempt, Failed, RewardTerm
from learner.line_rewards import line_rewards
from learner.trajectory import RewardEvent, Trajectory
from problems.linespans import line_spans
from sandbox.verdict import Outcome, Verdict

Tokens = NDArray[np.int32]
_EPSILON = 1e-6


class ShareOfTestsConfig(TermSettings):
    """Pays ``weight`` times the share of the suite's cases that passed."""

    kind: Literal["test_share"] = "test_share"
    weight: float = 0.5
    """Reward for passing all cases; a share of it for a share of them."""


class AllPassedConfig(TermSettings):
    """Pays ``weight`` if every case passed."""

    kind: Literal["all_passed"] = "all_passed"
    weight: float = 0.5
    """Reward of a program that passes."""


class CompileErrorConfig(TermSettings):
    """Pays ``value`` if the program does not compile (for Python: does not parse)."""

    kind: Literal["compile_error"] = "compile_error"
    value: float = -0.2
    """Usually negative."""


class LengthCutConfig(TermSettings):
    """Pays ``value`` if the completion was cut by the token limit; no other term of execution pays then."""

    kind: Literal["length_cut"] = "length_cut"
    value: float = -0.2
    """Usually negative."""


class RewardModelTermConfig(TermSettings):
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


class ProcessTermConfig(TermSettings):
    """Pays for each line what a process reward model says of the prefix that it ends (arXiv 2410.17621).

    The weight's share of each line is 1 / T, T the lines that are neither blank nor comment nor docstring; those earn
    nothing. A completion that the length limit cut counts as failing.
    """

    kind: Literal["process"] = "process"
    model: str
    """A process reward model: ``stage:NAME`` or a folder."""
    weight_failing: float = Field(default=0.25, ge=0, allow_inf_nan=False)
    """Lambda of a program that fails."""
    weight_passing: float = Field(default=0.025, ge=0, allow_inf_nan=False)
    """Lambda of a program that passes."""
    bound: float | None = Field(default=1.0, gt=0)
    """Scores are cut to [-bound, bound], the labels' range; null: not cut. The paper does not say."""


COMPILING_TERMS = ("compiler", "comparison", "judge")
"""Kinds of terms that compile a program and do not run it."""
WITHOUT_VERDICT = frozenset({"length_cut", "reward_model", *COMPILING_TERMS})
"""Kinds of terms that need no program to be run."""

ExecutionTermConfig = Annotated[
    ShareOfTestsConfig | AllPassedConfig | CompileErrorConfig | LengthCutConfig, Field(discriminator="kind")
]


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


ReadLines = Callable[[Tokens, Tokens, Tokens], Awaitable[NDArray[np.float64] | Failed]]
"""(prompt ids, completion ids, tokens of the completion) -> a learned model's numbers there, or why there are none."""


@dataclass(frozen=True, slots=True)
class ProcessTerm:
    """A reward term of the lines (``RewardTerm``); each event falls on the token that ends its line."""

    config: ProcessTermConfig
    read: ReadLines

    @property
    def name(self) -> str:
        return self.config.kind

    async def score(self, attempts: Sequence[Attempt]) -> list[tuple[RewardEvent, ...] | Failed]:
        return list(await asyncio.gather(*(self._score_one(attempt) for attempt in attempts)))

    async def _score_one(self, attempt: Attempt) -> tuple[RewardEvent, ...] | Failed:
        weight = self._weight(attempt)
        if isinstance(weight, Failed):
            return weight
        language = attempt.problem.language
        spans = line_spans(attempt.extraction.program, attempt.byte_map, language, is_cut=is_cut(attempt))
        tokens = np.array([span.token for span in spans if not span.is_neutral], np.int32)
        turn = attempt.trajectory.turns[-1]
        if not len(tokens):
            # Paid nothing, writing comments alone would pay more than trying and failing does. (The paper has no rule.)
            has_passed = attempt.verdict is not None and attempt.verdict.passed and not is_cut(attempt)
            worst = -weight * (self.config.bound or 1.0)
            return () if has_passed else (RewardEvent(self.name, worst, len(turn.completion_ids) - 1),)
        scores = await self.read(turn.prompt_ids, turn.completion_ids, tokens)
        if isinstance(scores, Failed):
            return scores
        paid = line_rewards(scores, is_neutral=[False] * len(tokens), weight=weight, bound=self.config.bound)
        return tuple(
            RewardEvent(self.name, float(value), int(token)) for token, value in zip(tokens, paid, strict=True)
        )

    def _weight(self, attempt: Attempt) -> float | Failed:
        """Lambda, which depends on the verdict."""
        if is_cut(attempt):
            return self.config.weight_failing
        if attempt.verdict is None:
            return Failed("the program was not executed")
        if attempt.verdict.outcome is Outcome.INFRASTRUCTURE_ERROR:
            return Failed(f"sandbox: {attempt.verdict.detail}")
        return self.config.weight_passing if attempt.verdict.passed else self.config.weight_failing


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


@dataclass(frozen=True, slots=True)
class TermSources:
    """Who answers the terms' questions; those that no term asks may be None.

    Attributes:
        score: of the reward model.
        read: of the process reward model.
        check: compiles a program.
        compare: of the discriminator.
        judge: of the judge model.
    """

    score: ScoreAnswer | None = None
    read: ReadLines | None = None
    check: CheckProgram | None = None
    compare: CompareAnswers | None = None
    judge: CompareAnswers | None = None


AnyTermConfig = (
    ExecutionTermConfig | RewardModelTermConfig | ProcessTermConfig | CompilerTermConfig | ComparingTermConfig
)


def build_terms(configs: Sequence[AnyTermConfig], sources: TermSources = TermSources()) -> list[RewardTerm]:
    """The terms in the recipe's order.

    Raises ValueError if one kind is named twice.
    """
    kinds = [config.kind for config in configs]
    if len(set(kinds)) != len(kinds):
        raise ValueError(f"reward terms {kinds} name one kind twice")
    return [_build(config, configs, sources) for config in configs]


def _build(config: AnyTermConfig, configs: Sequence[AnyTermConfig], sources: TermSources) -> RewardTerm:
    match config:
        case RewardModelTermConfig():
            assert sources.score is not None, "a reward_model term needs a scorer"
            return RewardModelTerm(config, sources.score)
        case ProcessTermConfig():
            assert sources.read is not None, "a process term needs a scorer"
            return ProcessTerm(config, sources.read)
        case CompilerTermConfig():
            return CompilerTerm(config, _checker(configs, sources))
        case ComparisonTermConfig() | JudgeTermConfig():
            compare = sources.judge if isinstance(config, JudgeTermConfig) else sources.compare
            assert compare is not None, f"a {config.kind} term needs who compares"
            return ComparingTerm(config, _checker(configs, sources), compare)
        case _:
            return ExecutionTerm(config)


def _checker(configs: Sequence[AnyTermConfig], sources: TermSources) -> ProgramChecker:
    """One set of rules for all terms: those of the compiler's term, where there is one."""
    assert sources.check is not None, "terms that compile need a compiler"
    rules = next((config for config in configs if isinstance(config, CompilerTermConfig)), CompilerTermConfig())
    return rules.checker(sources.check)
