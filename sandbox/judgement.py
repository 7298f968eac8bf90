"""From what server and judge report to a Verdict, and from a suite to what they are sent."""

from __future__ import annotations

import base64
import functools
import importlib.util
import json
import marshal
import signal
import warnings
from dataclasses import dataclass, replace
from typing import Any, cast

from problems.problem import FunctionSuite, Limits
from problems.stdio import StdioCase, StdioSuite
from sandbox.resident.protocol import EXIT_AT_IMPORT, IN_ADVANCE, End, Kind, Order, Result
from sandbox.verdict import CaseResult, Diagnostic, Isolation, Outcome, Program, Suite, Verdict

_ENDS = {
    End.CPU: (Outcome.TIME_LIMIT, "the CPU limit"),
    End.BLOCKED: (Outcome.TIME_LIMIT, "the wall limit, asleep or waiting"),
    End.STARVED: (Outcome.TIME_LIMIT, "the wall limit"),
    End.MEMORY: (Outcome.MEMORY_LIMIT, "the memory limit"),
    End.OUTPUT: (Outcome.OUTPUT_LIMIT, "the output limit"),
}
UNBEGUN = "the judge ended, or took too long, before it handed the program over"


@functools.lru_cache(maxsize=256)
def suite_of(suite: FunctionSuite) -> bytes:
    """What the judge reads of a suite, whatever the program. Its code is compiled here, once for all its programs."""
    fields = {
        "entry_points": suite.entry_points,
        "classes": suite.object_classes,
        "namespaces": suite.namespaces,
        "candidate_setup": suite.candidate_setup,
        **_code_of(suite),
    }
    return json.dumps(fields).encode()


def _code_of(suite: FunctionSuite) -> dict[str, Any]:
    """``code`` and the ``magic`` of the Python that it is for, which the slots have too; ``error`` if there is none."""
    try:
        with warnings.catch_warnings(action="ignore"):
            setup = compile(suite.setup, "setup", "exec", dont_inherit=True)
            cases = [
                compile(case, f"case {index}", "exec", dont_inherit=True) for index, case in enumerate(suite.cases)
            ]
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        return {"error": str(error)}
    code = base64.b64encode(marshal.dumps((setup, cases))).decode()
    return {"code": code, "magic": importlib.util.MAGIC_NUMBER.hex()}


def job_of(program: Program, limits: Limits, *, stop: bool) -> bytes:
    """What the judge reads beside the suite. The source goes through it to the candidate, as hexadecimal."""
    return json.dumps({"source": program.source.hex(), "stop": stop, "output_bytes": limits.output_bytes}).encode()


def script_job_of(program: Program, limits: Limits) -> bytes:
    """What the judge reads beside the case."""
    return json.dumps({"source": program.source.hex(), "output_bytes": limits.output_bytes}).encode()


def case_of(suite: StdioSuite, case: StdioCase) -> bytes:
    """What the judge reads for one case by standard input and output, whatever the program."""
    fields = {
        "stdin": case.stdin,
        "stdout": case.stdout,
        "checker": suite.checker.value,
        "absolute_tolerance": suite.absolute_tolerance,
        "relative_tolerance": suite.relative_tolerance,
    }
    return json.dumps(fields).encode()


def order_of(
    limits: Limits,
    wall_factor: float = 1.0,
    *,
    kind: Kind = Kind.FUNCTIONS,
    address_space_bytes: int | None = None,
) -> Order:
    """The server's part of the work. ``address_space_bytes``: as the memory limit if not given, 0 for no bound."""
    return Order(
        cpu_s=limits.cpu_s,
        wall_s=limits.wall_s,
        longest_wall_s=limits.wall_s * wall_factor,
        memory_bytes=limits.memory_bytes,
        address_space_bytes=limits.memory_bytes if address_space_bytes is None else address_space_bytes,
        file_bytes=limits.file_bytes,
        output_bytes=limits.output_bytes,
        num_processes=limits.num_processes,
        open_files=limits.open_files,
        kind=int(kind),
    )


def infrastructure_error(num_cases: int, detail: str) -> Verdict:
    """Nothing is known of the program."""
    return Verdict(Outcome.INFRASTRUCTURE_ERROR, num_cases, detail=detail)


def too_long(suite: Suite, size: int, allowed: int) -> Verdict:
    """A source that is not even looked at."""
    message = f"the program has {size} bytes, {allowed} are allowed"
    return Verdict(Outcome.COMPILE_ERROR, len(suite.cases), diagnostics=(Diagnostic("SourceTooLong", message),))


