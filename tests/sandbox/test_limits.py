"""Limits bite, and say which of them did."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from typing import Any, cast

import pytest

from problems.problem import FunctionSuite, Limits
from sandbox import Backend, BlockingExecutor, Outcome, Program, SandboxConfig, pool, shipping
from sandbox.control_groups import new_control_group
from sandbox.embedded import EmbeddedSlot
from sandbox.errors import LimitError
from sandbox.pool import SlotPool
from sandbox.resident import protocol
from sandbox.resident.protocol import ORDER_BYTES, Order, Result

from .conftest import Run, open_backend, require_bounded_processes


def test_an_endless_loop_ends_at_its_cpu_seconds(run: Run) -> None:
    verdict = run("def f():\n    while True: pass", "f()", cpu_s=0.5)
    assert verdict.outcome is Outcome.TIME_LIMIT
    assert 0.4 < verdict.cpu_s < 1.5


def test_cpu_time_of_children_counts(run: Run) -> None:
    spin = """
import os, time
def f():
    for _ in range(3):
        if os.fork() == 0:
            while True: pass
    time.sleep(60)
"""
    verdict = run(spin, "f()", cpu_s=0.5, wall_s=20.0)
    assert verdict.outcome is Outcome.TIME_LIMIT
    assert verdict.cpu_s > 0.4
    assert verdict.wall_s < 15


def test_sleeping_past_the_wall_is_a_time_limit(run: Run) -> None:
    verdict = run("import time\ndef f(): time.sleep(60)", "f()", wall_s=1.0)
    assert verdict.outcome is Outcome.TIME_LIMIT
    assert verdict.cpu_s < 0.5


def test_reading_from_standard_input_is_no_way_to_wait(run: Run) -> None:
    assert run("def f(): return input()", "f()", wall_s=5.0).outcome is Outcome.RUNTIME_ERROR


@pytest.mark.parametrize("at", ["f", "import"])
def test_too_much_memory_is_a_memory_limit(run: Run, at: str) -> None:
    body = "b'x' * (300 << 20)"
    program = f"def f(): return len({body})" if at == "f" else f"x = {body}\ndef f(): return 1"
    verdict = run(program, "assert f()", memory_bytes=128 << 20)
    assert verdict.outcome is Outcome.MEMORY_LIMIT
    assert run("def f(): return 1", "assert f()", memory_bytes=128 << 20).passed


def test_memory_of_many_processes_is_summed(run: Run) -> None:
    hoard = """
import os, time
def f():
    for _ in range(6):
        if os.fork() == 0: break
    x = b'x' * (60 << 20)
    time.sleep(9)
"""
    verdict = run(hoard, "f()", memory_bytes=128 << 20, wall_s=8.0)
    assert verdict.outcome in {Outcome.MEMORY_LIMIT, Outcome.TIME_LIMIT}
    if verdict.isolation and verdict.isolation.memory == "soft":
        assert verdict.outcome is Outcome.MEMORY_LIMIT


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
def test_memory_is_hard_where_an_embedded_slot_may_have_a_control_group() -> None:
    group = new_control_group(1 << 30)
    if group is None:
        pytest.skip("no control group can be made here")
    folder = group._folder.parent
    asyncio.run(group.remove())
    suite = FunctionSuite(("f",), "", ("assert f()",))
    hoard = Program("python", b"def f(): return len(b'x' * (300 << 20))")
    with BlockingExecutor(SandboxConfig(backend=Backend.EMBEDDED, slots=1)) as executor:
        verdict = executor.run(hoard, suite, Limits(memory_bytes=128 << 20))
        made = list(folder.glob(f"crucible-{os.getpid()}-*"))
    assert verdict.outcome is Outcome.MEMORY_LIMIT
    assert verdict.isolation is not None
    assert verdict.isolation.memory == "hard"
    assert made
    assert not any(one.exists() for one in made)


class LateWriter:
    """Brings a job two seconds after its order."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.close = writer.close

    def write(self, data: bytes) -> None:
        self._writer.write(data[:ORDER_BYTES])
        asyncio.get_running_loop().call_later(2.0, self._writer.write, data[ORDER_BYTES:])


