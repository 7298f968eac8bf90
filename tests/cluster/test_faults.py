"""What dies is replaced, what it held is issued again, and the files agree: several Ray nodes, stand-in engine."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from ray.cluster_utils import Cluster

from cluster.run_folder import read_lines
from tests.cluster.conftest import StandInRun
from tests.patient_ray import be_patient
from tests.stand_in_actor import PUSH_MARK

pytestmark = pytest.mark.timeout(1200)

NODE = {"num_cpus": 4, "resources": {"sandbox": 2}}


class Nodes:
    """A Ray cluster of several nodes on this machine."""

    def __init__(self) -> None:
        be_patient()
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "resources": {"sandbox": 1}})
        self.nodes = [self.cluster.add_node(**NODE), self.cluster.add_node(**NODE)]

    @property
    def address(self) -> str:
        return self.cluster.address

    def processes(self, name: str) -> list[psutil.Process]:
        """The actors of a class, oldest first."""
        raylets = [node.all_processes["raylet"][0].process.pid for node in [self.cluster.head_node, *self.nodes]]
        found = [
            child
            for raylet in raylets
            if psutil.pid_exists(raylet)
            for child in psutil.Process(raylet).children()
            if child.name().startswith(f"ray::{name}") or f"ray::{name}" in " ".join(child.cmdline()[:1])
        ]
        return sorted(found, key=lambda process: process.create_time())

    def lose_a_node(self, choice: random.Random) -> None:
        """kill -9 of a raylet (its workers follow); another node joins."""
        node = choice.choice(self.nodes)
        self.nodes.remove(node)
        os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
        self.cluster.remove_node(node, allow_graceful=False)
        self.nodes.append(self.cluster.add_node(**NODE))


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    made = Nodes()
    yield made
    made.cluster.shutdown()


class Killer:
    """kill -9 of one thing at a time, at moments that the seed chooses."""

    def __init__(self, run: StandInRun, nodes: Nodes, seed: int) -> None:
        self.run = run
        self.nodes = nodes
        self.choice = random.Random(seed)
        self.targets: dict[str, Callable[[], bool]] = {
            "generator": lambda: self.kill_one(self.nodes.processes("StandInActor")),
            "generator in a push": self.kill_in_a_push,
            "executor": lambda: self.kill_one(self.nodes.processes("ExecutorActor")),
            "sandbox engine": self.kill_the_sandbox,
            "trainer": lambda: self.kill_one(self.nodes.processes("TrainerActor")),
            "raylet": self.kill_a_raylet,
            "driver": self.kill_the_driver,
        }

    def kill(self, target: str) -> None:
        """Waits for a random moment in which the target lives, and kills it."""
        before = self.run.steps
        self.run.wait(lambda: self.run.steps > before, 500.0, f"a step before killing: {target}")
        time.sleep(self.choice.random() * 0.5)
        self.run.wait(self.targets[target], 300.0, f"killing: {target}")

    def kill_one(self, processes: list[psutil.Process]) -> bool:
        if processes:
            self.choice.choice(processes).kill()
        return bool(processes)

    def kill_in_a_push(self) -> bool:
        try:
            os.kill(int((self.run.model / PUSH_MARK).read_text()), signal.SIGKILL)
        except (FileNotFoundError, ValueError, ProcessLookupError):
            return False
        return True

    def kill_the_sandbox(self) -> bool:
        """A process of the sandbox below an executor: the resident server of a slot, or what it has forked."""
        return self.kill_one(
            [child for actor in self.nodes.processes("ExecutorActor") for child in actor.children(True)]
        )

    def kill_a_raylet(self) -> bool:
        self.nodes.lose_a_node(self.choice)
        return True

    def kill_the_driver(self) -> bool:
        assert self.run.process is not None
        self.run.process.kill()
        self.run.process.wait()
        self.run.start(self.nodes.address)
        return True


def kill_and_finish(
    make_run: Callable[..., StandInRun], nodes: Nodes, targets: list[str], seed: int, steps: int
) -> str:
    run = make_run(
        engine={"tokens_per_s": 60.0, "load_s": 0.15, "max_num_seqs": 8},
        stage={"learner": {"num_steps": steps}, "checkpoint_every_steps": 2},
    )
    run.start(nodes.address)
    killer = Killer(run, nodes, seed)
    for target in targets:
        killer.kill(target)
    run.finish(900.0)
    print("\n".join(str(event) for event in run.events()))
    return run.verify()


CI_KILLS = ["generator in a push", "executor", "trainer", "raylet", "driver"]


def test_five_kills_lose_nothing_repeat_nothing_and_break_no_bound(stand_in_run, nodes: Nodes) -> None:
    told = kill_and_finish(stand_in_run, nodes, CI_KILLS, seed=1, steps=16)
    assert "16 steps; 64 groups issued, 128 trajectories completed" in told
    assert "was abandoned" in told


@pytest.mark.soak
@pytest.mark.timeout(5400)
def test_fifty_kills_lose_nothing_repeat_nothing_and_break_no_bound(stand_in_run, nodes: Nodes) -> None:
    choice = random.Random(50)
    every = [*CI_KILLS, "generator", "sandbox engine"]
    told = kill_and_finish(stand_in_run, nodes, [choice.choice(every) for _ in range(50)], seed=2, steps=150)
    assert "150 steps; 600 groups issued, 1200 trajectories completed" in told


def test_a_generator_stopped_in_a_weight_update_is_named_and_replaced_and_delays_nobody(
    stand_in_run, nodes: Nodes
) -> None:
    run: StandInRun = stand_in_run(
        engine={"tokens_per_s": 60.0, "load_s": 0.3},
        stage={"learner": {"num_steps": 300}},
        generators={"count": 2, "push_timeout_s": 20.0, "push_grace_s": 3.0},
    )
    run.start(nodes.address)
    run.wait(lambda: run.steps >= 2, 500.0, "two steps")
    stopped: list[int] = []

    def stop() -> bool:
        try:
            stopped.append(int((run.model / PUSH_MARK).read_text()))
            os.kill(stopped[-1], signal.SIGSTOP)
        except (FileNotFoundError, ValueError, ProcessLookupError):
            return False
        return True

    run.wait(stop, 60.0, "a weight update")
    at, before = time.monotonic(), run.steps
    pid = stopped[-1]
    run.wait(lambda: run.steps >= before + 3, 60.0, "three more steps")
    delayed = time.monotonic() - at
    run.wait(lambda: any(f"process {pid})" in event["who"] for event in run.events("lost")), 40.0, "an error by name")
    (lost,) = [event for event in run.events("lost") if f"process {pid})" in event["who"]]
    assert "did not" in lost["why"]
    assert time.monotonic() - at < 20.0 + 15.0
    run.wait(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie", 30.0, "the end of it")
    run.wait(lambda: len(run.events("serves")) >= 4, 120.0, "a replacement")
    print(f"three steps after the stop: {delayed:.1f} s", lost)
    pushes = [line["time/push_s"] for line in read_lines(run.root / "metrics.jsonl") if "time/push_s" in line]
    assert max(pushes) < 10.0, pushes
    assert run.process is not None
    run.process.send_signal(signal.SIGTERM)
    assert run.process.wait(100) == 130
    assert "checkpoint L" in run.log.read_text()
    newest = run.steps
    assert sorted(Path(run.root / "stages/ppo/checkpoints").glob(f"L*.S{newest}"))
    run.verify()
