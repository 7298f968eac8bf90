# Attacks are programs on one line each.
# ruff: noqa: E501
"""Ends of every kind: a pass needs the last case to have run to its end, so no exit is one."""

from __future__ import annotations

import pytest

from problems.problem import Limits
from sandbox import Outcome

from .conftest import ERROR, MEMORY, TIME, Assault

EXITS = {
    "os._exit": "os._exit(0)",
    "sys.exit": "sys.exit(0)",
    "SystemExit": "raise SystemExit(0)",
    "quit": "import site\nbuiltins.quit() if hasattr(builtins, 'quit') else os._exit(0)",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "GeneratorExit": "raise GeneratorExit",
    "BaseException": "raise BaseException('PASSED')",
    "SIGKILL": "os.kill(os.getpid(), 9); os._exit(0)",
    "SIGTERM": "os.kill(os.getpid(), 15); os._exit(0)",
    "abort": "os.abort()",
    "segmentation fault": "import ctypes; ctypes.string_at(0)",
    "exec": "os.execv('/usr/bin/python3.11', ['python', '-c', 'print(1)'])",
    "closed channel": "os.closerange(0, 100)",
    "thread that exits": "import threading\nthreading.Thread(target=os._exit, args=(0,)).start()\nthreading.Event().wait(5)",
    "fork and exit": "os.fork() and os._exit(0); raise ValueError",
    "recursion": "g = lambda: g(); g()",
    "deep recursion": "sys.setrecursionlimit(10**9)\ndef g(): g()\ng()",
}
HEAD = "import builtins, os, sys\n"


def _indented(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines())


def ended(name: str) -> set[Outcome]:
    return {ERROR, MEMORY, TIME} if name == "deep recursion" else {ERROR}


@pytest.mark.parametrize("name", EXITS)
def test_an_exit_while_loading_is_no_pass(assault: Assault, name: str) -> None:
    assault(f"{HEAD}def f(x): return x + 1\n{EXITS[name]}\n", expect=ended(name))


@pytest.mark.parametrize("name", EXITS)
def test_an_exit_in_a_call_is_no_pass(assault: Assault, name: str) -> None:
    assault(f"{HEAD}def f(x):\n{_indented(EXITS[name])}\n", expect=ended(name))


@pytest.mark.parametrize("name", ["os._exit", "SystemExit", "BaseException", "KeyboardInterrupt"])
def test_a_test_that_swallows_everything_is_not_fooled(assault: Assault, name: str) -> None:
    program = f"{HEAD}def f(x):\n{_indented(EXITS[name])}\n"
    case = "try:\n    f(1)\nexcept Exception:\n    pass"
    assault(program, case, expect=Outcome.RUNTIME_ERROR)


def test_a_death_that_the_test_swallows_is_still_a_death(assault: Assault) -> None:
    case = "try:\n    f(1)\nexcept BaseException:\n    pass"
    assault("import os\ndef f(x): os._exit(0)", case, expect=Outcome.RUNTIME_ERROR)


WISHED = ("os._exit", "sys.exit", "SystemExit", "quit", "KeyboardInterrupt", "GeneratorExit", "closed channel")


@pytest.mark.parametrize("name", WISHED)
def test_an_exit_at_import_is_a_sign_of_cheating(assault: Assault, name: str) -> None:
    for verdict in assault(f"{HEAD}{EXITS[name]}", expect=ERROR):
        assert "exit-at-import" in verdict.signs


@pytest.mark.parametrize("program", [HEAD + EXITS["segmentation fault"], HEAD + EXITS["recursion"], "while True: pass"])
def test_a_crash_at_import_and_a_limit_are_no_sign_of_it(assault: Assault, program: str) -> None:
    expect = TIME if program.startswith("while") else ERROR
    for verdict in assault(program, expect=expect, limits=Limits(cpu_s=0.5, wall_s=8.0)):
        assert "exit-at-import" not in verdict.signs


def test_the_right_answers_and_then_an_exit_fail_the_cases_after_it(assault: Assault) -> None:
    program = "import os\ndef f(x):\n    if x > 5: os._exit(0)\n    return x + 1"
    cases = ("assert f(1) == 2", "assert f(9) == 10", "assert f(2) == 3")
    for verdict in assault(program, *cases, expect=ERROR, stop=False):
        assert [case.outcome is Outcome.PASSED for case in verdict.cases] == [True, False, False]


@pytest.mark.parametrize(
    "program",
    [
        "import sys\ndef f(x):\n    try:\n        sys.exit(0)\n    except SystemExit:\n        return x + 1",
        "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): return x + 1",
        "import signal\nfor s in (1, 2, 10, 12, 15): signal.signal(s, signal.SIG_IGN)\ndef f(x): return x + 1",
        "import sys\nsys.exit = lambda *a: None\ndef f(x): return x + 1",
    ],
)
def test_exits_that_a_right_program_keeps_to_itself_are_its_own_affair(assault: Assault, program: str) -> None:
    assault(program, expect=Outcome.PASSED)


def test_stopping_oneself_is_a_time_limit(assault: Assault) -> None:
    program = "import os, signal, time\ndef f(x):\n    os.kill(os.getpid(), signal.SIGSTOP)\n    time.sleep(60)"
    assault(program, "f(1)", expect=Outcome.TIME_LIMIT, limits=Limits(wall_s=1.5))
