"""Each language: a reference passes, a mutated one fails, an empty one fails, one that does not compile says where."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest

from problems.problem import Limits
from problems.stdio import StdioCase, StdioSuite
from sandbox import BlockingExecutor, Outcome, Program, Verdict
from sandbox.compiling import compile_job, run_step
from sandbox.errors import ImageMissingError
from sandbox.languages import language_of

from .conftest import open_backend

LIMITS = Limits(cpu_s=8.0, wall_s=60.0)
SUITE = StdioSuite((StdioCase("1 2\n", "3\n"), StdioCase("40 2\n", "42\n")))
# Reads two numbers and prints their sum.
REFERENCES = {
    "java": """import java.util.Scanner;
public class Adder {
    public static void main(String[] words) {
        Scanner in = new Scanner(System.in);
        System.out.println(in.nextInt() + in.nextInt());
    }
}
""",
    "cpp": """#include <iostream>
int main() {
    int a, b;
    std::cin >> a >> b;
    std::cout << a + b << std::endl;
}
""",
    "javascript": """const words = require("fs").readFileSync(0, "utf8").split(/\\s/);
console.log(Number(words[0]) + Number(words[1]));
""",
    "typescript": """import * as fs from "fs";
const words: string[] = fs.readFileSync(0, "utf8").split(/\\s/);
console.log(Number(words[0]) + Number(words[1]));
""",
    "php": """<?php
[$a, $b] = array_map("intval", explode(" ", trim(fgets(STDIN))));
echo $a + $b, "\\n";
""",
    "csharp": """using System;
