"""A merged suite as what it is in truth: a program of our and the candidate's making, judged by what it prints."""

from __future__ import annotations

import re
import secrets
from dataclasses import replace

from problems.merged import END_MARK, MergedSuite
from problems.problem import FunctionSuite
from problems.stdio import Checker, StdioCase, StdioSuite
from sandbox.verdict import CaseResult, Diagnostic, Program, Trust, Verdict

_FUTURES = re.compile(rb"^from __future__ import [\w, ]+$", re.MULTILINE)


def merge(program: Program, suite: MergedSuite) -> tuple[Program, StdioSuite]:
    """The program with the tests after it, so that its lines keep their numbers, and what it has to print."""
    mark = secrets.token_hex(16)
    tests = suite.tests.replace(END_MARK, mark)
    whole = program.source.rstrip(b"\n") + b"\n" + tests.encode()
    return Program(program.language, whole), StdioSuite((StdioCase("", mark),), Checker.LAST_LINE)


def merged_verdict(program: Program, verdict: Verdict) -> Verdict:
    """The verdict, marked; what the compiler says of lines after the program's is said of the tests."""
    num_lines = program.source.rstrip(b"\n").count(b"\n") + 1
    diagnostics = tuple(_of_program(one, num_lines) for one in verdict.diagnostics)
    return replace(verdict, trust=Trust.MERGED, diagnostics=diagnostics)


def _of_program(diagnostic: Diagnostic, num_lines: int) -> Diagnostic:
    if diagnostic.line <= num_lines:
        return diagnostic
    return replace(diagnostic, message=f"in the tests: {diagnostic.message}", line=0, column=0)


def as_merged(program: Program, suite: FunctionSuite) -> tuple[Program, MergedSuite]:
    """A suite in Python that passes what cannot cross, as one that shares the program's process.

    There too the program is no ``__main__``. What it imports from the future has to stand before all else.
    """
    head = [*_FUTURES.findall(program.source), b"__name__ = 'solution'", suite.candidate_setup.encode(), b""]
    whole = Program(program.language, b"\n".join(head) + _FUTURES.sub(b"", program.source))
    return whole, MergedSuite("\n".join((suite.setup, *suite.cases, f"print({END_MARK!r})", "")))


def of_all_cases(num_cases: int, verdict: Verdict) -> Verdict:
    """The verdict on cases that were run as one: they pass together, or the first that is told of fails."""
    cases = (CaseResult(verdict.outcome),) * num_cases if verdict.passed else verdict.cases
    return replace(verdict, num_cases=num_cases, cases=cases)
