"""EvalPlus's way of judging: on each input, the program's answer against the canonical solution's.

The text of this file is the head of the suites' setup: it runs in the judge, so it needs the standard library alone.
The rules are those of EvalPlus 0.3.1's evaluation, ``numpy.allclose`` included, with one difference: nested answers
must have the same shape, where numpy would stretch the smaller one.
"""

# Answers may be of any type, so strict typing has nothing to hold on to.
# pyright: basic

from __future__ import annotations

import json
import math
from itertools import repeat
from typing import Any

_RELATIVE = 1e-7
_ABSOLUTE_FOR_FLOATS = 1e-6


def is_floats(value: Any) -> bool:
    """A float, or a flat list or tuple of at least one and nothing else."""
    if isinstance(value, (list, tuple)) and value:
        return all(isinstance(item, float) for item in value)
    return isinstance(value, float)


def close(value: Any, expected: Any, absolute: float) -> bool:
    """|value - expected| <= absolute + 1e-7 |expected|, number for number."""
    if isinstance(value, (list, tuple)) and isinstance(expected, (list, tuple)):
        return len(value) == len(expected) and all(map(close, value, expected, repeat(absolute)))
    if not isinstance(value, (int, float, complex)) or not isinstance(expected, (int, float, complex)):
        return False
    try:
        size = abs(expected)
        return value == expected or (math.isfinite(size) and abs(value - expected) <= absolute + _RELATIVE * size)
    except OverflowError:  # integers beyond every float
        return False


def polynomial(coefficients: list[float], x: float) -> float:
    """HumanEval/32 asks for a zero; any one will do."""
    return sum(coefficient * math.pow(x, power) for power, coefficient in enumerate(coefficients))


def surface_area(base_edge: float, height: float) -> int:
    """Mbpp/581, with the height read as the pyramid's, not as that of its sides."""
    slant_height = math.sqrt((base_edge / 2) ** 2 + height**2)
    return round(base_edge**2 + 2 * base_edge * slant_height)


def digit_distance(first: int, second: int) -> int:
    """Mbpp/558, with the shorter number filled up with zeros."""
    width = max(len(str(first)), len(str(second)))
    pairs = zip(str(first).zfill(width), str(second).zfill(width), strict=True)
    return sum(abs(int(one) - int(other)) for one, other in pairs)


def found_or_not(value: Any, expected: Any, _: list[Any]) -> bool:
    """For solutions that answer with a match or None: whether it is None counts, or a bool that says so."""
    return value == (expected is not None) if isinstance(value, bool) else (value is None) == (expected is None)


# Entry point -> (value, expected, arguments) -> whether this counts as exactly right.
_MBPP_ORACLES = {
    "are_equivalent": lambda *_: True,
    "sum_div": lambda value, expected, _: value in (expected, 0),
    "digit_distance_nums": lambda value, expected, arguments: value in (expected, digit_distance(*arguments)),
    **dict.fromkeys(("check_str", "text_match_three", "text_starta_endb"), found_or_not),
    **dict.fromkeys(
        ("similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly", "larg_nnum",
         "intersection_array", "find_dissimilar", "Diff"),
        lambda value, expected, _: set(value) == set(expected),
    ),
}  # fmt: skip


class Differential:
    """Judges by a reference. ``tolerance`` is absolute; ``dataset`` is ``humaneval`` or ``mbpp``."""

    def __init__(self, dataset: str, entry_point: str, tolerance: float) -> None:
        self._question = f"{dataset} {entry_point}"
        self._tolerance = tolerance
        self._oracle: Any = _MBPP_ORACLES.get(entry_point) if dataset == "mbpp" else None

    def check(self, value: Any, expected: Any, arguments: list[Any]) -> None:
        """Raises AssertionError for a wrong answer."""
        if self._question == "humaneval find_zero":
            assert abs(polynomial(arguments[0], value)) <= self._tolerance
            return
        is_exact = self._oracle(value, expected, arguments) if self._oracle else value == expected
        if self._question == "mbpp surface_Area" and not is_exact:
            is_exact = abs(value - surface_area(*arguments)) <= self._tolerance
        if is_floats(expected) and not self._tolerance:
            self._tolerance = _ABSOLUTE_FOR_FLOATS  # from here on, as EvalPlus has it
        if not is_exact:
            assert self._tolerance, "not equal"
            assert type(value) is type(expected), f"a {type(value).__name__} for a {type(expected).__name__}"
            assert close(value, expected, self._tolerance), "not close"


def judge_on(differential: Differential, candidate: Any, reference: Any, inputs: str, arguments_of: Any) -> None:
    """Calls both on each input; ``inputs`` is JSON, from which ``arguments_of`` makes the arguments of each call.

    Read three times: what a program does to its arguments comes back, and must reach neither the reference nor us.
    """
    for given, copied, kept in zip(*(map(arguments_of, json.loads(inputs)) for _ in range(3)), strict=True):
        differential.check(candidate(*given), reference(*copied), kept)


def tuples(value: Any) -> Any:
    """Lists as tuples, all the way down."""
    return tuple(map(tuples, value)) if isinstance(value, list) else value
