"""Readers of HumanEval and MBPP: hand-made rows in their formats, and the real files where they are found."""

import gzip
import json
from pathlib import Path

import pytest

from problems.datasets import index_by_task_id, load_problems
from problems.problem import CompletionStyle, Problem, Split

DATA = Path(__file__).parents[3] / "shared" / "data"

HUMANEVAL_ROW = {
    "task_id": "HumanEval/900",
    "prompt": 'import math\n\nBASE = 2\n\ndef poly(x):\n    return BASE * x\n\n\ndef root(y):\n    """invert poly"""\n',
    "entry_point": "root",
    "canonical_solution": "    return y / 2\n",
    "test": "\n\nMETADATA = {}\n\ndef check(candidate):\n    assert math.isclose(poly(candidate(3)), 3)\n",
}
MBPP_ROW = {
    "task_id": 601,
    "text": "Write a function to double a number.",
    "code": "def double(x):\r\n  return 2 * x",
    "test_setup_code": "",
    "test_list": ["assert double(2) == 4", "assert double(-1) == -2"],
    "challenge_test_list": [],
}
SANITIZED_ROW = {
    "task_id": 82,
    "source_file": "somewhere.ipynb",
    "prompt": "Write a function to halve a number.",
    "code": "def halve(x):\n  return x / 2",
    "test_imports": ["import math"],
    "test_list": ["assert math.isclose(halve(1), 0.5)"],
}


def write_lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def reference_passes(problem: Problem) -> bool:
    """Our own programs and the data sets' references: judge and candidate by two plain namespaces."""
    suite = problem.suites["main"]
    candidate: dict[str, object] = {}
    exec(problem.references[0], candidate)
    judge = {name: candidate[name] for name in suite.entry_points}
    exec(suite.setup, judge)
    for case in suite.cases:
        exec(case, judge)
    return True


def test_humaneval_row_becomes_a_problem_to_continue(tmp_path: Path):
    [problem] = load_problems(f"humaneval:{write_lines(tmp_path / 'he.jsonl', HUMANEVAL_ROW)}")
    assert problem.id == "HumanEval/900"
    assert problem.completion_style is CompletionStyle.CONTINUE
    assert problem.prompt + problem.reference_completions[0] == problem.references[0]
    assert problem.suites["main"].entry_points == ("root",)
    assert problem.suites["main"].cases == ("check(root)",)
    assert problem.split is Split.TEST


def test_judge_gets_the_prompts_helpers_and_not_the_function_asked_for(tmp_path: Path):
    [problem] = load_problems(f"humaneval:{write_lines(tmp_path / 'he.jsonl', HUMANEVAL_ROW)}")
    judge: dict[str, object] = {}
    exec(problem.suites["main"].setup, judge)
    assert {"math", "BASE", "poly", "check"} <= set(judge)
    assert "root" not in judge
    assert reference_passes(problem)


def test_gzip_is_read_like_plain_lines(tmp_path: Path):
    path = tmp_path / "he.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(HUMANEVAL_ROW).encode()))
    assert [problem.id for problem in load_problems(f"humaneval:{path}")] == ["HumanEval/900"]


def test_mbpp_row_becomes_a_program_with_one_case_for_each_assert(tmp_path: Path):
    [problem] = load_problems(f"mbpp:{write_lines(tmp_path / 'mbpp.jsonl', MBPP_ROW)}")
    assert problem.id == "Mbpp/601"
    assert problem.completion_style is CompletionStyle.PROGRAM
    assert problem.references == (MBPP_ROW["code"].replace("\r\n", "\n"),)
    assert problem.suites["main"].entry_points == ("double",)
    assert problem.suites["main"].cases == tuple(MBPP_ROW["test_list"])
    assert "double a number" in problem.prompt
    assert "assert double(-1) == -2" in problem.prompt
    assert reference_passes(problem)


def test_sanitized_mbpp_is_one_json_list_with_imports(tmp_path: Path):
    path = tmp_path / "sanitized.json"
    path.write_text(json.dumps([SANITIZED_ROW]))
    [problem] = load_problems(f"mbpp:{path}")
    assert problem.suites["main"].setup == "import math"
    assert problem.split is Split.TEST
    assert reference_passes(problem)


def test_a_builtin_that_the_reference_redefines_is_an_entry_point(tmp_path: Path):
    row = MBPP_ROW | {"code": "def sum(a, b):\n    return a * b", "test_list": ["assert sum(2, 5) == 10"]}
    [problem] = load_problems(f"mbpp:{write_lines(tmp_path / 'mbpp.jsonl', row)}")
    assert problem.suites["main"].entry_points == ("sum",)
    assert reference_passes(problem)


