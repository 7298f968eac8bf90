"""Function tests in Java: judge and candidate are two virtual machines; what crosses, and what does not."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from problems.compiling import CompileSuite
from problems.datasets import load_problems
from problems.java import JavaMethod, JavaSuite, suite_of_members
from problems.problem import FunctionSuite, Limits, Split
from problems.stdio import StdioCase, StdioSuite
from problems.synthetic import SyntheticConfig, checked_tasks
from sandbox import Backend, BlockingExecutor, Outcome, Program, SandboxConfig, Verdict
from sandbox.errors import ImageMissingError
from sandbox.java.compiling import CRASH
from sandbox.java.pool import JavaPool
from sandbox.polyglot import Polyglot
from sandbox.slot import Slot
from sandbox.verdict import Trust

from .conftest import DATA, open_backend
from .java_rows import IMPORTS, ROWS, Row
from .local_java import HAS_JDK, kit

LIMITS = Limits(cpu_s=8.0, wall_s=90.0)
MBJP = DATA / "mbjp" / "mbjp_release_v1.2.jsonl"
MATHQA = DATA / "mathqa_x" / "mathqa-test-java_v1.jsonl"
DO_NOT_COMPILE = {180, 198, 214, 300, 397, 432, 519, 535, 622, 738, 904}
END_EARLY = {106, 325, 553, 579, 835, 871}
# Two ways of holding programs show in CI what all four show in the soak tier.
BACKENDS = [
    "embedded",
    pytest.param("embedded-user", marks=pytest.mark.soak),
    pytest.param("docker-fast", marks=pytest.mark.docker),
    pytest.param("docker-lean", marks=[pytest.mark.docker, pytest.mark.soak]),
]

Run = Callable[..., Verdict]


@pytest.fixture(scope="module", params=BACKENDS)
def java(request: pytest.FixtureRequest) -> Iterator[BlockingExecutor]:
    """A warm executor for Java; skips where the root is not built and need not be."""
    try:
        with open_backend(request.param, slots=2, languages=("java",)) as opened:
            yield opened
    except ImageMissingError as error:
        if os.environ.get("CRUCIBLE_REQUIRE_ENGINE") == "1":
            raise
        pytest.skip(str(error))


@pytest.fixture
def judge(java: BlockingExecutor) -> Run:
    """Runs a program against a suite; keywords are fields of Limits."""

    def run(source: str | bytes, suite: JavaSuite, **fields: object) -> Verdict:
        text = source.encode("utf-8", "surrogatepass") if isinstance(source, str) else source
        return java.run(Program("java", text), suite, replace(LIMITS, **fields))  # type: ignore[arg-type]

    return run


def suite_of(members: str, body: str, *names: str) -> JavaSuite:
    """A suite whose ``body`` calls methods that ``members`` declares."""
    return Row("", members, body, names or ("f",)).suite


INCREMENT = "static int f(int a) { return a + 1; }"
CASES = suite_of(INCREMENT, "check(C.f(1) == 2); check(C.f(41) == 42);")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_each_shape_crosses_and_a_program_that_throws_fails(judge: Run, row: Row) -> None:
    verdict = judge(row.program, row.suite)
    assert verdict.passed, verdict
    assert verdict.num_passed == verdict.num_cases == 1
    throwing = "".join(
        f"public {'static ' if method.is_static else ''}{method.returns} {method.name}("
        f"{', '.join(f'{kind} a{index}' for index, kind in enumerate(method.parameters))}) {{ throw new Error(); }}\n"
        for method in row.methods
    )
    failed = judge(f"{IMPORTS}class C {{\n{throwing}}}\n", row.suite)
    assert failed.outcome is Outcome.RUNTIME_ERROR, failed


@pytest.mark.skipif(not HAS_JDK, reason="no JDK on this machine")
def test_each_row_passes_in_plain_java_too(tmp_path: Path) -> None:
    for index, row in enumerate(ROWS):
        text = f"package row{index};\n{row.program}{row.test}".replace("class Main", "public class Main")
        (tmp_path / f"row{index}").mkdir()
        (tmp_path / f"row{index}" / "Main.java").write_text(text)
    calls = "".join(f"row{index}.Main.main(null);\n" for index in range(len(ROWS)))
    (tmp_path / "All.java").write_text(
        f"class All {{ public static void main(String[] args) throws Exception {{ {calls} }} }}"
    )
    path = f"{tmp_path}:{kit()}/tuples"
    subprocess.run(["javac", "-proc:none", "-nowarn", "-cp", path, "-d", tmp_path, tmp_path / "All.java"], check=True)
    subprocess.run(["java", "-cp", path, "All"], check=True)


def test_a_wrong_value_is_a_wrong_answer_and_the_first_one_ends_the_run(judge: Run) -> None:
    verdict = judge(f"class C {{ {INCREMENT.replace('+ 1', '- 1')} }}", CASES)
    assert verdict.outcome is Outcome.WRONG_ANSWER
    assert "a check fails" in verdict.cases[0].detail
    assert verdict.cpu_s > 0
    assert verdict.memory_bytes > 0


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("class C { static int f(int a) { return b; } }", "compiler.err.cant.resolve"),
        ("class C { static int g(int a) { return a; } }", "compiler.err.cant.resolve"),
        ("class D { static int f(int a) { return a; } }", "compiler.err.cant.resolve"),
        ("class C { static String f(int a) { return null; } }", "compiler.err.prob.found.req"),
        ("class C { int f(int a) { return a; } }", "compiler.err.non-static"),
        ("class C { private static int f(int a) { return a; } }", "compiler.err.report.access"),
        ("class C { static int f(String a) { return 1; } }", "compiler.err.prob.found.req"),
        ("package p; class C { static int f(int a) { return a; } }", "compiler.err.cant.resolve"),
        ("", "compiler.err.cant.resolve"),
        ("class C { static int f(int a) { return a + 1; } } class CrucibleLink { }", "compiler.err.duplicate.class"),
        ("package crucible; public class C { }", "compiler.err.cant.resolve"),
        ("package java.lang; class C { static int f(int a) { return a + 1; } }", "compiler.err.package.in.other"),
        (b"class C { static int f(int a) { return a + 1; } } // \xff", "compiler.err.illegal.char.for.encoding"),
        ("class C { static int f(int a) { return a + 1; } } \0", "compiler.err.illegal.char"),
    ],
)
def test_a_program_without_what_is_asked_for_does_not_compile(judge: Run, source: str | bytes, kind: str) -> None:
    verdict = judge(source, CASES)
    assert verdict.outcome is Outcome.COMPILE_ERROR, verdict
    assert verdict.diagnostics[0].kind.startswith(kind), verdict


def test_names_of_the_program_stand_in_nobodys_way(judge: Run) -> None:
    others = "class Main { } class Integer { } class Stub { } class Judge { } public class Object { } class Test { }"
    assert judge(f"class C {{ {INCREMENT} }} {others}", CASES).passed


FUNCTION = "static int f(java.util.function.Function<Integer, Integer> a) { return a.apply(1); }"


def test_a_suite_with_a_type_that_cannot_cross_runs_merged_and_says_so(judge: Run) -> None:
    suite = suite_of(FUNCTION, "check(C.f(x -> x + 1) == 2); assert C.f(x -> 7) == 7;")
    right = judge(f"class C {{ {FUNCTION} }}", suite)
    assert (right.passed, right.trust) == (True, Trust.MERGED), right
    wrong = judge(f"class C {{ {FUNCTION.replace('(1)', '(1) + 1')} }}", suite)
    assert (wrong.outcome, wrong.trust) == (Outcome.RUNTIME_ERROR, Trust.MERGED), wrong
    asserted = judge(f"class C {{ {FUNCTION.replace('apply(1)', 'apply(1) == 7 ? 8 : 2')} }}", suite)
    assert asserted.outcome is Outcome.RUNTIME_ERROR, asserted
    ended = judge(f"class C {{ {FUNCTION.replace('return', 'System.exit(0); return')} }}", suite)
    assert ended.outcome is Outcome.WRONG_ANSWER, ended
    broken = judge("class C { int unknown = a; }", suite)
    assert (broken.outcome, broken.diagnostics[0].line) == (Outcome.COMPILE_ERROR, 1)


def test_a_type_that_cannot_cross_is_named_where_merged_runs_are_refused() -> None:
    suite = suite_of(FUNCTION, "check(C.f(x -> x + 1) == 2);")
    config = SandboxConfig(backend=Backend.EMBEDDED, slots=1, languages=("java",), refuse_merged=True)
    try:
        strict = BlockingExecutor(config)
    except ImageMissingError as error:
        pytest.skip(str(error))
    with strict:
        verdict = strict.run(Program("java", f"class C {{ {FUNCTION} }}".encode()), suite, LIMITS)
    assert verdict.outcome is Outcome.INFRASTRUCTURE_ERROR
    assert "java.util.function.Function" in verdict.detail


def test_fractions_are_counted_where_the_cases_of_a_test_are_known(java: BlockingExecutor) -> None:
    checks = tuple(f"check(C.f({number}) == {number + 1});" for number in (1, 5, 41))
    whole = suite_of(INCREMENT, " ".join(checks))
    suite = replace(whole, parts=tuple(suite_of(INCREMENT, check).test for check in checks))
    right = java.run(Program("java", f"class C {{ {INCREMENT} }}".encode()), suite, LIMITS, stop_at_first_failure=False)
    assert (right.passed, right.num_passed, right.num_cases) == (True, 3, 3)
    partly = INCREMENT.replace("return", "if (a == 5) return 0; return")
    program = Program("java", f"class C {{ {partly} }}".encode())
    verdict = java.run(program, suite, LIMITS, stop_at_first_failure=False)
    assert verdict.outcome is Outcome.WRONG_ANSWER
    passed = [case.outcome is Outcome.PASSED for case in verdict.cases]
    assert (passed, verdict.num_cases) == ([True, False, True], 3)
    assert java.run(program, suite, LIMITS).num_passed == 0


def test_an_exit_code_of_a_program_s_own_is_no_lack_of_memory(java: BlockingExecutor) -> None:
    suite = StdioSuite((StdioCase("", "3\n"),))
    source = "public class Main { public static void main(String[] a) { System.exit(3); } }"
    assert java.run(Program("java", source.encode()), suite, LIMITS).outcome is Outcome.RUNTIME_ERROR
    hoard = "var kept = new java.util.ArrayList<long[]>(); for (;;) kept.add(new long[1 << 17]);"
    program = Program("java", source.replace("System.exit(3);", hoard).encode())
    assert java.run(program, suite, replace(LIMITS, memory_bytes=128 << 20)).outcome is Outcome.MEMORY_LIMIT


def test_a_program_in_a_package_runs(java: BlockingExecutor) -> None:
    suite = StdioSuite((StdioCase("", "3\n"),))
    source = "package a.b; class Main { static class Part { int x = 3; } public static void main(String[] w) {"
    source += " System.out.println(new Part().x); } }"
    verdict = java.run(Program("java", source.encode()), suite, LIMITS)
    assert verdict.passed, verdict


def test_a_compiler_that_gave_up_compiles_no_other_program(java: BlockingExecutor) -> None:
    def compilers() -> set[Slot]:
        polyglot = java._executor
        assert isinstance(polyglot, Polyglot)
        pool = polyglot.pools["java"]
        assert isinstance(pool, JavaPool)
        return set(pool._compilers._slots)

    before = compilers()
    deep = "class A { int x = " + "(" * 20_000 + "1" + ")" * 20_000 + "; }"
    verdict = java.run(Program("java", deep.encode()), CompileSuite(), LIMITS)
    assert [diagnostic.kind for diagnostic in verdict.diagnostics] == [CRASH]
    assert java.run(Program("java", b"class A { }"), CompileSuite(), LIMITS).passed
    deadline = time.monotonic() + 60
    while not before - compilers() and time.monotonic() < deadline:
        time.sleep(0.1)  # it is replaced in the background
    assert len(before - compilers()) == 1


def test_an_argument_that_cannot_cross_is_named_even_if_the_test_catches_all(judge: Run) -> None:
    members = "static int f(Object a) { return 1; }"
    for body in ("C.f(new Thread());", "try { C.f(new Thread()); } catch (Throwable e) { }"):
        verdict = judge(f"class C {{ {members} }}", suite_of(members, body))
        assert verdict.outcome is Outcome.INFRASTRUCTURE_ERROR, verdict
        assert "java.lang.Thread" in verdict.detail


@pytest.mark.parametrize("body", ['int x = "text";', 'throw new Exception("ours");', "missing();"])
def test_a_suite_that_is_at_fault_itself_fails_no_program(judge: Run, body: str) -> None:
    verdict = judge(f"class C {{ {INCREMENT} }}", suite_of(INCREMENT, f"if (true) {{ {body} }} C.f(1);"))
    assert verdict.outcome is Outcome.INFRASTRUCTURE_ERROR, verdict


@pytest.mark.parametrize("body", ["while (true) { }", "System.exit(0);", "Runtime.getRuntime().halt(0);"])
def test_a_suite_that_hangs_or_ends_by_itself_fails_no_program(judge: Run, body: str) -> None:
    verdict = judge(f"class C {{ {INCREMENT} }}", suite_of(INCREMENT, f"if (true) {{ {body} }} C.f(1);"), wall_s=2.0)
    assert verdict.outcome is Outcome.INFRASTRUCTURE_ERROR, verdict
    assert "hangs, or ends by itself" in verdict.detail


def test_no_program_can_make_a_suite_look_as_if_it_hung(judge: Run) -> None:
    """Busy, or asleep, while its class is loaded and when it is called: it asked, or the limit is its own."""
    busy, asleep = "while (true) { }", "try { Thread.sleep(99000); } catch (InterruptedException e) { }"
    thread = "static { Thread t = new Thread(() -> { while (true) { } }); t.setDaemon(true); t.start(); }"
    for program in (
        f"class C {{ static {{ if (true) {busy} }} {INCREMENT} }}",
        f"class C {{ static {{ {asleep} }} {INCREMENT} }}",
        f"class C {{ static int f(int a) {{ {asleep} return a + 1; }} }}",
        f"class C {{ {thread} static int f(int a) {{ {asleep} return a + 1; }} }}",
    ):
        outcome = judge(program, CASES, cpu_s=2.0, wall_s=3.0).outcome
        assert outcome not in (Outcome.PASSED, Outcome.INFRASTRUCTURE_ERROR), (program, outcome)
    # On a machine at four times its work the thread gets its 0.3 s within some seconds.
    slow_suite = suite_of(INCREMENT, "Thread.sleep(10_000); check(C.f(1) == 2);")
    outcome = judge(f"class C {{ {thread} {INCREMENT} }}", slow_suite, cpu_s=0.3, wall_s=30.0).outcome
    assert outcome is Outcome.TIME_LIMIT


def test_a_suite_whose_main_is_missing_fails_no_program(judge: Run) -> None:
    suite = JavaSuite((JavaMethod("C", "f", "int", ("int",)),), "class Other { }")
    assert judge(f"class C {{ {INCREMENT} }}", suite).outcome is Outcome.INFRASTRUCTURE_ERROR


def test_a_main_among_the_stubs_members_as_multipl_e_has_it(judge: Run) -> None:
    tests = "}\npublic static void main(String[] args) { assert(f(1l) == (2l)); assert(f(5l) == (6l)); }\n}\n"
    prompt = "import java.util.*;\nimport org.javatuples.*;\nclass Problem { public static long f(long a) {\n"
    suite = suite_of_members(prompt, tests)
    assert judge(prompt + "        return a + 1;", suite).passed
    assert judge(prompt + "        return a + 2;", suite).outcome is Outcome.WRONG_ANSWER
    assert judge(prompt + "        return a + 1; }", suite).outcome is Outcome.COMPILE_ERROR


def test_limits_bite(judge: Run) -> None:
    def outcome(body: str, **fields: object) -> Outcome:
        return judge(f"class C {{ static int f(int a) {{ {body} }} }}", CASES, **fields).outcome

    assert outcome("while (a > 0) { } return a;", cpu_s=1.0) is Outcome.TIME_LIMIT
    assert outcome("try { Thread.sleep(60000); } catch (Exception e) { } return a;", wall_s=4.0) is Outcome.TIME_LIMIT
    hoard = "var kept = new java.util.ArrayList<long[]>(); while (true) kept.add(new long[1 << 17]);"
    assert outcome(hoard, memory_bytes=128 << 20) is Outcome.MEMORY_LIMIT
    assert outcome("return f(a + 1) + 1;") is Outcome.RUNTIME_ERROR
    flood = 'while (true) System.out.println("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");'
    assert outcome(flood, output_bytes=1 << 20) is Outcome.OUTPUT_LIMIT


def test_too_much_as_a_value_is_an_output_limit(judge: Run) -> None:
    members = 'static String f(int a) { return "x".repeat(a); }'
    suite = suite_of(members, "check(C.f(1 << 20).length() == 1 << 20);")
    program = f"class C {{ {members} }}"
    assert judge(program, suite).passed
    assert judge(program, suite, output_bytes=1 << 20).outcome is Outcome.OUTPUT_LIMIT


def test_programs_by_standard_input_go_through_the_resident_compiler_too(java: BlockingExecutor) -> None:
    suite = StdioSuite((StdioCase("2", "3\n"),))
    source = (
        b"public class Anything { public static void main(String[] a) "
        b"{ System.out.println(new java.util.Scanner(System.in).nextInt() + 1); } }"
    )
    assert java.run(Program("java", source), suite, LIMITS).passed
    verdict = java.run(Program("java", source.replace(b"nextInt", b"nextInteger")), suite, LIMITS)
    assert verdict.outcome is Outcome.COMPILE_ERROR
    first = verdict.diagnostics[0]
    assert (first.kind, first.line) == ("compiler.err.cant.resolve.location.args", 1)
    assert source.replace(b"nextInt", b"nextInteger")[first.position :].startswith(b".nextInteger")


def test_a_suite_in_java_judges_no_python() -> None:
    with open_backend("embedded", slots=1) as executor, pytest.raises(ValueError, match="Java"):
        executor.run(Program("python", b""), CASES, LIMITS)


def test_a_java_program_cannot_be_judged_by_a_suite_in_python(java: BlockingExecutor) -> None:
    with pytest.raises(ValueError, match="FunctionSuite"):
        java.run(Program("java", b""), FunctionSuite(("f",), "", ("f()",)), LIMITS)


@pytest.mark.skipif(not MBJP.exists(), reason="MBJP is not here")
@pytest.mark.parametrize("step", [29, pytest.param(1, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])])
def test_mbjp_passes_as_it_does_in_plain_java(java: BlockingExecutor, step: int) -> None:
    expected = {f"MBJP/{number}" for number in DO_NOT_COMPILE | END_EARLY}
    solved = [problem for problem in load_problems(f"mbjp:{MBJP}") if problem.references]
    chosen = [problem for index, problem in enumerate(solved) if index % step == 0 or problem.id in expected]
    if step > 1:  # in CI a few of those that end early stand for all
        chosen = [problem for problem in chosen if problem.id not in expected or int(problem.id[5:]) % 3 == 1]
    programs = [(Program("java", problem.references[0].encode()), problem) for problem in chosen]
    verdicts = java.run_all([(program, problem.suites["main"], problem.limits) for program, problem in programs])
    for (_, problem), verdict in zip(programs, verdicts, strict=True):
        number = int(problem.id.removeprefix("MBJP/"))
        if number in DO_NOT_COMPILE:
            assert verdict.outcome is Outcome.COMPILE_ERROR, (problem.id, verdict)
        elif number in END_EARLY:
            assert verdict.outcome is Outcome.RUNTIME_ERROR, (problem.id, verdict)
        else:
            assert verdict.passed, (problem.id, verdict)


@pytest.mark.skipif(not MATHQA.exists(), reason="MathQA-Java is not here")
def test_mathqa_java_passes_with_the_right_number_and_no_other(judge: Run) -> None:
    rows = [json.loads(line) for line in MATHQA.read_text().splitlines()[:3]]
    problems = load_problems(f"mathqa-java:{MATHQA}")
    for row, problem in zip(rows, problems[:3], strict=True):
        wanted = row["test"].split("compare(x0, ")[1].split(")")[0]
        for shift, outcome in (("1e-9", Outcome.PASSED), ("1e-3", Outcome.WRONG_ANSWER)):
            program = problem.prompt + f"        return {wanted} + {shift};\n    }}\n}}\n"
            assert judge(program, problem.suites["main"]).outcome is outcome  # type: ignore[arg-type]


def test_java_problems_of_the_synthetic_family_have_suites_that_tell_right_from_wrong(java: BlockingExecutor) -> None:
    for checked in checked_tasks(SyntheticConfig(count=3, depth=(1, 3), seed=7, language="java")):
        problem = checked.problem("java", Split.TRAIN)
        suite = problem.suites["main"]
        assert java.run(Program("java", problem.references[0].encode()), suite, problem.limits).passed
        for _, _, completion in list(checked.task.faulty_completions("java"))[:2]:
            program = Program("java", (problem.prompt + completion).encode())
            verdict = java.run(program, suite, problem.limits)
            assert verdict.outcome in (Outcome.WRONG_ANSWER, Outcome.RUNTIME_ERROR), verdict
