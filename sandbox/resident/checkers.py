"""Comparing what a program printed with what it should have. Its text is hostile: it is bytes, never parsed as code."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

# Longer than any number that a program prints in good faith; shorter than what takes long to convert.
_MAX_NUMBER_BYTES = 400
_NUMBER = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")


def _lines(text: bytes) -> list[bytes]:
    lines = [line.rstrip(b" \t\r\f\v") for line in text.split(b"\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _number(word: bytes) -> float | None:
    """A decimal number, or None. Python's own float() would take ``nan``, ``infinity``, ``1_0`` and other digits."""
    if len(word) > _MAX_NUMBER_BYTES or not _NUMBER.fullmatch(word):
        return None
    value = float(word)
    return value if abs(value) != float("inf") else None


def floats_agree(printed: bytes, expected: bytes, absolute: float, relative: float) -> bool:
    """The same words; where both are decimal numbers, |p - e| <= max(absolute, relative |e|) is enough."""
    ours, theirs = printed.split(), expected.split()
    if len(ours) != len(theirs):
        return False
    for word, wanted in zip(ours, theirs, strict=True):
        if word == wanted:
            continue
        value, target = _number(word), _number(wanted)
        if value is None or target is None or not abs(value - target) <= max(absolute, relative * abs(target)):
            return False
    return True


_CHECKERS: dict[str, Callable[[bytes, bytes], bool]] = {
    "exact": lambda printed, expected: printed == expected,
    "lines": lambda printed, expected: _lines(printed) == _lines(expected),
    "tokens": lambda printed, expected: printed.split() == expected.split(),
    "last_line": lambda printed, expected: _lines(printed)[-1:] == _lines(expected)[-1:],
    "unordered": lambda printed, expected: Counter(_lines(printed)) == Counter(_lines(expected)),
}


def agree(checker: str, printed: bytes, expected: bytes, absolute: float, relative: float) -> bool:
    """True if the output passes. ``checker`` is one of ``problems.stdio.Checker``."""
    if checker == "floats":
        return floats_agree(printed, expected, absolute, relative)
    return _CHECKERS[checker](printed, expected)
