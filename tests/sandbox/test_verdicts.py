"""What programs of good will get, under every way of holding them."""

from __future__ import annotations

import pytest

from sandbox import Outcome
from sandbox.verdict import Trust

from .conftest import Run


def test_a_right_program_passes_and_a_wrong_one_does_not(run: Run) -> None:
    assert run("def f(x): return x + 1", "assert f(1) == 2").passed
    assert run("def f(x): return x", "assert f(1) == 2").outcome is Outcome.WRONG_ANSWER


def test_a_verdict_says_what_was_used_and_how_it_was_held(run: Run) -> None:
    verdict = run("def f():\n    x = bytearray(60 << 20)\n    return sum(range(3_000_000))", "assert f()")
    assert verdict.passed
    assert 0.01 < verdict.cpu_s < 3
    assert verdict.memory_bytes > 60 << 20
    assert verdict.wall_s > verdict.cpu_s / 2
    assert verdict.isolation is not None
    assert verdict.isolation.seccomp
    assert verdict.isolation.network
    assert verdict.isolation.memory in {"fast": ("hard",), "lean": ("hard",), "user": ("soft",)}.get(
        verdict.isolation.profile, ("hard", "soft")
    )


def test_every_case_has_a_result_unless_the_first_failure_ends_the_run(run: Run) -> None:
    cases = ["assert f(1) == 2", "assert f(2) == 0", "assert f(3) == 4", "assert f(4) == 5"]
    whole = run("def f(x): return x + 1", *cases, stop=False)
    assert [case.outcome.value for case in whole.cases] == ["passed", "wrong_answer", "passed", "passed"]
    assert whole.outcome is Outcome.WRONG_ANSWER
    assert whole.num_passed == 3
    stopped = run("def f(x): return x + 1", *cases)
    assert len(stopped.cases) == 2
    assert stopped.num_cases == 4


VALUES = [
    "None", "True", "0", "-1", "2**62", "2**200", "-2**200", "1.5", "float('inf')", "-0.0", "'text'", "'\\ud800\\x00'",
    "b'\\x00\\xff'", "bytearray(b'a')", "1j", "[1, [2, ['3']]]", "(1, (2,))", "{1: 'a', (1, 2): [3]}", "{1, 2}",
    "frozenset({1})", "range(3, 9, 2)", "[]", "()", "{}", "set()", "{1}.__class__", "int", "[1, 2.0, None, 'x', True]",
    "__import__('decimal').Decimal('1.10')", "__import__('fractions').Fraction(1, 3)",
    "__import__('datetime').date(2024, 2, 29)", "__import__('datetime').datetime(2024, 2, 29, 1, 2, 3)",
    "__import__('datetime').timedelta(1, 2, 3)", "__import__('collections').deque([1, 2])",
    "__import__('collections').OrderedDict([(2, 1), (1, 2)])", "{1: 2}.keys()", "{1: 2}.items()",
]  # fmt: skip


def test_plain_values_cross_in_both_directions_unchanged(run: Run) -> None:
    """There and back again: what the program gets and what the judge gets back."""
    cases = [
        f"value = {value}\nback = f(value)\nassert back == value and type(back) is type(value)" for value in VALUES
    ]
    verdict = run("def f(x): return x", *cases, stop=False)
    failed = [value for value, case in zip(VALUES, verdict.cases, strict=True) if case.outcome is not Outcome.PASSED]
    assert not failed


def test_not_a_number_is_not_equal_to_itself_on_the_way_back(run: Run) -> None:
    assert run("def f(): return float('nan')", "x = f()\nassert x != x").passed


@pytest.mark.parametrize(
    ("program", "case"),
    [
        ("def f(x): x.append(4); x.sort(reverse=True)", "a = [3, 5]\nassert f(a) is None\nassert a == [5, 4, 3]"),
        ("def f(x): x['a'] = 1; del x['b']", "a = {'b': 2}\nf(a)\nassert a == {'a': 1}"),
        ("def f(x): x.add(1)", "a = set()\nf(a)\nassert a == {1}"),
        ("def f(m): m[0][1] = 9", "row = [1, 2]\nm = [row, row[:]]\nf(m)\nassert row == [1, 9] and m[0] is row"),
        ("def f(*, key): key.clear()", "a = [1]\nf(key=a)\nassert a == []"),
        ("def f(x): x.extend(b'b')", "a = bytearray(b'a')\nf(a)\nassert a == bytearray(b'ab')"),
    ],
)
def test_what_a_program_changes_in_its_arguments_is_seen_by_the_test(run: Run, program: str, case: str) -> None:
    verdict = run(program, case)
    assert verdict.passed, verdict


