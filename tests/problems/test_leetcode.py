"""LeetCode Contest: a hand-made row in its format, and the real file where it is found."""

import json
from pathlib import Path

import pytest

from problems.datasets import leetcode, load_problems
from problems.extraction import extract_program
from problems.problem import CompletionStyle, Problem, Use

FILE = Path(__file__).parents[3] / "shared" / "data" / "leetcode_contest" / "20240121-Jul.jsonl"
HEAD = "class Solution:\n    def double(self, head: Optional[ListNode], times: int) -> List[int]:\n        "
NODE = (
    "# Definition for singly-linked list.\n"
    "class ListNode:\n    def __init__(self, val=0, next=None):\n        self.val = val\n        self.next = next\n"
)
ROW = {
    "task_id": "weekly-contest-1-double",
    "meta": {"difficulty": "Medium", "questionId": "1"},
    "prompt": f'"""\nDouble it.\n"""\n{NODE}{HEAD}',
    "prompt_sft": f"Double it.\n\nPlease complete the code below:\n```python\n{NODE}{HEAD}\n```\n",
    "test": (
        "\nmy_solution = Solution()\n\n_f1 = lambda lst: ListNode(lst[0], _f1(lst[1:])) if lst else None\n\n"
        'test_input = { "head": _f1([1,2]), "times": 1 }\nassert my_solution.double(**test_input) == [2, 4]\n\n'
        'test_input = { "head": _f1([]), "times": 2 }\nassert my_solution.double(**test_input) == []\n'
    ),
}
RIGHT = (
    "class Solution:\n    def double(self, head: Optional[ListNode], times: int) -> List[int]:\n"
    "        found = deque()\n        while head:\n            found.append(head.val * pow(2, times, 1000))\n"
    "            head = head.next\n"
    "        return list(found)\n"
)


def load(tmp_path: Path, **changes: object) -> Problem:
    path = tmp_path / "lc.jsonl"
    path.write_text(json.dumps(ROW | changes) + "\n")
    [problem] = load_problems(f"leetcode:{path}")
    return problem


def failed_cases(problem: Problem, program: str) -> list[int]:
    """Judge and candidate by two plain namespaces."""
    suite = problem.suites["main"]
    candidate: dict[str, object] = {}
    exec(suite.candidate_setup, candidate)
    exec(program, candidate)
    judge = {name: candidate[name] for name in suite.entry_points}
    exec(suite.setup, judge)
    failed = []
    for index, case in enumerate(suite.cases):
        try:
            exec(case, judge)
        except AssertionError:
            failed.append(index)
    return failed


def test_a_row_becomes_a_problem_with_one_case_an_assert(tmp_path: Path) -> None:
    problem = load(tmp_path)
    assert problem.id == "LeetCode/weekly-contest-1-double"
    assert (problem.completion_style, problem.use) == (CompletionStyle.PROGRAM, Use.EVALUATE)
    assert problem.difficulty == 2.0
    suite = problem.suites["main"]
    assert suite.entry_points == ("ListNode", "Solution")
    assert suite.setup.splitlines()[0] == "my_solution = Solution()"
    assert suite.cases[1] == (
        "test_input = {'head': _f1([]), 'times': 2}\nassert my_solution.double(**test_input) == []"
    )


def test_a_solution_passes_with_the_names_that_leetcode_lends(tmp_path: Path) -> None:
    problem = load(tmp_path)
    assert failed_cases(problem, RIGHT) == []
    assert failed_cases(problem, NODE + RIGHT) == []  # with a class of its own
    assert failed_cases(problem, RIGHT.replace("pow(2", "pow(3")) == [0]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"test": "my_solution = Solution()\n"}, "field test: holds no assert"),
        ({"test": "assert ("}, "field test: does not parse"),
        ({"prompt": "def f():\n    "}, "field prompt: does not define class Solution"),
        ({"meta": {"difficulty": "Odd"}}, "field meta.difficulty: 'Odd' is none of Easy, Medium, Hard"),
        ({"prompt_sft": ""}, "field prompt_sft"),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=rf"lc\.jsonl, line 1: {complaint}"):
        load(tmp_path, **changes)


# Written for this test: the data set has no solutions.
SOLUTIONS = {
    "weekly-contest-381-minimum-number-of-pushes-to-type-word-i": """
class Solution:
    def minimumPushes(self, word: str) -> int:
        return sum(index // 8 + 1 for index in range(len(word)))
""",
    "weekly-contest-358-double-a-number-represented-as-a-linked-list": """
class Solution:
    def doubleIt(self, head: Optional[ListNode]) -> Optional[ListNode]:
        digits = []
        while head:
            digits.append(str(head.val))
            head = head.next
        made = None
        for digit in reversed(str(2 * int("".join(digits)))):
            made = ListNode(int(digit), made)
        return made
""",
    "weekly-contest-381-count-the-number-of-houses-at-a-certain-distance-i": """
class Solution:
    def countOfPairs(self, n: int, x: int, y: int) -> List[int]:
        found = Counter()
        for a, b in combinations(range(1, n + 1), 2):
            found[min(b - a, abs(a - x) + 1 + abs(b - y), abs(a - y) + 1 + abs(b - x))] += 2
        return [found[k] for k in range(1, n + 1)]
""",
}


@pytest.mark.data
@pytest.mark.skipif(not FILE.is_file(), reason="the data set is not beside the checkout")
def test_all_rows_of_the_real_file_are_read_and_known_solutions_pass() -> None:
    problems = load_problems(f"leetcode:{FILE}")
    assert len(problems) == 180
    assert [sum(p.difficulty == level for p in problems) for level in (1.0, 2.0, 3.0)] == [45, 91, 44]
    assert all(len(p.suites["main"].cases) >= 5 for p in problems)
    by_id = {problem.id: problem for problem in problems}
    for name, program in SOLUTIONS.items():
        problem = by_id[f"LeetCode/{name}"]
        assert failed_cases(problem, program) == []
        answer = f"Here it is.\n```python\n{program}\n```\n"
        assert failed_cases(problem, extract_program(problem, answer.encode()).program.decode()) == []


def test_what_is_lent_is_both_modules_and_their_names():
    lent: dict = {}
    exec(leetcode._LENT, lent)
    for text in (
        "bisect.bisect_left([1, 2], 2)",
        "bisect_left([1, 2], 2)",
        "pow(3, 4, 80)",
        "datetime.date(2, 1, 1).day",
    ):
        assert eval(text, lent) == 1
    assert eval("heapq.nlargest(1, Counter('aab'))", lent) == ["b"]
