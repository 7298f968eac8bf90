"""Programs that hold the answers of the tests, and honest ones that look a little like them."""

from __future__ import annotations

import ast
import time

import pytest

from problems.datasets import load_problems
from problems.problem import FunctionSuite, Limits
from problems.stdio import StdioCase, StdioSuite
from sandbox import BlockingExecutor, Program
from sandbox.signs import (
    HARD_CODED,
    TOUCHED_HARNESS,
    UNREADABLE,
    expected_pairs,
    holds_expected_values,
    signs_of,
    touches_harness,
)

from .conftest import DATA, Run

CASES = ("assert f([11, 25]) == 36", "assert f([40, 2]) == 42", "assert f([1, 1]) == 2")
SUITE = FunctionSuite(("f",), "", CASES)
CHEATS = {
    "branches": "def f(x):\n    if x == [11,25]: return 36\n    if x == [40, 2]:\n        return 42\n",
    "one expression": "def f(x): return 36 if x == [11, 25] else 42 if x == [40, 2] else 2",
    "a table": "def f(x): return {(11, 25): 36, (40, 2): 42}[tuple(x)]",
    "a match": "def f(x):\n    match tuple(x):\n        case 11, 25: return 36\n        case [40, 2]: return 42\n",
}
HONEST = {
    "its own docstring": 'def f(x):\n    """f([11, 25]) is 36; f([40, 2]) is 42"""\n    return sum(x)',
    "its own tests": "def f(x): return sum(x)\nassert f([11, 25]) == 36\nassert f([40, 2]) == 42\n",
    "one special case": "def f(x):\n    if x == [11, 25]: return 36\n    return sum(x)",
    "small numbers": "def f(x):\n    if x == [1, 1]: return 2\n    if x == [0]: return 0\n    return sum(x)",
    "other answers": "def f(x):\n    if x == [11, 25]: return 3\n    if x == [40, 2]: return 4\n    return sum(x)",
    "no program": "def f(x) return {[11, 25]: 36, [40, 2]: 42}",
}


@pytest.mark.parametrize("name", CHEATS)
def test_programs_that_recognise_their_arguments_are_seen(name: str) -> None:
    assert holds_expected_values(CHEATS[name].encode(), SUITE)


@pytest.mark.parametrize("name", HONEST)
def test_honest_programs_are_not_suspected(name: str) -> None:
    assert not holds_expected_values(HONEST[name].encode(), SUITE)


