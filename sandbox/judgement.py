"""From what server and judge report to a Verdict, and from a suite to what they are sent."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from typing import Any

from problems.problem import FunctionSuite, Limits
from sandbox.resident.protocol import End, Order, Result
from sandbox.verdict import CaseResult, Diagnostic, Isolation, Outcome, Program, Verdict

_ENDS = {
    End.CPU: (Outcome.TIME_LIMIT, "the CPU limit"),
    End.BLOCKED: (Outcome.TIME_LIMIT, "the wall limit, asleep or waiting"),
    End.STARVED: (Outcome.TIME_LIMIT, "the wall limit"),
    End.MEMORY: (Outcome.MEMORY_LIMIT, "the memory limit"),
    End.OUTPUT: (Outcome.OUTPUT_LIMIT, "the output limit"),
}


@functools.lru_cache(maxsize=256)
def _suite_json(suite: FunctionSuite) -> bytes:
    fields = {
        "entry_points": suite.entry_points,
        "setup": suite.setup,
        "cases": suite.cases,
        "candidate_setup": suite.candidate_setup,
    }
    return json.dumps(fields).encode()


def job_of(program: Program, suite: FunctionSuite, limits: Limits, *, stop: bool) -> bytes:
    """What the judge reads. The source goes through it to the candidate as hexadecimal, whatever bytes it holds."""
    rest = json.dumps({"source": program.source.hex(), "stop": stop, "output_bytes": limits.output_bytes}).encode()
    return _suite_json(suite)[:-1] + b"," + rest[1:]


def order_of(limits: Limits, job: bytes, wall_factor: float = 1.0) -> Order:
    """The server's part of the work."""
    return Order(
        job_bytes=len(job),
        cpu_s=limits.cpu_s,
        wall_s=limits.wall_s,
        longest_wall_s=limits.wall_s * wall_factor,
        memory_bytes=limits.memory_bytes,
        file_bytes=limits.file_bytes,
        output_bytes=limits.output_bytes,
        num_processes=limits.num_processes,
        open_files=limits.open_files,
    )


def infrastructure_error(suite: FunctionSuite, detail: str) -> Verdict:
    """Nothing is known of the program."""
    return Verdict(Outcome.INFRASTRUCTURE_ERROR, len(suite.cases), detail=detail)


def too_long(suite: FunctionSuite, size: int, allowed: int) -> Verdict:
    """A source that is not even looked at."""
    message = f"the program has {size} bytes, {allowed} are allowed"
    return Verdict(Outcome.COMPILE_ERROR, len(suite.cases), diagnostics=(Diagnostic("SourceTooLong", message),))


def verdict_of(suite: FunctionSuite, result: Result, report: bytes, isolation: Isolation | None) -> Verdict:
    """The verdict. What the server saw (limits, deaths) goes before what the judge made of it."""
    end = End(result.end)
    measured = Verdict(
        Outcome.RUNTIME_ERROR,
        len(suite.cases),
        cpu_s=result.cpu_s,
        wall_s=result.wall_s,
        memory_bytes=result.peak_bytes,
        isolation=isolation,
    )
    if not report:
        return _without_report(measured, end)
    told: dict[str, Any] = json.loads(report)
    if not told["started"] and end is End.JUDGED:
        detail = f"the program's process did not start (exit {result.candidate_exit})"
        return replace(measured, outcome=Outcome.INFRASTRUCTURE_ERROR, detail=detail)
    if told["broken"]:
        return replace(measured, outcome=Outcome.INFRASTRUCTURE_ERROR, detail=told["broken"])
    measured = replace(measured, signs=tuple(sorted(set(told["signs"]))))
    if told["load"]:
        return _not_loaded(measured, end, told["load"], told["gone"])
    return _judged(measured, end, told)


def _without_report(measured: Verdict, end: End) -> Verdict:
    """The judge did not finish: it has limits too, and what overtaxed it came from the candidate."""
    outcome, detail = _ENDS.get(end, (Outcome.RUNTIME_ERROR, "the test could not be run to its end"))
    return replace(measured, outcome=outcome, cases=(CaseResult(outcome, detail),), signs=("judge-died",))


def _not_loaded(measured: Verdict, end: End, load: list[Any], gone: list[str] | None) -> Verdict:
    kind, name, message = load[:3]
    detail = f"{name}: {message}"
    if kind == "refused":
        diagnostic = Diagnostic(name, message, load[3], load[4])
        return replace(measured, outcome=Outcome.COMPILE_ERROR, diagnostics=(diagnostic,))
    outcome = Outcome.MEMORY_LIMIT if name == "MemoryError" else _of_gone(gone)
    if end in _ENDS:
        outcome, detail = _ENDS[end]
    return replace(measured, outcome=outcome, cases=(CaseResult(outcome, detail),))


def _of_gone(gone: list[str] | None) -> Outcome:
    return Outcome.OUTPUT_LIMIT if gone and gone[0] == "output" else Outcome.RUNTIME_ERROR


def _judged(measured: Verdict, end: End, told: dict[str, Any]) -> Verdict:
    cases = [CaseResult(Outcome(outcome), detail) for outcome, detail in told["cases"]]
    first = next((index for index, case in enumerate(cases) if case.outcome is not Outcome.PASSED), None)
    if end in _ENDS:
        # The candidate was ended in the case that failed first for want of it, or overdrew in the last one.
        outcome, detail = _ENDS[end]
        at = first if first is not None else len(cases) - 1
        cases[at:] = [CaseResult(outcome, detail) for _ in cases[at:]] or [CaseResult(outcome, detail)]
    elif told["gone"] and first is not None and _of_gone(told["gone"]) is Outcome.OUTPUT_LIMIT:
        cases[first] = CaseResult(Outcome.OUTPUT_LIMIT, cases[first].detail)
    failed = [case.outcome for case in cases if case.outcome is not Outcome.PASSED]
    is_complete = len(cases) == measured.num_cases
    outcome = failed[0] if failed else Outcome.PASSED if is_complete else Outcome.RUNTIME_ERROR
    return replace(measured, outcome=outcome, cases=tuple(cases))