def test_what_the_job_takes_to_arrive_is_not_the_programs_time() -> None:
    suite = FunctionSuite(("f",), "", ("assert f(1) == 2",))
    with open_backend("embedded", slots=1) as executor:
        (slot,) = cast("Any", executor)._executor.pools["python"]._slots
        slot._connection = replace(slot._connection, writer=LateWriter(slot._connection.writer))
        limits = Limits(wall_s=1.0)
        verdict = executor.run(Program("python", b"def f(x): return x + 1"), suite, limits)
        asleep = executor.run(Program("python", b"import time\ndef f(x): time.sleep(9)"), suite, limits)
    assert verdict.passed
    assert verdict.wall_s < 1
    assert asleep.outcome is Outcome.TIME_LIMIT
    assert asleep.wall_s < 2


async def test_a_job_that_does_not_arrive_is_no_fault_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    source_of = shipping._source
    short = lambda name: source_of(name).replace("START_S = 20.0", "START_S = 0.5")  # noqa: E731
    monkeypatch.setattr(shipping, "_source", short)

    class LateSlot(EmbeddedSlot):
        async def run(self, order: Order, job: bytes, patience_s: float, suite: bytes = b"") -> tuple[Result, bytes]:
            if self.num_runs:  # after the canary
                self._connection = replace(self._connection, writer=LateWriter(self._connection.writer))  # type: ignore[arg-type,union-attr]
            return await super().run(order, job, patience_s, suite)

    config = SandboxConfig(backend=Backend.EMBEDDED, slots=1)
    opened = SlotPool(config, lambda: LateSlot(config))
    await opened.start()
    try:
        suite = FunctionSuite(("f",), "", ("assert f(1) == 2",))
        verdict = await opened.run(Program("python", b"def f(x): return x + 1"), suite, Limits())
    finally:
        await opened.close()
    assert verdict.outcome is Outcome.INFRASTRUCTURE_ERROR, verdict
    assert "handed the program over" in verdict.detail


def test_a_suite_beyond_the_judges_memory_is_no_fault_of_the_program() -> None:
    config = SandboxConfig(backend=Backend.EMBEDDED, slots=1, judge_memory_bytes=64 << 20)
    right = Program("python", b"def f(x): return x + 1")
    with BlockingExecutor(config) as executor:
        for size in (20 << 20, 40 << 20):  # by way of the shelf, and with the job
            large = FunctionSuite(("f",), f"data = {'x' * size!r}", ("assert f(1) == 2",))
            verdict = executor.run(right, large, Limits())
            assert verdict.outcome is Outcome.INFRASTRUCTURE_ERROR, verdict
            assert "handed the program over" in verdict.detail
        assert executor.run(right, FunctionSuite(("f",), "", ("assert f(1) == 2",)), Limits()).passed


def test_printing_without_end_is_an_output_limit(run: Run) -> None:
    verdict = run("def f():\n    while True: print('x' * 9999)", "f()", output_bytes=1 << 20)
    assert verdict.outcome is Outcome.OUTPUT_LIMIT


def test_returning_too_much_is_an_output_limit(run: Run) -> None:
    assert run("def f(): return 'x' * (3 << 20)", "f()", output_bytes=1 << 20).outcome is Outcome.OUTPUT_LIMIT
    assert run("def f(): return 'x' * (3 << 20)", "assert len(f()) == 3 << 20", output_bytes=4 << 20).passed


def test_files_and_descriptors_are_bounded(run: Run) -> None:
    big = "def f():\n    with open('x', 'wb') as file: file.write(b'x' * (2 << 20))"
    assert run(big, "f()", file_bytes=1 << 20).outcome is Outcome.RUNTIME_ERROR
    many = "def f(): return len([open('/dev/null') for _ in range(500)])"
    assert run(many, "f()", open_files=32).outcome is Outcome.RUNTIME_ERROR


