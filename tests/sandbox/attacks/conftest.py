"""Each attack runs twice in one warm slot with an honest program between, and must leave the slot as it was."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from problems.problem import FunctionSuite, Limits
from sandbox import BlockingExecutor, Outcome, Program, Verdict
from sandbox.containers import LABEL, OWNER_LABEL, DockerSlot
from sandbox.embedded import EmbeddedSlot
from sandbox.errors import EngineMissingError
from sandbox.images import engine
from sandbox.polyglot import Polyglot
from sandbox.slot import Slot

from ..conftest import BACKENDS, open_backend

HONEST = Program("python", b"print('x')\ndef f(x):\n    print(x)\n    return x + 1\n")
HONEST_SUITE = FunctionSuite(("f",), "", ("assert f(1) == 2", "assert f(41) == 42"))
WRONG, ERROR, COMPILE = Outcome.WRONG_ANSWER, Outcome.RUNTIME_ERROR, Outcome.COMPILE_ERROR
TIME, MEMORY, OUTPUT = Outcome.TIME_LIMIT, Outcome.MEMORY_LIMIT, Outcome.OUTPUT_LIMIT
LIMITS = Limits(cpu_s=2.0, wall_s=8.0, memory_bytes=256 << 20)

OUR_MOUNTS = ("root", "scratch", "mask")
"""Sources of the mounts that a slot makes for itself."""

Assault = Callable[..., list[Verdict]]


@pytest.fixture(scope="session", params=BACKENDS)
def attacked(request: pytest.FixtureRequest) -> Iterator[BlockingExecutor]:
    """An executor with one slot, so that an attack's traces would be met by whoever comes next."""
    before = outside_traces()
    with open_backend(request.param, slots=1) as opened:
        yield opened
    assert outside_traces() == before


def outside_traces() -> tuple[object, ...]:
    """This process's descendants, its containers and mounts of slots: as they were once an executor is closed."""
    containers: set[str] = set()
    with contextlib.suppress(EngineMissingError):
        listed = engine().containers.list(all=True, filters={"label": LABEL}, ignore_removed=True)
        containers = {str(one.id) for one in listed if f":{os.getpid()}:" in one.labels[OWNER_LABEL]}
    mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if line.split()[0] in OUR_MOUNTS]
    return sorted(_descendants(os.getpid())), containers, mounts


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


def _processes(slot: Slot) -> list[int]:
    """The server, then all others in the slot."""
    if isinstance(slot, DockerSlot):
        assert slot._container is not None
        listed = slot._container.top()
        column = listed["Titles"].index("PID")
        return sorted(int(line[column]) for line in listed["Processes"])
    assert isinstance(slot, EmbeddedSlot)
    assert slot._process is not None
    return _descendants(slot._process.pid)


def processes_in(slot: Slot) -> int:
    """How many there are beside the server."""
    return len(_processes(slot)) - 1


def traces_in(slot: Slot) -> tuple[object, ...]:
    """Processes, files, mounts and the server's descriptors, as seen from outside; nothing of a run may change them.

    Nobody but root may look at the last three; suites that a slot keeps are no trace.
    """
    server, *others = _processes(slot)
    place = Path("/proc", str(server))
    if os.geteuid() != 0 or not place.exists():  # or it is an engine on another machine
        return (len(others),)
    files = sorted(
        path.name for folder in ("tmp", "dev/shm", "dev/mqueue") for path in place.joinpath("root", folder).glob("*")
    )
    kept = 0
    for descriptor in place.joinpath("fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            kept += not os.readlink(descriptor).startswith("/memfd:suite")
    return len(others), files, len(place.joinpath("mountinfo").read_text().splitlines()), kept


def settled(slot: Slot) -> tuple[object, ...]:
    """Once nothing changes: the server closes a run's descriptors after its result is here."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        seen = [traces_in(slot)]
        for _ in range(5):
            time.sleep(0.02)
            seen.append(traces_in(slot))
        if all(one == seen[0] for one in seen):
            break
    return traces_in(slot)


@pytest.fixture
def assault(attacked: BlockingExecutor) -> Assault:
    """Runs an attack twice with an honest program between; checks what is left over, gives both verdicts.

    The suite's setup holds ``SECRET``, another text in each run, for attacks that look for what the judge knows.
    """

    clean = settled(slot_of(attacked))

    def run(
        program: str | bytes,
        *cases: str,
        expect: Iterable[Outcome] | Outcome,
        limits: Limits = LIMITS,
        setup: str = "",
        stop: bool = True,
    ) -> list[Verdict]:
        source = program.encode() if isinstance(program, str) else program
        expected = {expect} if isinstance(expect, Outcome) else set(expect)
        verdicts: list[Verdict] = []
        for _ in range(2):
            hidden = f"SECRET = 'SECRET{secrets.token_hex(16)}'\n{setup}"
            suite = FunctionSuite(("f",), hidden, cases or HONEST_SUITE.cases)
            verdict = attacked.run(Program("python", source), suite, limits, stop_at_first_failure=stop)
            assert verdict.outcome in expected, verdict
            verdicts.append(verdict)
            honest = attacked.run(HONEST, HONEST_SUITE, Limits(wall_s=60.0))
            assert honest.passed, (honest, verdict)
            if traces_in(slot_of(attacked)) != clean:
                assert settled(slot_of(attacked)) == clean, verdict
        return verdicts

    return run


# Of the attacks on each way of holding programs, one in so many runs in CI; all of them do in `make soak`.
SAMPLES = {"embedded": 1, "docker-fast": 3, "docker-lean": 6, "embedded-user": 6}
JAVA_SAMPLE = 3  # of those: each starts four virtual machines


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves most of the catalogue to the soak tier, but for one backend."""
    for item in items:
        backend = item.callspec.params.get("attacked") if hasattr(item, "callspec") else None
        if backend is None:
            continue
        sample = SAMPLES[backend] * (JAVA_SAMPLE if item.path.name == "test_java.py" else 1)
        if zlib.crc32(item.name.encode()) % sample:
            item.add_marker(pytest.mark.soak)