@pytest.mark.parametrize(
    ("program", "case"),
    [
        ("def f(n):\n    for i in range(n): yield i * i", "assert list(f(4)) == [0, 1, 4, 9]"),
        ("import itertools\ndef f(n): return itertools.count(n)", "g = f(1)\nassert [next(g), next(g)] == [1, 2]"),
        ("def f(x): return map(str, x)", "assert list(f([1, 2])) == ['1', '2']"),
        ("def f(x): return zip(x, x)", "assert dict(f([1])) == {1: 1}"),
        ("def f(x): return x.items()", "assert sorted(f({1: 2, 3: 4})) == [(1, 2), (3, 4)]"),
        ("from collections import Counter\ndef f(x): return Counter(x)", "assert f('aab') == {'a': 2, 'b': 1}"),
        ("import collections\nP = collections.namedtuple('P', 'x y')\ndef f(): return P(1, 2)", "assert f() == (1, 2)"),
        ("import enum\nclass E(enum.IntEnum):\n    A = 1\ndef f(): return E.A", "assert f() == 1"),
    ],
)  # fmt: skip
def test_iterators_and_subclasses_of_plain_types_are_read_as_data(run: Run, program: str, case: str) -> None:
    verdict = run(program, case)
    assert verdict.passed, verdict


def test_objects_of_the_programs_own_classes_stay_with_it(run: Run) -> None:
    program = """
class Node:
    def __init__(self, value): self.value, self.left = value, None
    def total(self): return self.value + (self.left.total() if self.left else 0)
    def __str__(self): return f"node {self.value}"
    def __len__(self): return 7
    def __getitem__(self, i): return [self.value, i]
def f(node): return node.total()
"""
    verdict = run(
        program,
        "root = Node(1)\nroot.left = Node(2)\nassert f(root) == 3",
        "assert root.left.value == 2 and root.total() == 3",
        "assert str(root) == 'node 1' and len(root) == 7 and root[4] == [1, 4]",
        "assert root == root and root != Node(1) and root in [root]",
        entry_points=("f", "Node"),
    )
    assert verdict.passed, verdict


def test_functions_of_the_test_can_be_called_by_the_program(run: Run) -> None:
    program = "def f(g, xs): return sorted(map(g, xs), key=lambda x: -x)"
    assert run(program, "assert f(lambda x: x * 2, [1, 3, 2]) == [6, 4, 2]").passed
    recursive = "def f(n, again): return n if n == 0 else again(n - 1) + 1"
    assert run(recursive, "assert f(5, lambda n: f(n, lambda m: m)) == 5").passed
    failing = "def f(g):\n    try:\n        g()\n    except KeyError:\n        return 'caught'"
    assert run(failing, "def g(): raise KeyError('x')\nassert f(g) == 'caught'").passed


def test_exceptions_of_the_program_are_builtin_exceptions_in_the_test(run: Run) -> None:
    case = "try:\n    f(1)\nexcept ValueError as error:\n    assert str(error) == 'no'\nelse:\n    assert False"
    assert run("class Mine(ValueError): pass\ndef f(x): raise Mine('no')", case).passed
    assert run("def f(x): raise ValueError('no')", case).passed
    assert run("def f(x): raise KeyError('no')", case).outcome is Outcome.RUNTIME_ERROR
    assert run("def f(x): return 1", case).outcome is Outcome.WRONG_ANSWER


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt", "GeneratorExit"])
def test_an_exit_is_not_an_exception_that_a_test_may_catch(run: Run, name: str) -> None:
    case = "try:\n    f()\nexcept Exception:\n    pass"
    assert run(f"def f(): raise {name}", case).outcome is Outcome.RUNTIME_ERROR


def test_an_assertion_in_the_program_is_its_runtime_error(run: Run) -> None:
    verdict = run("def f(): assert 1 == 2, 'mine'", "assert f() == 1")
    assert verdict.outcome is Outcome.RUNTIME_ERROR
    assert "mine" in verdict.cases[0].detail


