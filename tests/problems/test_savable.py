"""The brute-force truth about prefixes, on a task by hand; its programs are the family's own."""

import pytest

from problems.problem import CompletionStyle, Problem
from problems.synthetic import SyntheticConfig, synthetic_problems
from problems.synthetic.savable import completions_of, task_of_problem


def passes(problem: Problem, body: str) -> bool:
    namespace: dict[str, object] = {}
    try:
        exec(problem.prompt + body, namespace)  # written by the family, by nobody else
        for case in problem.suites["main"].cases:
            exec(case, namespace)
    except Exception:  # noqa: BLE001 (a planted fault may raise anything)
        return False
    return True


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    return synthetic_problems(SyntheticConfig(count=12, depth=(2, 3), seed=5))


def test_a_problem_s_task_is_read_back_from_its_id(problems: list[Problem]) -> None:
    for problem in problems:
        task = task_of_problem(problem)
        assert task.prompt("python") == problem.prompt
        assert task.reference_completion("python") == problem.reference_completions[0]
    with pytest.raises(ValueError, match="not of the synthetic family"):
        task_of_problem(Problem("HumanEval/1", "python", "", CompletionStyle.CONTINUE, {}))


def test_every_prefix_of_a_right_program_is_savable(problems: list[Problem]) -> None:
    for problem in problems:
        lines = problem.reference_completions[0].splitlines(keepends=True)
        for count in range(len(lines) + 1):
            assert any(passes(problem, body) for body in completions_of(problem, "".join(lines[:count]), count))


def test_what_stands_behind_a_planted_fault_is_lost_in_most_programs(problems: list[Problem]) -> None:
    savable = []
    for problem in problems:
        task = task_of_problem(problem)
        index, _, faulty = next(task.faulty_completions("python"))
        assert index == 0
        savable.append(any(passes(problem, body) for body in completions_of(problem, faulty, faulty.count("\n"))))
    assert not any(savable)


def test_no_completion_comes_twice(problems: list[Problem]) -> None:
    bodies = list(completions_of(problems[0], "    xs = xs\n", 1))
    assert len(bodies) == len(set(bodies))
    assert all(body.startswith("    xs = xs\n") for body in bodies)
