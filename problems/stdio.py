"""Tests by standard input and output: the program is run anew for each case."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Checker(StrEnum):
    """How printed text is compared with the expected one. None of them runs code that depends on the text."""

    EXACT = "exact"  # the same bytes
    LINES = "lines"  # the same lines, blanks at their ends and empty lines at the end aside
    TOKENS = "tokens"  # the same words, however they are spaced
    FLOATS = "floats"  # as TOKENS, and words that are decimal numbers on both sides may differ by a tolerance
    UNORDERED = "unordered"  # the same lines, as LINES has them, in any order
    LAST_LINE = "last_line"  # the last line that is not empty, as LINES has it


@dataclass(frozen=True, slots=True)
class StdioCase:
    """One run: what it is given, and what it must print."""

    stdin: str
    stdout: str


@dataclass(frozen=True, slots=True)
class StdioSuite:
    """Cases by standard input and output. The limits hold for each case by itself, as contests have it.

    Attributes:
        cases: in order; the expected output never leaves the judge.
        checker: how outputs are compared.
        absolute_tolerance, relative_tolerance: for ``FLOATS``; a number passes if it is within either of them.
    """

    cases: tuple[StdioCase, ...]
    checker: Checker = Checker.LINES
    absolute_tolerance: float = 1e-6
    relative_tolerance: float = 1e-6

    def __post_init__(self) -> None:
        if not self.cases:
            raise ValueError("a suite needs at least one case: with none, every program would pass")
