"""Commands about jobs where there is no cluster; what becomes of a secret on one machine."""

import os
import subprocess
import sys
import types
import uuid
from pathlib import Path

import aiohttp
import pytest
import requests

from cluster import secrets
from cluster.config import RunConfig
from cluster.errors import ClusterError, ConfigError, FollowingEndedError
from cluster.jobs import follow_log, print_log, require_success, stop_job, submit
from cluster.panel import Panel
from cluster.recipe import load_recipe
from problems.problem import FunctionSuite, Limits
from sandbox import Backend, Program, SandboxConfig, open_executor

CRUCIBLE = str(Path(sys.executable).with_name("crucible"))
RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "quickstart.yaml"
SECRET = f"hf_planted_{uuid.uuid4().hex}"


def one_sentence(*command: str) -> str:
    process = subprocess.run([CRUCIBLE, *command], capture_output=True, text=True, timeout=250, check=False)
    assert process.returncode != 0
    assert "Traceback" not in process.stdout + process.stderr
    assert process.stderr.count("\n") == 1, process.stderr
    return process.stderr


def config() -> RunConfig:
    return load_recipe(RECIPE)


@pytest.mark.parametrize(
    "command",
    [["submit", str(RECIPE)], ["status"], ["stop", "job"], ["logs", "job"]],
    ids=lambda command: command[0],
)
def test_no_cluster_is_one_sentence(command: list[str]) -> None:
    said = one_sentence(*command, "--address", "http://127.0.0.1:1")
    assert "no Ray cluster answers at http://127.0.0.1:1" in said


@pytest.mark.parametrize("command", ["status", "logs", "stop"])
def test_what_is_neither_a_run_nor_a_job_is_one_sentence(command: str) -> None:
    assert "'runs/absent' is no run's folder" in one_sentence(command, "runs/absent")


class ClientOf:
    """Ray's job client before a cluster that ends, or a person who has seen enough, after a line of the log."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    async def tail_job_logs(self, job: str):
        yield f"{job} says this\n"
        raise self.error

    def get_job_info(self, job: str):
        if job == "started":
            return types.SimpleNamespace(status=types.SimpleNamespace(is_terminal=lambda: False))
        raise self.error

    def stop_job(self, _: str) -> None:
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Request failed with status code 502"),
        requests.exceptions.ConnectionError("refused"),
        aiohttp.ServerDisconnectedError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_cluster_that_goes_away_is_one_sentence(error: Exception) -> None:
    said: list[str] = []
    calls = [
        lambda: follow_log(ClientOf(error), "job", said.append),
        lambda: require_success(ClientOf(error), "job"),
        lambda: stop_job(ClientOf(error), "started", said.append),
    ]
    for call in calls:
        with pytest.raises(ClusterError, match=r"does not answer any more .*; job (job|started) may go on"):
            call()
    assert said == ["job says this"]


def test_following_that_is_interrupted_says_that_the_job_goes_on(tmp_path: Path) -> None:
    with pytest.raises(FollowingEndedError, match=r"job 7 goes on; .*crucible stop ends it") as ended:
        follow_log(ClientOf(KeyboardInterrupt()), "7", print)
    assert ended.value.exit_code == 130

    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    (tmp_path / "run.log").write_text("a line\n")
    with pytest.raises(FollowingEndedError, match=f"run {tmp_path.name} goes on"):
        print_log(tmp_path, True, interrupt)


def test_a_secret_as_an_ordinary_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.jobs.job_client", lambda _: None)
    with pytest.raises(ConfigError, match="--env HF_TOKEN would end in Ray's logs"):
        submit(config(), "here", environment=["HF_TOKEN=x"], follow=False, say=print)
    with pytest.raises(ConfigError, match="not of the form NAME=VALUE"):
        submit(config(), "here", environment=["NAME"], follow=False, say=print)


def test_processes_that_are_started_inherit_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    with secrets.hidden():
        child = subprocess.run(["env"], capture_output=True, text=True, check=True)
    assert SECRET not in child.stdout
    assert os.environ["HF_TOKEN"] == SECRET


def test_the_log_has_plain_lines_whatever_the_console_is(tmp_path: Path) -> None:
    with (tmp_path / "run.log").open("w") as log:
        panel = Panel("title", {"base": "sft"}, log=log)
        panel.begin("base", 2)
        panel.end("base")
    assert "base: started" in (tmp_path / "run.log").read_text()


async def test_a_program_in_the_sandbox_finds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    source = b"""
def found():
    import glob, os
    texts = [repr(dict(os.environ))]
    for path in glob.glob("/proc/*/environ"):
        try:
            texts.append(open(path, errors="replace").read())
        except OSError:
            pass
    return " ".join(texts)
"""
    suite = FunctionSuite(("found",), "", ("assert 'hf_planted' not in found()", "assert len(found()) > 2"))
    executor = await open_executor(SandboxConfig(backend=Backend.EMBEDDED, slots=1))
    try:
        verdict = await executor.run(Program("python", source), suite, Limits(cpu_s=5.0, wall_s=60.0))
    finally:
        await executor.close()
    assert verdict.passed, verdict
