"""MBJP and MathQA-Java (Athiwaratkun et al., arXiv 2210.14868): continue a Java class from its head. CC-BY-4.0.

Each row is a head (imports, class, comment, static method), a test class with a ``main`` that throws at the first wrong
value, and in part of MBJP a solution; MathQA-Java has none. Some solutions of MBJP are wrong or do not compile: they
stay references, since that is what the data set says. Both are test sets here: their training problems are Python's.
What a base model writes after it has closed the class is no part of its program.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from problems.datasets.rows import Row, read_rows, unique_problems
from problems.java import JavaSuite, read_imports, read_method
from problems.problem import CompletionStyle, Limits, Problem, Split

_LIMITS = Limits(cpu_s=6.0, wall_s=20.0)
# A main's statements up to the end of the check of one case; each case has variables of its own.
_MAIN = re.compile(r"(.*\bvoid main\([^)]*\) throws Exception \{\n)(.*)", re.DOTALL)
_CASE = re.compile(r"(.*?throw new java\.lang\.Exception\([^\n]*\);\s*\}\n)\s*", re.DOTALL)


class MbjpRow(Row):
    """One line of mbjp_release_v1.2.jsonl or of mathqa-test-java_v1.jsonl."""

    task_id: str
    language: str
    prompt: str
    entry_point: str
    test: str
    canonical_solution: str | None = None


def _problem(row: MbjpRow, path: Path, kind: str) -> Problem:
    if row.language != "java":
        raise ValueError(f"field language: {row.language!r} is not java")
    try:
        method = read_method(row.prompt, row.entry_point)
    except ValueError as error:
        raise ValueError(f"field prompt: {error}") from None
    solutions = () if row.canonical_solution is None else (row.canonical_solution,)
    return Problem(
        id=row.task_id,
        language="java",
        prompt=row.prompt,
        completion_style=CompletionStyle.CONTINUE,
        suites={"main": JavaSuite((method,), row.test, read_imports(row.prompt), parts=_parts(row.test))},
        references=tuple(row.prompt + solution for solution in solutions),
        reference_completions=solutions,
        limits=_LIMITS,
        ends_when_closed=True,
        split=Split.TEST,
        licence="CC-BY-4.0",
        source=f"{kind}:{path.name}",
    )


def _parts(test: str) -> tuple[str, ...]:
    """A test for each case; none where the test is not of the usual form."""
    if (found := _MAIN.fullmatch(test)) is None:
        return ()
    head, body = found.groups()
    cases, end = list[str](), 0
    for case in _CASE.finditer(body):
        if case.start() != end:
            return ()
        cases, end = [*cases, case[1]], case.end()
    tail = body[end:]
    return tuple(head + case + tail for case in cases) if not tail.replace("}", "").strip() else ()


def _read(kind: str, path: Path) -> list[Problem]:
    """The problems of a file (.jsonl or .jsonl.gz). Raises ValueError naming file, line and field."""

    def located() -> Iterator[tuple[str, Problem]]:
        for where, row in read_rows(path, MbjpRow):
            try:
                yield where, _problem(row, path, kind)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None

    return unique_problems(path, located())


read_mbjp: Callable[[Path], list[Problem]] = partial(_read, "mbjp")
read_mathqa_java: Callable[[Path], list[Problem]] = partial(_read, "mathqa-java")