def script_verdict_of(result: Result, report: bytes, isolation: Isolation | None) -> Verdict:
    """The verdict on one case by standard input and output: a program must end by itself, and with 0."""
    verdict = verdict_of(1, result, report, isolation)
    if verdict.passed and result.candidate_exit != 0:
        case = CaseResult(Outcome.RUNTIME_ERROR, f"the program ended with {result.candidate_exit}")
        return replace(verdict, outcome=case.outcome, cases=(case,))
    if verdict.outcome is Outcome.WRONG_ANSWER and result.candidate_exit not in (0, -signal.SIGKILL):
        case = CaseResult(Outcome.RUNTIME_ERROR, f"the program ended with {result.candidate_exit}")
        return replace(verdict, outcome=case.outcome, cases=(case,))
    return verdict


def merged(suite: StdioSuite, verdicts: list[Verdict]) -> Verdict:
    """One verdict of the runs of a suite's cases, in order."""
    first = next((verdict for verdict in verdicts if not verdict.passed), verdicts[-1])
    cases = [case for verdict in verdicts for case in verdict.cases or (CaseResult(verdict.outcome, verdict.detail),)]
    return replace(
        first,
        num_cases=len(suite.cases),
        cases=tuple(cases),
        cpu_s=sum(verdict.cpu_s for verdict in verdicts),
        wall_s=sum(verdict.wall_s for verdict in verdicts),
        memory_bytes=max(verdict.memory_bytes for verdict in verdicts),
        signs=tuple(sorted({sign for verdict in verdicts for sign in verdict.signs})),
    )


@dataclass(frozen=True, slots=True)
class Uncrossable(Verdict):
    """The suite passes what cannot cross to another process, whatever the program."""


def verdict_of(num_cases: int, result: Result, report: bytes, isolation: Isolation | None) -> Verdict:
    """The verdict. What the server saw (limits, deaths) goes before what the judge made of it."""
    end = End(result.end)
    if end is End.UNBEGUN:
        return replace(infrastructure_error(num_cases, UNBEGUN), isolation=isolation)
    measured = Verdict(
        Outcome.RUNTIME_ERROR,
        num_cases,
        cpu_s=result.cpu_s,
        wall_s=result.wall_s,
        memory_bytes=result.peak_bytes,
        isolation=isolation,
    )
    if result.judge_exit != 0 or not report or _is_in_advance(report):
        return _without_report(measured, end, report)
    told: dict[str, Any] = shown(json.loads(report))
    if not told["started"] and end is End.JUDGED:
        detail = f"the program's process did not start (exit {result.candidate_exit})"
        return replace(measured, outcome=Outcome.INFRASTRUCTURE_ERROR, detail=detail)
    if told["broken"]:
        kind = Uncrossable if told.get("uncrossable") else Verdict
        return kind(Outcome.INFRASTRUCTURE_ERROR, num_cases, isolation=isolation, detail=told["broken"])
    signs = set(told["signs"])
    if end in _ENDS or result.candidate_exit == -signal.SIGSEGV:
        signs.discard(EXIT_AT_IMPORT)  # that was not its own wish
    measured = replace(measured, signs=tuple(sorted(signs)))
    if told["load"]:
        return _not_loaded(measured, end, told["load"], told["gone"])
    return _judged(measured, end, told)


def shown(told: Any) -> Any:
    """A report, or a part of one, with its texts as they may go to a terminal: they quote what a program says, control
    characters, lone surrogates, marks of direction and all."""
    if isinstance(told, str):
        return "".join(character if character.isprintable() else "\ufffd" for character in told)
    if isinstance(told, list):
        return [shown(item) for item in cast("list[Any]", told)]
    if isinstance(told, dict):
        return {key: shown(item) for key, item in cast("dict[str, Any]", told).items()}
    return told


def _is_in_advance(report: bytes) -> bool:
    """Whether a judge wrote it while it ran the suite by itself, and never took it back."""
    return report.startswith(f'{{"{IN_ADVANCE}":'.encode()) and report.endswith(b"}")


def _without_report(measured: Verdict, end: End, report: bytes) -> Verdict:
    """The judge did not finish. It has limits too, and what overtaxed it came from the candidate, unless the suite had
    asked nothing of it yet and the candidate overdrew nothing."""
    if _is_in_advance(report) and end in (End.JUDGED, End.BLOCKED, End.STARVED):
        detail = shown(json.loads(report))[IN_ADVANCE]
        return replace(measured, outcome=Outcome.INFRASTRUCTURE_ERROR, detail=detail)
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