def test_processes_are_bounded(run: Run, executor_name: str) -> None:
    require_bounded_processes(executor_name)
    many = """
import os, time
def f():
    for count in range(200):
        try:
            if os.fork() == 0:
                time.sleep(60)
        except OSError:
            return count
"""
    assert run(many, "assert f() < 16", num_processes=16).passed


def test_a_test_that_hangs_by_itself_ends_too(run: Run) -> None:
    start = time.monotonic()
    verdict = run("def f(): return 1", "while True: pass", wall_s=1.0)
    assert not verdict.passed
    assert time.monotonic() - start < 20


async def test_a_suite_that_hangs_for_long_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server waits for it twice: for the program's wall limit, then for the suite to come to its first call."""
    monkeypatch.setattr(pool, "_PATIENCE_S", 2.0)
    monkeypatch.setattr(protocol, "START_S", 0.0)
    monkeypatch.setattr(protocol, "SWEEP_S", 0.0)
    config = SandboxConfig(backend=Backend.EMBEDDED, slots=1)
    opened = SlotPool(config, lambda: EmbeddedSlot(config))
    await opened.start()
    try:
        hangs = FunctionSuite(("f",), "", ("import time\ntime.sleep(60)",))
        verdict = await opened.run(Program("python", b"def f(x): return x + 1"), hangs, Limits(wall_s=3.0))
    finally:
        await opened.close()
    assert verdict.outcome is Outcome.INFRASTRUCTURE_ERROR, verdict
    assert "hangs" in verdict.detail


def test_a_limit_beyond_the_slot_is_refused_by_name(executor: BlockingExecutor) -> None:
    suite = FunctionSuite(("f",), "", ("f()",))
    with pytest.raises(LimitError, match="memory_bytes"):
        executor.run(Program("python", b""), suite, Limits(memory_bytes=1 << 50))


def test_an_unknown_language_is_refused_by_name(executor: BlockingExecutor) -> None:
    with pytest.raises(ValueError, match="cobol"):
        executor.run(Program("cobol", b""), FunctionSuite(("f",), "", ("f()",)), Limits())


def test_a_source_of_many_megabytes_is_refused_as_a_compile_error(run: Run) -> None:
    verdict = run(b"#" * (50 << 20), "f()")
    assert verdict.outcome is Outcome.COMPILE_ERROR
    assert "bytes" in verdict.diagnostics[0].message


def test_what_a_test_starts_ends_with_its_run(run: Run) -> None:
    """Tests are trusted, and may be careless all the same."""
    starts = "import os, time\nif os.fork() == 0:\n    time.sleep(60)\n    os._exit(0)\nassert f() == 1"
    for _ in range(3):
        assert run("def f(): return 1", starts).passed
        assert run("import time\ndef f(): return time.process_time()", "assert f() < 1").cpu_s < 1


CHILDREN_WITHOUT_MEMORY = """
import os, time
def f(x):
    time.sleep(0.5)
    for _ in range(8):
        if os.fork() == 0:
            kept = b'x' * (50 << 20)
            time.sleep(99)
    time.sleep(99)
"""


def test_children_that_the_kernel_ends_for_memory_are_not_counted_against_the_next_program() -> None:
    """They end after the last look at the run's memory, and the run ends for another reason."""
    config = SandboxConfig(backend=Backend.EMBEDDED, slots=1, memory_bytes=64 << 20, judge_memory_bytes=64 << 20)
    suite = FunctionSuite(("f",), "", ("assert f(1) == 2",))
    limits = Limits(cpu_s=60.0, wall_s=3.0, memory_bytes=64 << 20, num_processes=32)
    with BlockingExecutor(config) as executor:
        honest = Program("python", b"def f(x): return x + 1")
        isolation = executor.run(honest, suite, limits).isolation
        if isolation is None or isolation.memory != "hard":
            pytest.skip("no control group can be made here")
        verdict = executor.run(Program("python", CHILDREN_WITHOUT_MEMORY.encode()), suite, limits)
        assert verdict.outcome is Outcome.TIME_LIMIT, verdict
        assert executor.run(honest, suite, limits).passed
