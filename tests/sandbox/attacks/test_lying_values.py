# Attacks are programs on one line each.
# ruff: noqa: E501
"""Values made to look like the right answer. What is no plain data is equal to nothing."""

from __future__ import annotations

import pytest

from problems.problem import FunctionSuite, Limits
from sandbox import BlockingExecutor, Outcome, Program
from sandbox.verdict import Trust

from ..conftest import Run
from .conftest import ERROR, LIMITS, WRONG, Assault

ALWAYS_EQUAL = """
class Always:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 2
    def __bool__(self): return True
    def __index__(self): return 2
    def __len__(self): return 2
    def __contains__(self, item): return True
    def __getattr__(self, name): return self
    def __call__(self, *args, **kwargs): return self
    def __instancecheck__(self, other): return True
"""
LIARS = {
    "an object equal to everything": ALWAYS_EQUAL + "def f(x): return Always()",
    "an object that claims another class": ALWAYS_EQUAL
    + "class Spoof(Always):\n    __class__ = property(lambda self: int)\ndef f(x): return Spoof()",
    "an int that is equal to everything": "class I(int):\n    def __eq__(s, o): return True\n    __hash__ = int.__hash__\n"
    "def f(x): return I(7)",
    "a str that is equal to everything": "class S(str):\n    def __eq__(s, o): return True\n    __hash__ = str.__hash__\n"
    "def f(x): return S('x')",
    "a list that is equal to everything": "class L(list):\n    def __eq__(s, o): return True\ndef f(x): return L()",
    "a float that lies about itself": "class F(float):\n    def __eq__(s, o): return True\n    def __float__(s): return 2.0\n"
    "    def __hash__(s): return 2\ndef f(x): return F(9)",
    "a class whose metaclass lies": "class M(type):\n    def __eq__(s, o): return True\n    def __hash__(s): return 2\n"
    "class C(metaclass=M): pass\ndef f(x): return C",
    "unittest's ANY": "from unittest.mock import ANY\ndef f(x): return ANY",
    "the proxy itself": "def f(x): return f",
    "not a number": "def f(x): return float('nan')",
    "the argument's own judge": "def f(x, *rest): return lambda *a: True",
}


@pytest.mark.parametrize("name", LIARS)
def test_no_object_is_equal_to_what_it_is_not(assault: Assault, name: str) -> None:
    for case in ("assert f(1) == 2", "assert not f(1) != 2", "assert f(1) in (2,)", "assert {2: 'x'}[f(1)]"):
        assault(LIARS[name], case, expect={WRONG, ERROR})


@pytest.mark.parametrize(
    "case",
    [
        "assert 2 in f(1)",
        "assert not 2 not in f(1)",
        "assert f(1).startswith('ab')",
        "assert f(1).isdigit() and f(1).is_integer()",
        "assert f(1).issubset({1, 2})",
        "assert f(1).union({2}) == {2}",
        "assert {2} == f(1).intersection({2})",
        "assert all(x in f(1) for x in (1, 2))",
    ],
)
def test_an_object_that_says_yes_to_everything_is_not_asked(assault: Assault, case: str) -> None:
    """What a plain value would answer for itself, the program would answer here, and would be told what is expected."""
    yes = ALWAYS_EQUAL.replace("def __getattr__(self, name): return self", "def __getattr__(self, name): return yes")
    program = f"yes = lambda *a: a[0] if a and isinstance(a[0], set) else True\n{yes}def f(x): return Always()"
    assault(program, case, expect={WRONG, ERROR})


# Whatever it is asked, it answers what tests like to hear.
PLEASING = """
class Y:
    def find(self, *a): return 0
    index = rindex = rfind = find
    def count(self, *a): return 1
    def get(self, *a): return True
    __getitem__ = __contains__ = startswith = endswith = isdigit = issubset = get
    def __bool__(self): return True
    def __iter__(self): return iter([0])
"""


