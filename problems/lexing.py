"""Lexemes of Java and Python, of broken programs too: what is code in a text, and how much of it there is.

Nothing is parsed: every byte that is no blank belongs to a lexeme, however wrong the program is. So "how long is this
program without its comments" has an answer for each text that a model writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple


class LexemeKind(StrEnum):
    """What a piece of a program is."""

    COMMENT = "comment"  # docstrings and other texts that stand alone as a statement of Python too: they do nothing
    TEXT = "text"
    WORD = "word"
    NUMBER = "number"
    SIGN = "sign"


class Lexeme(NamedTuple):
    """Bytes [start, end) of a source."""

    kind: LexemeKind
    start: int
    end: int


_JAVA = re.compile(
    rb"""
      (?P<comment> //[^\r\n]* | /\*.*?(?:\*/|\Z) )
    | (?P<text> \"\"\"(?:\\.|.)*?(?:\"\"\"|\Z) | "(?:\\.|[^"\\\r\n])*"? | '(?:\\.|[^'\\\r\n])*'? )
    | (?P<word> [A-Za-z_$\x80-\xff][\w$\x80-\xff]* )
    | (?P<number> \.?[0-9](?:[eEpP][+-]|[\w.])* )
    | (?P<sign> -> | :: | \+\+ | -- | <<=? | && | \|\| | [-+*/%&|^=<>!]= | \S )
    """,
    re.VERBOSE | re.DOTALL,
)
_PYTHON = re.compile(
    rb"""
      (?P<comment> \#[^\r\n]* )
    | (?P<text> [rRbBuUfF]{0,2} (?: (?P<quotes>\"\"\"|''')(?:\\.|.)*?(?:(?P=quotes)|\Z)
                                  | "(?:\\.|[^"\\\r\n])*"? | '(?:\\.|[^'\\\r\n])*'? ) )
    | (?P<word> [A-Za-z_\x80-\xff][\w\x80-\xff]* )
    | (?P<number> \.?[0-9](?:[eE][+-]|[\w.])* )
    | (?P<sign> \.\.\. | \*\*=? | //=? | -> | := | <<=? | >>=? | [-+*/%&|^=<>!@]= | \S )
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(rb"(?<!\\)((?:\\\\)*)\\u+([0-9a-fA-F]{4})")
_GRAMMARS = {"java": _JAVA, "python": _PYTHON}
LANGUAGES = tuple(_GRAMMARS)
_KINDS = {kind.value: kind for kind in LexemeKind}
_OPENING, _CLOSING = b"([{", b")]}"


def lexemes(language: str, source: bytes) -> Iterator[Lexeme]:
    """All lexemes in order, read as they are asked for. Raises ValueError for any language but Java and Python."""
    if language not in _GRAMMARS:
        raise ValueError(f"language {language!r} has no lexer here, only {', '.join(_GRAMMARS)} have")
    found = (
        Lexeme(_KINDS[match.lastgroup], *match.span())
        for match in _GRAMMARS[language].finditer(source)
        if match.lastgroup is not None
    )
    return _without_bare_texts(list(found), source) if language == "python" else found


def _without_bare_texts(found: list[Lexeme], source: bytes) -> Iterator[Lexeme]:
    """Texts of Python that are a whole statement become comments."""
    depth = 0
    for index, one in enumerate(found):
        content = source[one.start : one.end]
        if one.kind is LexemeKind.SIGN and len(content) == 1:
            depth += (content in _OPENING) - (content in _CLOSING)
        is_bare = one.kind is LexemeKind.TEXT and depth <= 0
        is_bare = is_bare and (index == 0 or _breaks(source, found[index - 1].end, one.start))
        is_bare = is_bare and (index + 1 == len(found) or _breaks(source, one.end, found[index + 1].start))
        yield Lexeme(LexemeKind.COMMENT, one.start, one.end) if is_bare else one


def _breaks(source: bytes, start: int, end: int) -> bool:
    """Whether a line ends between two lexemes."""
    return b"\n" in source[start:end] or b"\r" in source[start:end]


def code_lexemes(language: str, source: bytes) -> list[bytes]:
    """The texts of all lexemes but comments. Java's Unicode escapes are read as what they stand for, as javac does."""
    if language == "java":
        source = _ESCAPE.sub(lambda found: found[1] + chr(int(found[2], 16)).encode("utf-8", "surrogatepass"), source)
    return [source[one.start : one.end] for one in lexemes(language, source) if one.kind is not LexemeKind.COMMENT]


def code_size(language: str, source: bytes) -> int:
    """Lexemes that are no comments: the length of a program that comments and blanks cannot change."""
    return len(code_lexemes(language, source))
