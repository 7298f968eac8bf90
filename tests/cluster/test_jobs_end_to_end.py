"""Runs as jobs of a cluster with token authentication on; what becomes of a secret on the way."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import yaml

from cluster import secrets
from cluster.jobs import driver_pid
from cluster.session import free_port

BIN = Path(sys.executable).parent
SECRET = f"hf_planted_{uuid.uuid4().hex}"


def recipe(folder: Path, name: str, max_steps: int) -> Path:
    stage = {"kind": "sft", "name": "base", "corpus": {"count": 60}, "vocab_size": 400}
    stage["new_model"] = {"hidden_size": 32, "head_dim": 32, "intermediate_size": 64, "num_layers": 1}
    stage["train"] = {"max_steps": max_steps, "batch_examples": 4}
    path = folder / f"{name}.yaml"
    supervision = {"health_timeout_s": 200.0}  # a busy machine is no fault
    run = {"name": name, "folder": str(folder / "runs"), "supervision": supervision, "stages": [stage]}
    path.write_text(yaml.safe_dump(run))
    return path


@dataclass(frozen=True)
class Head:
    """A cluster of one node that was started with a token."""

    folder: Path
    environment: dict[str, str]
    gcs: str
    dashboard: str
    session: Path

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        whole = self.environment | environment
        return subprocess.run(
            [str(BIN / command[0]), *command[1:]], capture_output=True, text=True, env=whole, timeout=280, check=False
        )

    def get(self, path: str) -> str:
        token = Path(self.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
        answer = requests.get(self.dashboard + path, headers={"Authorization": f"Bearer {token}"}, timeout=30)
        answer.raise_for_status()
        return answer.text


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    folder = tmp_path_factory.mktemp("jobs")
    session = Path(f"/tmp/ray-{uuid.uuid4().hex[:8]}")  # sockets lie in it: their paths must be short
    (folder / "token").write_text(uuid.uuid4().hex * 2)
    # The agent's ports too: 52365 is taken where another cluster runs, and Ray then goes on without jobs.
    agents = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port")
    ports = {name: free_port() for name in ("port", "dashboard-port", "metrics-export-port", *agents)}
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("RAY_") and name not in secrets.SECRETS
    }
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_agent_register_timeout_ms": "180000"}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    environment |= {
        "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "180",
        "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": "180",
    }
    environment["PATH"] = f"{BIN}:{environment['PATH']}"
    head = Head(
        folder, environment, f"127.0.0.1:{ports['port']}", f"http://127.0.0.1:{ports['dashboard-port']}", session
    )  # fmt: skip
    flags = [f"--{name}={port}" for name, port in ports.items()]
    command = ["start", "--head", "--block", "--num-cpus=4", "--include-dashboard=true", "--node-ip-address=127.0.0.1"]
    command = [sys.executable, "-c", _PATIENT_START, *command, f"--temp-dir={session}", *flags]
    process = next(filter(None, (_started_head(head, command) for _ in range(4))), None)
    assert process is not None, (folder / "head.log").read_text()
    try:
        yield head
    finally:
        process.terminate()
        process.wait(60)
        subprocess.run(["rm", "-rf", str(session)], check=False)


def _started_head(head: Head, command: list[str]) -> subprocess.Popen[bytes] | None:
    """None if it ended: Ray's raylet gives its own agents half a minute to start, which a busy machine may miss."""
    with (head.folder / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=head.environment, stdout=log, stderr=log)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        try:
            head.get("/api/jobs/")
            if "Ray runtime started" in (head.folder / "head.log").read_text():
                return process
        except requests.RequestException:
            pass
        time.sleep(1)
    process.terminate()
    process.wait(60)
    return None


# ``ray start``, but for the 30 s that Ray gives a node to start: on a busy machine the dashboard alone takes longer.
_PATIENT_START = """
import time
from ray._private import services
from ray.scripts.scripts import main
ask = services.get_node
def patiently(*arguments):
    deadline = time.monotonic() + 240
    while True:
        try:
            return ask(*arguments)
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
services.get_node = patiently
main()
"""


def places_of_the_secret(*folders: Path) -> list[Path]:
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in files if SECRET.encode() in path.read_bytes()]


