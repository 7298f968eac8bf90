"""MultiPL-E (Cassano et al., arXiv 2208.08227): HumanEval and MBPP in other languages.

Licence: BSD-3-Clause with a machine learning restriction, which forbids its use as training data. So its problems are
for evaluation only (``Use.EVALUATE``), and stages that train refuse them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from problems.datasets.rows import Row, read_rows, unique_problems
from problems.java import JavaSuite, suite_of_members
from problems.merged import END_MARK, MergedSuite
from problems.problem import CompletionStyle, Problem, Split, Use

LICENCE = "BSD-3-Clause with a machine learning restriction (MultiPL-E): evaluation only"


class MultiPLERow(Row):
    """One line of a MultiPL-E file.

    The program is ``prompt`` and completion; ``tests`` continue it, and where the language has braces they close the
    function first. ``stop_tokens`` end a completion and are not part of it.
    """

    name: str
    language: str
    prompt: str
    tests: str
    stop_tokens: list[str]


def _before_last_braces(count: int, statement: str) -> Callable[[str], str]:
    """Puts a statement before the last ``count`` closing braces: the end of the tests' ``main``."""

    def marked(tests: str) -> str:
        head, tail = tests.rstrip(), ""
        for _ in range(count):
            if not head.endswith("}"):
                raise ValueError("field tests: the tests' main function does not end with the text")
            head, tail = head[:-1].rstrip(), "}\n" + tail
        return f"{head}\n{statement}\n{tail}"

    return marked


def _after(statement: str) -> Callable[[str], str]:
    return lambda tests: f"{tests.rstrip()}\n{statement}\n"


def _typescript(tests: str) -> str:
    """The sandbox has Node's types; the tests' own declaration, for where there are none, would contradict them."""
    return _after(f'console.log("{END_MARK}");')(tests.replace("declare var require: any;\n", "", 1))


_CSHARP_ASSERT = """
static class TheTests {
    public static void Assert(bool holds) { if (!holds) { throw new System.Exception("a test failed"); } }
}
"""


def _csharp(tests: str) -> str:
    """Mono's own ``Debug.Assert`` writes a line and goes on."""
    marked = _before_last_braces(2, f'System.Console.WriteLine("{END_MARK}");')(tests)
    return marked.replace("Debug.Assert(", "TheTests.Assert(") + _CSHARP_ASSERT


# MultiPL-E's name -> ours, and how the tests say that they have come to their end.
_MERGED: dict[str, tuple[str, Callable[[str], str]]] = {
    "cpp": ("cpp", _before_last_braces(1, f'__builtin_puts("{END_MARK}");')),
    "js": ("javascript", _after(f'console.log("{END_MARK}");')),
    "ts": ("typescript", _typescript),
    "php": ("php", _after(f'echo "\\n{END_MARK}\\n";')),
    "cs": ("csharp", _csharp),
    "sh": ("bash", _after(f"echo {END_MARK}")),
}


def _suite(row: MultiPLERow) -> tuple[str, JavaSuite | MergedSuite]:
    """Our name of the language, and the tests: Java's are judged apart, the others run merged."""
    if row.language == "java":
        return "java", suite_of_members(row.prompt, row.tests)
    if row.language not in _MERGED:
        raise ValueError(f"field language: {row.language!r} is none of java, {', '.join(_MERGED)}")
    language, marked = _MERGED[row.language]
    return language, MergedSuite(marked(row.tests))


def _problem(row: MultiPLERow, path: Path) -> Problem:
    language, suite = _suite(row)
    return Problem(
        id=f"MultiPL-E/{row.language}/{row.name}",
        language=language,
        prompt=row.prompt,
        completion_style=CompletionStyle.CONTINUE,
        suites={"main": suite},
        stop_strings=tuple(row.stop_tokens),
        split=Split.TEST,
        use=Use.EVALUATE,
        licence=LICENCE,
        source=f"multipl-e:{path.name}",
    )


def read_multipl_e(path: Path) -> list[Problem]:
    """The problems of one MultiPL-E file. Raises ValueError naming file, line and field."""

    def located() -> Iterator[tuple[str, Problem]]:
        for where, row in read_rows(path, MultiPLERow):
            try:
                yield where, _problem(row, path)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None

    return unique_problems(path, located())
