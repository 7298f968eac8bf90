"""Each attack runs twice in one warm slot with an honest program between, and must leave the slot as it was."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from problems.problem import FunctionSuite, Limits
from sandbox import BlockingExecutor, Outcome, Program, Verdict
from sandbox.containers import DockerSlot
from sandbox.embedded import EmbeddedSlot
from sandbox.polyglot import Polyglot
from sandbox.slot import Slot

from ..conftest import BACKENDS, open_backend

HONEST = Program("python", b"def f(x):\n    return x + 1\n")
HONEST_SUITE = FunctionSuite(("f",), "", ("assert f(1) == 2", "assert f(41) == 42"))
FAILED = frozenset(Outcome) - {Outcome.PASSED, Outcome.INFRASTRUCTURE_ERROR}
LIMITS = Limits(cpu_s=2.0, wall_s=20.0, memory_bytes=256 << 20)

Assault = Callable[..., list[Verdict]]


@pytest.fixture(scope="session", params=BACKENDS)
def attacked(request: pytest.FixtureRequest) -> Iterator[BlockingExecutor]:
    """An executor with one slot, so that an attack's traces would be met by whoever comes next."""
    with open_backend(request.param, slots=1) as opened:
        yield opened


def slot_of(executor: BlockingExecutor) -> Slot:
    """The one slot."""
    polyglot = executor._executor
    assert isinstance(polyglot, Polyglot)
    (slot,) = polyglot.pools["python"]._slots
    return slot


def _descendants(pid: int) -> list[int]:
    pids: list[int] = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        pids += [int(child) for child in listed.read_text().split()]
    return pids + [one for child in pids for one in _descendants(child)]


def processes_in(slot: Slot) -> int:
    """How many there are beside the server."""
    if isinstance(slot, DockerSlot):
        assert slot._container is not None
        return len(slot._container.top()["Processes"]) - 1
    assert isinstance(slot, EmbeddedSlot)
    assert slot._process is not None
    return len(_descendants(slot._process.pid)) - 1


@pytest.fixture
def assault(attacked: BlockingExecutor) -> Assault:
    """Runs an attack twice with an honest program between; checks what is left over, gives both verdicts.

    The suite's setup holds ``SECRET``, another text in each run, for attacks that look for what the judge knows.
    """

    def run(
        program: str | bytes,
        *cases: str,
        expect: frozenset[Outcome] | Outcome = FAILED,
        limits: Limits = LIMITS,
        setup: str = "",
        stop: bool = True,
    ) -> list[Verdict]:
        source = program.encode() if isinstance(program, str) else program
        expected = {expect} if isinstance(expect, Outcome) else expect
        verdicts: list[Verdict] = []
        for _ in range(2):
            hidden = f"SECRET = 'SECRET{secrets.token_hex(16)}'\n{setup}"
            suite = FunctionSuite(("f",), hidden, cases or HONEST_SUITE.cases)
            verdict = attacked.run(Program("python", source), suite, limits, stop_at_first_failure=stop)
            assert verdict.outcome in expected, verdict
            verdicts.append(verdict)
            honest = attacked.run(HONEST, HONEST_SUITE, Limits(wall_s=60.0))
            assert honest.passed, (honest, verdict)
            assert processes_in(slot_of(attacked)) == 0, verdict
        return verdicts

    return run


# Of the attacks on each way of holding programs, one in so many runs in CI; all of them do in `make soak`.
SAMPLES = {"embedded": 1, "docker-fast": 3, "docker-lean": 6, "embedded-user": 6}
JAVA_SAMPLE = 3  # of those: each starts four virtual machines
OVERLOAD = 4


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves most of the catalogue to the soak tier, but for one backend."""
    for item in items:
        backend = item.callspec.params.get("attacked") if hasattr(item, "callspec") else None
        if backend is None:
            continue
        sample = SAMPLES[backend] * (JAVA_SAMPLE if item.path.name == "test_java.py" else 1)
        if zlib.crc32(item.name.encode()) % sample:
            item.add_marker(pytest.mark.soak)


@pytest.fixture(scope="session", autouse=True)
def overload_in_soak(request: pytest.FixtureRequest) -> Iterator[None]:
    """In the soak tier the attacks meet a machine with four times the work that it can do."""
    if request.config.getoption("markexpr") != "soak":
        yield
        return
    count = OVERLOAD * len(os.sched_getaffinity(0))
    loops = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
