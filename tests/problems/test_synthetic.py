"""The synthetic family: tasks, splits, tests, and both languages from one definition."""

import copy
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from problems.datasets import load_problems
from problems.problem import CompletionStyle, Split
from problems.synthetic import SyntheticConfig, checked_tasks, parse_synthetic, synthetic_problems
from problems.synthetic.forms import FORMS, spoil
from problems.synthetic.operations import FaultKind, Kind
from problems.synthetic.rendering import render_completion
from problems.synthetic.tasks import (
    OPERATIONS,
    Case,
    CheckedTask,
    composition_of,
    draw_composition,
    split_of,
    task_of,
    with_tests,
)
from tests.problems.java import HAS_JAVA, first_compile_errors, run_java

needs_java = pytest.mark.skipif(not HAS_JAVA, reason="no javac on this machine")


@pytest.fixture(scope="module")
def checked() -> list[CheckedTask]:
    return list(checked_tasks(SyntheticConfig(split=Split.TEST, count=150, depth=(2, 5), seed=3)))


@pytest.fixture(scope="module")
def singles() -> list[CheckedTask]:
    """Every operation alone, with the first parameters that give it tests."""
    return [
        next(
            found
            for digit in (3, 4, 5, 2, 6)
            for letter in "eaost"
            if (found := with_tests(task_of([operation], [(digit, letter)]))) is not None
        )
        for operation in OPERATIONS
    ]


def passes(program: str, tests: tuple[Case, ...]) -> bool:
    """Our own programs only: run in this process."""
    namespace: dict[str, object] = {}
    try:
        exec(program, namespace)
        return all(namespace["f"](copy.copy(test.given)) == test.expected for test in tests)
    except Exception:  # noqa: BLE001 - a planted fault may raise anything
        return False


def test_every_operation_alone_has_tests_and_its_styles_pass_them(singles: list[CheckedTask]):
    for task in singles:
        [step] = task.task.steps
        for style in step.operation.styles:
            program = task.task.prompt("python") + render_completion(task.task.steps, [style], "python")
            assert passes(program, task.tests), program


def test_reference_passes_and_every_planted_fault_fails_its_problems_suite(
    checked: list[CheckedTask], singles: list[CheckedTask]
):
    for task in checked + singles:
        prompt = task.task.prompt("python")
        assert passes(prompt + task.task.reference_completion("python"), task.tests)
        for _, planted, completion in task.task.faulty_completions("python"):
            assert not passes(prompt + completion, task.tests), (planted.kind, prompt + completion)


def test_outputs_are_varied(checked: list[CheckedTask]):
    for task in checked:
        counts = Counter(repr(test.expected) for test in task.tests)
        assert len(task.tests) == 8
        assert len(counts) >= 4
        assert counts.most_common(1)[0][1] <= 4


def test_task_in_which_a_fault_changes_nothing_is_refused():
    named = {operation.name: operation for operation in OPERATIONS}
    assert with_tests(task_of([named["sort_list"], named["total"]], [(2, "a"), (2, "a")])) is None
    assert with_tests(task_of([named["keep_even"], named["total"]], [(2, "a"), (2, "a")])) is not None


def test_near_constant_outputs_are_refused():
    named = {operation.name: operation for operation in OPERATIONS}
    assert with_tests(task_of([named["keep_even"], named["modulo_each"], named["total"]], [(2, "a")] * 3)) is None


def test_no_composition_is_in_two_splits_and_each_split_has_some():
    found = {split: set() for split in Split}
    for split in Split:
        for task in checked_tasks(SyntheticConfig(split=split, count=150, depth=(2, 3), seed=1)):
            assert split_of(task.task.composition) is split
            found[split].add(task.task.composition)
    assert not found[Split.TRAIN] & found[Split.TEST]
    assert not found[Split.TRAIN] & found[Split.VALIDATION]
    assert not found[Split.VALIDATION] & found[Split.TEST]
    assert all(len(compositions) > 75 for compositions in found.values())


