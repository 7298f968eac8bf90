"""HumanEval+ and MBPP+: EvalPlus's rules by hand-made cases, and rows in its format."""

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest

from problems.datasets import load_problems
from problems.datasets.differential import Differential, close, digit_distance, surface_area, tuples
from problems.problem import CompletionStyle, Problem, Split

DATA = Path(__file__).parents[3] / "shared" / "data" / "evalplus"
ROW = {
    "task_id": "HumanEval/900",
    "prompt": 'def halves(xs):\n    """Halves each."""\n',
    "entry_point": "halves",
    "canonical_solution": "    return [x / 2 for x in xs]\n",
    "base_input": [[[1, 2]], [[]]],
    "plus_input": [[[3]]],
    "atol": 0,
}
MBPP_ROW = {
    "task_id": "Mbpp/630",
    "prompt": '"""Write a function.\nassert pair((1, 2)) == (1, 2)\n"""\n',
    "entry_point": "pair",
    "canonical_solution": "\ndef pair(xs):\n    assert isinstance(xs, tuple)\n    return xs\n",
    "base_input": [[[1, 2]]],
    "plus_input": {},
    "atol": 0,
}


def right(dataset: str, entry_point: str, value: object, expected: object, *arguments: object, atol: float = 0) -> bool:
    try:
        Differential(dataset, entry_point, atol).check(value, expected, list(arguments))
    except (AssertionError, TypeError, ValueError):
        return False
    return True


@pytest.mark.parametrize(
    ("value", "expected", "absolute"),
    [
        (1.0, 1.0 + 9e-7, 1e-6),
        (1.0, 1.0 + 2e-6, 1e-6),
        (1e9, 1e9 + 99, 0.0),
        (1e9, 1e9 + 101, 0.0),
        (3, 3.0000005, 1e-6),
        (True, 1.0, 1e-6),
        (math.inf, math.inf, 1e-6),
        (1.0, math.inf, 1e-6),
        (-math.inf, math.inf, 1e-6),
        (math.nan, math.nan, 1e-6),
        (1 + 1j, 1 + 1.0000001j, 1e-6),
        (1 + 1j, 1 + 1.1j, 1e-6),
        ([1.0, 2.0], [1.0, 2.0000001], 1e-6),
        ([1.0, 2.0], [1.0, 2.1], 1e-6),
        ([[1.0], (2.0,)], [(1.0,), [2.0 + 1e-9]], 1e-6),
        ([], [], 1e-6),
    ],
)
def test_numbers_are_close_where_numpy_says_so(value: object, expected: object, absolute: float):
    assert close(value, expected, absolute) == np.allclose(value, expected, rtol=1e-7, atol=absolute)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "expected"), [("1", "1"), (None, None), ({1}, {1}), ([1.0], [1.0, 2.0]), ({"a": 1.0}, {"a": 1.0})]
)
def test_what_is_no_number_is_never_merely_close(value: object, expected: object):
    assert not close(value, expected, 1.0)


def test_integers_beyond_every_float_are_not_close_and_no_error():
    assert not close(10**400, 10**400 + 1, 1e-6)


def test_without_a_tolerance_all_but_floats_must_be_equal():
    assert right("humaneval", "f", [1, 2], [1, 2])
    assert not right("humaneval", "f", 1_000_000_000, 1_000_000_001)
    assert right("humaneval", "f", 2, 2.0)
    assert right("humaneval", "f", 0.1 + 0.2, 0.3)
    assert right("humaneval", "f", (0.1 + 0.2, 1.0), (0.3, 1.0))
    assert not right("humaneval", "f", [0.1 + 0.2, 1.0], (0.3, 1.0))  # a list for a tuple
    assert not right("humaneval", "f", 1, 1.0000001)  # an int for a float that it does not equal
    assert not right("humaneval", "f", [0.1 + 0.2, 1], [0.3, 1])  # not all are floats
    assert not right("humaneval", "f", {"a": 0.1 + 0.2}, {"a": 0.3})


def test_the_tolerance_for_floats_stays_once_a_float_was_expected():
    rules = Differential("humaneval", "f", 0)
    with pytest.raises(AssertionError):
        Differential("humaneval", "f", 0).check([0.1 + 0.2, 1], [0.3, 1], [])
    rules.check(0.5, 0.5, [])
    rules.check([0.1 + 0.2, 1], [0.3, 1], [])


def test_a_data_sets_own_tolerance_is_kept():
    assert right("humaneval", "f", 1.00009, 1.0, atol=1e-4)
    assert not right("humaneval", "f", 1.00011, 1.0, atol=1e-4)


def test_any_zero_of_the_polynomial_will_do():
    assert right("humaneval", "find_zero", 3.00001, 2.0, [6, -5, 1], atol=1e-4)
    assert not right("humaneval", "find_zero", 2.5, 2.0, [6, -5, 1], atol=1e-4)
    assert not right("humaneval", "find_zero", math.nan, 2.0, [6, -5, 1], atol=1e-4)
    assert not right("mbpp", "find_zero", 3.0, 2.0, [6, -5, 1], atol=1e-4)


