"""One warm executor for each way of holding programs, shared by all tests of this folder."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from problems.problem import FunctionSuite, Limits
from sandbox import Backend, BlockingExecutor, Profile, Program, SandboxConfig, SandboxError, Verdict
from sandbox.embedded import EmbeddedSlot
from sandbox.errors import EngineMissingError, ImageMissingError, IsolationError
from sandbox.images import build_image, engine, find_image
from sandbox.opening import open_embedded
from sandbox.polyglot import Polyglot

from ..conftest import is_soak

DATA = Path(__file__).parents[2].parent / "shared" / "data"
SLOTS = 2

Run = Callable[..., Verdict]


class OrdinaryUserSlot(EmbeddedSlot):
    """The embedded backend as an ordinary user has it, whoever runs the tests."""

    own_users = True


async def _open_as_ordinary_user(config: SandboxConfig | None) -> Polyglot:
    assert config is not None
    executor = Polyglot(lambda language: open_embedded(config, language, OrdinaryUserSlot))
    for language in config.languages:
        await executor.pool(language)
    return executor


def require_bounded_processes(backend: str) -> None:
    """Skips where root plays the ordinary user: the kernel bounds no processes of root's own uid, so that what forks
    without end fills the machine. A run of these tests by an ordinary user shows the bound under ``embedded``."""
    if backend == "embedded-user" and os.geteuid() == 0:
        pytest.skip("the kernel does not bound the processes of root, who plays the ordinary user here")


def require_engine() -> None:
    """Skips without an engine, unless this machine must have one."""
    try:
        client = engine()
    except EngineMissingError as error:
        if os.environ.get("CRUCIBLE_REQUIRE_ENGINE") == "1":
            pytest.fail(str(error))
        pytest.skip("no Docker engine")
    try:
        find_image(client)
    except ImageMissingError:
        build_image(client)


def require_runtime(name: str) -> None:
    """Skips where the engine has no such runtime."""
    require_engine()
    info: Any = engine().info()
    if name not in info["Runtimes"]:
        pytest.skip(f"the engine has no runtime {name}")


def open_backend(name: str, slots: int = SLOTS, languages: tuple[str, ...] = ("python",)) -> BlockingExecutor:
    """An executor by the name of a ``BACKENDS`` parameter."""
    if name.startswith("docker"):
        require_engine()
        profile, _, runtime = name.removeprefix("docker-").partition("-")
        if runtime:
            require_runtime(runtime)
        config = SandboxConfig(
            backend=Backend.DOCKER,
            profile=Profile(profile),
            slots=slots,
            languages=languages,
            runtime=runtime or None,
        )
        return BlockingExecutor(config)
    config = SandboxConfig(backend=Backend.EMBEDDED, slots=slots, languages=languages)
    try:
        if name == "embedded-user":
            return BlockingExecutor(config, _open_as_ordinary_user)
        return BlockingExecutor(config)
    except (IsolationError, SandboxError) as error:
        pytest.skip(f"no namespaces here: {error}")


BACKENDS = [
    "embedded",
    "embedded-user",
    pytest.param("docker-fast", marks=pytest.mark.docker),
    pytest.param("docker-lean", marks=pytest.mark.docker),
]
GVISOR = "docker-lean-runsc"


@pytest.fixture(scope="session", params=BACKENDS)
def executor_name(request: pytest.FixtureRequest) -> str:
    """Which way of holding programs."""
    return request.param


@pytest.fixture(scope="session")
def executor(executor_name: str) -> Iterator[BlockingExecutor]:
    """A warm executor of each kind."""
    with open_backend(executor_name) as opened:
        yield opened


@pytest.fixture
def run(executor: BlockingExecutor) -> Run:
    """Runs a program's text against cases about ``f``; keywords are fields of Limits and of FunctionSuite."""

    def run_text(source: str | bytes, *cases: str, stop: bool = True, setup: str = "", **fields: object) -> Verdict:
        entry_points = fields.pop("entry_points", ("f",))
        candidate_setup = fields.pop("candidate_setup", "")
        suite = FunctionSuite(entry_points, setup, cases, candidate_setup)  # type: ignore[arg-type]
        limits = Limits(**{"cpu_s": 5.0, "wall_s": 30.0, **fields})  # type: ignore[arg-type]
        program = Program("python", source.encode() if isinstance(source, str) else source)
        return executor.run(program, suite, limits, stop_at_first_failure=stop)

    return run_text


# What is shown on a machine at four times its work, beside the soak tests of this folder: all attacks, and that
# reference programs keep their verdict.
OVERLOADED = ("test_overload.py", "test_execute.py", "test_evalplus.py", "test_java.py", "test_languages.py")
OVERLOAD = 4


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Overload takes its time: two backends show in CI what all four show in the soak tier."""
    for item in items:
        backend = item.callspec.params.get("executor_name") if hasattr(item, "callspec") else None
        if item.path.name == "test_overload.py" and backend in ("embedded-user", "docker-lean"):
            item.add_marker(pytest.mark.soak)
        if item.path.parent.name == "attacks" or item.path.name in OVERLOADED:
            item.add_marker(pytest.mark.overload)


@contextlib.contextmanager
def endless_loops() -> Iterator[None]:
    """Four for each processor that this process may use."""
    count = OVERLOAD * len(os.sched_getaffinity(0))
    endless = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
    loops = [subprocess.Popen([sys.executable, "-S", "-c", endless]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    """In the soak tier all of this folder meets a machine with four times the work that it can do."""
    worker = hasattr(session.config, "workerinput")  # of pytest-xdist: the loops of its controller serve all of them
    with endless_loops() if is_soak(session.config) and not worker else contextlib.nullcontext():
        return (yield)