def test_shares_of_the_splits_are_as_designed():
    rng = random.Random(0)
    drawn = {composition_of(draw_composition(rng, 3)) for _ in range(3000)}
    shares = Counter(split_of(composition) for composition in drawn)
    assert shares[Split.TEST] / len(drawn) == pytest.approx(0.15, abs=0.02)
    assert shares[Split.VALIDATION] / len(drawn) == pytest.approx(0.10, abs=0.02)


def test_thousands_of_distinct_problems():
    problems = synthetic_problems(SyntheticConfig(count=2000, depth=(2, 3)))
    assert len({problem.id for problem in problems}) == len({problem.prompt for problem in problems}) == 2000


def test_problem_is_a_head_to_continue_with_one_case_for_each_test():
    [problem] = load_problems("synthetic:split=test,count=1,depth=3,seed=4")
    assert problem.id.startswith("synthetic/python/")
    assert problem.id.count(".") == 2
    assert problem.completion_style is CompletionStyle.CONTINUE
    assert problem.split is Split.TEST
    assert problem.difficulty == 3
    assert problem.references == (problem.prompt + problem.reference_completions[0],)
    suite = problem.suites["main"]
    assert suite.entry_points == ("f",)
    namespace: dict[str, object] = {}
    exec(problem.references[0], namespace)
    for case in suite.cases:
        exec(case, namespace)
    assert len(suite.cases) == 8


def test_both_languages_have_the_same_problems():
    python = synthetic_problems(SyntheticConfig(count=50, seed=9))
    java = synthetic_problems(SyntheticConfig(count=50, seed=9, language="java"))
    assert [problem.id.replace("/python/", "/java/") for problem in python] == [problem.id for problem in java]
    assert all("public static" in problem.prompt and problem.references[0].endswith("}\n}\n") for problem in java)


def test_problems_and_corpus_are_the_same_in_processes_with_other_hash_seeds():
    command = (
        "import hashlib\n"
        "from problems.synthetic import *\n"
        "rows = [repr(p) for p in synthetic_problems(SyntheticConfig(count=60, depth=(1, 4)))]\n"
        "rows += map(repr, corpus(CorpusConfig(count=300, languages={'python': 1, 'java': 1}, form_habit_share=0.2)))\n"
        "print(hashlib.sha256('\\n'.join(rows).encode()).hexdigest())\n"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", command],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(digests) == 1


def test_tests_of_a_problem_follow_from_its_id_alone():
    many = {problem.id: problem for problem in synthetic_problems(SyntheticConfig(count=120, depth=(1, 1), seed=1))}
    others = synthetic_problems(SyntheticConfig(count=150, depth=(1, 2), seed=2))
    shared = [problem for problem in others if problem.id in many]
    assert shared
    assert all(problem == many[problem.id] for problem in shared)


@pytest.mark.parametrize("kind", list(Kind))
def test_each_type_has_operations_and_types_are_left_for_others(kind: Kind):
    assert any(operation.source is kind and operation.target is kind for operation in OPERATIONS)
    assert any(operation.source is kind and operation.target is not kind for operation in OPERATIONS)


def test_operations_are_named_once_and_phrased_unlike_each_other_for_their_type():
    assert len({operation.name for operation in OPERATIONS}) == len(OPERATIONS)
    phrasings = [(operation.source, phrasing) for operation in OPERATIONS for phrasing in operation.phrasings]
    assert len(set(phrasings)) == len(phrasings)
    for operation in OPERATIONS:
        assert operation.faults
        assert len({("$k" in phrasing, "$c" in phrasing) for phrasing in operation.phrasings}) == 1


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("depth=0-2", "field depth"),
        ("depth=3-2", "field depth"),
        ("depth=2-6", "field depth"),
        ("depth=many", "field depth"),
        ("count=0", "field count"),
        ("split=dev", "field split"),
        ("language=rust", "field language"),
        ("deep=2", "field deep"),
        ("count", "field=value"),
        ("split=test,depth=1", "field depth"),
        ("split=train,depth=1,count=5000", "field count: only"),
    ],
)
def test_bad_specification_names_its_field(spec: str, words: str):
    with pytest.raises(ValueError, match=words):
        load_problems(f"synthetic:{spec}")


