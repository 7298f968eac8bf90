"""Several Ray nodes on this machine, and what kills parts of a run on them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.gcs_pb2 import GcsNodeInfo

from cluster.session import free_port
from tests.cluster.conftest import StandInRun
from tests.patient_ray import be_patient
from tests.stand_in_actor import PUSH_MARK

ALIVE = GcsNodeInfo.GcsNodeState.ALIVE
NODE = {"num_cpus": 4, "resources": {"sandbox": 2}}
_HEAD_TYPE = "ray.head.default"  # the only name that the provider knows it by
_SETUP = (
    "cluster_synced_files", "initialization_commands", "setup_commands", "head_setup_commands",
    "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands",
)  # fmt: skip


class Nodes:
    """A Ray cluster of several nodes; ``head``: what its first one has besides."""

    def __init__(self, head: dict[str, Any] | None = None) -> None:
        be_patient()
        urgent = {"_system_config": {"worker_niceness": 0}}  # as in a cluster that `crucible run` starts
        first = {"num_cpus": 2, "resources": {"sandbox": 1}} | urgent | (head or {})
        self.cluster = Cluster(initialize_head=True, head_node_args=first)
        self.nodes = [self.cluster.add_node(**NODE) for _ in range(2)]

    @property
    def address(self) -> str:
        return self.cluster.address

    def processes(self, name: str) -> list[psutil.Process]:
        """The actors of a class, oldest first."""
        raylets = [node.all_processes["raylet"][0].process.pid for node in [self.cluster.head_node, *self.nodes]]
        children = [
            child for raylet in raylets if psutil.pid_exists(raylet) for child in psutil.Process(raylet).children()
        ]
        return sorted((child for child in children if _is_actor(child, name)), key=lambda child: child.create_time())

    def logged(self, *texts: str) -> list[str]:
        """What Ray's own processes logged with one of these texts in it, and how actors were ended."""
        logs = sorted(Path(self.cluster.head_node.get_logs_dir_path()).glob("*.out"))
        wanted = (*texts, "Destroying actor", "force killing")
        lines = (line for log in logs for line in log.read_text(errors="replace").splitlines())
        return [line for line in lines if any(text in line for text in wanted)]

    def lose_a_node(self, choice: random.Random) -> None:
        """kill -9 of a raylet (its workers follow); another node joins."""
        node = choice.choice(self.nodes)
        self.nodes.remove(node)
        os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
        self.cluster.remove_node(node, allow_graceful=False)
        self.nodes.append(self.cluster.add_node(**NODE))


def _is_actor(process: psutil.Process, name: str) -> bool:
    try:
        return process.name().startswith(f"ray::{name}") or f"ray::{name}" in " ".join(process.cmdline()[:1])
    except psutil.NoSuchProcess:  # it ends at this moment
        return False


class GrowingNodes:
    """A head with Ray's autoscaler, whose provider makes nodes of one CPU as processes of this machine.

    Not ``ray.cluster_utils.AutoscalingCluster``: that ends every Ray process of the machine, whoever's.
    """

    def __init__(self, folder: Path, *, head: dict[str, float], max_nodes: int) -> None:
        agents = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port")
        ports = {name: free_port() for name in ("port", "metrics-export-port", *agents)}
        self.address = f"127.0.0.1:{ports['port']}"
        nothing_to_set_up = {key: {} for key in ("auth", "docker", "file_mounts")} | {key: [] for key in _SETUP}
        config = nothing_to_set_up | {
            "cluster_name": "processes",
            "provider": {
                "type": "fake_multinode",
                "gcs_address": self.address,
                "use_node_id_as_ip": True,  # they all have this machine's
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
            },
            "max_workers": max_nodes,
            "idle_timeout_minutes": 0.1,
            "upscaling_speed": 1.0,
            "head_node_type": _HEAD_TYPE,
            "available_node_types": {
                "small": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": max_nodes},
                _HEAD_TYPE: {"resources": head, "node_config": {}, "max_workers": 0},
            },
        }
        (folder / "autoscaling.json").write_text(json.dumps(config))
        custom = {name: amount for name, amount in head.items() if name != "CPU"}
        command = [sys.executable, "-c", _PATIENT_START, "start", "--head", "--block", "--include-dashboard=false"]
        command += ["--node-ip-address=127.0.0.1", f"--num-cpus={head['CPU']:g}", f"--resources={json.dumps(custom)}"]
        command += [f"--autoscaling-config={folder / 'autoscaling.json'}"]
        command += [f"--{name}={port}" for name, port in ports.items()]
        # Nodes of the provider are told apart by ids of its own; version 2 of the autoscaler does not know it.
        environment = os.environ | {
            "RAY_worker_niceness": "0",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_AUTH_MODE": "disabled",  # whatever tokens this machine has
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        }
        environment |= {"RAY_agent_register_timeout_ms": "180000", "RAY_USAGE_STATS_ENABLED": "0"}
        with (folder / "head.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        deadline = time.monotonic() + 180
        while "Ray runtime started" not in (folder / "head.log").read_text():
            assert self._process.poll() is None, (folder / "head.log").read_text()
            assert time.monotonic() < deadline, (folder / "head.log").read_text()
            time.sleep(0.5)

    @property
    def count(self) -> int:
        """Living nodes, the head among them."""
        nodes = GcsClient(address=self.address).get_all_node_info()
        return sum(node.state == ALIVE for node in nodes.values())

    def end(self) -> None:
        """Ends what this one started, and nothing else of Ray's."""
        ours = [psutil.Process(self._process.pid), *psutil.Process(self._process.pid).children(recursive=True)]
        for process in ours:
            if process.is_running():
                process.kill()
        self._process.wait()


# ``ray start`` with more patience than the 30 s that Ray gives a node.
_PATIENT_START = "from tests.patient_ray import be_patient; be_patient(); from ray.scripts.scripts import main; main()"


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
            "scorer": lambda: self.kill_one(self.nodes.processes("ScorerActor")),
            "copy of weights": lambda: self.kill_one(self.nodes.processes("NodeCopy")),
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
    make_run: Callable[..., StandInRun],
    nodes: Nodes,
    targets: list[str],
    *,
    seed: int,
    steps: int,
    stage: dict[str, Any] | None = None,
    **run_fields: Any,
) -> StandInRun:
    """A run that is hit by each of ``targets`` in turn and goes to its end all the same."""
    run = make_run(
        engine={"tokens_per_s": 60.0, "load_s": 0.15, "max_num_seqs": 8},
        stage={"learner": {"num_steps": steps}, "checkpoint_every_steps": 2} | (stage or {}),
        **run_fields,
    )
    run.start(nodes.address)
    killer = Killer(run, nodes, seed)
    for target in targets:
        killer.kill(target)
    run.finish(900.0)
    print("\n".join(str(event) for event in run.events()))
    return run
