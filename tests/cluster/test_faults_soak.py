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
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest

from cluster.journal import journal_path, read_journal
from cluster.ledger import surviving_steps
from cluster.run_folder import read_lines
from problems.identity import WeightsVersion
from sandbox import images
from tests.cluster.conftest import StandInRun
from tests.cluster.ray_nodes import GrowingNodes, Nodes, kill_and_finish
from tests.cluster.resuming import assert_a_killed_run_ends_as_an_undisturbed_one
from tests.stand_in_actor import TURNS

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1500)]

KINDS = [
    "generator in a push", "generator", "executor", "sandbox engine", "trainer", "scorer", "copy of weights", "raylet",
    "driver",
]  # fmt: skip
KILLS_IN_A_PIECE = 10
SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    made = Nodes()
    yield made
    made.cluster.shutdown()


@pytest.fixture(scope="module")
def reward_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that has learned nothing, on the policy's tokenizer."""
    from learner.models import load_causal_lm
    from learner.scalar_head import ScalarHeadModel

    folder = tmp_path_factory.mktemp("reward") / "model"
    ScalarHeadModel.from_causal_lm(load_causal_lm(tiny_model)).save_pretrained(folder)
    for file in tiny_model.glob("*token*"):
        shutil.copy(file, folder)
    return folder


@pytest.mark.parametrize("piece", range(5))
def test_fifty_kills_lose_nothing_repeat_nothing_and_break_no_bound(
    stand_in_run, nodes: Nodes, reward_model: Path, piece: int
) -> None:
    """Five runs with ten kills each; every kind of thing is killed in each of them. Two of them train on two ranks."""
    choice = random.Random(piece)
    targets = [*KINDS, *choice.choices(KINDS, k=KILLS_IN_A_PIECE - len(KINDS))]
    choice.shuffle(targets)
    generators = {"count": 2, "push_timeout_s": 40.0, "engine": {"weight_transport": "per_node"}}
    scored = {"kind": "reward_model", "model": str(reward_model), "weight": 0.1}
    stage = {"rewards": [{"kind": "test_share"}, scored], "ranks": 1 + piece % 2}
    run = kill_and_finish(
        stand_in_run, nodes, targets, seed=100 + piece, steps=40, stage=stage, generators=generators
    )  # fmt: skip
    told = run.verify()
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


def test_one_very_slow_generator_under_a_bound_of_one_neither_stops_the_run_nor_shortens_what_is_trained(
    stand_in_run, nodes: Nodes
) -> None:
    """One of three samples a hundredth as fast. ``verify`` finds every issued completion trained or dropped, however
    long it took; here the slow one's are looked at."""
    run: StandInRun = stand_in_run(
        engine={"tokens_per_s": 300.0, "mean_tokens": 12.0, "slow": {"generator-0": 3.0}},
        stage={"learner": {"num_steps": 12}, "prompts_per_step": 6, "max_staleness": 1},
        generators={"count": 3, "push_timeout_s": 20.0, "engine": {"weight_transport": "per_node"}},
    )
    run.start(nodes.address)
    run.finish(500.0)
    assert "12 steps; 72 groups issued, 144 trajectories completed" in run.verify()
    seconds = {who: [] for who in ("generator-0", "generator-1", "generator-2")}
    for span in spans_of(run, "generate"):
        seconds[span["who"]].append(span["end"] - span["start"])
    print({who: f"{len(all_s)} completions, longest {max(all_s):.1f} s" for who, all_s in seconds.items()})
    assert max(seconds["generator-0"]) > 10 * max(seconds["generator-1"])
    entries = [entry for step in range(12) for entry in read_journal(journal_of(run, step))]
    turns = [turn for entry in entries for turn in entry.trajectory.turns]
    assert max(len(turn.spans) for turn in turns) == 2, "nothing slow was in flight over a push: this shows nothing"
    # The stand-in's lengths are geometric, cut at 48, whoever samples them: a mean of 11.8 with a deviation of 10.
    assert np.mean([len(turn.completion_ids) for turn in turns]) == pytest.approx(11.8, abs=3 * 10 / 12)


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


