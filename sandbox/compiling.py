"""Programs of other languages than Python: what a compile step and a run are sent, and what a compile step came to.

source --compile run--> files, which nobody looks into --one run for each case, a fresh process--> verdict
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from problems.problem import Limits
from sandbox.judgement import UNBEGUN, shown
from sandbox.languages.definition import Files, Language
from sandbox.resident.protocol import End, Result
from sandbox.verdict import CaseResult, Diagnostic, Isolation, Outcome, Program, Verdict

ARTIFACT_BYTES = 16 << 20
_TEXT_BYTES = 8 << 20  # of a compiler's own, as it travels
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8"}
_ENDS = {
    End.CPU: ("CompilerTimeLimit", "the compiler used up the CPU limit"),
    End.BLOCKED: ("CompilerTimeLimit", "the compiler came to the wall limit"),
    End.STARVED: ("CompilerTimeLimit", "the compiler came to the wall limit"),
    End.MEMORY: ("CompilerMemoryLimit", "the compiler used more memory than it may"),
    End.OUTPUT: ("CompilerOutputLimit", "the compiler wrote more than it may"),
}
_FAILED = "CompilerFailed"
_LAST_WORDS = 200


@dataclass(frozen=True, slots=True)
class Compiled(Verdict):
    """A compile step that succeeded; ``files`` are what a run needs."""

    files: Files = ()


def checked(verdict: Verdict) -> Verdict:
    """The verdict of a suite that asks for no more than this compile step."""
    if not isinstance(verdict, Compiled):
        return verdict
    used = (verdict.cpu_s, verdict.wall_s, verdict.memory_bytes)
    return Verdict(Outcome.PASSED, 1, (CaseResult(Outcome.PASSED),), (), *used, isolation=verdict.isolation)


def compile_job(language: Language, program: Program) -> bytes:
    """What the judge of a compile step reads."""
    name = language.source_name
    step = {
        "files": [[name, program.source.hex()]],
        "words": language.compile_words(),
        "environment": {**_ENVIRONMENT, **language.environment},
        "artifacts": language.artifacts or [name],
        "artifact_bytes": ARTIFACT_BYTES,
    }
    return json.dumps({"compile": step, "output_bytes": 2 * ARTIFACT_BYTES + _TEXT_BYTES}).encode()


def compiled_of(
    language: Language, num_cases: int, result: Result, report: bytes, isolation: Isolation | None
) -> Verdict:
    """``Compiled``, or the verdict that says why not."""
    end = End(result.end)
    used = (result.cpu_s, result.wall_s, result.peak_bytes)
    failed = Verdict(Outcome.COMPILE_ERROR, num_cases, (), (), *used, isolation=isolation)
    if end is End.UNBEGUN:
        return replace(failed, outcome=Outcome.INFRASTRUCTURE_ERROR, detail=UNBEGUN)
    if end in _ENDS:
        return replace(failed, diagnostics=(Diagnostic(*_ENDS[end]),))
    if not report:
        return replace(failed, diagnostics=(Diagnostic(_FAILED, "what the compiler made could not be taken over"),))
    told: dict[str, Any] = json.loads(report)
    if told["missing"] or not told["started"]:
        detail = f"the root of {language.name} lacks {told['missing']}" if told["missing"] else "no process started"
        return replace(failed, outcome=Outcome.INFRASTRUCTURE_ERROR, detail=detail)
    files = tuple((str(name), bytes.fromhex(content)) for name, content in told["files"])
    if told["status"] == 0 and files and not told["gone"]:
        return Compiled(Outcome.PASSED, num_cases, (), (), *used, isolation=isolation, files=files)
    return replace(failed, diagnostics=_diagnostics(language, told))


def _diagnostics(language: Language, told: dict[str, Any]) -> tuple[Diagnostic, ...]:
    text: str = told["text"]
    found = language.read_diagnostics(text)
    if not found:
        last = next((line for line in reversed(text.split("\n")) if line.strip()), "")
        found = (Diagnostic(_FAILED, told["gone"] or last[:_LAST_WORDS] or f"exit status {told['status']}"),)
    return tuple(Diagnostic(shown(one.kind), shown(one.message), one.line, one.column) for one in found)


def address_space_of(language: Language, limits: Limits) -> int:
    """What each process may map; 0 for no bound."""
    return language.address_space * limits.memory_bytes


def run_step(language: Language, files: Files, limits: Limits) -> dict[str, Any]:
    """How a candidate's process becomes the program."""
    return {
        "files": [[name, content.hex()] for name, content in files],
        "words": language.run_words(files, limits),
        "environment": {**_ENVIRONMENT, **language.environment},
        "is_native": language.is_native,
        "address_space_bytes": address_space_of(language, limits),
        "file_bytes": limits.file_bytes,
    }


def execute_job(language: Language, step: dict[str, Any], limits: Limits) -> bytes:
    """What the judge reads beside the case."""
    job = {
        "mode": "execute",
        "source": step,
        "output_bytes": limits.output_bytes,
        "memory_words": language.memory_words,
    }
    return json.dumps(job).encode()