def test_specification_fills_the_config():
    parsed = parse_synthetic("split=train,count=12000,depth=2-3,seed=11,language=java")
    assert parsed == SyntheticConfig(split=Split.TRAIN, count=12000, depth=(2, 3), seed=11, language="java")
    assert parse_synthetic("") == SyntheticConfig()
    assert parse_synthetic("depth=4").depth == (4, 4)


@pytest.mark.parametrize("form", FORMS["python"], ids=lambda form: form.kind)
def test_every_python_fault_of_form_fails(form, checked: list[CheckedTask]):
    rng = random.Random(form.kind)
    num_applied = 0
    for task in checked[:80]:
        spoiled = spoil(task.task.reference_completion("python"), form, rng)
        if spoiled is not None:
            num_applied += 1
            assert not passes(task.task.prompt("python") + spoiled, task.tests), spoiled
    assert num_applied > 10


def test_spoiling_within_spans_leaves_the_rest_alone():
    completion = "    a = (1)\n    b = (2)\n"
    [form] = [form for form in FORMS["python"] if form.kind is FaultKind.MISSING_PARENTHESIS]
    assert spoil(completion, form, random.Random(0), [(12, 24)]) == "    a = (1)\n    b = (2\n"
    assert spoil(completion, form, random.Random(0), [(0, 4)]) is None


@needs_java
def test_java_reference_and_styles_equal_python_on_all_tests(
    checked: list[CheckedTask], singles: list[CheckedTask], tmp_path: Path
):
    programs = [
        (task.task.prompt("java") + task.task.reference_completion("java"), task.tests) for task in checked[:60]
    ]
    for task in singles:
        for style in task.task.steps[0].operation.styles:
            programs.append(
                (task.task.prompt("java") + render_completion(task.task.steps, [style], "java"), task.tests)
            )
    for (program, tests), printed in zip(programs, run_java(programs, tmp_path), strict=True):
        assert printed == [str(test.expected) for test in tests], program


@needs_java
def test_every_java_fault_of_meaning_compiles_and_fails(
    checked: list[CheckedTask], singles: list[CheckedTask], tmp_path: Path
):
    programs = [
        (task.task.prompt("java") + completion, task.tests)
        for task in checked[:6] + singles
        for _, _, completion in task.task.faulty_completions("java")
    ]
    for (program, tests), printed in zip(programs, run_java(programs, tmp_path), strict=True):
        assert printed != [str(test.expected) for test in tests], program


@needs_java
def test_every_java_fault_of_form_is_refused_by_the_compiler_for_its_own_reason(
    checked: list[CheckedTask], tmp_path: Path
):
    reasons = {
        FaultKind.MISSING_SEMICOLON: "expected",
        FaultKind.MISSING_PARENTHESIS: "expected illegal.start",
        FaultKind.MISSING_BRACE: "expected illegal.start premature.eof",
        FaultKind.MISSING_SYMBOL: "cant.resolve",
        FaultKind.TYPE_MISMATCH: "prob.found.req",
        FaultKind.MISSING_RETURN: "missing.ret",
        FaultKind.UNINITIALISED: "might.not.have.been.initialized",
        FaultKind.DUPLICATE_DECLARATION: "already.defined",
        FaultKind.WRONG_ARITY: "cant.apply",
        FaultKind.UNREACHABLE: "unreachable",
    }
    assert {form.kind for form in FORMS["java"]} == set(reasons)
    rng = random.Random(0)
    spoiled = [
        (form.kind, task.task.prompt("java") + program)
        for form in FORMS["java"]
        for task in checked[:12]
        if (program := spoil(task.task.reference_completion("java"), form, rng)) is not None
    ]
    assert len(spoiled) > 75
    errors = first_compile_errors([program for _, program in spoiled], tmp_path)
    for (kind, program), error in zip(spoiled, errors, strict=True):
        assert any(reason in error for reason in reasons[kind].split()), (kind, error, program)