def test_trainer_and_generator_take_turns_on_one_gpu_and_either_may_die(stand_in_run) -> None:
    """Ray is told of a GPU that is not there: the turns are real, and what they are for is not."""
    nodes = Nodes({"num_gpus": 1})
    try:
        run = kill_and_finish(
            stand_in_run,
            nodes,
            ["trainer", "generator", "generator in a push", "driver"],
            seed=5,
            steps=16,
            stage={"max_staleness": 0, "gpus_per_rank": 1},
            placement={"kind": "colocated"},
            generators={"count": 1, "push_timeout_s": 20.0, "engine": {"device": "cuda", "max_model_len": 256}},
        )
    finally:
        nodes.cluster.shutdown()
    run.verify()
    turns = read_lines(run.model / TURNS)
    asleep = [(one["time"], other["time"]) for one, other in pairwise(turns) if one["what"] == "sleeps"]
    trained = [span for span in read_lines(run.root / "timeline.jsonl") if span["what"] == "train"]
    assert len(trained) >= 16
    awake = [span for span in trained if not any(a <= span["start"] and span["end"] <= b for a, b in asleep)]
    assert not awake, "the trainer computed while the engine was awake"


def test_when_the_head_dies_the_same_command_goes_on_on_another_cluster(stand_in_run) -> None:
    """Workers go on for a while without a head (Ray waits a minute for it): steps of some seconds outlast that."""
    run: StandInRun = stand_in_run(engine={"tokens_per_s": 6.0}, stage={"learner": {"num_steps": 60}})
    first = Nodes()
    try:
        run.start(first.address)
        run.wait(lambda: run.steps >= 5, 500.0, "five steps")
        for process in first.cluster.head_node.all_processes["gcs_server"]:
            os.kill(process.process.pid, signal.SIGKILL)
        assert run.process is not None
        begun = time.monotonic()
        assert run.process.wait(180.0) != 0
        print(f"the driver ended {time.monotonic() - begun:.0f} s after the head: {run.log.read_text()[-300:]}")
    finally:
        first.cluster.shutdown()
    second = Nodes()
    try:
        run.start(second.address)
        run.finish(500.0)
    finally:
        second.cluster.shutdown()
    told = run.verify()
    assert "60 steps; 240 groups issued, 480 trajectories completed" in told
    lineages = {step.version.lineage for step in surviving_steps(run.root / "stages/ppo/ledger.jsonl")}
    assert len(lineages) == 2, "it had ended before: this shows nothing"


def test_the_autoscaler_brings_nodes_for_a_run_that_grows_and_takes_them_when_it_shrinks(
    stand_in_run, tmp_path: Path
) -> None:
    """Ray's own autoscaler, with nodes that are processes of this machine."""
    # Head: trainer, one generator, one executor, and no room for more.
    nodes = GrowingNodes(tmp_path, head={"CPU": 2, "sandbox": 1}, max_nodes=3)
    try:
        run: StandInRun = stand_in_run(
            engine={"tokens_per_s": 60.0},
            stage={"learner": {"num_steps": 500}},
            generators={"count": 1, "push_timeout_s": 20.0, "engine": {"weight_transport": "per_node"}},
        )
        run.start(nodes.address)
        run.wait(lambda: run.steps >= 1, 300.0, "a step")
        refused = run.crucible("scale", str(run.root), "--generators", "3", "--wait", "0")
        assert refused.returncode == 6, refused.stdout + refused.stderr
        scaled = run.crucible("scale", str(run.root), "--generators", "4", "--wait", "150")
        assert scaled.returncode == 0, scaled.stderr
        assert nodes.count == 4
        run.wait(lambda: num_serving(run) == 4, 90.0, "four generators")
        before = run.steps
        run.wait(lambda: run.steps >= before + 3, 90.0, "three steps")
        assert run.crucible("scale", str(run.root), "--generators", "1").returncode == 0
        run.wait(lambda: num_serving(run) == 1, 90.0, "one generator")
        run.wait(lambda: nodes.count == 1, 180.0, "the end of the nodes")
        before = run.steps
        run.wait(lambda: run.steps >= before + 2, 90.0, "two steps")
        stop(run)
    finally:
        nodes.end()
    run.verify()


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
        supervision={"health_every_s": 1.0},
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


def journal_of(run: StandInRun, step: int) -> Path:
    """Of a step of a run that nothing interrupted."""
    return journal_path(run.root / "stages/ppo/trajectories", WeightsVersion(0, step))


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
