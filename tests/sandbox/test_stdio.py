"""Tests by standard input and output, and their checkers, which read hostile text."""

from __future__ import annotations

import time

import pytest

from problems.problem import Limits
from problems.stdio import Checker, StdioCase, StdioSuite
from sandbox import BlockingExecutor, Outcome, Program, Verdict
from sandbox.resident.checkers import agree

ADD = "a, b = map(int, input().split())\nprint(a + b)"
SUM = StdioSuite((StdioCase("1 2\n", "3\n"), StdioCase("5 7\n", "12\n"), StdioCase("0 0\n", "0\n")))
LIMITS = Limits(cpu_s=2.0, wall_s=20.0, memory_bytes=256 << 20, output_bytes=1 << 20)


def run(
    executor: BlockingExecutor, source: str, suite: StdioSuite = SUM, limits: Limits = LIMITS, *, stop: bool = True
) -> Verdict:
    return executor.run(Program("python", source.encode()), suite, limits, stop_at_first_failure=stop)


def test_a_program_that_prints_the_right_text_passes(executor: BlockingExecutor) -> None:
    verdict = run(executor, ADD)
    assert verdict.passed, verdict
    assert [case.outcome for case in verdict.cases] == [Outcome.PASSED] * 3
    assert verdict.cpu_s > 0


def test_each_case_is_a_process_of_its_own(executor: BlockingExecutor) -> None:
    counter = "import os\nopen('count', 'a').write('x')\nprint(os.path.getsize('count'))"
    assert run(executor, counter, StdioSuite((StdioCase("", "1"), StdioCase("", "1")))).passed


def test_every_case_has_a_result_when_fractions_are_wanted(executor: BlockingExecutor) -> None:
    verdict = run(executor, "a, b = map(int, input().split())\nprint(a + b if a != 5 else 0)", stop=False)
    assert [case.outcome is Outcome.PASSED for case in verdict.cases] == [True, False, True]
    assert verdict.outcome is Outcome.WRONG_ANSWER
    assert len(run(executor, "print(3)").cases) == 2


@pytest.mark.parametrize(
    "source",
    [
        "import sys\nprint(sum(map(int, sys.stdin.read().split())))",
        "import sys\nsys.stdout.write(str(sum(int(x) for line in sys.stdin for x in line.split())))",
        "import os\nprint(sum(map(int, os.read(0, 99).split())))",
        "print(sum(map(int, open(0).read().split())))",
        "import sys\nif __name__ == '__main__':\n    sys.exit(print(sum(map(int, sys.stdin.buffer.read().split()))))",
        "import threading\nx = input().split()\nthreading.Thread(target=lambda: print(int(x[0]) + int(x[1]))).start()",
        "import atexit\nx = input().split()\natexit.register(lambda: print(int(x[0]) + int(x[1])))",
        "import sys\nsys.stderr.write('noise')\nprint(sum(map(int, input().split())))",
    ],
)
def test_the_usual_ways_to_read_and_print_all_work(executor: BlockingExecutor, source: str) -> None:
    verdict = run(executor, source)
    assert verdict.passed, verdict


@pytest.mark.parametrize(
    ("source", "outcome"),
    [
        ("print(input()", Outcome.COMPILE_ERROR),
        ("print(3)\nraise SystemExit(1)", Outcome.RUNTIME_ERROR),
        ("print(3)\n1 / 0", Outcome.RUNTIME_ERROR),
        ("print(3, flush=True)\nimport os\nos.kill(os.getpid(), 9)\nos._exit(3)", Outcome.RUNTIME_ERROR),
        ("import os\nos._exit(0)", Outcome.WRONG_ANSWER),
        ("", Outcome.WRONG_ANSWER),
        ("print('PASSED')\nprint('{\"passed\": true}')", Outcome.WRONG_ANSWER),
        ("while True: pass", Outcome.TIME_LIMIT),
        ("while True: print('x' * 1000)", Outcome.OUTPUT_LIMIT),
        ("import sys\nwhile True: print('x' * 1000, file=sys.stderr)", Outcome.OUTPUT_LIMIT),
        ("x = bytearray(1 << 30)", Outcome.MEMORY_LIMIT),
    ],
)
def test_each_way_to_fail_has_its_name(executor: BlockingExecutor, source: str, outcome: Outcome) -> None:
    verdict = run(executor, source)
    assert verdict.outcome is outcome, verdict


