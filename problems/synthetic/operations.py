"""What an operation of the family is: typed, with phrasings, correct code in two languages, and planted faults.

Code is written once as a pair of templates, one for each language, with relative indentation. ``$k`` stands for a digit
and ``$c`` for a letter. In Java ``@out`` stands for the variable with its type in front where it is not declared yet,
and for the bare name later: the renderer knows which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from textwrap import dedent


class Kind(StrEnum):
    """Type of the value that flows from one operation to the next; the text is the variable that holds it."""

    LIST = "xs"
    NUMBER = "n"
    TEXT = "s"


class FaultKind(StrEnum):
    """What is wrong with a faulty program."""

    # Faults of meaning: the program runs and computes something else.
    WRONG_OPERATOR = "wrong_operator"
    OFF_BY_ONE = "off_by_one"
    MISSING_BRANCH = "missing_branch"
    MISSING_STEP = "missing_step"
    WRONG_NAME = "wrong_name"
    WRONG_CONSTANT = "wrong_constant"
    WRONG_ORDER = "wrong_order"
    # Faults of form: the compiler, or Python at run time, refuses the program.
    MISSING_COLON = "missing_colon"
    MISSING_PARENTHESIS = "missing_parenthesis"
    MISSING_SEMICOLON = "missing_semicolon"
    MISSING_BRACE = "missing_brace"
    BAD_INDENT = "bad_indent"
    MISSING_SYMBOL = "missing_symbol"
    TYPE_MISMATCH = "type_mismatch"
    MISSING_RETURN = "missing_return"
    UNINITIALISED = "uninitialised"
    DUPLICATE_DECLARATION = "duplicate_declaration"
    WRONG_ARITY = "wrong_arity"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class Code:
    """The same lines in both languages."""

    python: tuple[str, ...]
    java: tuple[str, ...]

    def lines(self, language: str) -> tuple[str, ...]:
        """The lines in ``language``, placeholders unfilled."""
        return self.java if language == "java" else self.python


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to get an operation wrong, once for each style in which it may be written."""

    kind: FaultKind
    styles: tuple[Code, ...]


@dataclass(frozen=True, slots=True)
class Operation:
    """One step of a composition.

    Attributes:
        name: unique; compositions are named by it.
        source, target: types of what it reads and what it leaves.
        phrasings: how the specification may ask for it.
        styles: correct code; the first is the reference's.
        faults: the first is the dominant one where a corpus writes this operation mostly wrong.
    """

    name: str
    source: Kind
    target: Kind
    phrasings: tuple[str, ...]
    styles: tuple[Code, ...]
    faults: tuple[Fault, ...]

    @property
    def takes_digit(self) -> bool:
        return "$k" in self.phrasings[0]

    @property
    def takes_letter(self) -> bool:
        return "$c" in self.phrasings[0]


Expression = str | tuple[str, str]
"""An expression that both languages write alike, or (Python's, Java's)."""


def in_both(expression: Expression) -> tuple[str, str]:
    """(Python's, Java's) form of an expression."""
    return (expression, expression) if isinstance(expression, str) else expression


def code(python: str, java: str) -> Code:
    """Code from two indented blocks."""
    return Code(_lines(python), _lines(java))


def _lines(block: str) -> tuple[str, ...]:
    return tuple(dedent(block).strip("\n").split("\n"))


def fault(kind: FaultKind, *styles: Code) -> Fault:
    return Fault(kind, styles)


def operation(
    name: str,
    signature: tuple[Kind, Kind],
    phrasings: Sequence[str],
    styles: Sequence[Code],
    *faults: Fault,
) -> Operation:
    """An operation; ``signature`` is (source, target)."""
    return Operation(name, *signature, tuple(phrasings), tuple(styles), faults)
