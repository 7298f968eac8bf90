"""Engines other than this machine's own: killed in the middle of a batch, reached over TCP, with gVisor as runtime,
with images by Dockerfile.

Each test starts a second engine of its own, so that nobody else's suffers. That takes root and an installed dockerd.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from problems.problem import FunctionSuite, Limits
from sandbox import Backend, BlockingExecutor, Outcome, Profile, Program, SandboxConfig
from sandbox.containers import LABEL
from sandbox.errors import EngineMissingError, IsolationError
from sandbox.images import build_image, dockerfile, engine
from sandbox.languages import language_of

from .test_languages import BROKEN, REFERENCES
from .test_languages import LIMITS as STDIO_LIMITS
from .test_languages import SUITE as SUM

pytestmark = [pytest.mark.docker, pytest.mark.soak, pytest.mark.timeout(600)]

SUITE = FunctionSuite(("f",), "", ("assert f(1) == 2",))
RIGHT = Program("python", b"import time\ndef f(x):\n    time.sleep(0.1)\n    return x + 1")
WRONG = Program("python", b"def f(x): return x")
LIMITS = Limits(wall_s=60.0)
DOCKERD = shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class SecondEngine:
    """A dockerd with folders of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.tcp = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        runsc = shutil.which("runsc")
        runtimes = {"runsc": {"path": runsc, "runtimeArgs": ["--platform=ptrace", "--network=none"]}} if runsc else {}
        (folder / "daemon.json").write_text(json.dumps({"runtimes": runtimes}))

    def start(self) -> None:
        assert DOCKERD is not None
        folder = self._folder
        words = [DOCKERD, f"--config-file={folder}/daemon.json", f"--data-root={folder}/data"]
        words += [f"--exec-root={folder}/exec", f"--pidfile={folder}/pid", "--host", self.tcp, "--bridge=none"]
        words += ["--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"]
        self._launch(words)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if self._process.poll() is not None:  # under overload it gives its containerd too little time to start
                self._launch(words)
            try:
                engine()
            except EngineMissingError:
                time.sleep(0.2)
            else:
                return
        pytest.fail((folder / "log").read_text()[-2000:])

    def _launch(self, words: list[str]) -> None:
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)

    def kill(self) -> None:
        """As the kernel would; what it had started goes on."""
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()
        # One that was killed leaves its folder mounted on itself.
        while subprocess.run(["umount", self._folder / "data"], stderr=subprocess.DEVNULL, check=False).returncode == 0:
            pass


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> Iterator[SecondEngine]:
    """An engine with the image in it, which DOCKER_HOST names by TCP."""
    if DOCKERD is None or os.geteuid() != 0:
        pytest.skip("a second engine takes root and an installed dockerd")
    with tempfile.TemporaryDirectory(prefix="engine-", ignore_cleanup_errors=True) as folder:
        made = SecondEngine(Path(folder))
        monkeypatch.setenv("DOCKER_HOST", made.tcp)
        made.start()
        try:
            build_image(engine())
            yield made
        finally:
            made.end()


def test_an_engine_that_is_killed_in_the_middle_of_a_batch_harms_no_other_program(second: SecondEngine) -> None:
    """Each verdict is the right one, or says that nothing is known; when the engine is back, so is the executor."""
    programs = [WRONG if number % 3 == 0 else RIGHT for number in range(60)]
    with BlockingExecutor(SandboxConfig(backend=Backend.DOCKER, slots=2)) as executor:
        killer = threading.Timer(1.0, second.kill)
        killer.start()
        verdicts = executor.run_all([(program, SUITE, LIMITS) for program in programs])
        killer.join()
        unknown = 0
        for program, verdict in zip(programs, verdicts, strict=True):
            if verdict.outcome is Outcome.INFRASTRUCTURE_ERROR:
                unknown += 1
                assert verdict.detail
            else:
                assert verdict.outcome is (Outcome.WRONG_ANSWER if program is WRONG else Outcome.PASSED), verdict
        assert 0 < unknown < len(programs)
        second.start()
        again = executor.run_all([(program, SUITE, LIMITS) for program in programs[:6]])
        assert [verdict.passed for verdict in again] == [program is RIGHT for program in programs[:6]], again
    assert engine().containers.list(all=True, filters={"label": LABEL}, ignore_removed=True) == []


def test_gvisor_holds_a_program_in_the_lean_profile_and_says_why_not_in_the_fast_one(second: SecondEngine) -> None:
    if shutil.which("runsc") is None:
        pytest.skip("no runsc on this machine")
    assert second.tcp
    config = SandboxConfig(backend=Backend.DOCKER, profile=Profile.LEAN, slots=1, runtime="runsc")
    with BlockingExecutor(config) as executor:
        assert executor.run(RIGHT, SUITE, LIMITS).passed
        assert executor.run(WRONG, SUITE, LIMITS).outcome is Outcome.WRONG_ANSWER
        endless = Program("python", b"def f(x):\n    while True: pass")
        assert executor.run(endless, SUITE, Limits(cpu_s=0.5)).outcome is Outcome.TIME_LIMIT
        ended = executor.run(Program("python", b"import os\nos._exit(0)"), SUITE, LIMITS)
        assert (ended.outcome, ended.signs) == (Outcome.RUNTIME_ERROR, ("exit-at-import",))
    with pytest.raises(IsolationError, match="use profile lean"):
        BlockingExecutor(config.model_copy(update={"profile": Profile.FAST}))


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a registry has as ``debian:bookworm-slim``, made of the distribution's packages."""
    if shutil.which("debootstrap") is None or os.geteuid() != 0:
        pytest.skip("a base image without a registry takes root and debootstrap (apt-get install debootstrap)")
    root = tmp_path_factory.mktemp("debian")
    words = ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages", "Codename: bookworm"]
    sites = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    subprocess.run(["debootstrap", "--variant=minbase", "bookworm", root, *sites[:1]], check=True, capture_output=True)
    shutil.rmtree(root / "var/cache/apt/archives")
    return root


@pytest.mark.timeout(3600)
def test_images_by_dockerfile_serve_as_those_without_a_registry_do(second: SecondEngine, debian: Path) -> None:
    assert second.tcp
    client = engine()
    words = ["tar", "-C", debian, "-c", "."]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as packing:
        client.api.import_image_from_data(packing.stdout, repository="debian", tag="bookworm-slim")
    assert packing.returncode == 0
    for name, source in REFERENCES.items():
        text = dockerfile(language_of(name)).encode()
        client.images.build(fileobj=io.BytesIO(text), network_mode="host", rm=True, forcerm=True)
        for profile in Profile:
            config = SandboxConfig(backend=Backend.DOCKER, profile=profile, slots=1, languages=(name,))
            with BlockingExecutor(config) as executor:
                right = executor.run(Program(name, source.encode()), SUM, STDIO_LIMITS)
                assert right.passed, (name, right)
                mutated = executor.run(Program(name, source.replace("+", "-").encode()), SUM, STDIO_LIMITS)
                assert mutated.outcome is Outcome.WRONG_ANSWER, (name, mutated)
                broken, *place, _ = BROKEN[name]
                verdict = executor.run(Program(name, broken.encode()), SUM, STDIO_LIMITS)
                assert verdict.outcome is Outcome.COMPILE_ERROR, (name, verdict)
                assert [verdict.diagnostics[0].line, verdict.diagnostics[0].column] == place, (name, verdict)