@pytest.mark.parametrize(
    "case",
    [
        "assert f(1).find('abc') >= 0",
        "assert f(1).find('abc') != -1",
        "assert f(1).index(5) == 0",
        "assert f(1).count(2) == 1",
        "assert f(1)['ok']",
        "assert f(1)[0]",
        "assert f(1).get('k')",
        "assert (f(1) or {}).get('k')",
    ],
)
def test_an_answer_is_not_told_what_is_sought_in_it(assault: Assault, case: str) -> None:
    assault(PLEASING + "def f(x): return Y()", case, expect={WRONG, ERROR})


@pytest.mark.parametrize(
    "case",
    [
        "assert 2 in Solution().f(1)",
        "assert Solution().f(1).startswith('ab')",
        "s = Solution()\nassert s.f(1).isdigit()",
        "assert Solution().f(1)['ok']",
        "assert Solution().f(1).issubset({1})",
        "assert 2 in Solution().me(1)",
        "assert Solution().me(1).startswith('ab')",
    ],
)
def test_what_a_method_of_a_namespace_returns_is_an_answer_be_it_the_namespace_itself(run: Run, case: str) -> None:
    program = PLEASING + "class Solution(Y):\n    def f(self, x): return Y()\n    def me(self, x): return self"
    assert run(program, case, entry_points=("Solution",)).outcome in {WRONG, ERROR}


def test_no_class_is_one_that_the_suite_does_not_name(attacked: BlockingExecutor) -> None:
    suite = FunctionSuite(("Diff",), "", ("assert 2 in Diff(1)",), classes=())
    verdict = attacked.run(Program("python", (PLEASING + "def Diff(x): return Y()").encode()), suite, LIMITS)
    assert verdict.outcome is WRONG


@pytest.mark.parametrize("returned", ["map(int, '99')", "Y()", "(i for i in [1])"])
@pytest.mark.parametrize("case", ["assert f(1)[:2] == [1, 2]", "assert f(1)[::-1] == [2, 1]"])
def test_no_answer_makes_an_infrastructure_error_of_a_test(assault: Assault, returned: str, case: str) -> None:
    assault(PLEASING + f"def f(x): return {returned}", case, expect={WRONG, ERROR})


@pytest.mark.parametrize(
    "case",
    [
        "class P: pass\nassert f(1).seek(P()) == 0",
        "assert f(1).seek(iter([1])) == 0",
        "assert f(1).seek(object()) == 0",
        "a = 1\nfor _ in range(300): a = [a]\nassert f(1).seek(a) == 0",
    ],
)
def test_no_answer_makes_its_program_run_merged(assault: Assault, case: str) -> None:
    program = "class Y:\n    def seek(self, *a): return 0\ndef f(x): return Y()"
    for verdict in assault(program, case, expect={WRONG, ERROR}):
        assert verdict.trust is Trust.SPLIT


def test_an_assertion_in_a_function_of_the_test_is_not_the_program_s_to_swallow(assault: Assault) -> None:
    program = "told = []\ndef f(g):\n    try: g(0)\n    except BaseException as e: told.append(str(e))\n    return told or 'done'"
    case = "def spy(x): assert x == 42, f'want 42, got {x}'\nassert f(spy) == 'done'"
    assault(program, case, expect=WRONG)
    assault(program, "def spy(x): assert x == 42, 'want 42'\nassert '42' in str(f(spy))", expect=WRONG)


def test_a_membership_is_sought_among_the_values(assault: Assault) -> None:
    for value in ("(i for i in (x, x + 1))", "map(int, '12')", "{1: 1, 2: 2}.keys()"):
        assault(f"def f(x): return {value}", "assert 2 in f(1)", "assert 3 not in f(1)", expect=Outcome.PASSED)


