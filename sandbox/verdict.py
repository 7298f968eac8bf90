"""What a run of a program came to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from problems.problem import Limits, Suite


class Outcome(StrEnum):
    """How a run ended; the first case that did not pass decides."""

    PASSED = "passed"
    WRONG_ANSWER = "wrong_answer"
    RUNTIME_ERROR = "runtime_error"
    COMPILE_ERROR = "compile_error"
    TIME_LIMIT = "time_limit"
    MEMORY_LIMIT = "memory_limit"
    OUTPUT_LIMIT = "output_limit"
    INFRASTRUCTURE_ERROR = "infrastructure_error"  # ours, never the candidate's: no reward may be made of it


class Trust(StrEnum):
    """Whether the candidate could have touched what judged it."""

    SPLIT = "split"  # judge and candidate were different processes of different principals
    MERGED = "merged"  # they shared a process: a pass can be forged


@dataclass(frozen=True, slots=True)
class Isolation:
    """How strongly the candidate was held, as probed by a canary in the very slot.

    Attributes:
        backend: ``docker`` or ``embedded``.
        profile: ``fast`` or ``lean`` (docker), ``root`` or ``user`` (embedded).
        memory: ``hard`` (a cgroup) or ``soft`` (rlimits only).
        network: True if the candidate has no network.
        pid_namespace: True if the candidate has its own view of processes.
        seccomp: True if a system call filter was on.
    """

    backend: str
    profile: str
    memory: str
    network: bool
    pid_namespace: bool
    seccomp: bool


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One case of the suite. ``detail`` is text for people, at most a few hundred bytes, never a verdict."""

    outcome: Outcome
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """A compiler's message.

    Attributes:
        kind: the compiler's own code, such as ``compiler.err.cant.resolve.location``, or the name of an exception.
        message: for people.
        line, column: of ``position``, from 1, columns in bytes; 0 where the compiler gives none.
        start, end: the bytes of the program that it speaks of, from 0, ``end`` exclusive; -1 where not known.
        position: the byte that it points to; -1 where not known.
    """

    kind: str
    message: str
    line: int = 0
    column: int = 0
    start: int = -1
    end: int = -1
    position: int = -1


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of one program on one suite.

    Attributes:
        outcome: see Outcome. ``PASSED`` means that the judge saw every expected case to its end.
        cases: results in the suite's order; shorter than the suite if the run stopped at the first failure.
        num_cases: cases in the suite.
        diagnostics: of the compile step.
        cpu_s: CPU seconds of the candidate's processes, as the kernel counted them.
        wall_s: wall seconds from the candidate's start to its end (queueing not included).
        memory_bytes: peak resident memory of the candidate, 0 if unknown.
        trust, isolation: how far the verdict can be relied on.
        signs: signs of cheating, such as ``exit-at-import`` or ``early-frame``.
        detail: for an infrastructure error, what broke.
    """

    outcome: Outcome
    num_cases: int
    cases: tuple[CaseResult, ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()
    cpu_s: float = 0.0
    wall_s: float = 0.0
    memory_bytes: int = 0
    trust: Trust = Trust.SPLIT
    isolation: Isolation | None = None
    signs: tuple[str, ...] = ()
    detail: str = ""

    @property
    def passed(self) -> bool:
        return self.outcome is Outcome.PASSED

    @property
    def num_passed(self) -> int:
        return sum(case.outcome is Outcome.PASSED for case in self.cases)


@dataclass(frozen=True, slots=True)
class Program:
    """Source that nobody trusts."""

    language: str
    source: bytes


class Executor(Protocol):
    """Runs programs. Safe to call concurrently; a call waits for a free slot, and that wait is not the candidate's."""

    async def run(
        self, program: Program, suite: Suite, limits: Limits, *, stop_at_first_failure: bool = True
    ) -> Verdict:
        """Never raises for what the candidate does. ``INFRASTRUCTURE_ERROR`` says that nothing is known."""
        ...

    async def close(self) -> None:
        """Ends everything that this executor started."""
        ...
