"""An executor: a few warm slots, one program in each at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from problems.problem import FunctionSuite, Limits
from sandbox import canary
from sandbox.config import SandboxConfig
from sandbox.errors import LimitError, SandboxError, SlotDiedError
from sandbox.judgement import infrastructure_error, job_of, order_of, too_long, verdict_of
from sandbox.resident.protocol import End, Result
from sandbox.slot import Slot
from sandbox.verdict import Isolation, Outcome, Program, Verdict

_QUIET_WALL_FACTOR = 12.0
_PATIENCE_S = 30.0  # beyond the wall limit, before a server that says nothing counts as dead


class SlotPool:
    """Executor over slots that ``make_slot`` makes.

    A run consumes an idle slot, waits for one if there is none, and is unblocked by the end of another run or by a
    replacement slot's start. Slots are replaced after ``recycle_after`` runs and after anything odd.
    """

    def __init__(self, config: SandboxConfig, make_slot: Callable[[], Slot]) -> None:
        self._config = config
        self._make_slot = make_slot
        self._idle: asyncio.Queue[Slot | None] = asyncio.Queue()
        self._slots: set[Slot] = set()
        self._replacements: set[asyncio.Task[None]] = set()
        self._quiet = asyncio.Lock()
        self._isolation: dict[Slot, Isolation] = {}
        self._is_closed = False

    async def start(self) -> None:
        """Starts and probes all slots. Raises SandboxError if they cannot be had as asked for."""
        started = await asyncio.gather(*(self._new_slot() for _ in range(self._config.slots)), return_exceptions=True)
        for result in started:
            if isinstance(result, BaseException):
                await self.close()
                raise result
            self._idle.put_nowait(result)

    async def run(
        self, program: Program, suite: FunctionSuite, limits: Limits, *, stop_at_first_failure: bool = True
    ) -> Verdict:
        """See ``Executor.run``. Raises LimitError or ValueError for what no slot could run."""
        self._refuse_impossible(program, limits)
        if len(program.source) > self._config.max_source_bytes:
            return too_long(suite, len(program.source), self._config.max_source_bytes)
        job = job_of(program, suite, limits, stop=stop_at_first_failure)
        try:
            verdict, end = await self._run_twice_if_slot_dies(suite, limits, job)
            if end is End.STARVED:
                # One quiet try, with more time; what comes of it is final.
                async with self._quiet:
                    verdict, _ = await self._run_twice_if_slot_dies(suite, limits, job, _QUIET_WALL_FACTOR)
        except SandboxError as error:
            return infrastructure_error(suite, str(error))
        return verdict

    async def close(self) -> None:
        """Ends all slots; runs in progress end as infrastructure errors."""
        self._is_closed = True
        await asyncio.gather(*self._replacements, return_exceptions=True)
        await asyncio.gather(*(slot.end() for slot in self._slots), return_exceptions=True)
        self._slots.clear()

    def _refuse_impossible(self, program: Program, limits: Limits) -> None:
        if self._is_closed:
            raise SandboxError("the executor is closed")
        if program.language != "python":
            raise ValueError(f"language {program.language!r} cannot be run here; known: python")
        if limits.memory_bytes > self._config.memory_bytes:
            raise LimitError(
                f"limits.memory_bytes is {limits.memory_bytes}, the slots are made for {self._config.memory_bytes}: "
                "raise memory_bytes of the sandbox settings"
            )

    async def _run_twice_if_slot_dies(
        self, suite: FunctionSuite, limits: Limits, job: bytes, wall_factor: float = 1.0
    ) -> tuple[Verdict, End]:
        """A program under which two slots die, while a fresh one still holds the canary, has ended them itself."""
        for _ in range(2):
            try:
                return await self._run_once(suite, limits, job, wall_factor)
            except SlotDiedError:
                continue
        slot = await self._new_slot()  # raises if the engine is what is broken
        self._release(slot, is_extra=True)
        verdict = Verdict(Outcome.RUNTIME_ERROR, len(suite.cases), signs=("slot-died",), detail="two slots died")
        return verdict, End.JUDGED

    async def _run_once(
        self, suite: FunctionSuite, limits: Limits, job: bytes, wall_factor: float
    ) -> tuple[Verdict, End]:
        slot = await self._idle.get() or await self._new_slot_or_placeholder()
        try:
            order = order_of(limits, job, wall_factor)
            result, report = await slot.run(order, job, order.longest_wall_s + _PATIENCE_S)
        finally:
            self._release(slot)
        return self._verdict(slot, suite, result, report), End(result.end)

    def _verdict(self, slot: Slot, suite: FunctionSuite, result: Result, report: bytes) -> Verdict:
        verdict = verdict_of(suite, result, report, self._isolation.get(slot))
        if verdict.outcome is Outcome.INFRASTRUCTURE_ERROR and slot.last_words():
            slot.is_odd = True
        return verdict

    def _release(self, slot: Slot, *, is_extra: bool = False) -> None:
        if is_extra:
            self._idle.put_nowait(slot)
        elif slot.is_odd or slot.num_runs >= self._config.recycle_after:
            task = asyncio.create_task(self._replace(slot))
            self._replacements.add(task)
            task.add_done_callback(self._replacements.discard)
        else:
            self._idle.put_nowait(slot)

    async def _replace(self, slot: Slot) -> None:
        """Ends a slot and puts a fresh one in its place, or an empty place for the next run to fill."""
        fresh: Slot | None = None
        try:
            await slot.end()
            self._forget(slot)
            if not self._is_closed:
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
        job = job_of(program, canary.SUITE, canary.LIMITS, stop=False)
        result, report = await slot.run(order_of(canary.LIMITS, job), job, canary.LIMITS.wall_s + _PATIENCE_S)
        verdict = verdict_of(canary.SUITE, result, report, None)
        if verdict.outcome is Outcome.INFRASTRUCTURE_ERROR:
            raise SlotDiedError(f"the canary could not be run: {verdict.detail} {slot.last_words()}")
        holds = canary.properties([case.outcome is Outcome.PASSED for case in verdict.cases])
        isolation = slot.isolation(holds)
        canary.demand(holds, namespaces=isolation.profile != "lean", where=f"{isolation.backend} {isolation.profile}")
        self._isolation[slot] = isolation

    def _forget(self, slot: Slot) -> None:
        self._slots.discard(slot)
        self._isolation.pop(slot, None)
