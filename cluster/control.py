"""How people talk to a run that is being driven: request files in its folder, answered by the driver.

    control/ID.request.json  --(renamed into place by `crucible scale`)-->  driver  --> control/ID.answer.json

Files, not an actor: every node of a run sees its folder anyway, a folder names one driver where a machine may hold
several Ray clusters, and nobody needs to join Ray (seconds, a token) to say one sentence. See docs/decisions.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from cluster.errors import RunFolderError, ScaleError
from cluster.run_folder import RunFolder, write_atomically

POLL_S = 0.3
_ANSWER_TIMEOUT_S = 30.0
REQUEST, ANSWER = ".request.json", ".answer.json"


class ScaleRequest(BaseModel):
    """How many actors there shall be from now on."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    generators: int | None = Field(default=None, ge=1)
    """None: as many as there are."""
    executors: int | None = Field(default=None, ge=1)
    """None: as many as there are."""
    wait_s: float = Field(default=0.0, ge=0)
    """Seconds that the cluster may take to grow, where Ray's autoscaler can add nodes."""


class Answer(BaseModel):
    """What the driver says. ``sentence`` says what was done, or why it was not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    done: bool
    sentence: str


def ask(root: Path, request: ScaleRequest) -> str:
    """Puts a request to the driver of the run in ``root`` and returns what it says.

    Raises:
        RunFolderError: there is no such run, or nobody drives it, or the driver does not answer.
        ScaleError: the driver refuses.
    """
    if not (root / "config.yaml").exists():
        raise RunFolderError(f"{root} holds no run: there is no config.yaml in it")
    if not is_driven(root):
        raise RunFolderError(f"run {root.name!r} is not running; set the counts in its recipe instead")
    folder = RunFolder(root).control
    folder.mkdir(exist_ok=True)
    name = f"{time.time_ns()}-{os.getpid()}"
    write_atomically(folder / f"{name}{REQUEST}", request.model_dump_json())
    answer_file = folder / f"{name}{ANSWER}"
    timeout_s = request.wait_s + _ANSWER_TIMEOUT_S
    deadline = time.monotonic() + timeout_s
    while not answer_file.exists():
        if time.monotonic() > deadline:
            (folder / f"{name}{REQUEST}").unlink(missing_ok=True)
            raise RunFolderError(f"the driver of run {root.name!r} did not answer within {timeout_s:g} s")
        time.sleep(POLL_S / 3)
    answer = Answer.model_validate(json.loads(answer_file.read_text()))
    answer_file.unlink()
    if not answer.done:
        raise ScaleError(answer.sentence)
    return answer.sentence


def is_driven(root: Path) -> bool:
    """Whether a driver holds the run's lock now."""
    try:
        with (root / "driver.lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
