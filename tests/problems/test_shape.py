"""The shape of programs, by hand."""

import pytest

from problems.problem import CompletionStyle, Problem
from problems.shape import ProgramShape, shape_of

PROMPT = 'def f(x):\n    """What."""\n'
PYTHON = Problem("p", "python", PROMPT, CompletionStyle.CONTINUE, {})


def shape(body: str) -> ProgramShape:
    return shape_of(PYTHON, (PROMPT + body).encode())


def test_only_what_the_completion_wrote_counts() -> None:
    assert shape("    # a\n\n    y = x\n    return y\n") == ProgramShape(2, 1, False, 0)
    assert shape("") == ProgramShape(0, 0, False, 0)


@pytest.mark.parametrize(
    ("body", "dead"),
    [
        ("    return x\n    y = 1\n    x += y\n", 2),
        ("    if False:\n        x = 2\n    return x\n", 1),
        ("    x\n    x == 3\n    x.sort()\n    return x\n", 2),
        ("    y = x + 1\n    return x\n", 1),
        ("    y = g(x)\n    return x\n", 0),
        ("    pass\n    return x\n", 1),
        ("    pass\n", 0),
        ("    for i in x:\n        continue\n        x = 1\n    return x\n", 1),
        ("    'a'\n    return x\n", 0),
        ("    return (\n", None),
    ],
)
def test_dead_lines(body: str, dead: int | None) -> None:
    assert shape(body).dead == dead


def test_a_try_in_a_comment_or_a_string_is_none() -> None:
    assert shape("    try:\n        return x\n    except ValueError:\n        return 0\n").has_try
    assert not shape("    return 'try'  # try\n").has_try
    java = Problem("p", "java", "", CompletionStyle.PROGRAM, {})
    assert shape_of(java, b"// try\nint f() { try { return 1; } finally { } }\n") == ProgramShape(1, 1, True, None)
