"""The queue before the slots: bounded, not the candidate's time, and no item's fault is another's."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from dataclasses import replace

import pytest

from problems.problem import FunctionSuite, Limits
from sandbox import Backend, BlockingExecutor, Outcome, Program, SandboxConfig
from sandbox.embedded import EmbeddedSlot
from sandbox.errors import LimitError
from sandbox.pool import SlotPool
from sandbox.resident.protocol import Order, Result
from sandbox.verdict import Suite

SUITE = FunctionSuite(("f",), "", ("assert f(1) == 2",))
RIGHT = Program("python", b"def f(x): return x + 1")
CONFIG = SandboxConfig(backend=Backend.EMBEDDED, slots=2, max_queued=5)


class EchoSlot(EmbeddedSlot):
    """Starts and is probed like any other; after that each run is over at once."""

    async def run(self, order: Order, job: bytes, patience_s: float, suite: bytes = b"") -> tuple[Result, bytes]:
        if self.num_runs == 0:
            return await super().run(order, job, patience_s, suite)
        await asyncio.sleep(0)
        report = (
            b'{"cases": [["passed", ""]], "load": null, "gone": null, "broken": null, "signs": [], "started": true}'
        )
        return Result(0, 0, 0, 0.001, 0.001, 1, len(report), 0), report


async def open_echo(config: SandboxConfig | None) -> SlotPool:
    assert config is not None
    pool = SlotPool(config, lambda: EchoSlot(config))
    await pool.start()
    return pool


def test_twenty_thousand_programs_are_taken_only_as_fast_as_they_are_run() -> None:
    with BlockingExecutor(CONFIG, open_echo) as executor:
        pool = executor._executor
        assert isinstance(pool, SlotPool)
        taken, longest_lead = 0, 0
        finished = [0]
        plain = pool.run_work

        async def counted(*values: object) -> object:
            verdict = await plain(*values)  # type: ignore[arg-type]
            finished[0] += 1
            return verdict

        pool.run_work = counted  # type: ignore[method-assign, assignment]

        def work() -> Iterator[tuple[Program, Suite, Limits]]:
            nonlocal taken, longest_lead
            for _ in range(20_000):
                taken += 1
                longest_lead = max(longest_lead, taken - finished[0])
                yield RIGHT, SUITE, Limits()

        verdicts = executor.run_all(work())
        assert len(verdicts) == 20_000
        assert all(verdict.passed for verdict in verdicts)
        assert longest_lead <= CONFIG.slots + CONFIG.max_queued


async def test_callers_beyond_the_queue_wait_before_anything_is_made_for_them() -> None:
    pool = await open_echo(CONFIG)
    within, most = 0, 0
    plain = pool.run_work

    async def counted(*values: object) -> object:
        nonlocal within, most
        within += 1
        most = max(most, within)
        try:
            return await plain(*values)  # type: ignore[arg-type]
        finally:
            within -= 1

    pool.run_work = counted  # type: ignore[method-assign, assignment]
    try:
        verdicts = await asyncio.gather(*(pool.run(RIGHT, SUITE, Limits()) for _ in range(200)))
        assert all(verdict.passed for verdict in verdicts)
        assert most == CONFIG.slots + CONFIG.max_queued
    finally:
        await pool.close()


def test_time_in_the_queue_is_not_the_programs() -> None:
    """The last of six waits longer for its slot than it may run."""
    sleeper = Program("python", b"import time\ndef f(x):\n    time.sleep(0.5)\n    return x + 1")
    limits = Limits(wall_s=2.5)
    with BlockingExecutor(replace_slots(1)) as executor:
        verdicts = executor.run_all([(sleeper, SUITE, limits)] * 6)
    assert all(verdict.passed for verdict in verdicts), verdicts
    assert sum(verdict.wall_s for verdict in verdicts) > limits.wall_s


def replace_slots(count: int) -> SandboxConfig:
    return CONFIG.model_copy(update={"slots": count})


def test_what_cannot_be_run_harms_no_other_program_of_the_batch() -> None:
    hanging = FunctionSuite(("f",), "import time\ntime.sleep(99)", ("assert f(1) == 2",))
    broken = FunctionSuite(("f",), "raise OSError('broken')", ("assert f(1) == 2",))
    greedy = FunctionSuite(("f",), "hold = bytearray(1 << 40)", ("assert f(1) == 2",))
    with BlockingExecutor(CONFIG) as executor:
        odd: list[tuple[Program, Suite, Limits, Outcome, str]] = [
            (Program("cobol", b""), SUITE, Limits(), Outcome.INFRASTRUCTURE_ERROR, "cobol"),
            (RIGHT, SUITE, Limits(memory_bytes=1 << 50), Outcome.INFRASTRUCTURE_ERROR, "memory_bytes"),
            (Program("python", b"x" * (50 << 20)), SUITE, Limits(), Outcome.COMPILE_ERROR, ""),
            (Program("python", b"def f(x): return x + 1\0"), SUITE, Limits(), Outcome.COMPILE_ERROR, ""),
            (RIGHT, broken, Limits(), Outcome.INFRASTRUCTURE_ERROR, "broken"),
            (RIGHT, greedy, Limits(), Outcome.INFRASTRUCTURE_ERROR, "MemoryError"),
            (RIGHT, hanging, Limits(wall_s=2.0), Outcome.INFRASTRUCTURE_ERROR, "the suite for f hangs"),
        ]
        work = [item for one in odd for item in ((RIGHT, SUITE, Limits(wall_s=60.0)), one[:3])]
        verdicts = executor.run_all(work)
    assert all(verdict.passed for verdict in verdicts[::2]), verdicts
    for verdict, (*_, outcome, text) in zip(verdicts[1::2], odd, strict=True):
        assert verdict.outcome is outcome, verdict
        assert text in verdict.detail, verdict


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cpu_s", math.inf),
        ("wall_s", 1e9),
        ("num_processes", 10**6),
        ("open_files", 1 << 20),
        ("output_bytes", 1 << 60),
    ],
)
async def test_limits_beyond_every_slot_are_refused_by_name(field: str, value: float) -> None:
    pool = await open_echo(CONFIG)
    try:
        with pytest.raises(LimitError, match=f"limits.{field}"):
            await pool.run(RIGHT, SUITE, replace(Limits(), **{field: value}))
    finally:
        await pool.close()


@pytest.mark.parametrize("value", [0, -1, math.nan])
def test_limits_of_nothing_are_no_limits(value: float) -> None:
    with pytest.raises(ValueError, match="limit cpu_s must be above zero"):
        Limits(cpu_s=value)
