"""Large suites are sent once and stay in the slot, where no candidate finds them."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from problems.problem import FunctionSuite, Limits
from problems.stdio import StdioCase, StdioSuite
from sandbox import Backend, Outcome, Program, SandboxConfig
from sandbox.embedded import EmbeddedSlot
from sandbox.judgement import case_of, order_of, script_job_of
from sandbox.pool import SlotPool
from sandbox.resident.protocol import ORDER_BYTES, Order
from sandbox.resident.shelf import LEAST_BYTES, MAX_BYTES, MAX_SUITES, SealedSuites, Shelf

from .conftest import Run

RIGHT = Program("python", b"def f(x): return x + 1")
WRONG = Program("python", b"def f(x): return x + 2")


def large(mark: str, size: int = 2 * LEAST_BYTES) -> FunctionSuite:
    return FunctionSuite(("f",), f"text = {mark * size!r}", ("assert f(len(text)) == len(text) + 1",))


class CountingSlot(EmbeddedSlot):
    sent: list[int]

    def _message(self, *parts: object) -> bytes:
        message = super()._message(*parts)  # type: ignore[arg-type]
        self.sent = [*getattr(self, "sent", []), len(message)]
        return message


def test_the_books_drop_what_was_not_used_for_longest() -> None:
    shelf = Shelf()
    assert shelf.put(b"a", MAX_BYTES // 2) == 0
    assert shelf.put(b"b", MAX_BYTES // 4) == 0
    assert shelf.holds(b"a")
    assert shelf.put(b"c", MAX_BYTES // 2) == 1
    assert shelf.holds(b"a")
    assert not shelf.holds(b"b")
    assert shelf.put(b"d", MAX_BYTES) == 2
    assert not shelf.holds(b"a")


def test_the_server_drops_those_that_the_books_drop() -> None:
    suites = SealedSuites()
    files = {name: os.memfd_create(name) for name in "abcd"}
    suites.add(b"a", files["a"], 0)
    suites.add(b"b", files["b"], 0)
    assert suites.file(b"a") == files["a"]  # used: now b is the one that was not used for longest
    suites.add(b"c", files["c"], 1)
    with pytest.raises(KeyError):
        suites.file(b"b")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(files["b"])
    suites.add(b"d", files["d"], 2)
    assert suites.file(b"d") == files["d"]
    with pytest.raises(KeyError):
        suites.file(b"a")
    os.close(files["d"])


def test_the_books_bound_the_number_of_suites() -> None:
    shelf = Shelf()
    dropped = [shelf.put(str(number).encode(), 1) for number in range(MAX_SUITES + 2)]
    assert dropped == [*[0] * MAX_SUITES, 1, 1]


async def test_a_large_suite_travels_once_and_a_small_one_always() -> None:
    config = SandboxConfig(backend=Backend.EMBEDDED, slots=1)
    pool = SlotPool(config, lambda: CountingSlot(config))
    await pool.start()
    try:
        (slot,) = pool._slots
        assert isinstance(slot, CountingSlot)
        for suite in (large("a"), large("a"), large("b"), large("a"), large("c", 10)):
            assert (await pool.run(RIGHT, suite, Limits())).passed
            assert (await pool.run(WRONG, suite, Limits())).outcome is Outcome.WRONG_ANSWER
        sizes = slot.sent[1:]  # after the canary
        assert [size > LEAST_BYTES for size in sizes] == [True, False, False, False, True, *[False] * 5]
    finally:
        await pool.close()


async def test_more_suites_than_the_shelf_has_room_for_are_sent_again() -> None:
    config = SandboxConfig(backend=Backend.EMBEDDED, slots=1)
    pool = SlotPool(config, lambda: EmbeddedSlot(config))
    await pool.start()
    try:
        suites = [large(mark, MAX_BYTES // 3) for mark in "abcd"]
        for suite in (*suites, *suites):
            assert (await pool.run(RIGHT, suite, Limits())).passed
        assert (await pool.run(RIGHT, large("e", MAX_BYTES + 1), Limits())).passed
        assert len(pool._slots) == 1
    finally:
        await pool.close()


def test_large_suites_are_judged_like_small_ones(run: Run) -> None:
    setup = f"table = {list(range(20_000))!r}"
    for source, outcome in (("def f(x): return x", Outcome.PASSED), ("def f(x): return -x", Outcome.WRONG_ANSWER)):
        for _ in range(2):
            assert run(source, "assert [f(x) for x in table[:9]] == table[:9]", setup=setup).outcome is outcome


def test_a_judge_cannot_change_a_suite_for_those_after_it(run: Run) -> None:
    """Not that a data set should; but what is shared is sealed."""
    attempt = """
import os
tried = []
for descriptor in range(3, 16):
    try: size = os.fstat(descriptor).st_size
    except OSError: continue
    if size > 10000:
        for change in (lambda: os.pwrite(descriptor, b"x", 0), lambda: os.ftruncate(descriptor, 0)):
            try: change()
            except OSError: tried.append(descriptor)
"""
    setup = attempt + f"filler = {'x' * 2 * LEAST_BYTES!r}"
    for _ in range(2):
        verdict = run("def f(x): return x", "assert len(tried) == 2 and f(1) == 1", setup=setup)
        assert verdict.passed, verdict


@pytest.mark.parametrize("size", [LEAST_BYTES // 4, 3 * LEAST_BYTES])
async def test_large_inputs_of_scripts_travel_once(size: int) -> None:
    config = SandboxConfig(backend=Backend.EMBEDDED, slots=1)
    pool = SlotPool(config, lambda: CountingSlot(config))
    await pool.start()
    try:
        (slot,) = pool._slots
        assert isinstance(slot, CountingSlot)
        suite = StdioSuite((StdioCase("a" * size, str(size)), StdioCase("b" * size, str(size))))
        for _ in range(2):
            assert (await pool.run(Program("python", b"print(len(input()))"), suite, Limits())).passed
        is_large = size > LEAST_BYTES
        assert [sent > LEAST_BYTES for sent in slot.sent[1:]] == [is_large, is_large, False, False]
    finally:
        await pool.close()


@pytest.mark.parametrize("size", [10, 2 * LEAST_BYTES])
def test_what_the_server_reads_does_not_tell_how_long_the_expected_output_is(size: int) -> None:
    """Candidates have a copy of it: of two words, the length is the answer."""
    slot = EmbeddedSlot(SandboxConfig(backend=Backend.EMBEDDED))
    job = script_job_of(Program("python", b"pass"), Limits())
    orders = [
        Order.unpack(slot._message(order_of(Limits()), job, case_of(suite, suite.cases[0]))[:ORDER_BYTES])
        for suite in (StdioSuite((StdioCase("x", "y" * length),)) for length in (size, size + 1))
    ]
    assert orders[0] == replace(orders[1], suite_digest=orders[0].suite_digest)
