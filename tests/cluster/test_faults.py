"""What dies is replaced, what it held is issued again, and the files agree: several Ray nodes, stand-in engine."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.ledger import surviving_steps
from cluster.run_folder import read_lines
from tests.cluster.conftest import StandInRun
from tests.cluster.ray_nodes import Nodes, kill_and_finish
from tests.stand_in_actor import PUSH_MARK

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    made = Nodes()
    yield made
    made.cluster.shutdown()


CI_KILLS = ["generator in a push", "executor", "trainer", "raylet", "driver"]


def test_five_kills_lose_nothing_repeat_nothing_and_break_no_bound(stand_in_run, nodes: Nodes) -> None:
    run = kill_and_finish(stand_in_run, nodes, CI_KILLS, seed=1, steps=16)
    told = run.verify()
    assert "16 steps; 64 groups issued, 128 trajectories completed" in told
    assert "was abandoned" in told
    lost, repeated = plant_a_loss_and_a_repeat(run)
    verified = run.crucible("verify", str(run.root))
    assert verified.returncode == 1
    assert "1 lost, 1 repeated" in verified.stdout
    assert f"{lost} was offered to step" in verified.stdout
    assert f"{repeated} was trained 2 times" in verified.stdout


def plant_a_loss_and_a_repeat(run: StandInRun) -> tuple[str, str]:
    """Takes one trajectory out of the records of the last step, and writes one of the step before in its place."""
    ledger = run.root / "stages" / "ppo" / "ledger.jsonl"
    before, last = surviving_steps(ledger)[-2:]
    lost, repeated = last.trained[0], before.trained[0]
    path = ledger.parent / "steps" / f"L{last.version.lineage}.jsonl"
    records = read_lines(path)
    records[-1]["trained"].remove(lost)
    records[-1]["trained"].append(repeated)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return lost, repeated


def test_a_generator_stopped_in_a_weight_update_is_named_and_replaced_and_delays_nobody(
    stand_in_run, nodes: Nodes
) -> None:
    run: StandInRun = stand_in_run(
        engine={"tokens_per_s": 60.0, "load_s": 0.3},
        stage={"learner": {"num_steps": 300}},
        generators={
            "count": 2,
            "push_timeout_s": 20.0,
            "push_grace_s": 3.0,
            "engine": {"weight_transport": "shm"},
        },
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
    deadline = time.monotonic() + 30.0  # Ray kills in 5 s one that does not answer
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie":
        assert time.monotonic() < deadline, (psutil.Process(pid).status(), nodes.logged(f"={pid}", f"pid: {pid}"))
        time.sleep(0.1)
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
    logged = {line["step"]: line for line in read_lines(run.root / "metrics.jsonl") if line["stage"] == "ppo"}
    assert sorted(logged.keys() - {0}) == list(range(1, newest + 1))  # also the one that it was told to stop in
    assert all(line.get("time/step_s", 1.0) > 0 for line in logged.values())
    run.verify()
