"""The comparison's reward terms of RLCF: how a program compares with a reference, in the eyes of a learned model.

Both terms pay a number in (-1, 1) on the last token of a program that compiles: above 0 if it looks better than the
reference. The learned discriminator and the judge model have one interface, ``CompareAnswers``.

What is not compared is counted by name, and paid nothing:

================  =================================================================================================
no_reference      the problem has none
bad_reference     the reference does not compile: no target to come near to
not_compiling     the program does not compile (``compiler`` speaks for it), is empty or trivial
same              the program is the reference, blanks aside: 0 by antisymmetry, and nobody is asked
too_long          the model that compares cannot take so many tokens; nothing is ever cut
================  =================================================================================================
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Annotated, Literal

from pydantic import Field, field_validator

from actors.checking import ProgramChecker, own_code, reference_code
from actors.term_settings import TermSettings, is_cut
from actors.terms import Attempt, Failed
from learner.trajectory import RewardEvent
from problems.problem import CompletionStyle, Problem

NO_REFERENCE, BAD_REFERENCE, NOT_COMPILING = "no_reference", "bad_reference", "not_compiling"
SAME, TOO_LONG, COMPARED = "same", "too_long", "compared"


@dataclass(frozen=True, slots=True)
class TooLong:
    """A model that compares cannot take so many tokens."""


CompareAnswers = Callable[[str, str, str], Awaitable[float | TooLong | Failed]]
"""(prompt, answer, other answer) -> how much better the first is, in (-1, 1); antisymmetric in the answers."""


class _ComparisonSettings(TermSettings):
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Times the comparison."""
    compiling_only: bool = True
    """Programs that do not compile are not compared (RLCF); False: every program is, for experiments without the
    compiler's term."""


class ComparisonTermConfig(_ComparisonSettings):
    """Pays the antisymmetric discriminator's g(x, y, reference)."""

    kind: Literal["comparison"] = "comparison"
    model: str
    """A discriminator: ``stage:NAME`` or a folder."""
    refresh_every_steps: int = Field(default=0, ge=0)
    """The discriminator learns from the programs of the last so many policy steps, each time they are made; 0: it stays
    as it is. The paper does not say how often."""


class JudgeTermConfig(_ComparisonSettings):
    """Pays what a language model says that is shown both programs: "a different LLM that compares"."""

    kind: Literal["judge"] = "judge"
    model: str
    """Any causal language model: a folder or a hub's id."""
    question: str = (
        "Two programs answer the same task.\n\nTask:\n{prompt}\n\nProgram A:\n{first}\n\nProgram B:\n{second}\n\n"
        "Which of the two is the better answer to the task? Say A or B.\nAnswer:"
    )
    """What it is asked; ``{prompt}``, ``{first}`` and ``{second}`` stand for the texts."""
    answers: tuple[str, str] = (" A", " B")
    """What it says for the first, and for the second program; each must be one token."""
    template: Literal["plain", "chat"] = "plain"
    """``chat``: the question is put through the judge's chat template."""

    @field_validator("question")
    @classmethod
    def _shows_everything(cls, question: str) -> str:
        named = sorted(field for _, field, *_ in Formatter().parse(question) if field is not None)
        if named != ["first", "prompt", "second"]:
            raise ValueError(f"must hold {{prompt}}, {{first}} and {{second}} once each, and holds {named}")
        return question


ComparingTermConfig = Annotated[ComparisonTermConfig | JudgeTermConfig, Field(discriminator="kind")]


@dataclass(frozen=True, slots=True)
class ComparingTerm:
    """A reward term of a comparison with the reference (``RewardTerm``)."""

    config: ComparisonTermConfig | JudgeTermConfig
    checker: ProgramChecker
    compare: CompareAnswers

    @property
    def name(self) -> str:
        return self.config.kind

    async def score(self, attempts: Sequence[Attempt]) -> list[tuple[RewardEvent, ...] | Failed]:
        return list(await asyncio.gather(*(self._score_one(attempt) for attempt in attempts)))

    async def _score_one(self, attempt: Attempt) -> tuple[RewardEvent, ...] | Failed:
        if is_cut(attempt):
            return ()
        problem = attempt.problem
        reference = reference_code(problem)
        if reference is None:
            return self._note(NO_REFERENCE)
        if self.config.compiling_only:
            checked = await self.checker.of_answer(problem, attempt.extraction)
            if isinstance(checked, Failed):
                return checked
            if not checked.compiles:
                return self._note(NOT_COMPILING)
        checked = await self.checker.of_program(problem, reference_program(problem))
        if isinstance(checked, Failed):
            return checked
        if not checked.compiles:
            return self._note(BAD_REFERENCE)
        answer, other = comparable(own_code(attempt.extraction)), comparable(reference)
        if answer.split() == other.split():
            return self._note(SAME)
        compared = await self.compare(problem.prompt, answer, other)
        if isinstance(compared, Failed):
            return compared
        if isinstance(compared, TooLong):
            # Where the reference fits, it is the answer's own length that would save it from being compared.
            with_itself = await self.compare(problem.prompt, other, other)
            if isinstance(with_itself, Failed):
                return with_itself
            is_own_fault = not isinstance(with_itself, TooLong)
            return (RewardEvent(f"{self.name}.{TOO_LONG}", -self.config.weight if is_own_fault else 0.0),)
        return (RewardEvent(f"{self.name}.{COMPARED}", self.config.weight * compared),)

    def _note(self, what: str) -> tuple[RewardEvent, ...]:
        return (RewardEvent(f"{self.name}.{what}", 0.0),)


def comparable(code: bytes) -> str:
    """An answer as models that compare see it. How its lines end would tell them who wrote it, and nothing of it."""
    lines = code.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"


def reference_program(problem: Problem) -> bytes:
    """The first reference as a whole program. Raises IndexError where there is none."""
    if problem.completion_style is CompletionStyle.CONTINUE:
        return (problem.prompt + problem.reference_completions[0]).encode()
    return (problem.references or problem.reference_completions)[0].encode()
