"""Programs that are compiled and never run: what is wrong is told with its place, and nothing of them happens."""

from __future__ import annotations

import os
import time

import psutil
import pytest

from problems.compiling import CompileSuite
from problems.problem import Limits
from sandbox import BlockingExecutor, Outcome, Program, Verdict
from sandbox.diagnosis import ErrorClass, error_class
from sandbox.errors import ImageMissingError
from sandbox.resident.python_check import ERRORS, check
from sandbox.verdict import Diagnostic

from .conftest import open_backend

CHECK = CompileSuite()


@pytest.fixture(scope="module", params=["embedded", pytest.param("docker-fast", marks=pytest.mark.docker)])
def compilers(request: pytest.FixtureRequest):
    try:
        with open_backend(request.param, slots=1, languages=("python", "java")) as opened:
            yield opened
    except ImageMissingError as error:
        if os.environ.get("CRUCIBLE_REQUIRE_ENGINE") == "1":
            raise
        pytest.skip(str(error))


def checked(compilers: BlockingExecutor, language: str, source: bytes) -> Verdict:
    return compilers.run(Program(language, source), CHECK, Limits())


def test_java_is_compiled_under_any_name_and_not_run(compilers: BlockingExecutor) -> None:
    passed = checked(compilers, "java", b"public class Any { static { System.exit(3); } }")
    assert (passed.outcome, passed.num_passed, passed.num_cases) == (Outcome.PASSED, 1, 1)
    failed = checked(compilers, "java", b'public class Any { int a = "text"; }')
    (only,) = failed.diagnostics
    assert failed.outcome is Outcome.COMPILE_ERROR
    assert (only.kind, only.start, only.end) == ("compiler.err.prob.found.req", 27, 33)


def test_python_is_checked_for_names_too_and_not_run(compilers: BlockingExecutor) -> None:
    endless = b"import os\nwhile True:\n    os.fork()\n"
    assert checked(compilers, "python", endless).passed
    failed = checked(compilers, "python", "def f(a):\n    return 'ä' + missing\n".encode())
    assert failed.outcome is Outcome.COMPILE_ERROR
    assert [(one.kind, one.line, one.column) for one in failed.diagnostics] == [("UndefinedName", 2, 19)]
    broken = checked(compilers, "python", b"def f(:\n")
    assert [(one.kind, one.line) for one in broken.diagnostics] == [("SyntaxError", 1)]


@pytest.mark.parametrize(
    ("source", "undefined"),
    [
        ("def f(a):\n    return fnord(a)\nfrom os import *\n", ["fnord"]),  # what a star brings is known
        ("from numpy import *\ndef f(a):\n    return array(a)\n", ["array"]),  # or may be everything
        ("from math import *\nfrom typing import *\ndef f(a: List) -> float:\n    return sqrt(len(a))\n", []),
        ("def f(a):\n    try:\n        return fnord(a)\n    except NameError:\n        return 1\n", ["fnord"]),
        ("def f(a):\n    try:\n        return fnord(a)\n    except:\n        return 1\n", ["fnord"]),
        ("def f(a):\n    try:\n        return int(a)\n    except ValueError:\n        return 1\n", []),
        ("def f(a):\n    global fnord\n    return fnord(a)\n", ["fnord"]),
        ("def g():\n    fnord = 1\n    return fnord\ndef f(a):\n    global fnord\n    return fnord + a\n", ["fnord"]),
        ("def g(b):\n    return fnord\ndef f(a):\n    global fnord\n    return a\n", ["fnord"]),
        ("x = [fnord for fnord in ()]\ndef f(a):\n    global fnord\n    return fnord\n", ["fnord"]),
        ("count = 0\ndef f(a):\n    global count\n    count += a\n    return count\n", []),
        ("def g():\n    global memo\n    memo = {}\ndef f(a):\n    g()\n    return memo\n", []),
        ("def f(a):\n    b = 1\n    def g():\n        nonlocal b\n        b += a\n    g()\n    return b\n", []),
    ],
)
def test_a_name_that_is_not_there_cannot_be_talked_away(source: str, undefined: list[str]) -> None:
    assert [
        message.split("'")[1] for kind, message, *_ in check(source.encode()) if kind == "UndefinedName"
    ] == undefined


def test_a_program_that_ends_pythons_parser_is_refused_and_the_next_is_checked(compilers: BlockingExecutor) -> None:
    for source in (b"a = " + b"(" * 5000 + b")" * 5000, b"a = " + b"-" * 200_000 + b"1", b"a" + b".b" * 100_000):
        verdict = checked(compilers, "python", source)
        assert verdict.outcome is Outcome.COMPILE_ERROR
    assert checked(compilers, "python", b"a = 1\n").passed


def test_a_compiler_that_was_ended_while_idle_costs_the_next_program_nothing() -> None:
    """As the kernel does it that runs out of memory: a compiler is the first that it takes."""
    try:
        with open_backend("embedded", slots=1, languages=("java",)) as opened:
            assert checked(opened, "java", b"class A { int a = 1; }").passed
            compilers = [child for child in psutil.Process().children(recursive=True) if child.name() == "java"]
            assert compilers
            for compiler in compilers:
                compiler.kill()
            psutil.wait_procs(compilers, 5.0)
            for _ in range(len(compilers) + 1):
                assert checked(opened, "java", b"class B { int b = 2; }").passed
    except ImageMissingError as error:
        if os.environ.get("CRUCIBLE_REQUIRE_ENGINE") == "1":
            raise
        pytest.skip(str(error))


def test_a_rate_that_a_training_loop_can_live_with(compilers: BlockingExecutor) -> None:
    sources = [b"class A { int f(int a) { return a + %d; } }" % number for number in range(60)]
    checked(compilers, "java", sources[0])
    begun = time.monotonic()
    verdicts = [checked(compilers, "java", source) for source in sources]
    assert all(verdict.passed for verdict in verdicts)
    assert sum(verdict.cpu_s for verdict in verdicts) / 60 < 0.1
    assert time.monotonic() - begun < 30


def test_every_message_of_pyflakes_that_counts_has_a_class_and_those_of_style_do_not_count() -> None:
    assert {name for name in ERRORS if error_class(Diagnostic(name, "")) is ErrorClass.OTHER} == set()
    assert check(b"import os\nx = 1\ndef f():\n    y = 1\ndef f(): pass\n") == []
    (only,) = check(b"return 1\n")
    assert only[0] == "SyntaxError"
