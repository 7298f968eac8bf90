"""Resident compilers: slots of their own, in which nothing but a compiler runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from problems.problem import Limits
from sandbox import shipping
from sandbox.compiling import Compiled
from sandbox.config import SandboxConfig
from sandbox.errors import SlotDiedError
from sandbox.java.jobs import compile_answer, compile_request
from sandbox.judgement import order_of, shown
from sandbox.pool import SlotPool, Work
from sandbox.resident.protocol import End, Kind, Result
from sandbox.slot import Slot
from sandbox.verdict import Diagnostic, Isolation, Outcome, Verdict

Sources = Sequence[tuple[str, bytes]]

# A warm compiler takes some 30 ms for a program; the heap is its own, above that comes the virtual machine.
_LIMITS = Limits(cpu_s=10.0, wall_s=30.0, memory_bytes=768 << 20)
_RECYCLE_AFTER = 500
CRASH = "compiler.crash"
"""Kind of the diagnostic of a program on which the compiler itself gave up, as ``Compiler.java`` has it."""
_PATIENCE_S = 30.0
_PROBE = ("Probe.java", b"class Probe { int f(int x) { return x + 1; } }")
_ENDS = {
    End.CPU: ("CompilerTimeLimit", "the compiler used up the CPU limit"),
    End.STARVED: ("CompilerTimeLimit", "the compiler came to the wall limit"),
    End.MEMORY: ("CompilerMemoryLimit", "the compiler used more memory than it may"),
    End.OUTPUT: ("CompilerOutputLimit", "the compiler wrote more than it may"),
    End.BROKEN: ("CompilerFailed", "the compiler broke down"),
}


class CompilerPool(SlotPool):
    """A few warm compilers. One that has to be ended is replaced while the others go on.

    The walls of these slots are not tried by a canary: no code of a program runs in them.
    """

    def __init__(
        self,
        config: SandboxConfig,
        make_slot: Callable[[], Slot],
        words: list[str],
        environment: dict[str, str],
        probe: tuple[str, bytes] = _PROBE,
    ):
        """``words``: see ``machine.compiler_words``. ``probe``: a program that compiles."""
        self._sound = probe

        def make_compiler_slot() -> Slot:
            slot = make_slot()
            slot.ship(shipping.COMPILER, {"words": words, "environment": environment})
            return slot

        super().__init__(config.model_copy(update={"recycle_after": _RECYCLE_AFTER}), make_compiler_slot)

    async def compile(self, sources: Sources, num_cases: int = 1) -> Verdict:
        """``Compiled``, or the verdict on a program that does not compile. The first source is the program."""
        job = compile_request(sources)
        read = partial(_read, sources[0][0], num_cases)
        return await self.run_work(Work(job, num_cases, _LIMITS, read, Kind.COMPILE, 0))

    def _verdict(self, slot: Slot, work: Work, result: Result, report: bytes) -> Verdict:
        """A compiler that has crashed is not used again: what it holds may be half made, and would fail others."""
        verdict = super()._verdict(slot, work, result, report)
        slot.is_odd = slot.is_odd or any(diagnostic.kind == CRASH for diagnostic in verdict.diagnostics)
        return verdict

    async def _probe(self, slot: Slot) -> None:
        job = compile_request([self._sound])
        result, report = await slot.run(order_of(_LIMITS, kind=Kind.COMPILE), job, _LIMITS.wall_s + _PATIENCE_S)
        verdict = _read(self._sound[0], 1, result, report, None)
        if not isinstance(verdict, Compiled):
            raise SlotDiedError(f"the resident compiler does not work: {verdict.diagnostics} {slot.last_words()}")


def _read(source_name: str, num_cases: int, result: Result, report: bytes, isolation: Isolation | None) -> Verdict:
    end = End(result.end)
    used = (result.cpu_s, result.wall_s, result.peak_bytes)
    failed = Verdict(Outcome.COMPILE_ERROR, num_cases, (), (), *used, isolation=isolation)
    if end in _ENDS:
        return replace(failed, diagnostics=(Diagnostic(*_ENDS[end]),))
    try:
        answer = compile_answer(report, source_name)
    except ValueError as error:
        return replace(failed, diagnostics=(Diagnostic("CompilerFailed", str(error)),))
    if answer.diagnostics:
        found = (replace(one, kind=shown(one.kind), message=shown(one.message)) for one in answer.diagnostics)
        return replace(failed, diagnostics=tuple(found))
    return Compiled(Outcome.PASSED, num_cases, (), (), *used, isolation=isolation, files=answer.files)
