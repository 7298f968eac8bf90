"""Rows of a data set's file: read, checked, and blamed by file, line and field where they are wrong."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from problems.problem import Problem


class Row(BaseModel):
    """Base of the row models. Fields that we do not read are let through: data sets grow columns between releases."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


RowT = TypeVar("RowT", bound=Row)


def _text(path: Path) -> str:
    """The file's text. Raises ValueError, naming the file, if it is missing, broken or not UTF-8."""
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        return data.decode()
    except FileNotFoundError:
        raise ValueError(f"problems file {path} does not exist") from None
    except IsADirectoryError:
        raise ValueError(f"problems file {path} is a folder") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None


def _raw_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(where, row) of each row: one a line in .jsonl and .jsonl.gz, one an element of the list in .json."""
    text = _text(path)
    if path.suffix == ".json":
        try:
            rows = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from None
        if not isinstance(rows, list):
            raise ValueError(f"{path}: a .json data set is a list of rows, this is a {type(rows).__name__}")
        yield from ((f"{path}, row {number}", row) for number, row in enumerate(cast("list[Any]", rows), 1))
        return
    # Not splitlines(): JSON text may hold U+2028 and its like, which end no line of a .jsonl file.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            yield where, json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: not JSON: {error.msg} (column {error.colno})") from None


def read_rows(path: Path, model: type[RowT]) -> Iterator[tuple[str, RowT]]:
    """(where, row) of each row of a file, checked against ``model``.

    Raises:
        ValueError: naming the file, the line and the field of the first row that does not fit.
    """
    for where, raw in _raw_rows(path):
        try:
            yield where, model.model_validate(raw)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "the row itself"
            raise ValueError(f"{where}: field {field}: {first['msg']}") from None


def unique_problems(path: Path, located: Iterable[tuple[str, Problem]]) -> list[Problem]:
    """The problems of one file, in its order. Raises ValueError for a repeated id and for a file without any row."""
    seen: dict[str, str] = {}
    problems: list[Problem] = []
    for where, problem in located:
        if problem.id in seen:
            raise ValueError(f"{where}: field task_id: {problem.id} stands already at {seen[problem.id]}")
        seen[problem.id] = where
        problems.append(problem)
    if not problems:
        raise ValueError(f"{path}: holds no problem")
    return problems