def test_a_program_that_does_not_compile_names_line_and_column(run: Run) -> None:
    verdict = run("x = 1\ndef f(:\n  pass", "assert f() == 1")
    assert verdict.outcome is Outcome.COMPILE_ERROR
    assert (verdict.diagnostics[0].kind, verdict.diagnostics[0].line, verdict.diagnostics[0].column) == (
        "SyntaxError",
        2,
        7,
    )


@pytest.mark.parametrize("source", [b"def f(): return '\x00'", b"def f(): return '\xff'", b"# coding: nonsense\n"])
def test_bytes_that_are_no_python_are_a_compile_error(run: Run, source: bytes) -> None:
    assert run(source, "assert f() == 1").outcome is Outcome.COMPILE_ERROR


def test_a_name_that_is_not_defined_is_a_runtime_error(run: Run) -> None:
    assert run("", "assert f() == 1").outcome is Outcome.RUNTIME_ERROR
    assert run("g()", "assert f() == 1").outcome is Outcome.RUNTIME_ERROR


def test_setup_of_the_candidate_runs_before_the_program(run: Run) -> None:
    assert run("def f(x): return sqrt(x)", "assert f(4) == 2", candidate_setup="from math import *").passed


def test_an_object_of_a_class_under_test_answers_for_itself(run: Run) -> None:
    program = """
class Trie:
    def __init__(self, *words): self.words = words
    def __contains__(self, word): return word in self.words
    def startswith(self, part): return any(word.startswith(part) for word in self.words)
    def copy(self): return Trie(*self.words)
"""
    case = "t = Trie('ab', 'c')\nassert 'ab' in t and 'b' not in t and t.startswith('a') and 'c' in t.copy()"
    assert run(program, case, entry_points=("Trie",)).passed


def test_what_comes_of_a_namespace_may_be_worked_with(run: Run) -> None:
    """LeetCode's linked lists: made of the program's class, walked by the test's helper."""
    program = """
class ListNode:
    def __init__(self, val=0, next=None): self.val, self.next = val, next
class Solution:
    def doubled(self, head): return ListNode(2 * head.val, self.doubled(head.next)) if head else None
"""
    setup = "walk = lambda node: [node.val] + walk(node.next) if node else []"
    case = "assert walk(Solution().doubled(ListNode(1, ListNode(3)))) == [2, 6]"
    assert run(program, case, setup=setup, entry_points=("Solution", "ListNode")).passed
    wrong = program.replace("2 * head", "3 * head")
    assert run(wrong, case, setup=setup, entry_points=("Solution", "ListNode")).outcome is Outcome.WRONG_ANSWER


def test_an_object_may_be_asked_for_its_class(run: Run) -> None:
    program = """
class Q: pass
class P:
    def twin(self): return P()
    def other(self): return Q()
def f(x): return x
"""
    case = "assert isinstance(P(), P) and isinstance(P().twin(), P) and not isinstance(P().other(), P)"
    assert run(program, case, "assert not isinstance(f(1), P)", entry_points=("P", "f")).passed


@pytest.mark.parametrize(
    ("program", "case"),
    [
        ("def f(d, k):\n    d[k] += 1\n    return d", "assert f(collections.defaultdict(int), 'a') == {'a': 1}"),
        ("def f(c): return c.most_common(1)", "assert f(collections.Counter('aab')) == [('a', 2)]"),
        ("def f(c): return c['z']", "assert f(collections.Counter('aab')) == 0"),
        ("def f(d):\n    d.append(3)\n    return list(d)", "assert f(collections.deque([1, 2], 2)) == [2, 3]"),
        ("from collections import *\ndef f(x): return Counter(x)", "assert f('aab').most_common(1) == [('a', 2)]"),
        ("def f(a, s): return a[s]", "assert f([1, 2, 3], slice(1, None)) == [2, 3]"),
    ],
)
def test_containers_of_the_standard_library_cross_as_what_they_are(run: Run, program: str, case: str) -> None:
    verdict = run(program, case, setup="import collections")
    assert (verdict.passed, verdict.trust) == (True, Trust.SPLIT), verdict


