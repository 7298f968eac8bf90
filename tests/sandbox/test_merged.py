"""Tests that share the program's process: what passes, what does not, and what the verdict says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from problems.datasets import load_problems
from problems.merged import END_MARK, MergedSuite
from problems.problem import FunctionSuite, Limits, Problem
from sandbox import Backend, BlockingExecutor, Outcome, Program, SandboxConfig, Verdict
from sandbox.errors import ImageMissingError, MergedRefusedError
from sandbox.verdict import Trust

from ..problems.test_multipl_e import row_of, write
from .conftest import open_backend
from .test_languages import IN_CI

LIMITS = Limits(cpu_s=8.0, wall_s=60.0)
# MultiPL-E's name -> a right completion, and one that ends the process with 0 before any test.
COMPLETIONS = {
    "cpp": ("    return a + b;", "    std::exit(0);"),
    "js": ("    return a + b;\n}\n", "    return a + b;\n}\nprocess.exit(0);\n"),
    "ts": ("    return a + b;\n}\n", "    return a + b;\n}\nprocess.exit(0);\n"),
    "php": ("    return $a + $b;\n}\n", "    return $a + $b;\n}\nexit(0);\n"),
    "cs": ("        return a + b;\n", "        Environment.Exit(0); return 3;\n"),
    "sh": ("    echo $(($1 + $2))\n", "    echo 3\n}\nexit 0\nf() {\n    :\n"),
}
NAMES = {"cpp": "cpp", "js": "javascript", "ts": "typescript", "php": "php", "cs": "csharp", "sh": "bash"}
_ROWS = [pytest.param(row, marks=[] if name in IN_CI else pytest.mark.soak) for row, name in NAMES.items()]


@pytest.fixture(scope="module")
def warm() -> Iterator[BlockingExecutor]:
    with open_backend("embedded", slots=1, languages=()) as opened:
        yield opened


def execute(warm: BlockingExecutor, problem: Problem, completion: str) -> Verdict:
    program = Program(problem.language, (problem.prompt + completion).encode())
    try:
        return warm.run(program, problem.suites["main"], LIMITS)
    except ImageMissingError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("row", _ROWS)
def test_a_right_completion_passes_and_says_that_it_could_be_forged(
    warm: BlockingExecutor, tmp_path: Path, row: str
) -> None:
    (problem,) = load_problems(write(tmp_path, row_of(row)))
    right, early = COMPLETIONS[row]
    verdict = execute(warm, problem, right)
    assert verdict.passed, verdict
    assert verdict.trust is Trust.MERGED
    wrong = execute(warm, problem, right.replace("+", "-"))
    assert wrong.outcome in (Outcome.RUNTIME_ERROR, Outcome.WRONG_ANSWER), wrong
    assert wrong.trust is Trust.MERGED
    ended = execute(warm, problem, early)
    assert ended.outcome is Outcome.WRONG_ANSWER, ended
    assert not execute(warm, problem, "").passed


def test_the_compiler_s_lines_are_those_of_the_program(warm: BlockingExecutor, tmp_path: Path) -> None:
    (problem,) = load_problems(write(tmp_path, row_of("cpp")))
    broken = execute(warm, problem, "    return unknown;")
    assert broken.outcome is Outcome.COMPILE_ERROR
    assert (broken.diagnostics[0].line, broken.diagnostics[0].column) == (4, 12)
    renamed = Program("cpp", problem.prompt.replace("add", "plus").encode() + b"    return a + b;")
    of_tests = warm.run(renamed, problem.suites["main"], LIMITS).diagnostics[0]
    assert of_tests.line == 0
    assert of_tests.message.startswith("in the tests: ")


def test_python_can_be_merged_too(warm: BlockingExecutor) -> None:
    suite = MergedSuite(f"assert f(1) == 2\nprint({END_MARK!r})\n")
    right = warm.run(Program("python", b"def f(x): return x + 1"), suite, LIMITS)
    assert right.passed
    assert right.trust is Trust.MERGED
    assert warm.run(Program("python", b"def f(x): return x"), suite, LIMITS).outcome is Outcome.RUNTIME_ERROR
    assert warm.run(Program("python", b"raise SystemExit(0)"), suite, LIMITS).outcome is Outcome.WRONG_ANSWER


UNCROSSABLE = {
    "an object": ("def f(x): return x is not None", "", ("assert f(object()) is True", "assert f(None) is False")),
    "an iterator": ("def f(x): return sum(x)", "", ("assert f(iter([1, 2])) == 3", "assert f(iter([])) == 0")),
    "an object of a class of the test": (
        "def f(x): return x.value + 1",
        "class Node:\n    def __init__(self, value): self.value = value",
        ("assert f(Node(1)) == 2", "assert f(Node(4)) == 5"),
    ),
}


@pytest.mark.parametrize("name", UNCROSSABLE)
def test_a_suite_that_passes_what_cannot_cross_runs_merged_and_says_so(warm: BlockingExecutor, name: str) -> None:
    source, setup, cases = UNCROSSABLE[name]
    suite = FunctionSuite(("f",), setup, cases)
    right = warm.run(Program("python", source.encode()), suite, LIMITS)
    assert (right.passed, right.trust, right.num_passed, right.num_cases) == (True, Trust.MERGED, 2, 2)
    wrong = warm.run(Program("python", b"def f(x): return 7"), suite, LIMITS)
    assert (wrong.outcome, wrong.trust, wrong.num_passed) == (Outcome.RUNTIME_ERROR, Trust.MERGED, 0)
    assert warm.run(Program("python", b"def f(x): raise SystemExit(0)"), suite, LIMITS).num_passed == 0


def test_a_merged_program_is_no_main_program_and_imports_from_the_future(warm: BlockingExecutor) -> None:
    source = "from __future__ import annotations\ndef f(x: Unknown): return sqrt(len(list(x)))\n"
    source += "if __name__ == '__main__': print(f(input()))\n"
    suite = FunctionSuite(("f",), "", ("assert f(iter([1, 2, 3, 4])) == 2",), candidate_setup="from math import *")
    verdict = warm.run(Program("python", source.encode()), suite, LIMITS)
    assert (verdict.passed, verdict.trust) == (True, Trust.MERGED), verdict


def test_settings_may_refuse_what_cannot_be_split() -> None:
    source, setup, cases = UNCROSSABLE["an object"]
    config = SandboxConfig(backend=Backend.EMBEDDED, slots=1, refuse_merged=True)
    with BlockingExecutor(config) as strict:
        verdict = strict.run(Program("python", source.encode()), FunctionSuite(("f",), setup, cases), LIMITS)
    assert verdict.outcome is Outcome.INFRASTRUCTURE_ERROR
    assert "type object" in verdict.detail


def test_settings_may_refuse_merged_tests() -> None:
    suite = MergedSuite(f"print({END_MARK!r})")
    config = SandboxConfig(backend=Backend.EMBEDDED, slots=1, refuse_merged=True)
    with BlockingExecutor(config) as strict, pytest.raises(MergedRefusedError, match="refuse_merged"):
        strict.run(Program("python", b""), suite, LIMITS)


def test_a_suite_without_an_end_mark_is_refused() -> None:
    with pytest.raises(ValueError, match="once, after the last of them"):
        MergedSuite("assert True")
