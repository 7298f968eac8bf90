"""Which prefix of a program can still be saved: the truth that line labels are measured by, by trying everything.

A prefix of n lines that count is savable if what some right body has behind its first n lines, put behind it, passes
the tests. Right bodies are all that the task's operations can be written as, in each of their styles. What could only
be saved by undoing something, or by doing it anew, counts as lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import product

from problems.problem import Problem
from problems.synthetic.rendering import Step, render_completion
from problems.synthetic.tasks import OPERATIONS, Task, task_of

_BY_NAME = {operation.name: operation for operation in OPERATIONS}


def task_of_problem(problem: Problem) -> Task:
    """The task that a problem of the family was made from. Raises ValueError for another problem."""
    family, _, rest = problem.id.partition("/")
    label = rest.partition("/")[2]
    if family != "synthetic" or not label:
        raise ValueError(f"problem {problem.id!r} is not of the synthetic family")
    steps = [_step(part) for part in label.split(".")]
    return task_of([step.operation for step in steps], [(step.digit, step.letter) for step in steps])


def _step(label: str) -> Step:
    """The inverse of ``Step.label``."""
    name, *parameters = label.split("-")
    operation = _BY_NAME[name]
    digit = int(parameters.pop(0)) if operation.takes_digit else 0
    return Step(operation, 0, digit, parameters.pop(0) if operation.takes_letter else "")


@lru_cache(maxsize=64)
def _right_bodies(task: Task, language: str) -> tuple[tuple[str, ...], ...]:
    """Lines of every right body."""
    choices = product(*(step.operation.styles for step in task.steps))
    return tuple(
        tuple(render_completion(task.steps, list(codes), language).splitlines(keepends=True)) for codes in choices
    )


def completions_of(problem: Problem, prefix: str, num_lines: int) -> Iterator[str]:
    """Bodies that begin with ``prefix`` (whole lines) and go on as a right body does; none twice.

    ``num_lines``: how many lines of ``prefix`` count, which are all but blank ones and comments.
    """
    bodies = _right_bodies(task_of_problem(problem), problem.language)
    tails = dict.fromkeys("".join(body[num_lines:]) for body in bodies if len(body) >= num_lines)
    return (prefix + tail for tail in tails)