LOOPS = {
    "all of a map": "assert all(map(lambda x: f(x) == x + 1, [1, 2, 3]))",
    "pairs": "for got, wanted in zip(map(f, [1, 2]), [2, 3]):\n    assert got == wanted",
    "a loop over a map": "for got in map(f, [1]):\n    assert got == 2",
    "nothing unequal": "assert not [1 for got, wanted in zip(map(f, [1, 2]), [2, 3]) if got != wanted]",
    "a filter": "assert list(filter(lambda x: f(x) != x + 1, [1, 2])) == []",
    "an iterator until a value": "assert list(iter(lambda: f(1), 2)) == []",
}


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("error", ["StopIteration", "StopAsyncIteration", "S"])
def test_an_exception_that_ends_loops_ends_no_loop_of_the_test(assault: Assault, name: str, error: str) -> None:
    """Raised in a call, a StopIteration would pass for the end of the test's own ``map`` or ``zip``."""
    assault(f"class S(StopIteration): pass\ndef f(x): raise {error}", LOOPS[name], expect=Outcome.RUNTIME_ERROR)


def test_an_iterator_still_ends(assault: Assault) -> None:
    program = "class S(StopIteration): pass\nclass I:\n    def __iter__(s): return s\n    def __next__(s): raise S\ndef f(x): return I()"
    assault(program, "assert list(f(1)) == []", expect=Outcome.PASSED)


@pytest.mark.parametrize("container", ["[Always()]", "(Always(),)", "{'k': Always()}", "{Always()}"])
def test_no_object_inside_plain_data_is_equal_to_what_it_is_not(assault: Assault, container: str) -> None:
    program = f"{ALWAYS_EQUAL}\ndef f(x): return {container}"
    assault(program, "assert f(1) in ([2], (2,), {'k': 2}, {2})", expect=Outcome.WRONG_ANSWER)


def test_an_objects_truth_is_unknown(assault: Assault) -> None:
    for case in ("assert f(1)", "assert not f(1)", "assert bool(f(1))", "assert all([f(1)])"):
        assault(ALWAYS_EQUAL + "def f(x): return Always()", case, expect=Outcome.WRONG_ANSWER)


def test_an_object_is_an_instance_of_nothing(assault: Assault) -> None:
    spoof = ALWAYS_EQUAL + "class Spoof(Always):\n    __class__ = property(lambda self: int)\ndef f(x): return Spoof()"
    assault(spoof, "assert isinstance(f(1), int)", expect={WRONG, ERROR})
    plain = ALWAYS_EQUAL + "def f(x): return Always()"
    assault(plain, "assert isinstance(f(1), (int, str, list, tuple, dict, float))", expect=Outcome.WRONG_ANSWER)


@pytest.mark.parametrize(
    "case",
    ["assert sorted(f(1)) == [1, 2]", "assert len(f(1)) == 2", "assert list(f(1)) == [1, 2]", "assert f(1) == [1, 2]"],
)
def test_lying_lengths_and_iterators_give_no_pass(assault: Assault, case: str) -> None:
    program = (
        "class L(list):\n    def __len__(self): return 2\n    def __iter__(self): return iter([1, 2])\n"
        "    def __getitem__(self, i): return i + 1\ndef f(x): return L([9, 9, 9])"
    )
    assault(program, case, expect=Outcome.WRONG_ANSWER)


@pytest.mark.parametrize("length", ["-1", "10 ** 30", "'x'", "2 ** 62"])
def test_absurd_lengths_harm_nobody(assault: Assault, length: str) -> None:
    program = f"class L:\n    def __len__(self): return {length}\n    def __iter__(self): return iter([1])\ndef f(x): return L()"
    assault(program, "assert len(f(1)) == 2", expect={WRONG, ERROR})
    assault(program, "assert list(f(1)) == [2]", expect={WRONG, ERROR})


def test_an_iterator_without_end_is_a_time_limit(assault: Assault) -> None:
    program = "import itertools\ndef f(x): return itertools.count()"
    expect = frozenset({Outcome.TIME_LIMIT, Outcome.OUTPUT_LIMIT})
    assault(program, "assert list(f(1)) == []", expect=expect, limits=Limits(cpu_s=0.5))


def test_lies_about_changed_arguments_touch_arguments_only(assault: Assault) -> None:
    program = "def f(x):\n    x.clear()\n    x.extend([2, 2, 2])\n    return 2"
    assault(program, "a = [1]\nb = [1]\nf(a)\nassert b == [2, 2, 2]", expect=Outcome.WRONG_ANSWER)