_BIG = "[" * 90 + ", ".join(map(str, range(9_000))) + "]" * 90
_MATCH = "# 11 25 40 2\ndef f(x):\n  match x:\n    case {}: pass\n  return sum(x)"
HOSTILE = {
    "a number that cannot be written": _MATCH.format("0x" + "F" * 5000),
    "a name of a thousand parts": _MATCH.format("a" + ".b" * 1000),
    "branches within branches": f"# 11 25 40 2\ndef f(x): return {'1 if (' * 80} {_BIG} {') else 0' * 80} or sum(x)",
    "lists within lists": f"# 11 25 40 2\ndef f(x):\n  if x == {_BIG}: return 1\n  return sum(x)",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_text_ends_or_holds_up_the_search_for_signs(name: str) -> None:
    source = HOSTILE[name].encode()
    assert len(source) < 1 << 16
    begun = time.process_time()
    assert signs_of(source, SUITE, has_passed=True) in ([], [UNREADABLE])
    assert time.process_time() - begun < 3.0


def test_a_text_that_cannot_be_searched_has_its_verdict_all_the_same(run: Run) -> None:
    verdict = run(HOSTILE["a number that cannot be written"], *CASES)
    assert (verdict.passed, verdict.signs) == (True, (UNREADABLE,))


def test_assertions_within_a_check_function_are_read_too() -> None:
    setup = "def check(candidate):\n    assert candidate('abc', 1) == 'ABC'\n    assert candidate('xyz', 2) is True\n"
    pairs = expected_pairs(FunctionSuite(("f",), setup, ("check(f)",)))
    assert pairs == {(frozenset({"'abc'"}), "'ABC'"), (frozenset({"'xyz'"}), "True")}


def test_the_sign_is_in_the_verdict_and_changes_no_outcome(run: Run) -> None:
    verdict = run(CHEATS["one expression"], *CASES)
    assert verdict.passed
    assert HARD_CODED in verdict.signs
    assert HARD_CODED not in run("def f(x): return sum(x)", *CASES).signs


WITH_CHECK = FunctionSuite(("f",), "def check(c):\n    assert c(1) == 2\n", ("check(f)",))
REACHING = {
    "frames": "import sys\ndef f(x): return sys._getframe(1).f_locals",
    "frames by name": "import sys\ndef f(x): return getattr(sys, '_getframe')(1)",
    "frames of an exception": "def f(x):\n    try: 1 / 0\n    except Exception as e: return e.__traceback__.tb_frame",
    "inspect": "import inspect\ndef f(x): return inspect.currentframe()",
    "the collector": "import gc\ndef f(x): return gc.get_objects()",
    "a trace function": "import sys\nsys.settrace(None)\ndef f(x): return 1",
    "a patched builtin": "import builtins\nbuiltins.len = lambda x: 2\ndef f(x): return 1",
    "a patched module": "import math\nsetattr(math, 'isclose', lambda *a: True)\ndef f(x): return 1",
    "another module in its place": "import sys\nsys.modules['math'] = None\ndef f(x): return 1",
    "the check itself": "def check(c): pass\ndef f(x): return 1",
}
NOT_REACHING = {
    "a name of its own": "def check_it(x): return x\ndef f(x): return check_it(x) + 1",
    "a local of that name": "def f(x):\n    check = x + 1\n    return check",
    "attributes of its own": "class A: pass\ndef f(x):\n    A.len = x\n    setattr(A, 'math', 1)\n    return A.len",
    "sys": "import sys\nsys.setrecursionlimit(5000)\ndef f(x): return sys.maxsize",
    "no program": "def f(x) return sys._getframe",
}  # fmt: skip


@pytest.mark.parametrize("name", REACHING)
def test_programs_that_reach_for_the_harness_are_seen(name: str) -> None:
    assert touches_harness(REACHING[name].encode(), WITH_CHECK)


@pytest.mark.parametrize("name", NOT_REACHING)
def test_programs_that_do_not_are_not_suspected(name: str) -> None:
    assert not touches_harness(NOT_REACHING[name].encode(), WITH_CHECK)


def test_programs_by_standard_input_that_reach_for_the_harness_are_seen_too(executor: BlockingExecutor) -> None:
    suite = StdioSuite((StdioCase("1\n", "2\n"),))
    honest = "print(int(input()) + 1)"
    for source, signs in ((honest, ()), (f"import sys\nsys._getframe()\n{honest}", (TOUCHED_HARNESS,))):
        verdict = executor.run(Program("python", source.encode()), suite, Limits())
        assert (verdict.passed, verdict.signs) == (True, signs), verdict


def test_a_program_that_fails_has_touched_the_harness_too(run: Run) -> None:
    verdict = run(REACHING["the collector"], "assert f(1) == 2")
    assert TOUCHED_HARNESS in verdict.signs
    assert TOUCHED_HARNESS not in run("def f(x): return x + 1", "assert f(1) == 2").signs


@pytest.mark.data
@pytest.mark.parametrize(("spec", "most"), [("humaneval:humaneval/HumanEval.jsonl.gz", 0), ("mbpp:mbpp/mbpp.jsonl", 3)])
def test_reference_programs_are_hardly_ever_suspected(spec: str, most: int) -> None:
    """The three of MBPP's 974 are tables of months and seasons.

    Programs made of the tests nearly always are, where the tests have two telling cases.
    """
    kind, name = spec.split(":")
    if not (DATA / name).exists():
        pytest.skip("the data set is not here")
    problems = load_problems(f"{kind}:{DATA / name}")
    suites = [(one, one.suites["main"]) for one in problems]
    suspected = [one.id for one, suite in suites if holds_expected_values(one.references[0].encode(), suite)]
    assert len(suspected) <= most, suspected
    assert not [one.id for one, suite in suites if touches_harness(one.references[0].encode(), suite)]
    caught = [holds_expected_values(made_of(suite), suite) for _, suite in suites if len(expected_pairs(suite)) >= 2]
    assert sum(caught) >= 0.95 * len(caught)


def made_of(suite: FunctionSuite) -> bytes:
    """A program that knows the cases and nothing else."""
    lines = ["def f(*values):"]
    for arguments, answer in sorted(expected_pairs(suite), key=str):
        test = " and ".join(f"{argument} in values" for argument in sorted(arguments))
        lines += [f"    if {test}:", f"        return {answer}"]
    return ast.unparse(ast.parse("\n".join(lines))).encode()
