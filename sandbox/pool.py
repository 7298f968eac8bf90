"""An executor: a few warm slots, one program in each at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from problems.compiling import CompileSuite
from problems.java import JavaSuite
from problems.merged import MergedSuite
from problems.problem import FunctionSuite, Limits
from problems.stdio import StdioSuite
from sandbox import canary
from sandbox.compiling import (
    Compiled,
    address_space_of,
    checked,
    compile_job,
    compiled_of,
    execute_job,
    run_step,
)
from sandbox.config import SandboxConfig
from sandbox.errors import LimitError, MergedRefusedError, SandboxError, SlotDiedError
from sandbox.judgement import (
    Uncrossable,
    case_of,
    infrastructure_error,
    job_of,
    merged,
    order_of,
    script_job_of,
    script_verdict_of,
    suite_of,
    too_long,
    verdict_of,
)
from sandbox.languages import PYTHON, Language
from sandbox.languages.definition import Files
from sandbox.merging import as_merged, merge, merged_verdict, of_all_cases
from sandbox.resident.protocol import End, Kind, Result
from sandbox.signs import signs_of
from sandbox.slot import Slot
from sandbox.verdict import Isolation, Outcome, Program, Suite, Verdict

_QUIET_WALL_FACTOR = 12.0
# Beyond this a slot's own machinery would not work: it holds processes and descriptors of its own.
_MOST = {
    "cpu_s": 86_400.0,
    "wall_s": 86_400.0,
    "num_processes": 256,
    "open_files": 1024,
    "file_bytes": 1 << 40,
    "output_bytes": 1 << 40,
}
_PATIENCE_S = 30.0  # beyond the longest that a run may take, before a server that says nothing counts as dead


@dataclass(frozen=True, slots=True)
class Work:
    """One run in a slot: what the judge reads, and how what comes of it is read.

    ``suite``: the part of the job that other programs of the suite share.
    """

    job: bytes
    num_cases: int
    limits: Limits
    read: Callable[[Result, bytes, Isolation | None], Verdict]
    kind: Kind = Kind.FUNCTIONS
    address_space_bytes: int | None = None
    wall_factor: float = 1.0
    suite: bytes = b""


def _with_signs(verdict: Verdict, program: Program, suite: FunctionSuite | None) -> Verdict:
    signs = signs_of(program.source, suite, has_passed=verdict.num_passed > 0)
    return replace(verdict, signs=tuple(sorted({*verdict.signs, *signs}))) if signs else verdict


class SlotPool:
    """Executor over slots that ``make_slot`` makes.

    A run consumes a place in the bounded queue, then an idle slot; it waits for both, and is unblocked by the end of
    another run or by a replacement slot's start. Its wall time begins in the slot. Slots are replaced after
    ``recycle_after`` runs, by one that is warm by then, and after anything odd.
    """

    def __init__(self, config: SandboxConfig, make_slot: Callable[[], Slot], language: Language | None = None) -> None:
        """``language``: of the slots' roots; the slots' own Python if not given."""
        self._config = config
        self._language = language
        self._make_slot = make_slot
        self._idle: asyncio.Queue[Slot | None] = asyncio.Queue()
        self._slots: set[Slot] = set()
        self._background: set[asyncio.Task[None]] = set()
        self._aging: set[Slot] = set()
        self._successors: dict[Slot, Slot] = {}
        self._quiet = asyncio.Lock()
        self._isolation: dict[Slot, Isolation] = {}
        self._is_closed = False
        self._places = asyncio.Semaphore(config.slots + config.max_queued)
        # Called in a thread after the slots have ended, to remove what they may have left.
        self.sweep: Callable[[], None] | None = None

    async def start(self) -> None:
        """Starts and probes all slots. Raises SandboxError if they cannot be had as asked for."""
        started = await asyncio.gather(*(self._new_slot() for _ in range(self._config.slots)), return_exceptions=True)
        for result in started:
            if isinstance(result, BaseException):
                await self.close()
                raise result
            self._idle.put_nowait(result)

    async def run(
        self, program: Program, suite: Suite, limits: Limits, *, stop_at_first_failure: bool = True
    ) -> Verdict:
        """See ``Executor.run``. Raises LimitError or ValueError for what no slot could run."""
        async with self._places:
            return await self._run(program, suite, limits, stop_at_first_failure)

    async def _run(self, program: Program, suite: Suite, limits: Limits, stop_at_first_failure: bool) -> Verdict:
        self._refuse_impossible(program, limits)
        if len(program.source) > self._config.max_source_bytes:
            return too_long(suite, len(program.source), self._config.max_source_bytes)
        if isinstance(suite, CompileSuite):
            return await self._check(program, limits)
        if isinstance(suite, MergedSuite):
            return await self._run_merged(program, suite, limits)
        verdict = await self._run_split(program, suite, limits, stop=stop_at_first_failure)
        if isinstance(suite, FunctionSuite) and isinstance(verdict, Uncrossable) and not self._config.refuse_merged:
            return of_all_cases(len(suite.cases), await self._run_merged(*as_merged(program, suite), limits))
        return verdict

    async def _run_merged(self, program: Program, suite: MergedSuite, limits: Limits) -> Verdict:
        """Raises MergedRefusedError if the settings want none of that."""
        if self._config.refuse_merged:
            raise MergedRefusedError(
                "the suite's tests would share the program's process, and refuse_merged of the sandbox settings is on"
            )
        whole, printing = merge(program, suite)
        return merged_verdict(program, await self._run_split(whole, printing, limits, stop=True))

    async def _run_split(
        self, program: Program, suite: FunctionSuite | StdioSuite | JavaSuite, limits: Limits, *, stop: bool
    ) -> Verdict:
        if self._language is not None:
            return await self._run_foreign(self._language, program, suite, limits, stop=stop)
        if isinstance(suite, StdioSuite):
            work = Work(script_job_of(program, limits), 1, limits, script_verdict_of, Kind.SCRIPT)
            return _with_signs(await self._run_cases(suite, work, stop=stop), program, None)
        if isinstance(suite, JavaSuite):
            raise ValueError(f"a suite of tests in Java cannot judge a program in {program.language}")
        read = partial(verdict_of, len(suite.cases))
        job = job_of(program, limits, stop=stop)
        verdict = await self.run_work(Work(job, len(suite.cases), limits, read, suite=suite_of(suite)))
        return _with_signs(verdict, program, suite)

    async def _run_foreign(
        self, language: Language, program: Program, suite: Suite, limits: Limits, *, stop: bool
    ) -> Verdict:
        """Compiles, then runs what came of it, once for each case."""
        if not isinstance(suite, StdioSuite):
            raise ValueError(f"a {type(suite).__name__} cannot be run for {language.name}")
        compiled = await self._compile(language, program, limits, len(suite.cases))
        if not isinstance(compiled, Compiled):
            return compiled
        return await self._run_compiled(language, compiled.files, suite, limits, stop=stop)

    async def _run_compiled(
        self,
        language: Language,
        files: Files,
        suite: StdioSuite,
        limits: Limits,
        *,
        stop: bool = True,
    ) -> Verdict:
        """Runs what a compiler made, once for each case."""
        step = run_step(language, files, limits)
        limits = replace(limits, num_processes=limits.num_processes + language.num_threads)
        space = address_space_of(language, limits)
        work = Work(execute_job(language, step, limits), 1, limits, script_verdict_of, Kind.EXECUTE, space)
        return await self._run_cases(suite, work, stop=stop)

    async def _check(self, program: Program, limits: Limits) -> Verdict:
        """Compiles and does not run."""
        if self._language is None:
            raise ValueError("these slots compile nothing without running it")
        return checked(await self._compile(self._language, program, limits, 1))

    async def _compile(self, language: Language, program: Program, limits: Limits, num_cases: int) -> Verdict:
        """``Compiled``, or the verdict on a program that does not compile."""
        raised = language.compile_limits(limits)
        memory_bytes = min(raised.memory_bytes, self._config.memory_bytes)
        processes = raised.num_processes + language.num_threads
        raised = replace(raised, memory_bytes=memory_bytes, num_processes=processes)
        read = partial(compiled_of, language, num_cases)
        return await self.run_work(Work(compile_job(language, program), num_cases, raised, read, Kind.COMPILE, 0))

    async def _run_cases(self, suite: StdioSuite, work: Work, *, stop: bool) -> Verdict:
        """One process after another, one for each case."""
        verdicts: list[Verdict] = []
        for case in suite.cases:
            verdicts.append(await self.run_work(replace(work, suite=case_of(suite, case))))
            outcome = verdicts[-1].outcome
            if outcome in (Outcome.COMPILE_ERROR, Outcome.INFRASTRUCTURE_ERROR):
                break  # the other cases would say the same
            if stop and outcome is not Outcome.PASSED:
                break
        return merged(suite, verdicts)

    async def run_work(self, work: Work) -> Verdict:
        """Runs it in a slot; again where that is starved, dies, or never hands the program over. Never raises for what
        is run."""
        try:
            verdict, end = await self._run_twice_if_slot_dies(work)
            if end in (End.STARVED, End.UNBEGUN):
                # One quiet try, with more time; what comes of it is final.
                async with self._quiet:
                    verdict, _ = await self._run_twice_if_slot_dies(replace(work, wall_factor=_QUIET_WALL_FACTOR))
            elif end is End.BROKEN:  # a compiler that was ended from outside, idle perhaps, is no program's fault
                verdict, _ = await self._run_in_fresh(work)
        except SandboxError as error:
            return infrastructure_error(work.num_cases, str(error))
        return verdict

    async def close(self) -> None:
        """Ends all slots; runs in progress end as infrastructure errors."""
        self._is_closed = True
        await asyncio.gather(*self._background, return_exceptions=True)
        await asyncio.gather(*(slot.end() for slot in self._slots), return_exceptions=True)
        self._slots.clear()
        if self.sweep:
            await asyncio.to_thread(self.sweep)

    def _refuse_impossible(self, program: Program, limits: Limits) -> None:
        if self._is_closed:
            raise SandboxError("the executor is closed")
        name = self._language.name if self._language else PYTHON
        if program.language != name:
            raise ValueError(f"a program in {program.language!r} came to the slots of {name}")
        for field, most in _MOST.items():
            if getattr(limits, field) > most:
                raise LimitError(f"limits.{field} is {getattr(limits, field)}, no slot takes more than {most}")
        if limits.memory_bytes > self._config.memory_bytes:
            raise LimitError(
                f"limits.memory_bytes is {limits.memory_bytes}, the slots are made for {self._config.memory_bytes}: "
                "raise memory_bytes of the sandbox settings"
            )

    async def _run_twice_if_slot_dies(self, work: Work) -> tuple[Verdict, End]:
        """A program under which two slots die, while a fresh one still holds the canary, has ended them itself.

        The second is one in which nothing else has run, so that no other program can have a part in its death.
        """
        with contextlib.suppress(SlotDiedError):
            return await self._run_once(work)
        return await self._run_in_fresh(work)

    async def _run_in_fresh(self, work: Work) -> tuple[Verdict, End]:
        """In a slot of its own; if that one dies the program is to blame."""
        slot = await self._new_slot()  # raises if the engine is what is broken
        try:
            return await self._run_in(slot, work)
        except SlotDiedError:
            await self._retire(await self._new_slot())
        finally:
            await self._retire(slot)
        verdict = Verdict(Outcome.RUNTIME_ERROR, work.num_cases, signs=("slot-died",), detail="two slots died")
        return verdict, End.JUDGED

    async def _run_once(self, work: Work) -> tuple[Verdict, End]:
        slot = await self._take()
        try:
            return await self._run_in(slot, work)
        finally:
            self._release(slot)

    async def _run_in(self, slot: Slot, work: Work) -> tuple[Verdict, End]:
        order = order_of(
            work.limits,
            work.wall_factor,
            kind=work.kind,
            address_space_bytes=work.address_space_bytes,
        )
        result, report = await slot.run(order, work.job, order.longest_s + _PATIENCE_S, work.suite)
        return self._verdict(slot, work, result, report), End(result.end)

    async def _take(self) -> Slot:
        """An idle slot that is alive; one that ended in the meantime, with its engine say, is no program's fault."""
        while True:
            slot = await self._idle.get() or await self._new_slot_or_placeholder()
            if not slot.has_ended:
                return slot
            slot.is_odd = True
            self._release(slot)

    def _verdict(self, slot: Slot, work: Work, result: Result, report: bytes) -> Verdict:
        verdict = work.read(result, report, self._isolation.get(slot))
        # Where more went wrong than a program can be expected to do, the next one gets a fresh slot.
        is_ours = verdict.outcome is Outcome.INFRASTRUCTURE_ERROR and bool(slot.last_words())
        slot.is_odd = slot.is_odd or is_ours or not report or bool(result.is_last)
        return verdict

    def _release(self, slot: Slot) -> None:
        """Puts a slot back; an odd one is replaced at once, an old one when its successor is warm."""
        if slot.is_odd:
            self._in_background(self._replace(slot))
        elif (successor := self._successors.pop(slot, None)) is not None:
            self._idle.put_nowait(successor)
            self._in_background(self._retire(slot))
        else:
            if slot.num_runs >= self._config.recycle_after and slot not in self._aging:
                self._aging.add(slot)
                self._in_background(self._prepare_successor(slot))
            self._idle.put_nowait(slot)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _prepare_successor(self, slot: Slot) -> None:
        """Warms a slot in place of an old one, which serves until then."""
        try:
            fresh = await self._new_slot()
        except SandboxError:
            return  # the old one serves on, and a later run tries again
        finally:
            self._aging.discard(slot)
        if slot in self._slots:
            self._successors[slot] = fresh
        else:  # it has turned odd meanwhile, and has been replaced
            await self._retire(fresh)

    async def _retire(self, slot: Slot) -> None:
        await slot.end()
        self._forget(slot)

    async def _replace(self, slot: Slot) -> None:
        """Ends a slot and puts a fresh one in its place, or an empty place for the next run to fill."""
        fresh = self._successors.pop(slot, None)
        try:
            await self._retire(slot)
            if fresh is None and not self._is_closed:
                with contextlib.suppress(SandboxError):  # the next run tries again, and tells of it
                    fresh = await self._new_slot()
        finally:
            self._idle.put_nowait(fresh)

    async def _new_slot_or_placeholder(self) -> Slot:
        try:
            return await self._new_slot()
        except BaseException:
            self._idle.put_nowait(None)
            raise

    async def _new_slot(self) -> Slot:
        """A started slot whose walls have been tried. Raises SandboxError."""
        slot = self._make_slot()
        self._slots.add(slot)
        try:
            await slot.start()
            await self._probe(slot)
        except BaseException:
            self._forget(slot)
            await slot.end()
            raise
        return slot

    async def _probe(self, slot: Slot) -> None:
        program = Program("python", canary.PROGRAM)
        job = job_of(program, canary.LIMITS, stop=False)
        order = order_of(canary.LIMITS)
        result, report = await slot.run(order, job, order.longest_s + _PATIENCE_S, suite_of(canary.SUITE))
        verdict = verdict_of(len(canary.SUITE.cases), result, report, None)
        if verdict.outcome is Outcome.INFRASTRUCTURE_ERROR:
            raise SlotDiedError(f"the canary could not be run: {verdict.detail} {slot.last_words()}")
        holds = canary.properties([case.outcome is Outcome.PASSED for case in verdict.cases])
        isolation = slot.isolation(holds)
        canary.demand(holds, namespaces=isolation.profile != "lean", where=f"{isolation.backend} {isolation.profile}")
        self._isolation[slot] = isolation

    def _forget(self, slot: Slot) -> None:
        self._slots.discard(slot)
        self._isolation.pop(slot, None)
