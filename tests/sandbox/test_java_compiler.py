"""The resident compiler says what a cold ``javac`` says. Trusted programs only: it runs here without a sandbox."""

from __future__ import annotations

import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from problems.synthetic import SyntheticConfig, synthetic_problems
from problems.synthetic.forms import FORMS, spoil
from sandbox.verdict import Diagnostic

from .local_java import HAS_JDK, LocalCompiler

pytestmark = pytest.mark.skipif(not HAS_JDK, reason="no JDK on this machine")
HEAD = "import java.util.*;\npublic class Any {\n"
# A program of each kind of error; the bytes that the first diagnostic speaks of, and the first of those it points to.
BROKEN = {
    "syntax": ("    int f() { return 1 }\n}", "", " }"),
    "unresolved symbol": ("    int f() { return missing; }\n}", "missing", "missing"),
    "type mismatch": ('    int f() { return "text"; }\n}', '"text"', '"text"'),
    "missing return": ("    int f(int a) { if (a > 0) return 1; }\n}", "{ if (a > 0) return 1; }", "}\n}"),
    "unreachable code": ("    int f() { return 1; int b = 2; }\n}", "int b = 2;", "b = 2"),
    "uninitialised variable": ("    int f() { int a; return a; }\n}", "a", "a; }"),
    "duplicate declaration": ("    int f(int a) { int a = 1; return a; }\n}", "int a = 1;", "a = 1"),
    "bad arity": ("    int f() { return Math.max(1); }\n}", "Math.max", ".max(1)"),
    "unhandled exception": ("    int f() { throw new Error().x; }\n}", "new Error().x", ".x;"),
    "checked exception": ("    int f() { throw new Exception(); }\n}", "throw new Exception();", "throw"),
    "access violation": ("    int f() { return new Random().seed; }\n}", "new Random().seed", ".seed"),
    "unclosed class": ("    int f() { return 1; }\n", "", "\n"),
    "characters of several bytes": ('    String s = "äöü€😀" + missing;\n}', "missing", "missing"),
    "tabs": ("\t\tint a = missing;\n}", "missing", "missing"),
    "ends of lines of all kinds": ("int a;\r\nint b;\rint c = missing;\n}", "missing", "missing"),
    "an escape in the text": ("    int \\u0061 = missing;\n}", "missing", "missing"),
    "no code at all": ("    ???\n}", "", "???"),
}


@pytest.fixture(scope="module")
def compiler() -> Iterator[LocalCompiler]:
    opened = LocalCompiler()
    yield opened
    opened.close()


def _cold(programs: list[str], folder: Path) -> list[list[tuple[str, int]]]:
    """Kind and line of each error as ``javac`` gives them, each program in a folder of its own."""
    found: list[list[tuple[str, int]]] = []
    for index, program in enumerate(programs):
        place = folder / f"p{index}"
        place.mkdir()
        (place / "Any.java").write_text(program, newline="")
        words = ["javac", "-J-XX:TieredStopAtLevel=1", "-proc:none", "-nowarn", "-XDrawDiagnostics", "-d", place]
        told = subprocess.run([*words, place / "Any.java"], capture_output=True, text=True, check=False)
        matches = re.finditer(r"^Any\.java:(\d+):\d+: (compiler\.err\.[\w.]+)", told.stderr + told.stdout, re.MULTILINE)
        found.append([(match[2], int(match[1])) for match in matches])
    return found


def _warm(compiler: LocalCompiler, program: str) -> tuple[Diagnostic, ...]:
    return compiler.compile(("Solution.java", program)).diagnostics


def test_kinds_lines_and_order_are_those_of_a_cold_compiler(compiler: LocalCompiler, tmp_path: Path) -> None:
    programs = [HEAD + text for text, *_ in BROKEN.values()] + [HEAD + "}\nmodule any { }\n"]
    for program, expected in zip(programs, _cold(programs, tmp_path), strict=True):
        found = [(one.kind, one.line) for one in _warm(compiler, program)]
        assert found == expected, program
        assert found


@pytest.mark.parametrize("name", BROKEN)
def test_places_are_bytes_of_the_program(compiler: LocalCompiler, name: str) -> None:
    text, spoken_of, pointed_to = BROKEN[name]
    source = (HEAD + text).encode()
    first = _warm(compiler, HEAD + text)[0]
    lines = re.split(rb"\r\n|\r|\n", source[: first.position])
    assert (first.line, first.column) == (len(lines), len(lines[-1]) + 1)
    assert source[first.start : first.end].decode() == spoken_of
    assert source[first.position :].decode().startswith(pointed_to)


def test_faults_of_form_of_the_synthetic_family_are_told_as_by_a_cold_compiler(
    compiler: LocalCompiler, tmp_path: Path
) -> None:
    (problem,) = synthetic_problems(SyntheticConfig(count=1, depth=(3, 3), seed=5, language="java"))
    rng = random.Random(1)
    completions = [spoil(problem.reference_completions[0], form, rng) for form in FORMS["java"]]
    programs = [problem.prompt + completion for completion in completions if completion is not None]
    assert len(programs) >= 5
    for program, expected in zip(programs, _cold(programs, tmp_path), strict=True):
        assert [(one.kind, one.line) for one in _warm(compiler, program)] == expected


def test_right_programs_give_classes_and_nothing_of_one_is_seen_by_the_next(compiler: LocalCompiler) -> None:
    first = compiler.compile(("Solution.java", "public class Named { class Inner { } }"))
    assert {name for name, _ in first.files} == {"Named.class", "Named$Inner.class"}
    assert all(code.startswith(b"\xca\xfe\xba\xbe") for _, code in first.files)
    second = compiler.compile(("Solution.java", "class Other { Named a; }"))
    assert [one.kind for one in second.diagnostics] == ["compiler.err.cant.resolve.location"]
    assert second.files == ()
    third = compiler.compile(("Solution.java", "class Other { crucible.Stub a; }"))
    assert [one.kind for one in third.diagnostics] == ["compiler.err.doesnt.exist"]


def test_errors_in_the_link_have_no_place_in_the_program(compiler: LocalCompiler) -> None:
    sources = (("Solution.java", "class C { }"), ("CrucibleLink.java", "class L { int a = C.f(); }"))
    (only,) = compiler.compile(*sources).diagnostics
    assert (only.line, only.column, only.start, only.position) == (0, 0, -1, -1)
    assert only.kind == "compiler.err.cant.resolve.location.args"


def test_bytes_that_are_no_text_are_told_where_they_stand(compiler: LocalCompiler) -> None:
    source = b"class C { } // \xc3\x28"
    first = compiler.compile(("Solution.java", source)).diagnostics[0]
    assert first.kind == "compiler.err.illegal.char.for.encoding"
    assert first.start == first.position == source.index(b"\xc3")
