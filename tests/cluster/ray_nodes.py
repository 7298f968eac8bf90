"""Several Ray nodes on this machine, and what kills parts of a run on them."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import psutil
from ray.cluster_utils import Cluster

from tests.cluster.conftest import StandInRun
from tests.patient_ray import be_patient
from tests.stand_in_actor import PUSH_MARK

NODE = {"num_cpus": 4, "resources": {"sandbox": 2}}


class Nodes:
    """A Ray cluster of several nodes."""

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
    make_run: Callable[..., StandInRun], nodes: Nodes, targets: list[str], *, seed: int, steps: int, **run_fields: Any
) -> StandInRun:
    """A run that is hit by each of ``targets`` in turn and goes to its end all the same."""
    run = make_run(
        engine={"tokens_per_s": 60.0, "load_s": 0.15, "max_num_seqs": 8},
        stage={"learner": {"num_steps": steps}, "checkpoint_every_steps": 2},
        **run_fields,
    )
    run.start(nodes.address)
    killer = Killer(run, nodes, seed)
    for target in targets:
        killer.kill(target)
    run.finish(900.0)
    print("\n".join(str(event) for event in run.events()))
    return run
