"""Runs as Ray jobs; looking at, following and stopping runs: submitted ones by job id, local ones by folder."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from cluster import secrets
from cluster.config import RunConfig
from cluster.errors import ClusterError, ConfigError, FollowingEndedError, RunFolderError, first_line
from cluster.run_folder import RunFolder, StageFolder, read_lines

_RECIPE = "crucible-recipe.yaml"
_STOP_WAIT_S = 600.0  # for the checkpoint; Ray itself would give a job three seconds
_POLL_S = 0.5

Say = Callable[[str], None]


def submit(
    config: RunConfig,
    address: str,
    *,
    working_dir: Path | None = None,
    environment: Sequence[str] = (),
    follow: bool,
    say: Say,
) -> str:
    """Submits a run as a Ray job and returns its id; with ``follow`` prints its log until it ends.

    The recipe travels resolved. Its run folder is made absolute here: a path on storage that the cluster sees too.

    Args:
        address: of the dashboard (``http://head:8265``) or of the cluster (``head:6379``).
        working_dir: folder that travels with the job and in which it runs; none: the recipe alone.
        environment: ``NAME=VALUE`` for all of the job's processes; for secrets see ``cluster.secrets``.

    Raises:
        ClusterError: no cluster there, a wrong token, or (with ``follow``) a job that failed.
    """
    client = job_client(address)
    config = config.model_copy(update={"folder": config.folder.absolute()})
    variables = _variables(environment) | secrets.deposit(client)
    with _staged(config, working_dir) as root:
        job = client.submit_job(
            entrypoint=f"crucible run {_RECIPE}",
            runtime_env={
                "working_dir": str(root),
                "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": f"{_STOP_WAIT_S:.0f}", **variables},
            },
            metadata={"crucible_run": config.name, "crucible_folder": str(config.run_folder)},
        )
    say(f"job {job}: run {config.name}, folder {config.run_folder}")
    if follow:
        follow_log(client, job, say)
        require_success(client, job)
    return job


def _variables(environment: Sequence[str]) -> dict[str, str]:
    variables: dict[str, str] = {}
    for text in environment:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise ConfigError(f"--env {text!r} is not of the form NAME=VALUE")
        if name in secrets.SECRETS:
            raise ConfigError(
                f"--env {name} would end in Ray's logs; set it in this shell, it reaches the driver alone"
            )
        variables[name] = value
    return variables


@contextmanager
def _staged(config: RunConfig, working_dir: Path | None) -> Iterator[Path]:
    """The folder that travels, with the recipe in it while it is sent."""
    if working_dir is not None and not working_dir.is_dir():
        raise ConfigError(f"--working-dir {working_dir} is no folder")
    with tempfile.TemporaryDirectory() as staging:
        recipe = (working_dir or Path(staging)) / _RECIPE
        recipe.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        try:
            yield recipe.parent
        finally:
            recipe.unlink()


def job_client(address: str) -> Any:
    """Ray's job client. Raises ClusterError in one sentence where nothing answers or the token is refused."""
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    from cluster.session import TOKEN_HINT, check_answers

    bare = address.partition("://")[2] or address
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # RAY_ADDRESS would come before an address that was named
    try:
        check_answers(bare)
        return JobSubmissionClient(address)
    except AuthenticationError:
        raise ClusterError(f"the Ray cluster at {address} refused the token; {TOKEN_HINT}") from None
    except Exception as error:  # noqa: BLE001 (requests, Ray and sockets each have their own for no cluster)
        raise ClusterError(f"no Ray cluster answers at {address}: {first_line(error)}") from None


@contextmanager
def _cluster_that_may_go(job: str) -> Iterator[None]:
    """Raises ClusterError where the dashboard is gone, in whichever of its client's libraries that is noticed."""
    import aiohttp

    try:
        yield
    except BrokenPipeError:
        raise  # it is the reader of what is said who has gone
    except (RuntimeError, OSError, aiohttp.ClientError) as error:
        raise ClusterError(
            f"the cluster does not answer any more ({first_line(error)}); job {job} may go on: "
            f"crucible status {job} --address .. tells"
        ) from None


def follow_log(client: Any, job: str, say: Say) -> None:
    """Prints a job's log until the job ends.

    Raises FollowingEndedError when it is interrupted, which the job is not, and ClusterError if the cluster goes away.
    """

    async def tail() -> None:
        async for text in client.tail_job_logs(job):
            say(text.rstrip("\n"))

    try:
        with _cluster_that_may_go(job):
            asyncio.run(tail())
    except KeyboardInterrupt:
        raise FollowingEndedError(
            f"job {job} goes on; crucible logs {job} --follow --address .. follows it again, crucible stop ends it"
        ) from None


def require_success(client: Any, job: str) -> None:
    """Raises ClusterError if the job ended in anything but success."""
    with _cluster_that_may_go(job):
        info = client.get_job_info(job)
    if info.status.value != "SUCCEEDED":
        raise ClusterError(f"job {job} ended as {info.status.value}: {' '.join((info.message or '').split())}")


def known_job(client: Any, job: str) -> Any:
    """What Ray knows of a job. Raises ClusterError for one that it does not know."""
    try:
        return client.get_job_info(job)
    except RuntimeError:
        raise ClusterError(f"the cluster knows no job {job!r}; crucible status --address .. lists its jobs") from None


def print_jobs(client: Any, say: Say) -> None:
    """One line for each job of the cluster that is a Crucible run."""
    runs = [job for job in client.list_jobs() if "crucible_run" in (job.metadata or {})]
    for job in runs:
        say(f"{job.submission_id}  {job.status.value}  run {job.metadata['crucible_run']}")
    if not runs:
        say("no run was submitted to this cluster")


def print_job(client: Any, job: str, say: Say) -> None:
    """State of one job, and of its run where the folder is seen from here."""
    info = known_job(client, job)
    message = " ".join((info.message or "").split())
    say(f"job {job}: {info.status.value}" + (f" ({message})" if message else ""))
    folder = (info.metadata or {}).get("crucible_folder")
    if folder and (Path(folder) / "config.yaml").exists():
        print_run(Path(folder), say)


def print_run(root: Path, say: Say) -> None:
    """What is done, what runs, and the last figures of a run's folder."""
    config = yaml.safe_load((root / "config.yaml").read_text())
    driver = driver_pid(root)
    say(f"run {root.name}: " + (f"driven by process {driver}" if driver else "no driver"))
    for stage in config["stages"]:
        manifest = StageFolder(root / "stages" / stage["name"]).manifest()
        say(f"  {stage['name']} ({stage['kind']}): " + (f"done in {manifest['seconds']:g} s" if manifest else "open"))
    if records := read_lines(RunFolder(root).metrics):
        last = records[-1]
        figures = [f"{name} {last[name]:.4g}" for name in _SHOWN if isinstance(last.get(name), int | float)]
        say(f"  last: {last['stage']} step {last['step']}  " + "  ".join(figures))


_SHOWN = ("rollout/pass_rate", "rollout/reward", "policy/kl_reference", "sft/loss", "evaluate/sampled_pass_at_1")


def driver_pid(root: Path) -> int | None:
    """Process that holds the run's lock on this machine; None if none does."""
    path = root / "driver.lock"
    if not path.exists():
        return None
    with path.open("r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            text = lock.read().strip()
            return int(text) if text.isdecimal() else None
    return None


def stop_run(root: Path, say: Say, timeout_s: float = _STOP_WAIT_S) -> None:
    """Ends the driver on this machine as SIGTERM does: a checkpoint, then the actors; waits for it."""
    pid = driver_pid(root)
    if pid is None:
        say(f"run {root.name} is not running")
        return
    if not psutil.pid_exists(pid) or "crucible" not in " ".join(psutil.Process(pid).cmdline()):
        raise RunFolderError(
            f"run {root.name} is driven by process {pid} of another machine; stop it there, or its job with --address"
        )
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout_s
    while driver_pid(root) == pid:
        if time.monotonic() > deadline:
            raise RunFolderError(f"run {root.name}: process {pid} did not end within {timeout_s:g} s of SIGTERM")
        time.sleep(_POLL_S)
    say(f"run {root.name} has stopped; the same command goes on with it")


def stop_job(client: Any, job: str, say: Say, timeout_s: float = _STOP_WAIT_S) -> None:
    """Ends a job in order (SIGTERM: a checkpoint first) and waits for it."""
    if known_job(client, job).status.is_terminal():
        say(f"job {job} has ended already")
        return
    deadline = time.monotonic() + timeout_s
    with _cluster_that_may_go(job):
        client.stop_job(job)
        while not (status := client.get_job_status(job)).is_terminal():
            if time.monotonic() > deadline:
                raise ClusterError(f"job {job} did not end within {timeout_s:g} s of being told to stop")
            time.sleep(_POLL_S)
    say(f"job {job}: {status.value}")


def print_log(root: Path, follow: bool, say: Say) -> None:
    """The run's log; with ``follow`` until its driver ends, or FollowingEndedError when that is interrupted."""
    path = RunFolder(root).log
    if not path.exists():
        raise RunFolderError(f"run {root.name} has no log yet")
    try:
        with path.open() as log:
            while True:
                driven = driver_pid(root) is not None  # asked first: what is written before the end is still read
                for line in log:
                    say(line.rstrip("\n"))
                if not follow or not driven:
                    return
                time.sleep(_POLL_S)
    except KeyboardInterrupt:
        raise FollowingEndedError(f"run {root.name} goes on; crucible stop {root} ends it") from None


def is_run(what: str) -> bool:
    """Whether ``what`` is a run's folder."""
    return (Path(what) / "config.yaml").is_file()


def refuse_unknown(what: str) -> None:
    """Raises ConfigError: neither a folder nor, without an address, a job."""
    raise ConfigError(f"{what!r} is no run's folder; for a submitted run name its job and the cluster (--address)")