def test_mbpp_has_oracles_of_its_own():
    assert right("mbpp", "are_equivalent", 7, True)
    assert right("mbpp", "sum_div", 0, 12)
    assert not right("mbpp", "sum_div", 1, 12)
    assert right("mbpp", "similar_elements", [2, 1, 1], (1, 2))
    assert not right("mbpp", "similar_elements", [1], (1, 2))
    assert not right("humaneval", "similar_elements", (2, 1), (1, 2))
    for value, expected, is_right in [
        (object(), object(), True),
        (None, object(), False),
        (True, object(), True),
        (False, None, True),
        ("", None, False),
    ]:
        assert right("mbpp", "check_str", value, expected) is is_right
    assert (digit_distance(1, 256), surface_area(3, 4)) == (12, 35)
    assert right("mbpp", "digit_distance_nums", 12, 6, 1, 256)
    assert right("mbpp", "digit_distance_nums", 6, 6, 1, 256)
    assert not right("mbpp", "digit_distance_nums", 7, 6, 1, 256)
    assert right("mbpp", "surface_Area", 35, 33, 3, 4)
    assert not right("mbpp", "surface_Area", 34, 33, 3, 4)


def test_lists_become_tuples_all_the_way_down():
    assert tuples([[1, [2]], "a"]) == ((1, (2,)), "a")


def written(tmp_path: Path, kind: str, *rows: object) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"{kind}:{path}"


def judged(problem: Problem, program: str) -> None:
    """Our own programs: judge and candidate by two plain namespaces."""
    candidate: dict[str, object] = {}
    exec(program, candidate)
    suite = problem.suites["main"]
    space: dict[str, object] = {}
    exec(suite.setup, space)
    space |= {name: candidate[name] for name in suite.entry_points}
    for case in suite.cases:
        exec(case, space)


def test_a_humaneval_plus_row_is_judged_by_its_canonical_solution(tmp_path: Path):
    [problem] = load_problems(written(tmp_path, "humanevalplus", ROW))
    assert (problem.id, problem.completion_style, problem.split) == (
        "HumanEval/900",
        CompletionStyle.CONTINUE,
        Split.TEST,
    )
    assert len(problem.suites["main"].cases) == 2
    judged(problem, problem.references[0])
    judged(problem, "def halves(xs): return [x * 0.5 + 1e-9 for x in xs]")
    with pytest.raises(AssertionError):
        judged(problem, "def halves(xs): return [x // 2 for x in xs]")


def test_what_a_program_does_to_its_arguments_changes_no_expectation(tmp_path: Path):
    row = {
        **ROW,
        "entry_point": "find_zero",
        "prompt": "def find_zero(xs):\n",
        "canonical_solution": "    return 2.0\n",
    }
    row |= {"base_input": [[[6, -5, 1]]], "plus_input": [], "atol": 1e-4}
    [problem] = load_problems(written(tmp_path, "humanevalplus", row))
    judged(problem, "def find_zero(xs): return 3.0")
    with pytest.raises(AssertionError):
        judged(problem, "def find_zero(xs):\n    xs[:] = [0]\n    return 1.0")


def test_an_entry_point_may_be_called_like_one_of_our_own_functions(tmp_path: Path):
    row = {**ROW, "entry_point": "close", "prompt": "def close(xs):\n", "canonical_solution": "    return 1.5\n"}
    [problem] = load_problems(written(tmp_path, "humanevalplus", row))
    judged(problem, "def close(xs): return 1.5000001")
    with pytest.raises(AssertionError):
        judged(problem, "def close(xs): return 1.6")


def test_an_mbpp_plus_row_gets_the_tuples_that_json_lacks(tmp_path: Path):
    [problem] = load_problems(written(tmp_path, "mbppplus", MBPP_ROW))
    assert (problem.completion_style, problem.split) == (CompletionStyle.PROGRAM, Split.TRAIN)
    assert len(problem.suites["main"].cases) == 1
    judged(problem, problem.references[0])
    judged(problem, "def pair(xs): return (*xs,)")
    with pytest.raises(AssertionError):
        judged(problem, "def pair(xs): return list(xs)")


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("humanevalplus", {"entry_point": "thirds"}, "line 1: field entry_point: .*'thirds'"),
        ("humanevalplus", {"canonical_solution": "    return ("}, "line 1: field canonical_solution"),
        ("humanevalplus", {"base_input": []}, "line 1: field base_input"),
        ("humanevalplus", {"plus_input": [3]}, "line 1: field plus_input.0"),
        ("humanevalplus", {"atol": -1}, "line 1: field atol"),
        ("mbppplus", {}, "line 1: field task_id: 'HumanEval/900'"),
    ],
)
def test_bad_rows_are_named_by_line_and_field(tmp_path: Path, kind: str, change: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        load_problems(written(tmp_path, kind, {**ROW, **change}))


@pytest.mark.data
@pytest.mark.parametrize(("spec", "count"), [("humanevalplus:HumanEvalPlus", 164), ("mbppplus:MbppPlus", 378)])
def test_the_real_files_are_read(spec: str, count: int):
    kind, name = spec.split(":")
    path = DATA / f"{name}.jsonl.gz"
    if not path.exists():
        pytest.skip("the data set is not here")
    problems = load_problems(f"{kind}:{path}")
    assert len(problems) == count
    raw = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    assert [problem.id for problem in problems] == [row["task_id"] for row in raw]
