"""MBPP (Austin et al., arXiv 2108.07732), the whole set and the sanitized one. Licence CC-BY-4.0.

The problem ids are ``Mbpp/<task_id>``, as EvalPlus writes them: the bare numbers of the data set would collide with
other sets in a mixture. Files of programs may use the bare number (see ``index_by_task_id``).

The prompt is the paper's: the text, then all the asserts, which tell the model the function's name. The splits are the
paper's too: 1-10 few-shot examples and 601-974 train, 511-600 validation, 11-510 test.
"""

from __future__ import annotations

import ast
import builtins
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import AliasChoices, Field

from problems.datasets.rows import Row, read_rows, unique_problems
from problems.problem import CompletionStyle, FunctionSuite, Limits, Problem, Split

ID_PREFIX = "Mbpp/"
# The reference of 123 sums divisors of ten thousand numbers: 2 s of CPU, 5 on a crowded machine. All others take 0.02.
_LIMITS_OF = {123: Limits(cpu_s=20.0, wall_s=60.0)}
_TEST_IDS = range(11, 511)
_VALIDATION_IDS = range(511, 601)


class MbppRow(Row):
    """One row of mbpp.jsonl, or of sanitized-mbpp.json: its text is called ``prompt`` and its tests have imports."""

    task_id: int
    text: str = Field(validation_alias=AliasChoices("text", "prompt"))
    code: str
    test_list: list[str] = Field(min_length=1)
    test_setup_code: str = ""
    test_imports: list[str] = Field(default_factory=list[str])


def parsed(source: str, field: str) -> ast.Module:
    """The tree of a field's text. Raises ValueError, naming the field."""
    try:
        with warnings.catch_warnings(action="ignore"):  # the data set's own escapes such as "\d" are not our business
            return ast.parse(source)
    except SyntaxError as error:
        raise ValueError(f"field {field}: does not parse as Python: {error.msg}") from None


def _names(tree: ast.AST, context: type[ast.expr_context]) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, context)}


def _imported(statements: Iterable[ast.stmt]) -> dict[str, str]:
    """Name -> import statement that binds it, of the top-level imports."""
    return {
        alias.asname or alias.name.split(".")[0]: ast.unparse(node)
        for node in statements
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }


def _suite(row: MbppRow) -> FunctionSuite:
    """Cases are the asserts; entry points are what the tests use and the reference defines.

    A name that the tests take from the reference's *imports* (``sys`` in 596) is imported in the setup instead: it is
    not the candidate's to provide.
    """
    setup = "\n".join([*row.test_imports, row.test_setup_code]).strip("\n")
    setup_tree = parsed(setup, "test_setup_code")
    tests = parsed("\n".join([setup, *row.test_list]), "test_list")
    code = parsed(row.code, "code")
    bound = _names(tests, ast.Store) | set(_imported(setup_tree.body))
    used = _names(tests, ast.Load) - bound
    classes = {node.name for node in code.body if isinstance(node, ast.ClassDef)}
    defined = classes | {node.name for node in code.body if isinstance(node, ast.FunctionDef)}
    lent = {name: statement for name, statement in _imported(code.body).items() if name in used - defined}
    unknown = used - defined - set(lent) - set(dir(builtins))
    if unknown or not used & defined:
        missing = ", ".join(sorted(unknown)) or "no function of the code"
        raise ValueError(f"field test_list: the tests use {missing}, which the code does not define")
    setup = "\n".join([*dict.fromkeys(lent.values()), setup]).strip("\n")
    return FunctionSuite(
        tuple(sorted(used & defined)), setup, tuple(row.test_list), classes=tuple(sorted(used & classes))
    )


def _prompt(row: MbppRow) -> str:
    tests = "\n".join(row.test_list)
    return (
        f"You are an expert Python programmer, and here is your task: {row.text.strip()} "
        f"Your code should pass these tests:\n\n{tests}\n"
    )


def split_of(task_id: int) -> Split:
    """The paper's split."""
    if task_id in _TEST_IDS:
        return Split.TEST
    return Split.VALIDATION if task_id in _VALIDATION_IDS else Split.TRAIN


def _problem(row: MbppRow, path: Path) -> Problem:
    code = row.code.replace("\r\n", "\n")  # nearly all of the file's; who learns from it, or compares, would see it
    return Problem(
        id=f"{ID_PREFIX}{row.task_id}",
        language="python",
        prompt=_prompt(row),
        completion_style=CompletionStyle.PROGRAM,
        suites={"main": _suite(row)},
        limits=_LIMITS_OF.get(row.task_id, Limits()),
        references=(code,),
        reference_completions=(code,),
        split=split_of(row.task_id),
        licence="CC-BY-4.0",
        source=f"mbpp:{path.name}",
    )


def read_mbpp(path: Path) -> list[Problem]:
    """The problems of an MBPP file (.jsonl, .jsonl.gz, sanitized .json). Raises ValueError naming file, line, field."""

    def located() -> Iterator[tuple[str, Problem]]:
        for where, row in read_rows(path, MbppRow):
            try:
                yield where, _problem(row, path)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None

    return unique_problems(path, located())
