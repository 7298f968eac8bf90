"""RLCF's reward from the compiler (arXiv 2305.18341): -1 for what does not compile, at the tokens to blame."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from actors.blame import blamed_tokens, is_at_end, spread
from actors.checking import COMPILES, EMPTY, NO_COMPILER, TRIVIAL, Checked, CheckProgram, ProgramChecker
from actors.term_settings import TermSettings, is_cut
from actors.terms import Attempt, Failed
from learner.trajectory import RewardEvent
from problems.problem import CompletionStyle
from sandbox.diagnosis import ErrorClass

_TERM = "compiler"
OUTSIDE, NO_BLOCK, SEVERAL_BLOCKS, FOREIGN_BLOCK = "outside", "no_block", "several_blocks", "foreign_block"


class CompilerTermConfig(TermSettings):
    """Pays ``value`` in all for a program that does not compile. Runs nothing, and needs no tests.

    The events bear names such as ``compiler.type_mismatch``; the rules are those of ``actors.checking``. A completion
    that the token limit cut is not compiled: ``length_cut`` speaks for it.
    """

    kind: Literal["compiler"] = "compiler"
    value: float = Field(default=-1.0, lt=0, allow_inf_nan=False)
    """Sum of a refused program's events. RLCF: -1."""
    localise: bool = True
    """The value is shared among the tokens that the error points to (the paper's second version); False: it falls on
    the last token."""
    errors: Literal["first", "all"] = "first"
    """Whether the first message alone is blamed on tokens, or all of them, each with an equal part. The paper does not
    say; later messages often follow from the first."""
    classes: tuple[ErrorClass, ...] = tuple(ErrorClass)
    """Classes of errors that count; a program whose errors are all of others counts as compiling. The paper gives no
    list."""
    supply_imports: bool = True
    """Names of the standard library that nobody imported are forgiven."""
    trivial_share: float = Field(default=0.2, ge=0, le=1)
    """A program with less than this share of the reference's lexemes is trivial, and refused as if it did not compile.
    Not in the paper."""

    def checker(self, check: CheckProgram) -> ProgramChecker:
        """These rules with a compiler."""
        return ProgramChecker(check, frozenset(self.classes), self.supply_imports, self.trivial_share)


@dataclass(frozen=True, slots=True)
class CompilerTerm:
    """A reward term of what the compiler says (``RewardTerm``)."""

    config: CompilerTermConfig
    checker: ProgramChecker

    @property
    def name(self) -> str:
        return self.config.kind

    async def score(self, attempts: Sequence[Attempt]) -> list[tuple[RewardEvent, ...] | Failed]:
        return list(await asyncio.gather(*(self._score_one(attempt) for attempt in attempts)))

    async def _score_one(self, attempt: Attempt) -> tuple[RewardEvent, ...] | Failed:
        if is_cut(attempt):
            return ()
        checked = await self.checker.of_answer(attempt.problem, attempt.extraction)
        if isinstance(checked, Failed):
            return checked
        return compiler_events(self.config, attempt, checked)


def compiler_events(config: CompilerTermConfig, attempt: Attempt, checked: Checked) -> tuple[RewardEvent, ...]:
    """The events of one checked answer: what it is paid, then notes of value 0, which are there to be counted."""
    notes = [*checked.notes, *_of_extraction(attempt)]
    if checked.result in (COMPILES, NO_COMPILER):
        paid = [RewardEvent(_named(checked.result), 0.0)]
    elif checked.result in (EMPTY, TRIVIAL):
        paid = [RewardEvent(_named(checked.result), config.value)]
    else:
        paid, notes_of_places = _paid(config, attempt, checked)
        notes += notes_of_places
    return (*paid, *(RewardEvent(_named(note), 0.0) for note in notes))


def _paid(config: CompilerTermConfig, attempt: Attempt, checked: Checked) -> tuple[list[RewardEvent], list[str]]:
    language, program, byte_map = attempt.problem.language, attempt.extraction.program, attempt.byte_map
    errors = [one for _, one in checked.errors[: 1 if config.errors == "first" else None]]
    places = [blamed_tokens(one, language, program, byte_map) for one in errors]
    is_outside = any(
        place is None and not is_at_end(one, program, byte_map) for place, one in zip(places, errors, strict=True)
    )
    if not config.localise:
        places = [None]
    events = [RewardEvent(_named(checked.result), value, token) for token, value in spread(config.value, places)]
    return events, [OUTSIDE] if is_outside else []


def _of_extraction(attempt: Attempt) -> list[str]:
    """How the program was found in the completion, where a code block was expected."""
    if attempt.problem.completion_style is not CompletionStyle.PROGRAM:
        return []
    if not attempt.extraction.num_blocks:
        return [NO_BLOCK]
    several = [SEVERAL_BLOCKS] if attempt.extraction.num_blocks > 1 else []
    return several + ([FOREIGN_BLOCK] if attempt.extraction.rule == "foreign-block" else [])


def _named(what: str) -> str:
    return f"{_TERM}.{what}"
