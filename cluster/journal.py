"""The journal: every complete group as Parquet, before anything is dropped.

Columns are the fields of ``learner.trajectory.Trajectory``; one file holds what one optimizer step was offered, and is
named by lineage and step. What became of each trajectory stands in the ledger, written by the step that trained it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from learner.trajectory import FinishReason, RewardEvent, Trajectory, Turn, VersionSpan
from problems.identity import TrajectoryId, WeightsVersion

_SPAN = pa.struct([("lineage", pa.int32()), ("step", pa.int32()), ("start", pa.int32()), ("end", pa.int32())])
_TURN = pa.struct(
    [
        ("prompt_ids", pa.list_(pa.int32())),
        ("completion_ids", pa.list_(pa.int32())),
        ("loss_mask", pa.list_(pa.bool_())),
        ("behaviour_logprobs", pa.list_(pa.float32())),
        ("spans", pa.list_(_SPAN)),
        ("finish_reason", pa.string()),
    ]
)
_EVENT = pa.struct([("term", pa.string()), ("token", pa.int32()), ("value", pa.float64())])

SCHEMA = pa.schema(
    [
        ("run", pa.string()),
        ("stage", pa.string()),
        ("epoch", pa.int32()),
        ("problem_id", pa.string()),
        ("sample_index", pa.int32()),
        ("attempt", pa.int32()),
        ("group", pa.int64()),
        ("turns", pa.list_(_TURN)),
        ("events", pa.list_(_EVENT)),
        ("reward", pa.float64()),
        ("passed", pa.bool_()),
        ("drop_reason", pa.string()),
        ("outcome", pa.string()),
        ("cpu_s", pa.float64()),
        ("program", pa.string()),
        ("signs", pa.list_(pa.string())),
        ("compile_error", pa.string()),
    ]
)

_IDENTITY = ("run", "stage", "epoch", "problem_id", "sample_index", "attempt")


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """A trajectory with what people want to see of its execution. ``outcome`` is empty where nothing was executed.

    ``signs``: of cheating, as the verdict has them. ``compile_error``: class of the first compile error, or empty.
    """

    trajectory: Trajectory
    program: bytes = b""
    outcome: str = ""
    cpu_s: float = 0.0
    signs: tuple[str, ...] = ()
    compile_error: str = ""

    @property
    def is_right(self) -> bool | None:
        """Whether its tests pass; empty ones and those that the limit cut fail, unexecuted. None: not known."""
        fails = self.outcome == "cut" or self.trajectory.drop_reason == "empty"
        return False if fails else self.trajectory.passed


def _turn_row(turn: Turn) -> dict[str, Any]:
    return {
        "prompt_ids": turn.prompt_ids,
        "completion_ids": turn.completion_ids,
        "loss_mask": turn.loss_mask,
        "behaviour_logprobs": turn.behaviour_logprobs,
        "spans": [
            {"lineage": span.version.lineage, "step": span.version.step, "start": span.start, "end": span.end}
            for span in turn.spans
        ],
        "finish_reason": turn.finish_reason.value,
    }


def _row(entry: JournalEntry) -> dict[str, Any]:
    trajectory = entry.trajectory
    identity = trajectory.id
    return {
        "run": identity.run,
        "stage": identity.stage,
        "epoch": identity.epoch,
        "problem_id": identity.problem_id,
        "sample_index": identity.sample_index,
        "attempt": identity.attempt,
        "group": trajectory.group,
        "turns": [_turn_row(turn) for turn in trajectory.turns],
        "events": [{"term": event.term, "token": event.token, "value": event.value} for event in trajectory.events],
        "reward": trajectory.reward,
        "passed": trajectory.passed,
        "drop_reason": trajectory.drop_reason,
        "outcome": entry.outcome,
        "cpu_s": entry.cpu_s,
        "program": entry.program.decode("utf-8", "replace"),
        "signs": entry.signs,
        "compile_error": entry.compile_error,
    }


def write_journal(folder: Path, version: WeightsVersion, entries: Sequence[JournalEntry]) -> Path:
    """Writes ``step-<step>.<lineage>.parquet`` atomically and returns its path.

    ``version`` is that of the weights *before* the optimizer step that these trajectories are offered to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = journal_path(folder, version)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    table = pa.Table.from_pylist([_row(entry) for entry in entries], schema=SCHEMA)
    try:
        pq.write_table(table, aside, compression="zstd")
        _sync(aside)
    except OSError as error:  # a full disk: what was written of it must not fill it further
        aside.unlink(missing_ok=True)
        error.filename = error.filename or str(path)
        raise
    aside.rename(path)
    return path


def journal_path(folder: Path, version: WeightsVersion) -> Path:
    """Where the trajectories lie that were offered to the step that began with ``version``."""
    return folder / f"step-{version.step:06d}.L{version.lineage}.parquet"


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _trajectory(row: dict[str, Any]) -> Trajectory:
    turns = tuple(
        Turn(
            prompt_ids=np.asarray(turn["prompt_ids"], np.int32),
            completion_ids=np.asarray(turn["completion_ids"], np.int32),
            loss_mask=np.asarray(turn["loss_mask"], np.bool_),
            behaviour_logprobs=np.asarray(turn["behaviour_logprobs"], np.float32),
            spans=tuple(
                VersionSpan(WeightsVersion(span["lineage"], span["step"]), span["start"], span["end"])
                for span in turn["spans"]
            ),
            finish_reason=FinishReason(turn["finish_reason"]),
        )
        for turn in row["turns"]
    )
    identity = TrajectoryId(
        row["run"], row["stage"], row["epoch"], row["problem_id"], row["sample_index"], row["attempt"]
    )
    events = tuple(RewardEvent(event["term"], event["value"], event["token"]) for event in row["events"])
    return Trajectory(identity, row["group"], turns, events, passed=row["passed"], drop_reason=row["drop_reason"])


def read_journal(path: Path) -> list[JournalEntry]:
    """The inverse of ``write_journal``."""
    return [
        JournalEntry(
            _trajectory(row),
            row["program"].encode(),
            row["outcome"],
            row["cpu_s"],
            tuple(row.get("signs") or ()),
            row.get("compile_error") or "",
        )
        for row in pq.read_table(path, schema=SCHEMA).to_pylist()
    ]


@dataclass(frozen=True, slots=True)
class OfferedRow:
    """What ``crucible verify`` needs of one journalled trajectory. ``place``: of its group in the problem stream."""

    id: TrajectoryId
    place: int
    versions: tuple[WeightsVersion, ...]


def read_offered(path: Path) -> list[OfferedRow]:
    """Identity, place and weights of each row, without the tokens."""
    # Not read_table: it knows no leaves of a list, and would read every token.
    with pq.ParquetFile(path) as file:
        table = file.read(columns=[*_IDENTITY, "group", "turns.list.element.spans"])
    return [
        OfferedRow(TrajectoryId(*(row[name] for name in _IDENTITY)), row["group"], _versions(row["turns"]))
        for row in table.to_pylist()
    ]


def _versions(turns: Sequence[dict[str, Any]]) -> tuple[WeightsVersion, ...]:
    return tuple(sorted({WeightsVersion(span["lineage"], span["step"]) for turn in turns for span in turn["spans"]}))
