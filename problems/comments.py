"""Where the comments of a program stand, in each language that programs are run in.

Programs that models write are often broken, so nothing here parses: a scanner of comments and string literals is enough
to tell a comment from a string that looks like one, and it never fails. What is not closed reaches to the program's end
(a quoted literal of one line: to the line's end). Known to be read otherwise than a compiler does: a template literal
inside a template literal, and a regular expression of JavaScript after a closing parenthesis.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_LINE_COMMENT = rb"//[^\r\n]*"
_BLOCK_COMMENT = rb"/\*.*?(?:\*/|\Z)"
_QUOTED = rb'"(?:\\.|[^"\\\r\n])*"?'
_CHARACTER = rb"'(?:\\.|[^'\\\r\n])*'?"
_LONG_QUOTED = rb'"(?:\\.|[^"\\])*(?:"|\Z)'
_LONG_CHARACTER = rb"'(?:\\.|[^'\\])*(?:'|\Z)"
_TEXT_BLOCK = rb'"""(?:\\.|.)*?(?:"""|\Z)'
_NUMBER = rb"\b[0-9](?:'?[\w.])*"  # of C++, whose digits may be separated by quotes
_REGULAR_EXPRESSION = (
    rb"(?:[=(,:\[!&|?{};+*%~^<>-]|\breturn)[ \t]*/(?![/*])(?:\\.|\[(?:\\.|[^\]\\\r\n])*\]|[^/\\\r\n\[])+/"
)


def _scanner(comments: tuple[bytes, ...], literals: tuple[bytes, ...]) -> re.Pattern[bytes]:
    """Finds comments (group ``comment``) and literals (group ``literal``), whichever begins first."""
    parts = b"|".join(literals), b"|".join(comments)
    return re.compile(rb"(?P<literal>%b)|(?P<comment>%b)" % parts, re.DOTALL | re.MULTILINE)


_C_COMMENTS = (_LINE_COMMENT, _BLOCK_COMMENT)
_SCRIPT = _scanner(_C_COMMENTS, (rb"`(?:\\.|[^`\\])*(?:`|\Z)", _QUOTED, _CHARACTER, _REGULAR_EXPRESSION))
_SCANNERS: dict[str, re.Pattern[bytes]] = {
    "python": _scanner(
        (rb"#[^\r\n]*",),
        (rb"(?P<quotes>\"\"\"|''')(?:\\.|.)*?(?:(?P=quotes)|\Z)", _QUOTED, _CHARACTER),
    ),
    "java": _scanner(_C_COMMENTS, (_TEXT_BLOCK, _QUOTED, _CHARACTER)),
    "cpp": _scanner(
        (rb"//(?:\\\r?\n|[^\r\n])*", _BLOCK_COMMENT),
        (rb'R"(?P<mark>[^()\\\s]{0,16})\(.*?(?:\)(?P=mark)"|\Z)', _NUMBER, _QUOTED, _CHARACTER),
    ),
    "javascript": _SCRIPT,
    "typescript": _SCRIPT,
    "php": _scanner(
        (rb"(?://|\#(?!\[))(?:(?!\?>)[^\r\n])*", _BLOCK_COMMENT),
        (
            rb"<<<[ \t]*(?P<q>[\"']?)(?P<word>\w+)(?P=q)[ \t]*\r?\n.*?(?:^[ \t]*(?P=word)\b|\Z)",
            _LONG_QUOTED,
            _LONG_CHARACTER,
        ),
    ),
    "csharp": _scanner(
        _C_COMMENTS,
        (rb'(?P<raw>"{3,}).*?(?:(?P=raw)|\Z)', rb'(?:@\$?|\$@)"(?:""|[^"])*(?:"|\Z)', _QUOTED, _CHARACTER),
    ),
    "bash": _scanner(
        (rb"(?<![^\s;&|()])\#[^\r\n]*",),
        (
            rb"\\.",
            rb"\$'(?:\\.|[^'\\])*(?:'|\Z)",
            rb"'[^']*(?:'|\Z)",
            _LONG_QUOTED,
            rb"(?<!<)<<(?!<)-?[ \t]*(?P<q>[\"']?)(?P<word>\w+)(?P=q)[^\n]*\n.*?(?:^[ \t]*(?P=word)[ \t\r]*$|\Z)",
        ),
    ),
}

LANGUAGES = tuple(_SCANNERS)
"""Those whose comments are known."""

_PYTHON_STRING = rb"(?:(?<!\w)(?:[rbuf]|[fb]r|r[fb]))?(?:(?P<quotes>\"\"\"|''')(?:\\.|.)*?(?:(?P=quotes)|\Z)|%b|%b)"
_PYTHON_TOKEN = re.compile(
    rb"(?P<string>%b)|(?P<end>\r\n?|\n|;)|(?P<blank>\\\r?\n|[ \t\f]+)|(?P<open>[(\[{])|(?P<close>[)\]}])"
    rb"|(?P<other>\w+|.)" % (_PYTHON_STRING % (_QUOTED, _CHARACTER)),
    re.DOTALL | re.IGNORECASE,
)
_NOT_AN_END = re.compile(rb"[^\r\n]")


def without_comments(program: bytes, language: str, *, literals: bool = True) -> bytes:
    """The program with a blank in place of every byte that only a reader looks at; its lines and columns stay.

    Comments, and Python's statements that are nothing but string literals (docstrings are such), wherever they stand.

    Args:
        program: source, broken or not.
        language: see ``LANGUAGES``.
        literals: False blanks string literals too, so that what looks like code in one is not taken for code.

    Raises:
        ValueError: for a language that is not known here.
    """
    if language not in _SCANNERS:
        raise ValueError(f"the comments of language {language!r} are not known; known: {', '.join(LANGUAGES)}")

    text = _without(program, language, "comment")
    if language == "python":
        text = _without_string_statements(text)
    return text if literals else _without(text, language, "literal")


def _without(program: bytes, language: str, group: str) -> bytes:
    return _SCANNERS[language].sub(lambda found: found[0] if found[group] is None else _blanked(found[0]), program)


def _blanked(part: bytes) -> bytes:
    return _NOT_AN_END.sub(b" ", part)


def _without_string_statements(program: bytes) -> bytes:
    text = bytearray(program)
    for start, end in _string_statements(program):
        text[start:end] = _blanked(program[start:end])
    return bytes(text)


def _string_statements(program: bytes) -> Iterator[tuple[int, int]]:
    """(start, end) of each statement of Python that is nothing but string literals; comments are gone already."""
    start, end, depth, holds_more = -1, -1, 0, False
    for token in _PYTHON_TOKEN.finditer(program):
        kind = token.lastgroup
        if kind == "string":
            start, end = token.start() if start < 0 else start, token.end()
        elif kind == "end" and depth == 0:
            if start >= 0 and not holds_more:
                yield start, token.end() if token[0] == b";" else end
            start, holds_more = -1, False
        elif kind in ("open", "close", "other"):
            depth = max(depth + (kind == "open") - (kind == "close"), 0)
            holds_more = True
    if start >= 0 and not holds_more:
        yield start, end
