"""Faults of form: what a compiler, or Python at run time, refuses. Each is one edit of a rendered program.

A fault is a pattern over the text of the completion and what to put in its place; where it matches several times, one
match is drawn. Every edit is refused wherever it applies: none of them can make a program that is merely different.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from problems.synthetic.operations import FaultKind


@dataclass(frozen=True, slots=True)
class Form:
    """One kind of fault in one language, by any of several edits: (pattern, replacement), over lines."""

    kind: FaultKind
    edits: tuple[tuple[re.Pattern[str], str], ...]


def _form(kind: FaultKind, *edits: tuple[str, str]) -> Form:
    return Form(kind, tuple((re.compile(pattern, re.MULTILINE), replacement) for pattern, replacement in edits))


_PYTHON = (
    _form(FaultKind.MISSING_COLON, (r":$", "")),
    _form(FaultKind.MISSING_PARENTHESIS, (r"\)(:?)$", r"\1")),
    _form(FaultKind.BAD_INDENT, (r":\n    ( *\S)", r":\n\1")),
    _form(
        FaultKind.MISSING_SYMBOL,
        (r"= (out|t)$", "= result"),
        (r"\bin (xs|s)\b", "in data"),
        (r"return \w+$", "return result"),
    ),
    _form(
        FaultKind.TYPE_MISMATCH,
        (r"return xs$", "return len(xs)"),
        (r"return n$", "return str(n)"),
        (r"return s$", "return list(s)"),
        (r"= out$", "= out + 1"),
        (r"= t$", "= t + 1"),
    ),
    _form(
        FaultKind.WRONG_ARITY,
        (r"\bstr\((\w+)\)", r"str(\1, 10, 10, 10)"),
        (r"= abs\((\w+)\)", r"= abs(\1, 0)"),
        (r"\blen\((\w+)\)", r"len(\1, 0)"),
    ),
    _form(FaultKind.MISSING_RETURN, (r"^ *return .*\n", "")),
)

_JAVA = (
    _form(FaultKind.MISSING_SEMICOLON, (r";$", "")),
    _form(FaultKind.MISSING_PARENTHESIS, (r"\)( \{|;)$", r"\1")),
    _form(FaultKind.MISSING_BRACE, (r" \{$", ""), (r"^ {12,}\}\n", "")),
    _form(
        FaultKind.MISSING_SYMBOL,
        (r"= (out|t);$", "= result;"),
        (r"\.add\(", ".append("),
        (r"\b(xs|out)\.size\(\)", r"\1.length()"),
        (r"\b(s|t|w)\.length\(\)", r"\1.size()"),
        (r"return \w+;$", "return result;"),
        (r": xs\)", ": list)"),
    ),
    _form(
        FaultKind.TYPE_MISMATCH,
        (r"^( *)int (\w) = ", r"\1String \2 = "),
        (r"List<Integer> (\w+) = new", r"int[] \1 = new"),
        (r"for \((int|char) (\w) : ", r"for (String \2 : "),
        (r"return n;$", 'return "" + n;'),
        (r"return xs;$", "return xs.size();"),
        (r"return s;$", "return s.length();"),
        (r"if \((x|n) [<>] \w+\)", r"if (\1)"),
    ),
    _form(FaultKind.MISSING_RETURN, (r"^ *return .*\n", "")),
    _form(FaultKind.UNINITIALISED, (r"^( *)(int|String|List<Integer>) (\w+) = [^;]*;$", r"\1\2 \3;")),
    _form(
        FaultKind.DUPLICATE_DECLARATION,
        (r"^( *)(xs|out) = ", r"\1List<Integer> \2 = "),
        (r"^( *)(n|m) = ", r"\1int \2 = "),
        (r"^( *)(s|t) = ", r"\1String \2 = "),
    ),
    _form(
        FaultKind.WRONG_ARITY,
        (r"\.add\([^,()]*\);$", ".add();"),
        (r"Math\.(max|min)\(([^,()]*), [^()]*\)", r"Math.\1(\2)"),
        (r"\.(size|length|isEmpty|toCharArray)\(\)", r".\1(0)"),
        (r"Math\.abs\((\w+)\)", r"Math.abs(\1, 0)"),
        (r"new ArrayList<>\(\)", "new ArrayList<>(0, 0)"),
    ),
    _form(
        FaultKind.UNREACHABLE,
        (r"^( *)(return .*;)$", r"\1\2\n\1\2"),
        (r"^( *)((?:out|xs)\.add\(.*;)$", r"\1continue;\n\1\2"),
        (r"^( {12,})(n \+= .*;)$", r"\1continue;\n\1\2"),
    ),
)

FORMS: dict[str, tuple[Form, ...]] = {"python": _PYTHON, "java": _JAVA}


def spoil(completion: str, form: Form, rng: random.Random, spans: Sequence[tuple[int, int]] = ()) -> str | None:
    """``completion`` with one fault of this form; None where it does not apply.

    Args:
        spans: (start, end) offsets within which the edit must lie; the whole completion where empty.
    """
    found = [
        (match, replacement)
        for start, end in spans or [(0, len(completion))]
        for pattern, replacement in form.edits
        for match in pattern.finditer(completion, start, end)
    ]
    if not found:
        return None
    match, replacement = rng.choice(found)
    return completion[: match.start()] + match.expand(replacement) + completion[match.end() :]
