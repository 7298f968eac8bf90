# Attacks are programs on one line each.
# ruff: noqa: E501
"""Compilers and runtimes turned against the slot: nothing passes, nothing is left, an honest program is judged after."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from problems.problem import Limits
from problems.stdio import StdioCase, StdioSuite
from sandbox import BlockingExecutor, Outcome, Program, Verdict
from sandbox.errors import ImageMissingError
from sandbox.polyglot import Polyglot

from ..conftest import open_backend, require_bounded_processes
from ..test_languages import REFERENCES
from .conftest import processes_in

LIMITS = Limits(cpu_s=2.0, wall_s=8.0, memory_bytes=256 << 20, num_processes=16, output_bytes=1 << 20)
SUITE = StdioSuite((StdioCase("1 2\n", "3\n"),))
COMPILE_ERROR, MEMORY, TIME = ({Outcome.COMPILE_ERROR}, {Outcome.MEMORY_LIMIT}, {Outcome.TIME_LIMIT})
_MAIN = "#include <bits/stdc++.h>\n#include <unistd.h>\n#include <signal.h>\nint main() { %s }"
_JAVA = "public class Main { public static void main(String[] words) throws Exception { %s } }"

# Short ones, run in CI: language, program, outcomes that are right.
SHORT: dict[str, tuple[str, str, set[Outcome]]] = {
    "templates without end": ("cpp", "template<int N> struct A { static const int v = A<N + 1>::v; };\nint main() { return A<0>::v; }", COMPILE_ERROR),
    "a constant without end": ("cpp", "constexpr int f() { int i = 0; while (true) i = (i + 1) % 7; return i; }\nconstexpr int x = f();\nint main() {}", COMPILE_ERROR),
    "an include of the environment": ("cpp", '#include "/proc/self/environ"\nint main() {}', COMPILE_ERROR),
    "an include of a file that is not there": ("cpp", '#include "/etc/shadow"\nint main() {}', COMPILE_ERROR),
    "an include of itself": ("cpp", "#include __FILE__\nint main() {}", COMPILE_ERROR),
    "a program of a gigabyte": ("cpp", "char a[1 << 30] = {1};\nint main() { return a[5]; }", COMPILE_ERROR),
    "a shell": ("cpp", _MAIN % 'execl("/bin/sh", "sh", "-c", "kill -9 -1; cat /proc/1/environ; echo 4", nullptr); puts("no shell");', {Outcome.WRONG_ANSWER}),
    "signals to everybody": ("cpp", _MAIN % 'kill(-1, SIGKILL); kill(1, SIGKILL); kill(getppid(), SIGKILL); puts("alive");', {Outcome.WRONG_ANSWER}),
    "a fork bomb in C++": ("cpp", _MAIN % "for (;;) fork();", TIME),
    "memory in C++": ("cpp", _MAIN % "std::list<std::string> a; for (;;) a.emplace_back(1 << 20, 'x');", MEMORY),
    "output closed, and on it goes": ("cpp", _MAIN % 'puts("3"); fflush(stdout); fclose(stdout); close(1); for (;;) sleep(9);', TIME),
    "the right output and a wrong end": ("cpp", _MAIN % 'puts("3"); fflush(stdout); abort();', {Outcome.RUNTIME_ERROR}),
    "the right output and a daemon": ("cpp", _MAIN % 'puts("3"); fflush(stdout); if (fork() == 0) { setsid(); for (;;) sleep(9); }', {Outcome.PASSED}),
    "memory in JavaScript": ("javascript", "const a = []; for (;;) a.push(new Array(9999).fill(a.length));", MEMORY),
    "children in JavaScript": ("javascript", "for (;;) require('child_process').spawn('/usr/bin/node', ['-e', 'for(;;);']);", {*TIME, *MEMORY, Outcome.RUNTIME_ERROR}),
    "an endless loop in JavaScript": ("javascript", "for (;;);", TIME),
    "exit before anything": ("javascript", "process.exit(0);", {Outcome.WRONG_ANSWER}),
    "the judge's file, sought": ("javascript", "const fs = require('fs'); for (const p of ['/proc', '/proc/1/fd', '/tmp']) try { console.log(fs.readdirSync(p)); } catch (e) { console.log(e.code); }", {Outcome.WRONG_ANSWER}),
    "memory in Java": ("java", _JAVA % "var a = new java.util.ArrayList<byte[]>(); for (;;) a.add(new byte[1 << 20]);", MEMORY),
    "memory at once in Java": ("java", _JAVA % "long[] a = new long[1 << 30]; a[1 << 29] = 3;", MEMORY),
    "threads in Java": ("java", _JAVA % "for (;;) new Thread(() -> { try { Thread.sleep(99999); } catch (InterruptedException e) { } }).start();", {*TIME, Outcome.RUNTIME_ERROR}),
    "a shell from Java": ("java", _JAVA % 'new ProcessBuilder("/bin/sh", "-c", "sleep 99").inheritIO().start().waitFor();', {Outcome.RUNTIME_ERROR}),
}  # fmt: skip
# Each uses up what a compiler may.
LONG: dict[str, tuple[str, str, set[Outcome]]] = {
    "an include of zeros": ("cpp", '#include "/dev/zero"\nint main() {}', COMPILE_ERROR),
    "templates by the million": ("cpp", "template<int N, int M> struct A { static const int v = A<N - 1, 2 * M>::v + A<N - 1, 2 * M + 1>::v; };\ntemplate<int M> struct A<0, M> { static const int v = M; };\nint main() { return A<24, 0>::v; }", COMPILE_ERROR),
    "macros by the billion": ("cpp", "#define A(x) x x x x x x x x x x\n#define B(x) A(A(A(A(A(A(A(A(A(x)))))))))\nint main() { B(B(;)) }", COMPILE_ERROR),
    "generics without end": ("java", "class N<Z> {} class C<X> extends N<N<? super C<C<X>>>> { N<? super C<Integer>> f(C<Integer> c) { return c; } } " + _JAVA % "", COMPILE_ERROR),
}  # fmt: skip
# Where a way of holding programs keeps less from them.
ELSEWHERE: dict[tuple[str, str], set[Outcome]] = {
    # There /proc shows a compiler itself; its environment is empty.
    ("docker-lean", "an include of the environment"): {Outcome.WRONG_ANSWER},
}


@pytest.fixture(
    scope="module",
    params=[
        "embedded",
        pytest.param("embedded-user", marks=pytest.mark.soak),
        pytest.param("docker-fast", marks=[pytest.mark.docker, pytest.mark.soak]),
        pytest.param("docker-lean", marks=[pytest.mark.docker, pytest.mark.soak]),
    ],
)
def warm(request: pytest.FixtureRequest) -> Iterator[BlockingExecutor]:
    with open_backend(request.param, slots=1, languages=()) as opened:
        yield opened


def run_or_skip(warm: BlockingExecutor, language: str, source: str, limits: Limits) -> Verdict:
    try:
        return warm.run(Program(language, source.encode()), SUITE, limits)
    except ImageMissingError as error:
        pytest.skip(str(error))


def attack(warm: BlockingExecutor, language: str, source: str, expected: set[Outcome]) -> list[Verdict]:
    """Twice, with an honest program of that language after each, and nothing left over."""
    honest = Program(language, REFERENCES[language].encode())
    roomy = replace(LIMITS, cpu_s=8.0, wall_s=60.0)
    polyglot = warm._executor
    assert isinstance(polyglot, Polyglot)
    verdicts: list[Verdict] = []
    for _ in range(2):
        verdict = run_or_skip(warm, language, source, LIMITS)
        assert verdict.outcome in expected, verdict
        verdicts.append(verdict)
        after = warm.run(honest, SUITE, roomy)
        assert after.passed, (after, verdict)
        (slot,) = polyglot.pools[language]._slots
        assert processes_in(slot) == 0, verdict
    return verdicts


@pytest.mark.parametrize("name", SHORT)
def test_what_attacks_by_way_of_a_compiler_or_a_runtime_fails(
    warm: BlockingExecutor, name: str, request: pytest.FixtureRequest
) -> None:
    language, source, expected = SHORT[name]
    backend = request.node.callspec.params["warm"]
    if "fork bomb" in name or name == "threads in Java":
        require_bounded_processes(backend)
    attack(warm, language, source, ELSEWHERE.get((backend, name), expected))


@pytest.mark.soak
@pytest.mark.parametrize("name", LONG)
def test_a_compile_bomb_meets_the_compiler_s_limits(warm: BlockingExecutor, name: str) -> None:
    attack(warm, *LONG[name])


INCLUDED = """asm(".pushsection .data\\nfirst_byte: .incbin \\"%s\\"\\npast_bytes: .byte 0\\n.popsection");
extern char begin[] asm("first_byte"), end[] asm("past_bytes");
#include <cstdio>
int main() { fwrite(begin, 1, end - begin, stdout); }"""


def test_a_compiler_reads_nothing_of_the_slot_s(warm: BlockingExecutor, request: pytest.FixtureRequest) -> None:
    places = ["/proc/self/environ", "/proc/1/cmdline", "/etc/shadow", "/tmp/../proc/version", "/proc/1/environ"]
    places += ["/proc/1/maps", "/proc/1/mem", "/proc/1/fd/0"]
    if request.node.callspec.params["warm"] == "docker-lean":  # there is /proc, of itself and how others were started
        verdict = run_or_skip(warm, "cpp", INCLUDED % places[0], LIMITS)
        assert verdict.cases[0].detail == "printed b''", verdict
        for place in ["/etc/shadow", *places[4:]]:
            verdict = run_or_skip(warm, "cpp", INCLUDED % place, LIMITS)
            assert "file not found" in verdict.diagnostics[0].message, verdict
        return
    source = "\n".join(f'#if __has_include("{place}")\n#error found {place}\n#endif' for place in places)
    verdict = run_or_skip(warm, "cpp", f"{source}\n{REFERENCES['cpp']}", replace(LIMITS, cpu_s=8.0))
    assert verdict.passed, verdict