@pytest.mark.parametrize(
    ("setup", "program"),
    [
        ("P = collections.namedtuple('P', 'x y')", "def f(p): return p.x + p.y"),
        ("class P(list):\n    def __init__(self, *a): self.extend(a)\n    total = 3", "def f(p): return p.total"),
    ],
)
def test_an_argument_that_is_more_than_its_plain_type_is_not_made_less(run: Run, setup: str, program: str) -> None:
    verdict = run(program, "assert f(P(1, 2)) == 3", setup=f"import collections\n{setup}")
    assert (verdict.passed, verdict.trust) == (True, Trust.MERGED), verdict


@pytest.mark.parametrize(
    "case",
    [
        "try: f(object())\nexcept Exception: pass\nelse: assert False",
        "try: f(iter([]))\nexcept BaseException: pass\nelse: assert False",
        "a = 1\nfor _ in range(300): a = [a]\ntry: f(a)\nexcept Exception: pass\nelse: assert False",
    ],
)
def test_what_cannot_cross_is_no_exception_that_a_test_may_expect(run: Run, case: str) -> None:
    """Else every program would raise it."""
    assert not run("def f(x): return 1", case).passed


def test_an_exception_group_and_a_number_of_too_many_digits_harm_no_judge(run: Run) -> None:
    group = "def f(): raise ExceptionGroup('two', [ValueError('a'), KeyError('b')])"
    assert run(group, "assert f() == 1").outcome is Outcome.RUNTIME_ERROR
    verdict = run("def f(x): return 10 ** 5000 if x else 1", "assert f(0) == 1", "assert f(1) == 2, f(1)", stop=False)
    assert [case.outcome for case in verdict.cases] == [Outcome.PASSED, Outcome.WRONG_ANSWER]


def test_helpers_of_the_setup_are_the_judges_own(run: Run) -> None:
    setup = "def helper(x): return x * 2"
    assert run("def f(x): return 2 * x\ndef helper(x): return 0", "assert f(3) == helper(3)", setup=setup).passed


@pytest.mark.parametrize("code", [0, 1])
def test_a_suite_that_ends_by_itself_blames_nobody(run: Run, code: int) -> None:
    verdict = run("def f(): return 1", f"import os\nos._exit({code})\nf()")
    assert verdict.outcome is Outcome.INFRASTRUCTURE_ERROR
    assert "ends by itself" in verdict.detail


def test_a_suite_that_is_broken_blames_nobody(run: Run) -> None:
    right = "def f(): return 1"
    assert run(right, "assert f( == 1").outcome is Outcome.INFRASTRUCTURE_ERROR
    broken_setup = run(right, "assert f() == 1", setup="raise RuntimeError('of the suite')")
    assert broken_setup.outcome is Outcome.INFRASTRUCTURE_ERROR
    assert "of the suite" in broken_setup.detail
    # That a test hands on a part of what the program returned must not be the program's way into a merged run.
    unsendable = run("def f(x): return [x]", "assert f(1) == [1]\nassert f(iter(f(1))) == 1")
    assert unsendable.outcome is Outcome.INFRASTRUCTURE_ERROR
    assert "list_iterator" in unsendable.detail


def test_runs_leave_nothing_to_later_runs(run: Run) -> None:
    writes = (
        "import builtins, os\n"
        "builtins.left = 1\nopen('left', 'w').write('x')\nos.environ['LEFT'] = '1'\ndef f(): return 1"
    )
    looks = (
        "import builtins, os\n"
        "def f(): return [hasattr(builtins, 'left'), os.path.exists('left'), os.listdir('.'), 'LEFT' in os.environ]"
    )
    for _ in range(2):
        assert run(writes, "assert f() == 1").passed
        assert run(looks, "assert f() == [False, False, [], False]").passed


@pytest.mark.parametrize(
    ("source", "outcome"),
    [
        ("import time\ntime.sleep(60)", Outcome.TIME_LIMIT),  # the judge is waiting for the program, not by itself
        ("import os, threading\nthreading.Timer(0.2, os._exit, [0]).start()", Outcome.RUNTIME_ERROR),
    ],
)
def test_no_program_can_pass_itself_off_as_a_suite_that_hangs(run: Run, source: str, outcome: Outcome) -> None:
    """The suite is long before its first call, but comes to it."""
    verdict = run(
        f"{source}\ndef f(): return 1", "assert f() == 1", setup="import time\ntime.sleep(1.5)", cpu_s=0.7, wall_s=3.0
    )
    assert verdict.outcome is outcome, verdict
