"""Which Java types can cross between judge and candidate, and how they are written in full."""

from __future__ import annotations

import re

_LANG = (
    "Boolean", "Byte", "Character", "CharSequence", "Comparable", "Double", "Float", "Integer", "Iterable", "Long",
    "Number", "Object", "Short", "String",
)  # fmt: skip
_UTIL = (
    "ArrayDeque", "ArrayList", "Collection", "Deque", "HashMap", "HashSet", "LinkedHashMap", "LinkedHashSet",
    "LinkedList", "List", "Map", "Map.Entry", "NavigableMap", "NavigableSet", "Optional", "OptionalDouble",
    "OptionalInt", "OptionalLong", "PriorityQueue", "Queue", "Set", "SortedMap", "SortedSet", "Stack", "TreeMap",
    "TreeSet",
)  # fmt: skip
_TUPLES = ["Unit", "Pair", "Triplet", "Quartet", "Quintet"]
_BOXES = {
    "boolean": "Boolean", "byte": "Byte", "char": "Character", "short": "Short", "int": "Integer", "long": "Long",
    "float": "Float", "double": "Double",
}  # fmt: skip
_SHORT: dict[str, str] = {
    **{name: name for name in (*_BOXES, "void", "extends", "super")},
    **{name: f"java.lang.{name}" for name in _LANG},
    **{name: f"java.util.{name}" for name in _UTIL},
    "Entry": "java.util.Map.Entry",
    "BigInteger": "java.math.BigInteger",
    "BigDecimal": "java.math.BigDecimal",
    **{name: f"org.javatuples.{name}" for name in _TUPLES},
}
_FULL = {**_SHORT, **{full: full for full in _SHORT.values()}}
_WORD = re.compile(r"[A-Za-z_$][\w$]*(?:\s*\.\s*[A-Za-z_$][\w$]*)*")
_SHAPE = re.compile(r"[\w$.<>\[\],?\s]+")


class UncrossableTypeError(ValueError):
    """A type that cannot cross; the message names it."""


def full_type(written: str) -> str:
    """The type with all names in full, so that nothing a program declares can stand in their way.

    Raises:
        UncrossableTypeError: if it, or a part of it, is no plain data.
    """

    def full(match: re.Match[str]) -> str:
        name = re.sub(r"\s", "", match[0])
        if name not in _FULL:
            raise UncrossableTypeError(f"a value of type {name} cannot cross between judge and candidate")
        return _FULL[name]

    if not _SHAPE.fullmatch(written):
        raise UncrossableTypeError(f"{written!r} is no type whose values can cross between judge and candidate")
    return _WORD.sub(full, written)


def boxed(full: str) -> str:
    """The class whose objects hold values of a type."""
    return f"java.lang.{_BOXES[full]}" if full in _BOXES else full
