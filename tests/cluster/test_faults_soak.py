"""The long forms: fifty kills, scaling of a live run, and vLLM itself in the place of the stand-in."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.run_folder import read_lines
from sandbox import images
from tests.cluster.conftest import StandInRun
from tests.cluster.ray_nodes import Nodes, kill_and_finish
from tests.cluster.resuming import assert_a_killed_run_ends_as_an_undisturbed_one

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1500)]

KINDS = ["generator in a push", "generator", "executor", "sandbox engine", "trainer", "raylet", "driver"]
KILLS_IN_A_PIECE = 10
SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    made = Nodes()
    yield made
    made.cluster.shutdown()


@pytest.mark.parametrize("piece", range(5))
def test_fifty_kills_lose_nothing_repeat_nothing_and_break_no_bound(stand_in_run, nodes: Nodes, piece: int) -> None:
    """Five runs with ten kills each; every kind of thing is killed in each of them."""
    choice = random.Random(piece)
    targets = [*KINDS, *choice.choices(KINDS, k=KILLS_IN_A_PIECE - len(KINDS))]
    choice.shuffle(targets)
    generators = {"count": 2, "push_timeout_s": 40.0, "engine": {"weight_transport": "per_node"}}
    told = kill_and_finish(stand_in_run, nodes, targets, seed=100 + piece, steps=40, generators=generators).verify()
    assert "40 steps; 160 groups issued, 320 trajectories completed" in told


SLOTS = 2  # completions that a generator samples at a time
TOKENS = 48
TOKENS_PER_S = 40.0
SETTLE_S = 8.0
WINDOW_S = 30.0


def test_scaling_a_live_run_from_one_to_four_to_two_is_proportional_and_loses_nothing(
    stand_in_run, nodes: Nodes
) -> None:
    """Every completion takes TOKENS / TOKENS_PER_S = 1.2 s, so that a generator makes 1.67 of them a second."""
    engine = {"max_model_len": 256, "max_num_seqs": SLOTS, "weight_transport": "shm"}
    run: StandInRun = stand_in_run(
        engine={"tokens_per_s": TOKENS_PER_S, "mean_tokens": 1e9, "max_num_seqs": SLOTS},
        stage={"learner": {"num_steps": 500}, "prompts_per_step": 8, "max_staleness": 3},
        generators={"count": 1, "push_timeout_s": 20.0, "engine": engine},
    )
    run.start(nodes.address)
    run.wait(lambda: run.steps >= 1, 300.0, "a step")
    starts: list[float] = []
    for count in (1, 4, 2):
        if count != 1:
            asked = time.time()
            scaled = run.crucible("scale", str(run.root), "--generators", str(count))
            assert scaled.returncode == 0, scaled.stderr
            run.wait(lambda count=count: num_serving(run) == count, 60.0, f"{count} generators")
            print(f"{count} generators after {time.time() - asked:.1f} s")
        time.sleep(SETTLE_S)
        starts.append(time.time())
        time.sleep(WINDOW_S)
    stop(run)
    ends = [span["end"] for span in spans_of(run, "generate")]
    one, four, two = (sum(start <= end < start + WINDOW_S for end in ends) / WINDOW_S for start in starts)
    print(f"completions/s with 1, 4, 2 generators: {one:.2f} {four:.2f} {two:.2f}; due {SLOTS * TOKENS_PER_S / TOKENS}")
    assert four / one == pytest.approx(4.0, rel=0.1)
    assert two / one == pytest.approx(2.0, rel=0.1)
    run.verify()


@pytest.mark.vllm
def test_vllm_engines_join_are_killed_in_a_push_and_leave_and_nothing_is_lost(stand_in_run, nodes: Nodes) -> None:
    run: StandInRun = stand_in_run(
        real=True,
        stage={"learner": {"num_steps": 5000}},
        generators={
            "count": 1,
            "engine": {"dtype": "float32", "max_model_len": 256, "max_num_seqs": 16, "kv_cache_bytes": 64 << 20},
        },
        supervision={"health_every_s": 1.0},
    )
    run.start(nodes.address)
    run.wait(lambda: run.steps >= 2, 300.0, "two steps")

    asked = time.time()
    assert run.crucible("scale", str(run.root), "--generators", "2").returncode == 0
    run.wait(lambda: bool(spans_of(run, "generate", "generator-1")), 120.0, "a completion of the one that joined")
    joined_s = min(span["start"] for span in spans_of(run, "generate", "generator-1")) - asked
    print(f"a joining generator serves after {joined_s:.1f} s")
    assert joined_s < 60.0

    victim = nodes.processes("GeneratorActor")[0]
    engines = victim.children(recursive=True)
    assert engines, "vLLM's engine is a process of its own"
    wait_for_a_push(run)
    time.sleep(random.Random(7).random() * 0.05)
    victim.send_signal(signal.SIGKILL)
    run.wait(lambda: not any(alive(process) for process in engines), 20.0, "the end of the dead generator's engine")
    run.wait(lambda: len(run.events("serves")) >= num_executors(run) + 3, 180.0, "a replacement")

    before = run.steps
    assert run.crucible("scale", str(run.root), "--generators", "1").returncode == 0
    run.wait(lambda: bool(run.events("leaves")), 60.0, "one that leaves")
    run.wait(lambda: len(nodes.processes("GeneratorActor")) == 1, 90.0, "its end")
    run.wait(lambda: run.steps >= before + 3, 120.0, "three more steps")
    stop(run)
    told = run.verify()
    print(told)


def test_a_synchronous_run_that_is_killed_ends_with_the_same_bits(stand_in_run, nodes: Nodes) -> None:
    assert_a_killed_run_ends_as_an_undisturbed_one(stand_in_run, nodes.address)


@pytest.mark.vllm
def test_a_synchronous_run_with_vllm_that_is_killed_ends_with_the_same_bits(stand_in_run, nodes: Nodes) -> None:
    """The engine is repeatable in float32: a completion is a function of weights, prompt and seed alone."""
    engine = {"dtype": "float32", "max_model_len": 256, "max_num_seqs": 16, "kv_cache_bytes": 64 << 20}
    assert_a_killed_run_ends_as_an_undisturbed_one(
        stand_in_run, nodes.address, real=True, generators={"count": 1, "engine": engine}
    )


class OwnEngine:
    """A Docker engine beside the machine's, which others use: this one may be killed."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="engine-", dir="/tmp"))  # a socket's path must be short
        self.host = f"unix://{self.folder}/docker.sock"
        self.start()

    def start(self) -> None:
        command = ["dockerd", "--host", self.host, "--bridge", "none", "--iptables=false", "--ip6tables=false"]
        command += [f"--{what}={self.folder}/{what}" for what in ("data-root", "exec-root", "pidfile")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 60.0
        while subprocess.run(["docker", "-H", self.host, "info"], capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline, (self.folder / "log").read_text()[-2000:]
            time.sleep(0.2)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(60)
        for process in psutil.process_iter(["cmdline"]):  # shims of containers, and containerd if it was orphaned
            if any(str(self.folder) in part for part in process.info["cmdline"] or ()):
                process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def own_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnEngine]:
    if os.geteuid() or not shutil.which("dockerd"):
        pytest.skip("only root can start an engine, and dockerd must be installed")
    made = OwnEngine()
    monkeypatch.setenv("DOCKER_HOST", made.host)  # a cluster that the driver starts itself inherits it
    yield made
    made.end()


@pytest.mark.docker
def test_a_docker_engine_that_is_killed_and_comes_back_costs_nothing(stand_in_run, own_engine: OwnEngine) -> None:
    images.build_image(images.engine())
    run: StandInRun = stand_in_run(
        engine={"tokens_per_s": 60.0, "max_num_seqs": 8},
        stage={"learner": {"num_steps": 40}},
        executors={"count": 2, "sandbox": {"backend": "docker", "slots": 1}},
        supervision={"health_every_s": 1.0, "max_failed_starts": 20, "max_restart_delay_s": 2.0},
    )
    run.start()
    for _ in range(2):
        before = run.steps
        run.wait(lambda before=before: run.steps >= before + 3, 300.0, "three steps")
        own_engine.kill()
        time.sleep(5.0)
        own_engine.start()
    run.finish(600.0)
    told = run.verify()
    print(told, "\n".join(str(event) for event in run.events()))
    assert run.events("lost"), "no executor noticed"
    assert "40 steps; 160 groups issued, 320 trajectories completed" in told


def spans_of(run: StandInRun, what: str, who: str | None = None) -> list[dict]:
    return [
        span for span in read_lines(run.root / "timeline.jsonl") if span["what"] == what and who in (None, span["who"])
    ]


def num_serving(run: StandInRun) -> int:
    """Generators that serve, from what was reported of them."""
    serving = set[str]()
    for event in run.events():
        who = event["who"].partition(" ")[0]
        if who.startswith("generator-"):
            if event["what"] in {"serves", "serves again"}:
                serving.add(who)
            elif event["what"] in {"lost", "leaves", "set aside"}:
                serving.discard(who)
    return len(serving)


def num_executors(run: StandInRun) -> int:
    return sum(event["who"].startswith("executor") for event in run.events("serves"))


def wait_for_a_push(run: StandInRun) -> None:
    """Returns when the trainer has just published a version: the engines take it next."""

    def published() -> set[str]:
        return {
            path.name
            for folder in SHARED_MEMORY.glob(f"crucible-weights-{run.root.name}-*")
            for path in folder.glob("L*")
        }

    before = published()
    run.wait(lambda: bool(published() - before), 60.0, "a weight push")


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def stop(run: StandInRun) -> None:
    """SIGTERM: a checkpoint, then the end."""
    assert run.process is not None
    os.kill(run.process.pid, signal.SIGTERM)
    assert run.process.wait(120) == 130, run.tail()
