"""Attempts as a rollout makes them, with the machine's own compilers in place of sandboxes: trusted programs only."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from actors.checking import CheckProgram
from actors.terms import Attempt
from learner.trajectory import FinishReason, Trajectory, Turn, VersionSpan
from problems.bytemap import ByteMap
from problems.extraction import extract_program
from problems.identity import TrajectoryId, WeightsVersion
from problems.problem import CompletionStyle, Problem
from sandbox.resident.python_check import check
from sandbox.verdict import Diagnostic, Outcome, Program, Verdict
from tests.sandbox.local_java import LocalCompiler

JAVA_HEAD = "import java.util.*;\n\nclass Solution {\n    static int f(int a) {\n"
TAIL = "    }\n}\n"


def problem(language: str = "java", style: CompletionStyle = CompletionStyle.CONTINUE, **fields: Any) -> Problem:
    prompt = {"java": JAVA_HEAD, "python": "def f(a):\n"}.get(language, "?")
    return Problem("p", language, fields.pop("prompt", prompt), style, {}, **fields)


def attempt(
    of: Problem, pieces: list[bytes], *, finish: FinishReason = FinishReason.STOP, prompt_ids: list[int] | None = None
) -> Attempt:
    """``pieces``: the bytes of each token of the completion; an end-of-sequence token without bytes is put behind."""
    pieces = [*pieces, b""]
    turn = Turn(
        np.array(prompt_ids or [1, 2], np.int32),
        np.arange(len(pieces), dtype=np.int32),
        np.ones(len(pieces), np.bool_),
        np.full(len(pieces), -0.5, np.float32),
        (VersionSpan(WeightsVersion(0, 0), 0, len(pieces)),),
        finish,
    )
    extraction = extract_program(of, b"".join(pieces))
    trajectory = Trajectory(TrajectoryId("r", "s", 0, of.id, 0), 0, (turn,))
    return Attempt(of, trajectory, extraction, ByteMap.build(pieces, extraction), None)


@dataclass
class Compilers:
    """Stands in for the executors; counts what it is asked."""

    java: LocalCompiler
    asked: int = 0

    async def check(self, program: Program) -> Verdict:
        self.asked += 1
        if program.language == "python":
            found = tuple(Diagnostic(*one) for one in check(program.source))
        else:
            found = self.java.compile(("Solution.java", program.source)).diagnostics
        return Verdict(Outcome.COMPILE_ERROR if found else Outcome.PASSED, 1, diagnostics=found)


def run(work: Any) -> Any:
    return asyncio.run(work)


@cache
def never() -> CheckProgram:
    async def check(program: Program) -> Verdict:
        raise AssertionError(f"nobody should compile {program}")

    return check
