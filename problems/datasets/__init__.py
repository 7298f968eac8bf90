"""Readers of public data sets, one file each, behind one specification string."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from problems.datasets.humaneval import read_humaneval
from problems.datasets.mbpp import ID_PREFIX, read_mbpp
from problems.problem import Problem

_READERS: dict[str, Callable[[Path], list[Problem]]] = {"humaneval": read_humaneval, "mbpp": read_mbpp}


def load_problems(spec: str) -> list[Problem]:
    """The problems that ``spec`` names, in their own order.

    Args:
        spec: ``humaneval:FILE`` or ``mbpp:FILE`` (.jsonl, .jsonl.gz; MBPP's sanitized set is a .json).

    Raises:
        ValueError: for an unknown kind, a missing file, and a malformed or repeated row, naming file, line and field.
    """
    kind, separator, rest = spec.partition(":")
    if kind not in _READERS or not separator or not rest:
        known = ", ".join(f"{name}:FILE" for name in _READERS)
        raise ValueError(f"problem set {spec!r} is none of {known}")
    return _READERS[kind](Path(rest).expanduser())


def index_by_task_id(problems: Iterable[Problem]) -> dict[str | int, Problem]:
    """Problems by the ids that a file of programs may use: our own, and for MBPP the bare number, as int or text.

    Raises:
        ValueError: if two problems of the mixture answer to one id.
    """
    index: dict[str | int, Problem] = {}
    for problem in problems:
        keys: list[str | int] = [problem.id]
        number = problem.id.removeprefix(ID_PREFIX)
        if number != problem.id and number.isdecimal():
            keys += [int(number), number]
        for key in keys:
            if key in index:
                raise ValueError(f"problem id {key!r} occurs twice in the mixture")
            index[key] = problem
    return index
