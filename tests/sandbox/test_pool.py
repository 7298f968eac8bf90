"""Slots: recycled, replaced when they die, and never left over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from docker.models.containers import Container

from problems.problem import FunctionSuite, Limits
from sandbox import Backend, BlockingExecutor, Outcome, Program, SandboxConfig
from sandbox.config import Profile
from sandbox.containers import LABEL, OWNER_LABEL, POOL_LABEL, owner, sweep
from sandbox.embedded import EmbeddedSlot
from sandbox.errors import SlotDiedError
from sandbox.images import engine, find_image
from sandbox.interpreter import this_interpreter
from sandbox.pool import SlotPool
from sandbox.resident.protocol import Order, Result

from .conftest import require_engine

SUITE = FunctionSuite(("f",), "", ("assert f(1) == 2",))
RIGHT = Program("python", b"def f(x): return x + 1")
ROOT = Path(__file__).parents[2]
CLIENT = """
import sys, time
from problems.problem import FunctionSuite, Limits
from sandbox import BlockingExecutor, Program, SandboxConfig
executor = BlockingExecutor(SandboxConfig(backend=sys.argv[1], slots=2))
print("ready", flush=True)
program = Program("python", b"import time\\ndef f(x): time.sleep(99)")
executor.run(program, FunctionSuite(("f",), "", ("f(1)",)), Limits(wall_s=90.0))
"""


def _children(pid: int) -> list[int]:
    pids: list[int] = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        pids += [int(child) for child in listed.read_text().split()]
    return pids + [grandchild for child in pids for grandchild in _children(child)]


def _eventually(is_true: object, timeout_s: float = 20.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if is_true():  # type: ignore[operator]
            return True
        time.sleep(0.1)
    return False


def _start_client(backend: str) -> subprocess.Popen[str]:
    client = subprocess.Popen([sys.executable, "-c", CLIENT, backend], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    assert client.stdout.readline() == "ready\n"
    time.sleep(1)  # the program is running by then
    return client


def test_a_killed_client_leaves_no_process() -> None:
    client = _start_client("embedded")
    try:
        started = _children(client.pid)
    finally:
        client.kill()
        client.wait()
    assert len(started) >= 6  # two keepers, two servers, and a candidate with its judge
    assert _eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in started))


@pytest.mark.docker
def test_a_killed_client_leaves_no_container() -> None:
    require_engine()
    client = _start_client("docker")

    def containers() -> list[object]:
        listed = engine().containers.list(all=True, filters={"label": LABEL}, ignore_removed=True)
        return [one for one in listed if f":{client.pid}:" in one.labels[OWNER_LABEL]]

    try:
        assert len(containers()) == 2
    finally:
        client.kill()
        client.wait()
    assert _eventually(lambda: not containers())


@pytest.mark.docker
def test_containers_of_the_dead_are_swept_and_those_of_the_living_are_not() -> None:
    require_engine()
    client = engine()
    image = find_image(client)
    where, pid, start = owner().split(":")
    boot, namespace = where.split("/")
    # In the last two the pid says nothing: it is of another machine, or of another container of this one.
    owners = (f"{where}:{pid}:1", owner(), f"another-machine/{namespace}:{pid}:1", f"{boot}/1:{pid}:{start}1")
    made = [
        client.containers.create(image, ["python3"], labels={LABEL: "fast", OWNER_LABEL: label}) for label in owners
    ]
    try:
        sweep(client)
        left = {one.id for one in client.containers.list(all=True, ignore_removed=True)}
        assert [one.id in left for one in made] == [False, True, True, True]
    finally:
        for one in made[1:]:
            one.remove(force=True)


@pytest.mark.docker
def test_closing_sweeps_what_its_slots_left_and_nobody_else_s() -> None:
    require_engine()
    client = engine()
    image = find_image(client)

    def create(pool: str) -> str:
        labels = {LABEL: "fast", OWNER_LABEL: owner(), POOL_LABEL: pool}
        return str(client.containers.create(image, ["python3"], labels=labels).id)

    def of_ours() -> dict[str, str]:
        listed = client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True)
        return {str(one.id): one.labels[POOL_LABEL] for one in listed if one.labels[OWNER_LABEL] == owner()}

    before = of_ours()
    with BlockingExecutor(SandboxConfig(backend=Backend.DOCKER, slots=1)) as executor:
        assert executor.run(RIGHT, SUITE, Limits()).passed
        (pool,) = (name for one, name in of_ours().items() if one not in before)
        leaked, other = create(pool), create("another")
    try:
        assert leaked not in of_ours()
        assert other in of_ours()
    finally:
        client.containers.get(other).remove(force=True)


@pytest.mark.docker
@pytest.mark.parametrize("profile", Profile)
def test_a_container_is_on_no_network_and_the_engine_holds_no_end_point_for_it(profile: Profile) -> None:
    require_engine()

    def of_ours() -> dict[str, Container]:
        listed = engine().containers.list(all=True, filters={"label": LABEL}, ignore_removed=True)
        return {str(one.id): one for one in listed if one.labels[OWNER_LABEL] == owner()}

    before = of_ours()
    python = this_interpreter().executable_in_root
    look = [python, "-c", "import os; print(os.readlink('/proc/self/ns/net'), *os.listdir('/sys/class/net'))"]
    with BlockingExecutor(SandboxConfig(backend=Backend.DOCKER, slots=1, profile=profile)) as executor:
        assert executor.run(RIGHT, SUITE, Limits()).passed
        (container,) = (one for name, one in of_ours().items() if name not in before)
        namespace, *interfaces = container.exec_run(look).output.decode().split()
        assert interfaces == ["lo"]
        host = engine().containers.run(find_image(engine()), look, network_mode="host", remove=True)
        assert namespace != host.decode().split()[0]
        held = container.attrs["NetworkSettings"]["Networks"]
        assert all(network["EndpointID"] == "" for network in held.values())


@pytest.mark.parametrize("backend", ["embedded", pytest.param("docker", marks=pytest.mark.docker)])
def test_slots_are_recycled_and_closing_leaves_nothing(backend: str) -> None:
    if backend == "docker":
        require_engine()

    def left() -> set[object]:
        own: set[object] = set(_children(os.getpid()))
        if backend == "docker":
            listed = engine().containers.list(all=True, filters={"label": LABEL}, ignore_removed=True)
            own |= {one.id for one in listed if f":{os.getpid()}:" in one.labels[OWNER_LABEL]}
        return own

    before = left()
    with BlockingExecutor(SandboxConfig(backend=Backend(backend), slots=1, recycle_after=3)) as executor:
        assert all(executor.run(RIGHT, SUITE, Limits()).passed for _ in range(8))
    assert _eventually(lambda: left() <= before)


async def test_a_slot_that_dies_in_a_run_is_replaced_and_the_run_repeated() -> None:
    import asyncio

    slots: list[EmbeddedSlot] = []
    config = SandboxConfig(backend=Backend.EMBEDDED, slots=1)

    def make() -> EmbeddedSlot:
        slots.append(EmbeddedSlot(config))
        return slots[-1]

    pool = SlotPool(config, make)
    await pool.start()
    try:
        slow = Program("python", b"import time\ndef f(x):\n    time.sleep(1)\n    return x + 1")
        task = asyncio.create_task(pool.run(slow, SUITE, Limits()))
        await asyncio.sleep(0.5)
        (server,) = _children(slots[0]._process.pid)[:1]  # type: ignore[union-attr]
        os.kill(server, signal.SIGKILL)
        assert (await task).passed
        assert slots[0] not in pool._slots
        assert 2 <= len(slots) <= 3  # one to repeat the run in, perhaps one for the first
    finally:
        await pool.close()


class MortalSlot(EmbeddedSlot):
    """Ends in a run if ``dies`` of the job says so."""

    dies: Callable[[bytes], bool] = staticmethod(lambda _: False)

    async def run(self, order: Order, job: bytes, patience_s: float, suite: bytes = b"") -> tuple[Result, bytes]:
        if self.dies(job):
            self.is_odd = True
            raise SlotDiedError("ended in a run")
        return await super().run(order, job, patience_s, suite)


async def test_a_run_is_repeated_in_a_slot_that_no_other_program_has_been_in() -> None:
    """Stands in for a program that leaves its slot such that the next one ends it."""
    config = SandboxConfig(backend=Backend.EMBEDDED, slots=2)
    slots: list[MortalSlot] = []

    def make() -> MortalSlot:
        slots.append(MortalSlot(config))
        return slots[-1]

    pool = SlotPool(config, make)
    await pool.start()
    try:
        for slot in slots:
            slot.dies = lambda _: True
        assert (await pool.run(RIGHT, SUITE, Limits())).passed
    finally:
        await pool.close()


async def test_programs_that_end_their_slot_are_to_blame_while_a_fresh_one_works() -> None:
    """Stands in for a program with a way to end the server, which we do not know of."""
    config = SandboxConfig(backend=Backend.EMBEDDED, slots=1)

    def make() -> MortalSlot:
        slot = MortalSlot(config)
        slot.dies = lambda job: b"dead".hex().encode() in job  # as sources travel
        return slot

    pool = SlotPool(config, make)
    await pool.start()
    try:
        verdict = await pool.run(Program("python", b"dead"), SUITE, Limits())
        assert verdict.outcome is Outcome.RUNTIME_ERROR
        assert verdict.signs == ("slot-died",)
        assert (await pool.run(RIGHT, SUITE, Limits())).passed
    finally:
        await pool.close()


async def test_a_pool_without_an_engine_gives_infrastructure_errors_and_recovers() -> None:
    class EnginelessSlot(EmbeddedSlot):
        engine_is_down = False

        async def start(self) -> None:
            if EnginelessSlot.engine_is_down:
                raise SlotDiedError("no engine")
            await super().start()

    config = SandboxConfig(backend=Backend.EMBEDDED, slots=2)
    slots: list[EnginelessSlot] = []

    def make() -> EnginelessSlot:
        slots.append(EnginelessSlot(config))
        return slots[-1]

    pool = SlotPool(config, make)
    await pool.start()
    try:
        EnginelessSlot.engine_is_down = True
        for slot in list(slots):
            await slot.end()
        for _ in range(3):
            verdict = await pool.run(RIGHT, SUITE, Limits())
            assert verdict.outcome is Outcome.INFRASTRUCTURE_ERROR
            assert "no engine" in verdict.detail
        EnginelessSlot.engine_is_down = False
        assert (await pool.run(RIGHT, SUITE, Limits())).passed
    finally:
        await pool.close()


async def test_an_old_slot_serves_until_its_successor_is_warm() -> None:
    slots: list[EmbeddedSlot] = []
    config = SandboxConfig(backend=Backend.EMBEDDED, slots=1, recycle_after=5)

    def make() -> EmbeddedSlot:
        slots.append(EmbeddedSlot(config))
        return slots[-1]

    pool = SlotPool(config, make)
    await pool.start()
    try:
        for _ in range(60):
            assert (await pool.run(RIGHT, SUITE, Limits())).passed
        assert len(slots) >= 2
        assert len(pool._slots) <= 2
        assert slots[0].num_runs > config.recycle_after
    finally:
        await pool.close()
    assert not pool._slots


async def test_where_nothing_can_be_held_the_error_says_why_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from sandbox import open_executor, shipping
    from sandbox.errors import IsolationError

    refused = "raise PermissionError(1, 'unshare: Operation not permitted')"
    monkeypatch.setattr(shipping, "START_UP", refused)
    with pytest.raises(IsolationError, match=r"unshare: Operation not permitted") as raised:
        await open_executor(SandboxConfig(backend=Backend.EMBEDDED, slots=2))
    assert "\n" not in str(raised.value)
    assert "Traceback" not in str(raised.value)