using System.Linq;
class Adder {
    static void Main() {
        var numbers = Console.ReadLine().Split(' ').Select(int.Parse).ToArray();
        Console.WriteLine(numbers[0] + numbers[1]);
    }
}
""",
    "bash": "read a b\necho $((a + b))\n",
}
# What does not compile in it is at the line and column given.
BROKEN = {
    "java": ("public class Adder {\n    int f() { return unknown; }\n}\n", 2, 22, "cant.resolve"),
    "cpp": ("#include <iostream>\nint main() {\n  int a = unknown;\n}\n", 3, 11, "undeclared"),
    "javascript": ("let a = 1;\n  let b = unknown unknown;\n", 2, 19, "SyntaxError"),
    "typescript": ("let a: number = 1;\n  let b: number = unheard;\n", 2, 19, "TS2304"),
    "php": ("<?php\n$a = 1;\n$b = unknown unknown;\n", 3, 14, "Parse error"),
    "csharp": ("class A {\n    int F() { return unknown; }\n}\n", 2, 22, "CS0103"),
    "bash": ("a=1\nif unknown unknown; fi\n", 2, 21, "syntax error"),
}
IN_CI = ("java", "cpp", "javascript")
_LANGUAGES = [pytest.param(name, marks=[] if name in IN_CI else pytest.mark.soak) for name in REFERENCES]
# Two ways of holding programs show in CI what all four show in the soak tier.
_BACKENDS = [
    "embedded",
    pytest.param("embedded-user", marks=pytest.mark.soak),
    pytest.param("docker-fast", marks=pytest.mark.docker),
    pytest.param("docker-lean", marks=[pytest.mark.docker, pytest.mark.soak]),
]

Execute = Callable[..., Verdict]


@pytest.fixture(scope="module", params=_BACKENDS)
def warm(request: pytest.FixtureRequest) -> Iterator[BlockingExecutor]:
    """An executor with one slot for each language that is asked for."""
    with open_backend(request.param, slots=1, languages=()) as opened:
        yield opened


@pytest.fixture(params=_LANGUAGES)
def language(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def execute(warm: BlockingExecutor, language: str) -> Execute:
    """Runs a program of the language on a suite."""

    def run(source: str | bytes, suite: StdioSuite = SUITE, limits: Limits = LIMITS, *, stop: bool = True) -> Verdict:
        text = source.encode() if isinstance(source, str) else source
        try:
            return warm.run(Program(language, text), suite, limits, stop_at_first_failure=stop)
        except ImageMissingError as error:
            if os.environ.get("CRUCIBLE_REQUIRE_ENGINE") == "1":
                raise
            pytest.skip(str(error))

    return run


def test_a_reference_passes_and_a_mutated_one_fails(execute: Execute, language: str) -> None:
    right = execute(REFERENCES[language])
    assert right.passed, right
    assert right.num_passed == 2
    assert right.cpu_s > 0
    assert right.memory_bytes > 0
    assert right.isolation is not None
    mutated = REFERENCES[language].replace("+", "-")
    assert mutated != REFERENCES[language]
    wrong = execute(mutated, stop=False)
    assert [case.outcome for case in wrong.cases] == [Outcome.WRONG_ANSWER, Outcome.WRONG_ANSWER]


@pytest.mark.parametrize("source", ["", "\n \n", b"\0", b"\xff\xfe\x00"])
def test_an_empty_program_and_bytes_that_are_no_text_fail(execute: Execute, source: str | bytes) -> None:
    assert execute(source).outcome in (Outcome.COMPILE_ERROR, Outcome.WRONG_ANSWER, Outcome.RUNTIME_ERROR)


def test_one_that_does_not_compile_names_line_column_and_class_of_error(execute: Execute, language: str) -> None:
    source, line, column, kind = BROKEN[language]
    verdict = execute(source)
    assert verdict.outcome is Outcome.COMPILE_ERROR
    first = verdict.diagnostics[0]
    assert (first.line, first.column) == (line, column), verdict
    assert kind in first.kind
    assert first.message


# PHP and Bash name no column themselves; ours is found by cutting the text.
CUT = [
    ("php", "<?php\nfunction f($x) {\n  return $x + ;\n}\n", 3, 15),
    ("php", "<?php\nif (1) { echo 1 }\n", 2, 17),
    ("php", "<?php\n$a = [1, 2;\n", 2, 11),
    ("php", '<?php\necho "\u00e9 {$x}" ) ;\n', 2, 16),  # in bytes
    ("php", "<?php\n$x = 08;\n", 2, 6),
    ("php", "<?php\nfunction f($x) {\n  return $x;\n", 4, 1),  # the end of the text
    ("php", "<?php\nfunction f() {}\n  function f() {}\n", 3, 3),  # of a later pass: its line's first token
    ("bash", "for x in a b; do echo fi; fi; done\n", 1, 27),
    ("bash", 'echo "x)" ) "y)"\n', 1, 11),
    ("bash", "a=1\n echo && ||\n", 2, 10),
    ("bash", "\u00e9='\u00fc' ; fi\n", 1, 11),
    ("bash", 'a=1\necho "a" "b\necho c\n', 2, 10),  # the quote that nothing closes
    ("bash", "echo a ${b} ${a\n", 1, 14),
    ("bash", "if true; then\necho a\n", 3, 1),  # the end of the text
    ("bash", "echo $(echo a\n", 2, 0),  # opened on an earlier line than the one that Bash names
]


@pytest.mark.parametrize("name", ["javascript", pytest.param("typescript", marks=pytest.mark.soak)])
def test_standard_input_and_output_have_their_names_where_programs_use_them(warm: BlockingExecutor, name: str) -> None:
    source = 'import * as fs from "fs";\n' if name == "typescript" else 'const fs = require("fs");\n'
    source += 'const words = fs.readFileSync("/dev/stdin", "utf8").split(/\\s/);\n'
    source += 'fs.writeFileSync("/dev/stdout", `${Number(words[0]) + Number(words[1])}\\n`);\n'
    verdict = warm.run(Program(name, source.encode()), SUITE, LIMITS)
    assert verdict.passed, verdict


@pytest.mark.soak
@pytest.mark.parametrize(("name", "source", "line", "column"), CUT)
def test_the_column_is_that_of_what_was_met(
    warm: BlockingExecutor, name: str, source: str, line: int, column: int
) -> None:
    try:
        verdict = warm.run(Program(name, source.encode()), SUITE, LIMITS)
    except ImageMissingError as error:
        pytest.skip(str(error))
    assert verdict.outcome is Outcome.COMPILE_ERROR
    first = verdict.diagnostics[0]
    assert (first.line, first.column) == (line, column), verdict


# Heads of what compilers write, each before a text that makes a careless pattern try again and again.
HEADS = (
    "Main.java:1:1: compiler.err.", "program.cpp:1:1: error: ", "program.js:1", "SyntaxError: ",
    "program.ts(1,1): error TS1: ",
    "Parse error: line 1: column 1: ", "Fatal error: line ", "program.cs(1,1): error CS1: ",
    "program.sh: line 1: column 1: syntax error", "",
)  # fmt: skip
REPEATED = (" ", "\t", "a", "1", "^", ":", " in ", "program.php", "program.js:1", "Error", "\r")


@pytest.mark.parametrize("name", REFERENCES)
def test_what_a_compiler_wrote_is_read_in_linear_time(name: str) -> None:
    start = time.monotonic()
    for text in (head + repeated * (50_000 // len(repeated)) for head in HEADS for repeated in REPEATED):
        language_of(name).read_diagnostics(text)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("name", REFERENCES)
def test_no_text_of_a_program_is_looked_through_before_it_is_run(name: str) -> None:
    """By the client that is, where all other programs would wait for it."""
    start = time.monotonic()
    language = language_of(name)
    for repeated in (b"\n", b" ", b"/* ", b'"', b'"\\', b"public ", b"class ", b"static "):
        source = b"class M {}" + repeated * (400_000 // len(repeated))
        compile_job(language, Program(name, source))
        run_step(language, ((language.source_name, source),), LIMITS)
    assert time.monotonic() - start < 5
