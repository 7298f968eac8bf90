# Attacks are programs on one line each.
# ruff: noqa: E501
"""Patching the ground that tests stand on: it is the candidate's own ground only."""

from __future__ import annotations

import pytest

from sandbox import Outcome

from .conftest import COMPILE, ERROR, WRONG, Assault

PATCHES = {
    "builtins": "import builtins\nfor n in ('len', 'isinstance', 'all', 'sorted', 'abs'): setattr(builtins, n, lambda *a, **k: True)",
    "json": "import json\njson.dumps = lambda *a, **k: 'true'\njson.loads = lambda *a, **k: True",
    "math": "import math\nmath.isclose = lambda *a, **k: True\nmath.fabs = lambda x: 0.0",
    "modules": "import sys\nfor n in ('math', 'json', 'operator', 'copy'): sys.modules[n] = None",
    "check": "def check(*a): return None\ndef candidate(x): return 2",
    "builtin check": "import builtins\nbuiltins.check = lambda *a: None\nbuiltins.SECRET = 0",
    "main": "import sys, types\nsys.modules['__main__'] = types.ModuleType('__main__')\nsys.modules['__main__'].check = lambda f: None",
    "trace": "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)",
    "import": "import builtins, types\nbuiltins.__import__ = lambda *a, **k: types.ModuleType('x')",
    "assertion": "import builtins\nbuiltins.AssertionError = type('Never', (Exception,), {})",
    "hooks": "import sys\nsys.excepthook = lambda *a: None\nsys.unraisablehook = lambda *a: None\nsys.displayhook = lambda *a: None",
    "small numbers": "import ctypes\nctypes.c_uint32.from_address(id(8) + 24).value = 2",
    "compiled modules": "import os, json\nos.makedirs('__pycache__')\n"
    "for n in ('json', 'math', 'solution', 'sitecustomize'):\n"
    "    open(f'__pycache__/{n}.cpython-311.pyc', 'wb').write(b'\\0' * 16)",
    "exit codes": "import os\nos._exit = lambda code: None",
    "collector": "import gc\ngc.disable()\ngc.callbacks.append(lambda *a: None)",
    "forged output": "import sys\nfor t in ('PASSED', 'passed', '{\"passed\": true}', '1 passed in 0.01s', 'OK', '\\x1b[32mok'):\n"
    "    print(t)\n    print(t, file=sys.stderr)",
    "shadow modules": "for n in ('math', 'json', 'typing', 'sitecustomize', 'usercustomize'):\n"
    "    open(n + '.py', 'w').write('raise SystemExit(0)')\nopen('x.pth', 'w').write('import os; os._exit(0)')",
    "harness classes": "import gc\nfor o in gc.get_objects():\n"
    "    if type(o).__name__ == 'Candidate':\n        type(o)._described = None",
    "harness encoder": "import gc\nfor o in gc.get_objects():\n    if type(o).__name__ == 'Encoder':\n        type(o).encode = lambda *a: True",
}  # fmt: skip


@pytest.mark.parametrize("name", PATCHES)
def test_a_patch_does_not_make_a_wrong_program_right(assault: Assault, name: str) -> None:
    setup = "import math\ndef check(c):\n    assert math.isclose(c(1), 2) and len([c(1)]) == 1 and isinstance(c(1), int) and c(5) == 6"
    assault(f"{PATCHES[name]}\ndef f(x): return x + 7", "check(f)", expect={WRONG, ERROR}, setup=setup)


@pytest.mark.parametrize(
    "name", sorted(set(PATCHES) - {"harness encoder", "json", "import", "modules", "builtins", "small numbers"})
)
def test_a_patch_does_not_make_a_right_program_wrong(assault: Assault, name: str) -> None:
    assault(f"{PATCHES[name]}\ndef f(x): return x + 1", "assert f(1) == 2", expect=Outcome.PASSED)


@pytest.mark.parametrize(
    "program",
    [
        "def f(x): return x\n'''",
        "def f(x):\n    return x\n)",
        "return 2",
        "def f(x): return x\n__name__ = '__main__'\nexit",
        'def f(x):\n    """unbalanced',
        "from __future__ import braces",
        "\\",
        "\ufeffdef f(x): return x",
        "def f(x):\r\n    return x\r\n",
        "def f(x): return x\n\x1b[2Jpassed",
        "# -*- coding: rot13 -*-\nqrs s(k): erghea k",
        "def f(x):\n\treturn x\n        return 2",
    ],
)
def test_text_that_breaks_out_of_a_template_breaks_nothing(assault: Assault, program: str) -> None:
    """There is no template: the program is compiled alone."""
    assault(program, expect={COMPILE, ERROR, WRONG})


@pytest.mark.parametrize(
    "source",
    [
        b"def f(x): return '\x00'",
        b"def f(x): return '\xff\xfe'",
        b"\xff\xfed\x00e\x00f\x00",
        b"\x00" * 100,
        b"",
        b"\n" * 100_000,
    ],
)
def test_bytes_of_any_kind_get_a_verdict(assault: Assault, source: bytes) -> None:
    assault(source, expect={COMPILE, ERROR})


@pytest.mark.parametrize(
    "value",
    [
        r"'\ud800'",
        r"'\x00'",
        r"'\x1b[31mred'",
        r"'\u202e'",
        "'\\r\\n'",
        "b'\\xff'",
        "'x' * 1_000_000",
        "float('inf')",
        "-float('inf')",
    ],
)
def test_odd_values_come_back_as_they_are_and_are_no_pass(assault: Assault, value: str) -> None:
    assault(f"def f(x): return {value}", expect=Outcome.WRONG_ANSWER)
    assault(f"def f(x): return {value}", f"assert f(1) == {value}", expect=Outcome.PASSED)


@pytest.mark.parametrize("value", ["float('nan')", "float('inf')", "-float('inf')"])
def test_a_tolerance_is_not_met_by_what_is_no_number(assault: Assault, value: str) -> None:
    assault(f"def f(x): return {value}", "assert abs(f(1) - 2) < 1e-6", expect=Outcome.WRONG_ANSWER)


@pytest.mark.parametrize(
    "error", ["ValueError('\\ud800\\x00')", "UnicodeDecodeError('a', b'b', 0, 1, 'c')", "OSError(2, 'x')", "E()"]
)
def test_odd_exceptions_are_runtime_errors(assault: Assault, error: str) -> None:
    program = f"""
class E(Exception):
    def __str__(self): raise KeyboardInterrupt
    def __repr__(self): return 'x' * 10**6
def f(x): raise {error}
"""
    assault(program, expect=Outcome.RUNTIME_ERROR)


def test_what_a_program_says_cannot_steer_a_terminal(assault: Assault) -> None:
    loud = "def f(x): raise ValueError('\\x1b[2J\\x07\\u202e\\ud800 said')"
    for verdict in assault(loud, expect=Outcome.RUNTIME_ERROR):
        assert verdict.cases[0].detail.isprintable()
        assert "said" in verdict.cases[0].detail
