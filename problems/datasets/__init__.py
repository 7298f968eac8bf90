"""Problem sets by one specification string: readers of public data sets, one file each, and the synthetic family."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from problems.datasets.evalplus import read_humanevalplus, read_mbppplus
from problems.datasets.humaneval import read_humaneval
from problems.datasets.leetcode import read_leetcode
from problems.datasets.mbjp import read_mathqa_java, read_mbjp
from problems.datasets.mbpp import ID_PREFIX, read_mbpp
from problems.datasets.multipl_e import read_multipl_e
from problems.problem import Problem
from problems.synthetic import parse_synthetic, synthetic_problems

_FILE_READERS: dict[str, Callable[[Path], list[Problem]]] = {
    "humaneval": read_humaneval,
    "humanevalplus": read_humanevalplus,
    "leetcode": read_leetcode,
    "mathqa-java": read_mathqa_java,
    "mbjp": read_mbjp,
    "mbpp": read_mbpp,
    "mbppplus": read_mbppplus,
    "multipl-e": read_multipl_e,
}
_GENERATED = "synthetic"
_FORMS = (*(f"{kind}:FILE" for kind in _FILE_READERS), f"{_GENERATED}:FIELD=VALUE,..")


def is_generated(spec: str) -> bool:
    """Whether ``load_problems`` makes these problems, which takes a second for each thousand, and reads no file."""
    return spec.startswith(f"{_GENERATED}:")


def load_problems(spec: str) -> list[Problem]:
    """The problems that ``spec`` names, in their own order.

    Args:
        spec: ``KIND:FILE``, where the kind is a reader's (.jsonl, .jsonl.gz; MBPP's sanitized set is a .json), or
            fields of ``SyntheticConfig``, as ``synthetic:split=train,count=12000,depth=2-3,seed=11,language=python``.

    Raises:
        ValueError: for an unknown kind, a missing file, and a malformed or repeated row, naming file, line and field.
    """
    kind, _, rest = spec.partition(":")
    if kind == _GENERATED:
        return synthetic_problems(parse_synthetic(rest))
    if kind not in _FILE_READERS or not rest:
        raise ValueError(f"problem set {spec!r} is none of {', '.join(_FORMS)}")
    return _FILE_READERS[kind](Path(rest).expanduser())


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
