"""Labelled answers on disk: what ``line_labels`` writes and a process reward model learns from.

labels.parquet    one row an answer; Parquet, so that other tools can read and write it

The file's metadata name the tokenizer, since token ids of another vocabulary would mean nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import ConfigError, RunFolderError
from learner.line_labels import LabelledAnswer

LABELS = "labels.parquet"
_TOKENIZER = b"crucible.tokenizer"
_SCHEMA = pa.schema(
    [
        ("problem_id", pa.string()),
        ("name", pa.string()),
        ("policy", pa.string()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("completion_ids", pa.list_(pa.int32())),
        ("passed", pa.bool_()),
        ("line_tokens", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int8())),
        ("num_probes", pa.int32()),
        ("num_completions", pa.int32()),
        ("program", pa.string()),
        ("language", pa.string()),
    ]
)
_TUPLES = ("prompt_ids", "completion_ids", "line_tokens", "labels")


def write_labels(path: Path, answers: Sequence[LabelledAnswer], tokenizer: str) -> None:
    """Writes the file whole or not at all; ``tokenizer``: digest of the vocabulary (actors.scorer)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = _SCHEMA.with_metadata({_TOKENIZER: tokenizer.encode()})
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(pa.Table.from_pylist([asdict(answer) for answer in answers], schema=schema), aside)
    aside.rename(path)


def read_labels(path: Path, tokenizer: str) -> list[LabelledAnswer]:
    """The inverse of ``write_labels``.

    Raises:
        RunFolderError: the file cannot be read, or a row contradicts itself.
        ConfigError: the labels were made with another tokenizer than ``tokenizer``.
    """
    refuse_other_tokenizer(path, tokenizer)
    try:
        return [_answer(row) for row in pq.read_table(path, schema=_SCHEMA).to_pylist()]
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None
    except (ValueError, TypeError) as error:  # a cell or a column that is missing reads as None
        raise RunFolderError(f"{path}: {error}") from None


def refuse_other_tokenizer(path: Path, tokenizer: str) -> None:
    """Raises as ``read_labels`` does, without a look at the rows."""
    try:
        made_with = (pq.read_schema(path).metadata or {}).get(_TOKENIZER, b"").decode()
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None
    if made_with != tokenizer:
        raise ConfigError(
            f"{path} holds token ids of tokenizer {made_with or 'unknown'}, the model's is {tokenizer}; "
            "label answers with this model's tokenizer"
        )


def labelled_problems(path: Path) -> list[str]:
    """Ids of the problems in a label file. Raises RunFolderError if it cannot be read."""
    try:
        ids: list[str] = pq.read_table(path, columns=["problem_id"]).column("problem_id").to_pylist()
    except (OSError, KeyError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None
    return list(dict.fromkeys(ids))


def _unreadable(path: Path, error: Exception) -> RunFolderError:
    return RunFolderError(f"{path} cannot be read: {str(error).splitlines()[0]}")


def _answer(row: dict[str, Any]) -> LabelledAnswer:
    fields: dict[str, Any] = {name: tuple(value) if name in _TUPLES else value for name, value in row.items()}
    return LabelledAnswer(**fields)
