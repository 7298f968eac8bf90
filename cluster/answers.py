"""Scored answers and pairs of them on disk: what ``collect`` and ``mine`` write, and reward models learn from.

answers.parquet    one row an executed answer
pairs.parquet      (problem, chosen, rejected), by the answers' names
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import RunFolderError
from cluster.journal import JournalEntry
from learner.preferences import PreferencePair, ScoredAnswer

ANSWERS, PAIRS = "answers.parquet", "pairs.parquet"
_ANSWER_SCHEMA = pa.schema(
    [
        ("problem_id", pa.string()),
        ("name", pa.string()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("completion_ids", pa.list_(pa.int32())),
        ("true_score", pa.float64()),
        ("passed", pa.bool_()),
        ("outcome", pa.string()),
        ("program", pa.string()),
    ]
)
_PAIR_SCHEMA = pa.schema([("problem_id", pa.string()), ("chosen", pa.string()), ("rejected", pa.string())])


def scored_answer(entry: JournalEntry) -> ScoredAnswer:
    """An executed trajectory of one turn whose reward is the share of the cases that passed.

    One that the token limit cut was not executed: it counts as a failure.
    """
    trajectory = entry.trajectory
    turn = trajectory.turns[-1]
    return ScoredAnswer(
        trajectory.id.problem_id,
        str(trajectory.id),
        tuple(turn.prompt_ids.tolist()),
        tuple(turn.completion_ids.tolist()),
        trajectory.reward,
        bool(trajectory.passed),
    )


def write_answers(
    folder: Path, entries: Iterable[JournalEntry], also: Iterable[ScoredAnswer] = ()
) -> list[ScoredAnswer]:
    """Writes those entries that could be judged, and answers that another stage has collected; returns them all."""
    judged = [entry for entry in entries if entry.trajectory.drop_reason is None]
    answers = [scored_answer(entry) for entry in judged]
    rows = [
        _row(answer, entry.outcome, entry.program.decode("utf-8", "replace"))
        for answer, entry in zip(answers, judged, strict=True)
    ]
    collected = list(also)
    rows += [_row(answer, "", "") for answer in collected]
    _write(folder / ANSWERS, rows, _ANSWER_SCHEMA)
    return [*answers, *collected]


def _row(answer: ScoredAnswer, outcome: str, program: str) -> dict[str, Any]:
    return {
        "problem_id": answer.problem_id,
        "name": answer.name,
        "prompt_ids": answer.prompt_ids,
        "completion_ids": answer.completion_ids,
        "true_score": answer.true_score,
        "passed": answer.passed,
        "outcome": outcome,
        "program": program,
    }


def write_pairs(folder: Path, pairs: Sequence[PreferencePair]) -> None:
    """Writes pairs of answers that ``write_answers`` wrote to the same folder."""
    rows = [
        {"problem_id": pair.chosen.problem_id, "chosen": pair.chosen.name, "rejected": pair.rejected.name}
        for pair in pairs
    ]
    _write(folder / PAIRS, rows, _PAIR_SCHEMA)


def read_answers(folder: Path) -> list[ScoredAnswer]:
    """The inverse of ``write_answers``."""
    return [
        ScoredAnswer(
            row["problem_id"],
            row["name"],
            tuple(row["prompt_ids"]),
            tuple(row["completion_ids"]),
            row["true_score"],
            row["passed"],
        )
        for row in _read(folder / ANSWERS, _ANSWER_SCHEMA)
    ]


def read_pairs(folder: Path) -> list[PreferencePair]:
    """The pairs of a folder. Raises RunFolderError for a pair of an answer that is not there, or across problems."""
    answers = {answer.name: answer for answer in read_answers(folder)}
    pairs: list[PreferencePair] = []
    for row in _read(folder / PAIRS, _PAIR_SCHEMA):
        missing = {row["chosen"], row["rejected"]} - answers.keys()
        if missing:
            raise RunFolderError(f"{folder / PAIRS}: no answer {missing.pop()!r} in {ANSWERS}; collect anew")
        try:
            pairs.append(PreferencePair(answers[row["chosen"]], answers[row["rejected"]]))
        except ValueError as error:
            raise RunFolderError(f"{folder / PAIRS}: {error}; collect anew") from None
    return pairs


def _write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), aside, compression="zstd")
    aside.rename(path)


def _read(path: Path, schema: pa.Schema) -> list[dict[str, Any]]:
    try:
        return pq.read_table(path, schema=schema).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise RunFolderError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
