"""A run's folder: what it holds, who may write it, and which stages are done.

runs/NAME/
  config.yaml              the resolved config
  driver.lock              held (flock) by the one driver
  lineages.jsonl           one line for each start of a stage: lineage, stage, time, process
  metrics.jsonl            one line for each measurement
  run.log                  what the panel says, as plain lines
  timeline.jsonl           spans: who did what from when to when
  events.jsonl             actors that were lost, replaced, scaled; problems that were set aside
  control/                 requests to a running driver, and its answers
  tensorboard/             the same metrics
  report.html
  stages/STAGE/
    manifest.json          written last: the stage is done, with the hashes of what went in
    model/                 a Hugging Face folder, where the stage makes a model
    models/step-STEP/      likewise, from the middle of a ppo stage (export_steps)
    checkpoints/           of the learner, where the stage trains
    trajectories/          the journal, Parquet
    ledger.jsonl           what the driver began, issued and completed
    steps/                 what each optimizer step trained and dropped, one file a lineage, written by the trainer
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from actors.lines import append_line
from cluster.errors import RunFolderError


def write_atomically(path: Path, text: str) -> None:
    """Writes aside, syncs and renames: a reader sees the old file or the new one, never a part."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All whole JSON lines of a file; a torn last line, left by a kill, is passed over."""
    if not path.exists():
        return []
    records: list[dict[str, Any]] = []
    lines = path.read_text(encoding="utf-8").split("\n")
    for index, line in enumerate(lines):
        if not line:
            continue
        try:
            records.append(json.loads(line))
        except ValueError:
            if index < len(lines) - 1 and any(lines[index + 1 :]):
                raise RunFolderError(
                    f"{path}:{index + 1} is not JSON; the file was damaged, restore or remove it"
                ) from None
    return records


def mend_torn_line(path: Path) -> None:
    """Cuts a torn last line off, so that the next append starts a line of its own."""
    if path.exists():
        data = path.read_bytes()
        if data and not data.endswith(b"\n"):
            path.write_bytes(data[: data.rfind(b"\n") + 1])


def digest(value: Any) -> str:
    """Sixteen hex digits of a JSON-like value."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Finished:
    """A stage that is done, with its manifest."""

    name: str
    kind: str
    manifest: dict[str, Any]


class StageFolder:
    """One stage's part of a run's folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.model = root / "model"
        self.checkpoints = root / "checkpoints"
        self.trajectories = root / "trajectories"
        self.ledger = root / "ledger.jsonl"
        self._manifest = root / "manifest.json"

    def model_at(self, step: int) -> Path:
        """Where the model lies that a ppo stage exports after ``step`` steps."""
        return self.root / "models" / f"step-{step:06d}"

    def manifest(self) -> dict[str, Any] | None:
        """The manifest of a finished stage, None before that."""
        return json.loads(self._manifest.read_text()) if self._manifest.exists() else None

    def finish(self, manifest: dict[str, Any]) -> None:
        """Marks the stage as done. Called last, when all its artifacts are on disk."""
        write_atomically(self._manifest, json.dumps(manifest, indent=2, sort_keys=True))


class RunFolder:
    """The folder of one run, locked while this object is open."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.metrics = root / "metrics.jsonl"
        self.timeline = root / "timeline.jsonl"
        self.log = root / "run.log"
        self.tensorboard = root / "tensorboard"
        self.events = root / "events.jsonl"
        self.control = root / "control"
        self.hub = root / "hub"
        self.report = root / "report.html"
        self.lineages = root / "lineages.jsonl"

    def stage(self, name: str) -> StageFolder:
        folder = StageFolder(self.root / "stages" / name)
        folder.root.mkdir(parents=True, exist_ok=True)
        return folder

    def begin_lineage(self, stage: str) -> int:
        """A number that nothing in this run has used before, written down before any weights bear it."""
        mend_torn_line(self.lineages)
        used = [record["lineage"] for record in read_lines(self.lineages)]
        lineage = max(used, default=-1) + 1
        append_line(self.lineages, {"lineage": lineage, "stage": stage, "time": time.time(), "pid": os.getpid()})
        return lineage

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Refuses a second driver. The lock ends with the process, however it ends."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock = (self.root / "driver.lock").open("a+")
        except OSError as error:
            raise RunFolderError(
                f"run folder {self.root} cannot be written ({error.strerror}); choose another with --folder"
            ) from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise RunFolderError(
                        f"run folder {self.root} is on a file system without locks ({error.strerror}), so a second "
                        "driver could not be refused; choose another with --folder"
                    ) from None
                lock.seek(0)
                raise RunFolderError(
                    f"run {self.root.name!r} is already driven by process {lock.read().strip() or 'unknown'}; "
                    "stop it, or give this run another name"
                ) from None
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            ledgers = [*self.root.glob("stages/*/ledger.jsonl"), *self.root.glob("stages/*/steps/*.jsonl")]
            for path in (self.metrics, self.timeline, self.events, *ledgers):
                mend_torn_line(path)
            yield

    def save_config(self, resolved: dict[str, Any], resume_fields: dict[str, Any]) -> None:
        """Writes the resolved config; a run that exists must have the same one in all that its results depend on."""
        path = self.root / "config.yaml"
        stamp = self.root / "config.digest"
        if stamp.exists() and stamp.read_text() != digest(resume_fields):
            raise RunFolderError(
                f"run {self.root.name!r} was started with another config (see {path}); "
                "use that config again, or give this run another name"
            )
        write_atomically(path, yaml.safe_dump(resolved, sort_keys=False))
        write_atomically(stamp, digest(resume_fields))
