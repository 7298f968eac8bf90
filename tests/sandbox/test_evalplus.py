"""HumanEval+ and MBPP+ in the sandbox: every reference passes, every mutated one fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from problems.datasets import load_problems
from problems.problem import Problem
from sandbox import Backend, BlockingExecutor, Outcome, Program, SandboxConfig

from .conftest import DATA

SETS = [("humanevalplus", "HumanEvalPlus", 164), ("mbppplus", "MbppPlus", 378)]
# Answers like the right one, and never equal to it, by any of the data set's rules.
MUTATION = """
_right = {name}
def {name}(*values):
    answer = _right(*values)
    if isinstance(answer, (bool, type(None))):
        return not answer
    if isinstance(answer, (int, float, complex)):
        return answer + 1
    if isinstance(answer, str):
        return answer + "x"
    if isinstance(answer, (list, tuple)):
        return type(answer)([*answer, "x"])
    return None
"""
# Seconds of CPU each, in the soak tier alone.
SLOW = {"HumanEval/15", "HumanEval/130", "HumanEval/139", "Mbpp/599"}


def problems_of(kind: str, name: str, count: int) -> list[Problem]:
    path: Path = DATA / "evalplus" / f"{name}.jsonl.gz"
    if not path.exists():
        pytest.skip("the data set is not here")
    problems = load_problems(f"{kind}:{path}")
    assert len(problems) == count
    return problems


def run_all(problems: list[Problem], mutation: str = "") -> list[tuple[str, Outcome, str]]:
    """Id, outcome and details of each problem's reference, in the sandbox."""
    with BlockingExecutor(SandboxConfig(backend=Backend.EMBEDDED, slots=2)) as executor:
        work = [
            (
                Program(
                    "python", (one.references[0] + mutation.format(name=one.suites["main"].entry_points[0])).encode()
                ),
                one.suites["main"],
                one.limits,
            )
            for one in problems
        ]
        verdicts = executor.run_all(work)
    return [(one.id, verdict.outcome, str(verdict)) for one, verdict in zip(problems, verdicts, strict=True)]


@pytest.mark.data
@pytest.mark.parametrize(("kind", "name", "count"), SETS)
def test_reference_programs_pass(kind: str, name: str, count: int) -> None:
    problems = [one for one in problems_of(kind, name, count)[::4] if one.id not in SLOW]
    assert [run for run in run_all(problems) if run[1] is not Outcome.PASSED] == []


@pytest.mark.data
@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("kind", "name", "count"), SETS)
def test_all_reference_programs_pass(kind: str, name: str, count: int) -> None:
    runs = run_all(problems_of(kind, name, count))
    assert [run for run in runs if run[1] is not Outcome.PASSED] == []


@pytest.mark.data
@pytest.mark.parametrize(("kind", "name", "count"), SETS)
def test_mutated_programs_fail(kind: str, name: str, count: int) -> None:
    problems = [one for one in problems_of(kind, name, count) if one.id not in SLOW]
    runs = run_all(problems, MUTATION)
    assert [run for run in runs if run[1] not in (Outcome.WRONG_ANSWER, Outcome.RUNTIME_ERROR)] == []
