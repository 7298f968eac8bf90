"""A task: a composition of operations with parameters, and the tests that tell right from wrong.

Everything about a task follows from its label, never from the order in which tasks are drawn: the same label has the
same phrasing and the same tests in every run, on every machine.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from problems.identity import derive_seed
from problems.java import JavaSuite, read_imports, read_method
from problems.problem import CompletionStyle, FunctionSuite, Limits, Problem, Split, Use
from problems.synthetic.lists import LIST_OPERATIONS
from problems.synthetic.numbers import NUMBER_OPERATIONS
from problems.synthetic.operations import Code, Fault, Kind, Operation
from problems.synthetic.rendering import ENTRY_POINT, Step, java_literal, render_completion, render_head
from problems.synthetic.texts import TEXT_OPERATIONS

OPERATIONS: tuple[Operation, ...] = LIST_OPERATIONS + NUMBER_OPERATIONS + TEXT_OPERATIONS
MAX_DEPTH = 5
NUM_TESTS = 8
_BY_SOURCE = {kind: tuple(op for op in OPERATIONS if op.source is kind) for kind in Kind}
_SOURCE_WEIGHTS = {Kind.LIST: 6, Kind.TEXT: 3, Kind.NUMBER: 2}
_DIGITS = (2, 3, 4, 5, 6)
_LETTERS = "aeost"
_ALPHABET = "aaeeoossttAEOSTku"

Value = list[int] | int | str
"""What flows between operations."""

# Bounds on every intermediate value: far from Java's overflow at 2**31, and printable.
_LARGEST_NUMBER = 1_000_000
_LONGEST = 64
_POOL_SIZE = 600
# In Python answers take some 3 ms, and none that ends of its own accord over 12; but a policy that learns may write
# loops without end by the dozen, each of which holds a processor until the limit. Java has its machine to start.
_LIMITS = {"python": Limits(cpu_s=1.0), "java": Limits()}
_EDGES: dict[Kind, list[Value]] = {Kind.LIST: [[]], Kind.TEXT: [""], Kind.NUMBER: [0, 1]}
_NUM_CANDIDATE_INPUTS = 48
_MIN_DISTINCT_OUTPUTS = 4
_MAX_SHARE_OF_ONE_OUTPUT = 0.5
_MAX_SHARE_AMONG_CANDIDATES = 0.8  # beyond this a program that is constant would be nearly right

_JAVA_TEST = """class Main {
    static void check(Object got, Object expected) {
        if (!expected.equals(got)) { throw new RuntimeException("got " + got + ", expected " + expected); }
    }

    public static void main(String[] args) {
%s    }
}
"""


@dataclass(frozen=True, slots=True)
class Task:
    """A composition with parameters: one specification, the same in every language."""

    steps: tuple[Step, ...]

    @property
    def label(self) -> str:
        """Composition and parameters, such as ``keep_even.add_each-3.total``; unique."""
        return ".".join(step.label for step in self.steps)

    @property
    def composition(self) -> str:
        """Names of the operations in order; the unit of the split."""
        return composition_of([step.operation for step in self.steps])

    def prompt(self, language: str) -> str:
        return render_head(self.steps, language)

    def reference_completion(self, language: str) -> str:
        """The reference solution, in the first style of each operation."""
        return render_completion(self.steps, [step.operation.styles[0] for step in self.steps], language)

    def faulty_completions(self, language: str) -> Iterator[tuple[int, Fault, str]]:
        """(step, fault, completion) of every planted fault of meaning, alone in an otherwise right program."""
        for index, step in enumerate(self.steps):
            for planted in step.operation.faults:
                for style in planted.styles:
                    codes = [other.operation.styles[0] for other in self.steps]
                    codes[index] = style
                    yield index, planted, render_completion(self.steps, codes, language)


@dataclass(frozen=True, slots=True)
class Case:
    """What the function is given and what it must return."""

    given: Value
    expected: Value


@dataclass(frozen=True, slots=True)
class CheckedTask:
    """A task with tests that every planted fault fails."""

    task: Task
    tests: tuple[Case, ...]

    def problem(self, language: str, split: Split) -> Problem:
        """As a problem to continue."""
        task = self.task
        prompt, completion = task.prompt(language), task.reference_completion(language)
        return Problem(
            id=f"synthetic/{language}/{task.label}",
            language=language,
            prompt=prompt,
            completion_style=CompletionStyle.CONTINUE,
            suites={"main": self._java_suite() if language == "java" else self._python_suite()},
            references=(prompt + completion,),
            reference_completions=(completion,),
            split=split,
            use=Use.TRAIN,
            licence="Apache-2.0",
            limits=_LIMITS[language],
            source="synthetic",
            difficulty=float(len(task.steps)),
        )

    def _python_suite(self) -> FunctionSuite:
        cases = tuple(f"assert {ENTRY_POINT}({test.given!r}) == {test.expected!r}" for test in self.tests)
        return FunctionSuite((ENTRY_POINT,), "", cases)

    def _java_suite(self) -> JavaSuite:
        method = read_method(self.task.prompt("java"), ENTRY_POINT)
        calls = "".join(
            f"        check({method.class_name}.{ENTRY_POINT}({java_literal(test.given)}), "
            f"{java_literal(test.expected)});\n"
            for test in self.tests
        )
        return JavaSuite((method,), _JAVA_TEST % calls, read_imports(self.task.prompt("java")))


def composition_of(operations: Sequence[Operation]) -> str:
    return ".".join(operation.name for operation in operations)


def split_of(composition: str) -> Split:
    """Where a composition belongs. Single operations are all trained: no model can guess one that it never saw."""
    if "." not in composition:
        return Split.TRAIN
    bucket = derive_seed("synthetic-split", composition) % 20
    return Split.TEST if bucket < 3 else Split.VALIDATION if bucket < 5 else Split.TRAIN


def draw_composition(rng: random.Random, depth: int) -> list[Operation]:
    """``depth`` operations, each reading what the one before it left, none twice."""
    while True:
        kind = rng.choices(list(_SOURCE_WEIGHTS), list(_SOURCE_WEIGHTS.values()))[0]
        chosen: list[Operation] = []
        for _ in range(depth):
            candidates = [operation for operation in _BY_SOURCE[kind] if operation not in chosen]
            if not candidates:
                break
            chosen.append(rng.choice(candidates))
            kind = chosen[-1].target
        if len(chosen) == depth:
            return chosen


def draw_task(rng: random.Random, split: Split, depth: int) -> Task:
    """A task of a composition in ``split``; it may have weak tests (see ``with_tests``)."""
    operations = draw_composition(rng, depth)
    while split_of(composition_of(operations)) is not split:
        operations = draw_composition(rng, depth)
    parameters = [(rng.choice(_DIGITS), rng.choice(_LETTERS)) for _ in operations]
    return task_of(operations, parameters)


def task_of(operations: Sequence[Operation], parameters: Sequence[tuple[int, str]]) -> Task:
    """The task with these operations and (digit, letter) for each; the phrasing follows from the label."""
    bare = [Step(op, 0, digit, letter) for op, (digit, letter) in zip(operations, parameters, strict=True)]
    label = ".".join(step.label for step in bare)
    phrased = (
        Step(
            step.operation,
            derive_seed("phrasing", label, index) % len(step.operation.phrasings),
            step.digit,
            step.letter,
        )
        for index, step in enumerate(bare)
    )
    return Task(tuple(phrased))


@lru_cache(maxsize=16384)
def _function(code: Code, source: Kind, target: Kind, digit: int, letter: str) -> Callable[[Any], Any]:
    """One operation as a Python function of its own."""
    body = "".join(f"    {line}\n" for line in code.python).replace("$k", str(digit)).replace("$c", letter)
    namespace: dict[str, Any] = {}
    exec(f"def step({source}):\n{body}    return {target}\n", namespace)
    return namespace["step"]


def _step_function(step: Step, code: Code) -> Callable[[Any], Any]:
    operation = step.operation
    digit = step.digit if operation.takes_digit else 0
    letter = step.letter if operation.takes_letter else ""
    return _function(code, operation.source, operation.target, digit, letter)


def _in_bounds(value: Value) -> bool:
    if isinstance(value, int):
        return abs(value) <= _LARGEST_NUMBER
    if isinstance(value, str):
        return len(value) <= _LONGEST
    return (
        len(value) <= _LONGEST and -_LARGEST_NUMBER <= min(value, default=0) <= max(value, default=0) <= _LARGEST_NUMBER
    )


def _random_input(rng: random.Random, kind: Kind) -> Value:
    if kind is Kind.NUMBER:
        return rng.choice((rng.randint(-30, 30), rng.randint(-99, 99), rng.randint(10, 400)))
    if kind is Kind.TEXT:
        few = [*rng.choices(_ALPHABET, k=5), " "]  # few, so that letters repeat and counting them means something
        return "".join(rng.choices(few, k=rng.choice((1, 3, 5, 8, 10, 12, 14))))
    values = [rng.randint(-9, 12) for _ in range(rng.choice((1, 2, 4, 5, 6, 7, 8, 9)))]
    if len(values) > 4 and rng.random() < 0.5:
        values[rng.randrange(len(values))] = values[0]  # repeats make faults in ``unique`` and its like visible
    return values


@lru_cache(maxsize=len(Kind))
def _input_pool(kind: Kind) -> list[Value]:
    """Distinct inputs that all tasks draw theirs from: drawing values anew for each would cost more than all else."""
    rng = random.Random(derive_seed("synthetic-inputs", kind))
    drawn = (_random_input(rng, kind) for _ in range(_POOL_SIZE))
    return list({repr(value): value for value in drawn if value not in _EDGES[kind]}.values())


def _traces(task: Task, rng: random.Random) -> list[list[Value]]:
    """Candidate inputs, each with the value after every step of the reference; all within bounds."""
    functions = [_step_function(step, step.operation.styles[0]) for step in task.steps]
    traces: list[list[Value]] = []
    source = task.steps[0].operation.source
    inputs = rng.sample(_input_pool(source), _NUM_CANDIDATE_INPUTS) + _EDGES[source]
    rng.shuffle(inputs)
    for given in inputs:
        values = [given]
        for function in functions:
            values.append(function(values[-1]))
            if not _in_bounds(values[-1]):
                break
        else:
            traces.append(values)
    return traces


def _differs(functions: Sequence[Callable[[Any], Any]], value: Value, expected: Value) -> bool:
    """Whether running ``functions`` on ``value`` ends in anything but ``expected``."""
    current: Any = value
    try:
        for function in functions:
            current = function(current)
    except Exception:  # noqa: BLE001 - a planted fault may raise anything; raising is failing
        return True
    return current != expected


def _faulty_tails(task: Task) -> Iterator[tuple[int, list[Callable[[Any], Any]]]]:
    """For each planted fault: the step where it stands, and the functions from there to the end."""
    right = [_step_function(step, step.operation.styles[0]) for step in task.steps]
    for index, step in enumerate(task.steps):
        for planted in step.operation.faults:
            for style in planted.styles:
                yield index, [_step_function(step, style), *right[index + 1 :]]


def _varied(outputs: Sequence[Value], largest_share: float) -> bool:
    counts = Counter(map(repr, outputs))
    return len(counts) >= _MIN_DISTINCT_OUTPUTS and counts.most_common(1)[0][1] <= largest_share * len(outputs)


def _rare_outputs_first(traces: Sequence[list[Value]], chosen: Sequence[list[Value]]) -> list[list[Value]]:
    """``traces`` so that those stand first whose output was seen least often, in ``chosen`` and before."""
    counts = Counter(repr(trace[-1]) for trace in chosen)
    ranked: list[tuple[int, list[Value]]] = []
    for trace in traces:
        output = repr(trace[-1])
        ranked.append((counts[output], trace))
        counts[output] += 1
    return [trace for _, trace in sorted(ranked, key=lambda item: item[0])]


def with_tests(task: Task) -> CheckedTask | None:
    """The task with tests, or None where it cannot have good ones.

    The tests are drawn so that every planted fault fails at least one of them and no output dominates. A composition in
    which some fault changes nothing (a list sorted wrongly and then summed) is refused: its specification would not
    decide which line is right.
    """
    rng = random.Random(derive_seed("synthetic-tests", task.label))
    traces = _traces(task, rng)
    if len(traces) < NUM_TESTS or not _varied([trace[-1] for trace in traces], _MAX_SHARE_AMONG_CANDIDATES):
        return None
    alive = list(_faulty_tails(task))
    chosen: list[list[Value]] = []
    rest: list[list[Value]] = []
    for trace in traces:
        survivors = [(index, tail) for index, tail in alive if not _differs(tail, trace[index], trace[-1])]
        (chosen if len(survivors) < len(alive) else rest).append(trace)
        alive = survivors
    chosen += _rare_outputs_first(rest, chosen)[: max(NUM_TESTS - len(chosen), 0)]
    if alive or len(chosen) != NUM_TESTS or not _varied([trace[-1] for trace in chosen], _MAX_SHARE_OF_ONE_OUTPUT):
        return None
    return CheckedTask(task, tuple(Case(trace[0], trace[-1]) for trace in chosen))