@pytest.mark.parametrize("first", ["print(3, flush=True)", "os.close(1)"])
def test_output_without_an_end_is_a_time_limit(executor: BlockingExecutor, first: str) -> None:
    source = f"import os, time\n{first}\ntime.sleep(99)"
    assert run(executor, source, limits=Limits(wall_s=1.0)).outcome is Outcome.TIME_LIMIT


def test_a_daemon_that_holds_the_output_open_delays_nothing(executor: BlockingExecutor) -> None:
    daemon = f"{ADD}\nimport os, sys, time\nsys.stdout.flush()\nif os.fork() == 0:\n    time.sleep(99)\nos._exit(0)"
    start = time.monotonic()
    assert run(executor, daemon).passed
    assert time.monotonic() - start < 10


def test_large_input_and_output_pass_through_at_once(executor: BlockingExecutor) -> None:
    text = "".join(f"{n}\n" for n in range(100_000))
    echo = "import sys\nfor line in sys.stdin: print(line, end='')"
    assert run(executor, echo, StdioSuite((StdioCase(text, text),))).passed
    deaf = "print('x' * 100)"
    assert run(executor, deaf, StdioSuite((StdioCase(text, "x" * 100),))).passed


def test_the_expected_output_is_out_of_reach(executor: BlockingExecutor) -> None:
    search = """
import gc, os, sys
found = 'nothing'
for thing in gc.get_objects():
    if 'expected-' + 'text' in repr(thing)[:100_000] and 'found' not in repr(thing)[:100_000]: found = repr(thing)
for fd in range(3, 30):
    try:
        os.set_blocking(fd, False)
        found += os.read(fd, 1 << 16).decode()
    except OSError: pass
print(found)
"""
    suite = StdioSuite((StdioCase("", "expected-text"),), Checker.TOKENS)
    verdict = run(executor, search, suite)
    assert verdict.outcome is Outcome.WRONG_ANSWER
    assert "expected" not in verdict.cases[0].detail


@pytest.mark.parametrize(
    ("checker", "printed", "expected", "passes"),
    [
        ("exact", b"1\n", b"1\n", True),
        ("exact", b"1", b"1\n", False),
        ("lines", b"1  \r\n2\n\n\n", b"1\n2", True),
        ("lines", b"1 2", b"1\n2", False),
        ("lines", b"\n1", b"1", False),
        ("lines", b"\xff\x00", b"\xff\x00\n", True),
        ("tokens", b" 1\n\n2 ", b"1 2\n", True),
        ("tokens", b"12", b"1 2", False),
        ("floats", b"1.0000001 x", b"1 x", True),
        ("floats", b"1.1", b"1", False),
        ("floats", b"1", b"1 1", False),
        ("floats", b"1e3", b"1000", True),
        ("floats", b"nan", b"1", False),
        ("floats", b"inf", b"1e300", False),
        ("floats", b"1e999", b"1e300", False),
        ("floats", b"nan", b"nan", True),  # a word like any other
        ("floats", b"1_0", b"10", False),
        ("floats", "\u0661".encode(), b"1", False),
        ("floats", b"0x1", b"1", False),
        ("floats", b"1" * 100_000, b"1", False),
        ("floats", b"9" * 300, b"9" * 299 + b"8", True),
        ("floats", b"-0", b"0", True),
        ("unordered", b"b\na\n", b"a\nb", True),
        ("unordered", b"a\na\nb", b"a\nb\nb", False),
    ],
)
def test_checkers_compare_what_they_say(checker: str, printed: bytes, expected: bytes, passes: bool) -> None:
    assert agree(checker, printed, expected, 1e-6, 1e-6) is passes


def test_checkers_take_hostile_text_in_linear_time() -> None:
    start = time.monotonic()
    for text in (
        b"1." * 500_000,
        b"1e" * 500_000,
        b" " * 1_000_000,
        b"\n" * 1_000_000,
        b"0" * 1_000_000,
        b"+-" * 500_000,
    ):
        for checker in Checker:
            agree(checker.value, text, b"1", 1e-6, 1e-6)
            agree(checker.value, text, text + b"1", 1e-6, 1e-6)
    assert time.monotonic() - start < 20