@pytest.mark.timeout(600)
def test_a_submitted_run_goes_to_its_end_and_its_secret_nowhere(head: Head) -> None:
    path = recipe(head.folder, "submitted", 2)
    done = head.run("crucible", "submit", str(path), "--address", head.dashboard, HF_TOKEN=SECRET)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "base: done" in done.stdout  # the log came along
    root = head.folder / "runs" / "submitted"
    assert (root / "stages" / "base" / "model" / "config.json").exists()
    (job,) = [job for job in json.loads(head.get("/api/jobs/")) if job["metadata"].get("crucible_run") == "submitted"]
    assert job["status"] == "SUCCEEDED"
    assert job["metadata"]["crucible_folder"] == str(root)
    assert SECRET not in json.dumps(job)
    assert places_of_the_secret(root, head.session, head.folder) == []
    assert (
        f"{job['submission_id']}  SUCCEEDED  run submitted"
        in head.run("crucible", "status", "--address", head.dashboard).stdout
    )
    local = head.run("crucible", "status", str(root)).stdout
    assert "no driver" in local
    assert "base (sft): done" in local


@pytest.mark.timeout(900)
def test_a_run_can_be_watched_and_stopped_while_a_plain_ray_job_goes_to_its_end(head: Head) -> None:
    path = recipe(head.folder, "long", 1_000_000)
    sent = head.run("crucible", "submit", str(path), "--address", head.dashboard, "--no-wait")
    assert sent.returncode == 0, sent.stdout + sent.stderr
    job = sent.stdout.split()[1].rstrip(":")

    recipe(head.folder, "plain", 2)
    done = head.run(
        "ray", "job", "submit", "--address", head.dashboard, "--submission-id=plain",
        f"--working-dir={head.folder}", "--", "crucible", "run", "plain.yaml",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (head.folder / "runs" / "plain" / "stages" / "base" / "model" / "config.json").exists()
    jobs = {one["submission_id"]: one["status"] for one in json.loads(head.get("/api/jobs/"))}
    assert jobs["plain"] == "SUCCEEDED"

    deadline = time.monotonic() + 300
    while "ray_crucible_sft_loss{" not in exported(head):
        log = head.run("crucible", "logs", job, "--address", head.dashboard).stdout
        assert time.monotonic() < deadline, log
        time.sleep(2)
    status = head.run("crucible", "status", job, "--address", head.dashboard).stdout
    assert f"job {job}: RUNNING" in status
    assert driver_pid(head.folder / "runs" / "long") is not None
    stopped = head.run("crucible", "stop", job, "--address", head.dashboard)
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert f"job {job}: STOPPED" in stopped.stdout
    assert driver_pid(head.folder / "runs" / "long") is None
    log = head.run("crucible", "logs", job, "--address", head.dashboard).stdout
    assert "base: started" in log
    assert "the same command goes on where this run stopped" in log


def exported(head: Head) -> str:
    """The metrics of all places that the dashboard's API names to Prometheus."""
    places = [place for group in json.loads(head.get("/api/prometheus/sd")) for place in group["targets"]]
    assert places, "the dashboard names no place of metrics"
    return "".join(requests.get(f"http://{place}/metrics", timeout=30).text for place in places)


def one_sentence(process: subprocess.CompletedProcess[str]) -> str:
    assert process.returncode != 0
    assert "Traceback" not in process.stdout + process.stderr
    assert process.stderr.count("\n") == 1, process.stderr
    return process.stderr


def test_a_wrong_token_is_one_sentence(head: Head) -> None:
    wrong = head.folder / "wrong"
    wrong.write_text("0" * 64)
    path = recipe(head.folder, "refused", 2)
    for command in (["submit", str(path), "--address", head.dashboard], ["status", "--address", head.dashboard]):
        process = head.run("crucible", *command, RAY_AUTH_TOKEN_PATH=str(wrong))
        assert "refused the token; set RAY_AUTH_MODE=token" in one_sentence(process)
    process = head.run("crucible", "plan", str(path), "--address", head.gcs, RAY_AUTH_TOKEN_PATH=str(wrong))
    assert "refused the token" in one_sentence(process)


def test_an_unknown_job_is_one_sentence(head: Head) -> None:
    process = head.run("crucible", "stop", "nobody", "--address", head.dashboard)
    assert "the cluster knows no job 'nobody'" in one_sentence(process)


def test_what_was_laid_down_is_taken_once(head: Head) -> None:
    script = (
        "import json, os; from ray.job_submission import JobSubmissionClient; from cluster import secrets\n"
        f"place = secrets.deposit(JobSubmissionClient({head.dashboard!r}))\n"
        "del os.environ['WANDB_API_KEY']; found = []\n"
        f"os.environ['RAY_ADDRESS'] = {head.gcs!r}\n"
        "for _ in range(2):\n"
        "    os.environ.update(place); secrets.take(); found.append(os.environ.pop('WANDB_API_KEY', None))\n"
        "print(json.dumps([found, list(place.values())[0]]))\n"
    )
    done = head.run("python", "-c", script, WANDB_API_KEY=SECRET)
    assert done.returncode == 0, done.stderr
    found, place = json.loads(done.stdout.splitlines()[-1])
    assert found == [SECRET, None]
    assert SECRET not in place
