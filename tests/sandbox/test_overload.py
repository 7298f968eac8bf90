"""A busy machine changes no verdict, and sleeping is no way to look starved."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from problems.problem import FunctionSuite, Limits
from sandbox import BlockingExecutor, Outcome, Program

from ..conftest import is_soak
from .conftest import endless_loops

SUITE = FunctionSuite(("f",), "", ("assert f(1) == 2",))
BUSY = Program("python", b"import time\ndef f(x):\n    while time.process_time() < 0.8: pass\n    return x + 1")
ASLEEP = Program("python", b"import time\ndef f(x):\n    time.sleep(60)\n    return x + 1")
# Busy for a while, so that it waits for a processor too, then asleep past the wall.
BUSY_AND_ASLEEP = Program(
    "python", b"import time\ndef f(x):\n    while time.process_time() < 0.1: pass\n    time.sleep(60)\n    return x + 1"
)
POLITE = Program("python", b"import os, time\nos.nice(19)\ndef f(x):\n    while True: pass")
ENDLESS = Program("python", b"def f(x):\n    while True: pass")
# Its work is done by children that have ended before anybody can ask how long they waited for a processor.
BY_CHILDREN = Program(
    "python",
    b"""import os, time
def work():
    while time.process_time() < 0.02: pass
    os._exit(0)
def f(x):
    for _ in range(40):
        child = os.fork()
        if child == 0: work()
        os.waitpid(child, 0)
    return x + 1
""",
)
# As much wall as CPU: what waits for a processor will not make it in one go.
TIGHT = Limits(cpu_s=1.5, wall_s=1.5)


@pytest.fixture
def overload(request: pytest.FixtureRequest) -> Iterator[None]:
    """Four endless loops for each processor; in the soak tier they are there already."""
    with contextlib.nullcontext() if is_soak(request.config) else endless_loops():
        yield


@pytest.mark.usefixtures("overload")
def test_verdicts_are_the_same_under_fourfold_overload(executor: BlockingExecutor) -> None:
    expected = {
        BUSY: Outcome.PASSED,
        ASLEEP: Outcome.TIME_LIMIT,
        BUSY_AND_ASLEEP: Outcome.TIME_LIMIT,
        ENDLESS: Outcome.TIME_LIMIT,
        POLITE: Outcome.TIME_LIMIT,
        BY_CHILDREN: Outcome.PASSED,
    }
    verdicts = executor.run_all([(program, SUITE, TIGHT) for program in expected])
    assert [verdict.outcome for verdict in verdicts] == list(expected.values()), verdicts


@pytest.mark.usefixtures("overload")
def test_a_sleep_under_overload_is_not_tried_again(executor: BlockingExecutor) -> None:
    verdict = executor.run(ASLEEP, SUITE, TIGHT)
    assert verdict.outcome is Outcome.TIME_LIMIT
    assert verdict.cases[0].detail == "the wall limit, asleep or waiting"
    assert verdict.wall_s < 2 * TIGHT.wall_s
