"""HumanEval (Chen et al., arXiv 2107.03374): complete a function from its head and docstring. Licence MIT."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from problems.datasets.rows import Row, read_rows, unique_problems
from problems.problem import CompletionStyle, FunctionSuite, Problem, Split


class HumanEvalRow(Row):
    """One line of HumanEval.jsonl."""

    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str


def _judge_setup(row: HumanEvalRow) -> str:
    """The prompt without the function asked for, and the test text.

    The test may lean on what the prompt defines (``poly`` of HumanEval/32, the imports). The function itself must not
    be there: in the judge its name belongs to the proxy.

    Raises:
        ValueError: if the prompt is no Python, or does not define the entry point.
    """
    try:
        tree = ast.parse(row.prompt)
    except SyntaxError as error:
        raise ValueError(f"field prompt: does not parse as Python: {error.msg}") from None
    asked = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == row.entry_point]
    if not asked:
        raise ValueError(f"field entry_point: the prompt does not define {row.entry_point!r}")
    helpers = [ast.unparse(node) for node in tree.body if node not in asked]
    return "\n\n".join([*helpers, row.test.strip("\n")]) + "\n"


def _problem(row: HumanEvalRow, path: Path) -> Problem:
    return Problem(
        id=row.task_id,
        language="python",
        prompt=row.prompt,
        completion_style=CompletionStyle.CONTINUE,
        suites={
            "main": FunctionSuite((row.entry_point,), _judge_setup(row), (f"check({row.entry_point})",), classes=())
        },
        references=(row.prompt + row.canonical_solution,),
        reference_completions=(row.canonical_solution,),
        split=Split.TEST,
        licence="MIT",
        source=f"humaneval:{path.name}",
    )


def read_humaneval(path: Path) -> list[Problem]:
    """The problems of a HumanEval file (.jsonl or .jsonl.gz). Raises ValueError naming file, line and field."""

    def located() -> Iterator[tuple[str, Problem]]:
        for where, row in read_rows(path, HumanEvalRow):
            try:
                yield where, _problem(row, path)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None

    return unique_problems(path, located())