def test_a_module_that_tests_borrow_from_the_reference_is_imported_in_the_setup(tmp_path: Path):
    row = MBPP_ROW | {
        "code": "import math as m\ndef f(x):\n    return m.sqrt(x)",
        "test_list": ["assert f(4) == m.sqrt(4)"],
    }
    [problem] = load_problems(f"mbpp:{write_lines(tmp_path / 'mbpp.jsonl', row)}")
    assert problem.suites["main"].setup == "import math as m"
    assert problem.suites["main"].entry_points == ("f",)
    assert reference_passes(problem)


def test_classes_used_in_the_setup_are_entry_points_too(tmp_path: Path):
    row = MBPP_ROW | {
        "code": "class Node:\r\n  def __init__(self, v):\r\n    self.v = v\r\ndef value(n):\r\n  return n.v",
        "test_setup_code": "root = Node(3)\r\n",
        "test_list": ["assert value(root) == 3"],
    }
    [problem] = load_problems(f"mbpp:{write_lines(tmp_path / 'mbpp.jsonl', row)}")
    assert problem.suites["main"].entry_points == ("Node", "value")
    assert reference_passes(problem)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({key: value for key, value in MBPP_ROW.items() if key != "code"}, ("line 2", "field code")),
        (MBPP_ROW | {"task_id": "601"}, ("line 2", "field task_id")),
        (MBPP_ROW | {"test_list": []}, ("line 2", "field test_list")),
        (MBPP_ROW | {"test_list": ["assert double(2) =="]}, ("line 2", "field test_list")),
        (MBPP_ROW | {"test_list": ["assert triple(2) == 6"]}, ("line 2", "field test_list", "triple")),
        (MBPP_ROW | {"code": "def f(:"}, ("line 2", "field code")),
        (MBPP_ROW | {"task_id": 1}, ("line 2", "field task_id", "line 1")),
        (["not", "an", "object"], ("line 2", "the row itself")),
    ],
)
def test_malformed_row_is_refused_with_file_line_and_field(tmp_path: Path, row: object, words: tuple[str, ...]):
    path = write_lines(tmp_path / "mbpp.jsonl", MBPP_ROW | {"task_id": 1}, row)
    with pytest.raises(ValueError, match=r"mbpp\.jsonl") as caught:
        load_problems(f"mbpp:{path}")
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"prompt": "def root(y:\n"}, "field prompt"),
        ({"entry_point": "missing"}, "field entry_point"),
        ({"test": 7}, "field test"),
    ],
)
def test_malformed_humaneval_row_names_its_field(tmp_path: Path, change: dict[str, object], field: str):
    path = write_lines(tmp_path / "he.jsonl", HUMANEVAL_ROW | change)
    with pytest.raises(ValueError, match=field) as caught:
        load_problems(f"humaneval:{path}")
    assert "he.jsonl, line 1" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"task_id": 1,\n', "line 1: not JSON"),
        (b"\xff\xfe{}\n", "not UTF-8"),
        (b"\n\n", "holds no problem"),
    ],
)
def test_files_that_hold_no_rows_are_refused(tmp_path: Path, content: bytes, words: str):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        load_problems(f"mbpp:{path}")


def test_cut_gzip_and_missing_file_are_refused_by_name(tmp_path: Path):
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(MBPP_ROW).encode())[:-9])
    with pytest.raises(ValueError, match=r"cut\.jsonl\.gz: cannot be read"):
        load_problems(f"mbpp:{path}")
    with pytest.raises(ValueError, match="does not exist"):
        load_problems(f"mbpp:{tmp_path / 'absent.jsonl'}")


@pytest.mark.parametrize("spec", ["humaneval", "humaneval:", "apps:x.jsonl", ""])
def test_unknown_problem_set_names_the_known_ones(spec: str):
    with pytest.raises(ValueError, match="humaneval:FILE"):
        load_problems(spec)


def test_programs_may_name_mbpp_problems_by_their_number(tmp_path: Path):
    index = index_by_task_id(load_problems(f"mbpp:{write_lines(tmp_path / 'mbpp.jsonl', MBPP_ROW)}"))
    assert index["Mbpp/601"] is index[601] is index["601"]


def test_one_id_twice_in_a_mixture_is_refused(tmp_path: Path):
    problems = load_problems(f"mbpp:{write_lines(tmp_path / 'mbpp.jsonl', MBPP_ROW)}")
    with pytest.raises(ValueError, match="Mbpp/601"):
        index_by_task_id(problems + problems)


@pytest.mark.data
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::SyntaxWarning")
@pytest.mark.parametrize(
    ("kind", "file", "count"),
    [
        ("humaneval", "humaneval/HumanEval.jsonl.gz", 164),
        ("mbpp", "mbpp/mbpp.jsonl", 974),
        ("mbpp", "mbpp/sanitized-mbpp.json", 427),
    ],
)
def test_every_reference_of_the_real_file_passes(kind: str, file: str, count: int):
    path = DATA / file
    if not path.exists():
        pytest.skip(f"{file} is not beside this checkout")
    problems = load_problems(f"{kind}:{path}")
    assert len(problems) == count
    assert all(reference_passes(problem) for problem in problems)
