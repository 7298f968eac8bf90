"""HumanEval+ and MBPP+ (EvalPlus, Liu et al., arXiv 2305.01210). Licence Apache-2.0.

A problem is given by inputs, a canonical solution and a tolerance; the judge compares answers (``differential.py``).
Two cases: the inputs of the original problem, then those that EvalPlus adds. The ids are those of the original
problems, so that no mixture can hold one of them twice.
"""

from __future__ import annotations

import ast
import importlib.resources
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from problems.datasets.mbpp import ID_PREFIX, parsed, split_of
from problems.datasets.rows import Row, read_rows, unique_problems
from problems.problem import CompletionStyle, FunctionSuite, Limits, Problem, Split

# Some canonical solutions alone take seconds, or return a hundred megabytes in all.
_LIMITS = Limits(cpu_s=20.0, wall_s=60.0, memory_bytes=1 << 30, output_bytes=512 << 20)
_LIMITS_OF = {"Mbpp/599": Limits(cpu_s=120.0, wall_s=360.0, memory_bytes=1 << 30)}  # sums a hundred million numbers
# JSON has no tuples, sets and complex numbers: what EvalPlus 0.3.1 makes of the arguments, for tasks of MBPP.
_ARGUMENTS = {
    "lambda a: [tuple(x) for x in a]": (
        2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809,
    ),
    "lambda a: [[tuple(y) for y in x] for x in a]": (
        63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780,
    ),
    "lambda a: [[tuple(x) for x in a[0]], *a[1:]]": (75, 413, 444, 753),
    "lambda a: [a[0], tuple(a[1])]": (106, 750),
    "lambda a: [[set(x) if isinstance(x, list) and x else {} for x in a[0]]]": (115,),
    "lambda a: [float(a[0]), complex(a[1])]": (124,),
    "lambda a: [tuple(a[0]), *a[1:]]": (250, 307, 405, 446, 617, 720, 763, 808),
    "lambda a: [complex(a[0])]": (252,),
    "lambda a: [tuple(tuple(y) for y in x) for x in a]": (259, 401, 445),
    "lambda a: [tuple(tuple(x) if isinstance(x, list) else x for x in a[0])]": (278,),
    "lambda a: [{key: tuple(x) for key, x in a[0].items()}, *a[1:]]": (722,),
    "tuples": (580, 615, 791),
}  # fmt: skip
_ARGUMENTS_OF = {f"{ID_PREFIX}{number}": rule for rule, numbers in _ARGUMENTS.items() for number in numbers}


def _is_extreme(task_id: str, arguments: list[Any]) -> bool:
    """Left out: answers of up to a million tuples and a gigabyte, which no frame takes."""
    return task_id == f"{ID_PREFIX}255" and arguments[1:2] > [70]


class EvalPlusRow(Row):
    """One line of HumanEvalPlus.jsonl or MbppPlus.jsonl."""

    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    base_input: list[list[Any]] = Field(min_length=1)
    plus_input: list[list[Any]]
    atol: float = Field(ge=0)

    @field_validator("plus_input", mode="before")
    @classmethod
    def _none_is_written_as_an_object(cls, value: Any) -> Any:
        return [] if value == {} else value


def _suite(row: EvalPlusRow, dataset: str) -> FunctionSuite:
    """Cases ``base`` and ``plus``; of a row without added inputs, ``base`` alone."""
    rules = importlib.resources.files("problems.datasets").joinpath("differential.py").read_text()
    arguments = _ARGUMENTS_OF.get(row.task_id, "list") if dataset == "mbpp" else "list"
    lines = [
        # In namespaces of their own: an entry point may have any name.
        "_rules, _reference = {'__name__': 'rules'}, {'__name__': 'reference'}",
        f"exec({rules!r}, _rules)",
        f"exec({row.prompt + row.canonical_solution!r}, _reference)",
        "def _judge_on(inputs):",
        f"    rules = _rules['Differential']({dataset!r}, {row.entry_point!r}, {row.atol!r})",
        f"    reference, arguments = _reference[{row.entry_point!r}], eval({arguments!r}, _rules)",
        f"    _rules['judge_on'](rules, {row.entry_point}, reference, inputs, arguments)",
    ]
    cases: list[str] = []
    for inputs in (row.base_input, row.plus_input):
        kept = [arguments for arguments in inputs if not _is_extreme(row.task_id, arguments)]
        if kept:
            cases.append(f"_judge_on({json.dumps(kept)!r})")
    return FunctionSuite((row.entry_point,), "\n".join(lines) + "\n", tuple(cases), classes=())


def _check(row: EvalPlusRow) -> None:
    tree = parsed(row.prompt + row.canonical_solution, "canonical_solution")
    if row.entry_point not in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}:
        raise ValueError(f"field entry_point: the canonical solution does not define {row.entry_point!r}")


def _read(path: Path, kind: str) -> list[Problem]:
    def located() -> Iterator[tuple[str, Problem]]:
        for where, row in read_rows(path, EvalPlusRow):
            try:
                _check(row)
                yield where, (_mbpp if kind == "mbppplus" else _humaneval)(row, f"{kind}:{path.name}")
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None

    return unique_problems(path, located())


def _humaneval(row: EvalPlusRow, source: str) -> Problem:
    return Problem(
        id=row.task_id,
        language="python",
        prompt=row.prompt,
        completion_style=CompletionStyle.CONTINUE,
        suites={"main": _suite(row, "humaneval")},
        references=(row.prompt + row.canonical_solution,),
        reference_completions=(row.canonical_solution,),
        limits=_LIMITS,
        split=Split.TEST,
        licence="Apache-2.0",
        source=source,
    )


def _mbpp(row: EvalPlusRow, source: str) -> Problem:
    number = row.task_id.removeprefix(ID_PREFIX)
    if not number.isdecimal():
        raise ValueError(f"field task_id: {row.task_id!r} is not {ID_PREFIX} and a number")
    return Problem(
        id=row.task_id,
        language="python",
        prompt=row.prompt,
        completion_style=CompletionStyle.PROGRAM,
        suites={"main": _suite(row, "mbpp")},
        references=(row.canonical_solution.lstrip("\n"),),
        reference_completions=(row.canonical_solution.lstrip("\n"),),
        limits=_LIMITS_OF.get(row.task_id, _LIMITS),
        split=split_of(int(number)),
        licence="Apache-2.0",
        source=source,
    )


def read_humanevalplus(path: Path) -> list[Problem]:
    """The problems of a HumanEval+ file (.jsonl or .jsonl.gz). Raises ValueError naming file, line and field."""
    return _read(path, "humanevalplus")


def read_mbppplus(path: Path) -> list[Problem]:
    """The problems of an MBPP+ file (.jsonl or .jsonl.gz). Raises ValueError naming file, line and field."""
    return _read(path, "mbppplus")
