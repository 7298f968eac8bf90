"""Signatures are read from what the data set shows, whatever stands around them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from problems.datasets import load_problems
from problems.extraction import extract_program
from problems.java import JavaMethod, JavaSuite, read_imports, read_method, suite_of_members
from problems.problem import CompletionStyle, Split, Use

MBJP = Path(__file__).parents[3] / "shared" / "data" / "mbjp" / "mbjp_release_v1.2.jsonl"
ROW = {
    "task_id": "MBJP/1",
    "language": "java",
    "prompt": "import java.util.*;\nimport static java.lang.Math.max;\n\nclass Least {\n"
    "    /** import nothing; least(1) is { odd */\n    public static int least(List<List<Integer>> xs, int n) {\n",
    "entry_point": "least",
    "test": "class Main { public static void main(String[] args) { } }",
    "description": "",
    "canonical_solution": "        return n;\n    }\n}",
}


def test_a_head_in_the_form_of_mbjp() -> None:
    assert read_method(ROW["prompt"], "least") == JavaMethod("Least", "least", "int", ("List<List<Integer>>", "int"))
    assert read_imports(ROW["prompt"]) == "import java.util.*;\nimport static java.lang.Math.max;\n"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("class C { int f() {", JavaMethod("C", "f", "int", (), False)),
        ("class C { static int[] f(int a[], String... b) { } }", JavaMethod("C", "f", "int[]", ("int[]", "String[]"))),
        ("class C { static void f(final @A int a) { } }", JavaMethod("C", "f", "void", ("int",))),
        (
            "class C { static Map<String,\n List<Integer>> f(Map.Entry<String, Long> a) throws E, java.io.F {",
            JavaMethod("C", "f", "Map<String, List<Integer>>", ("Map.Entry<String, Long>",), True, ("E", "java.io.F")),
        ),
        ('class A { String s = "class X { f(int a) {"; } class C { static int f() {', JavaMethod("C", "f", "int")),
        ("class C { class D { } D g() { return f(new int[] {1}); } static int f() {", JavaMethod("C", "f", "int")),
        ("// int f() {\nclass C { /* long f() { */ static int f() {", JavaMethod("C", "f", "int")),
    ],
)  # fmt: skip
def test_heads_of_all_kinds(source: str, expected: JavaMethod) -> None:
    assert read_method(source, "f") == expected


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("class C { }", "no declaration"),
        ("class C { int f(int a); }", "no declaration"),
        ("class C { int g() { return f(1); } }", "no declaration"),
        ("class C { class D { int f() { } } }", "no declaration"),
        ("class C { static <T> T f(T a) { } }", "generic"),
        ("class C { int f(int) { } }", "malformed"),
    ],
)
def test_what_is_no_head_is_refused(source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_method(source, "f")


def test_a_suite_without_methods_or_with_members_of_no_stub_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one method"):
        JavaSuite((), "class Main { }")
    with pytest.raises(ValueError, match="Main"):
        JavaSuite((JavaMethod("C", "f", "int"),), "", members="static void main(String[] a) { }")


@pytest.mark.parametrize("kind", ["mbjp", "mathqa-java"])
def test_rows_of_mbjp_and_mathqa_java_become_problems(tmp_path: Path, kind: str) -> None:
    (problem,) = load_problems(f"{kind}:{_written(tmp_path, ROW)}")
    assert (problem.id, problem.language, problem.split) == ("MBJP/1", "java", Split.TEST)
    assert problem.completion_style is CompletionStyle.CONTINUE
    assert problem.references == (ROW["prompt"] + ROW["canonical_solution"],)
    assert problem.licence == "CC-BY-4.0"
    suite = problem.suites["main"]
    assert isinstance(suite, JavaSuite)
    assert suite.class_names == ("Least",)
    assert suite.test == ROW["test"]


@pytest.mark.skipif(not MBJP.exists(), reason="MBJP is not here")
def test_what_a_model_writes_after_the_class_of_mbjp_is_no_part_of_its_program() -> None:
    solved = [problem for problem in load_problems(f"mbjp:{MBJP}") if problem.references]
    assert len(solved) == 874
    for problem in solved:
        reference = problem.references[0].encode().rstrip()
        completion = reference.removeprefix(problem.prompt.encode())
        assert extract_program(problem, completion).program == reference
        assert extract_program(problem, completion + b"\n\nclass Next {\n    int").program == reference


def test_a_row_without_a_solution_has_no_reference(tmp_path: Path) -> None:
    (problem,) = load_problems(f"mathqa-java:{_written(tmp_path, {**ROW, 'canonical_solution': None})}")
    assert problem.references == ()
    assert problem.reference_completions == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"language": "python"}, "line 1: field language"),
        ({"entry_point": "most"}, "line 1: field prompt: .*most"),
        ({"test": 3}, "line 1: field test"),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_problems(f"mbjp:{_written(tmp_path, {**ROW, **changes})}")


def _written(tmp_path: Path, row: Mapping[str, object]) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    return path


MULTIPL_E = "import java.util.*;\nclass Problem {\n    // f(1)\n    public static long f(long a) {\n"


def test_a_row_of_multipl_e_becomes_stubs_with_members() -> None:
    tests = "    }\n    public static void main(String[] args) {\n    assert(f(1l) == (2l));\n    }\n\n}\n"
    suite = suite_of_members(MULTIPL_E, tests)
    assert suite.methods == (JavaMethod("Problem", "f", "long", ("long",)),)
    assert suite.main_class == "Problem"
    assert suite.members.split() == tests.split()[1:-1]
    assert (MULTIPL_E + suite.tail).count("{") == (MULTIPL_E + suite.tail).count("}")


def test_java_of_multipl_e_is_judged_apart_and_never_trained_on(tmp_path: Path) -> None:
    row = {"name": "HumanEval_0_f", "language": "java", "prompt": MULTIPL_E, "stop_tokens": ["\n    }\n"]}
    tests = "}\npublic static void main(String[] args) { assert(f(1l) == (2l)); }\n}\n"
    (problem,) = load_problems(f"multipl-e:{_written(tmp_path, {**row, 'tests': tests})}")
    assert isinstance(problem.suites["main"], JavaSuite)
    assert problem.use is Use.EVALUATE
    with pytest.raises(ValueError, match="line 1: the tests"):
        load_problems(f"multipl-e:{_written(tmp_path, {**row, 'tests': 'main'})}")


@pytest.mark.parametrize(("prompt", "tests"), [("class Problem {", "} }"), (MULTIPL_E, "main"), (MULTIPL_E, "}")])
def test_a_row_of_another_form_is_refused(prompt: str, tests: str) -> None:
    with pytest.raises(ValueError, match=r"the (prompt|tests)"):
        suite_of_members(prompt, tests)
