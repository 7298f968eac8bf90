"""Which tokens of a completion a compiler's message points to, and a reward shared among them.

    program     int n = "a";\\n        the message speaks of the bytes of "a" and points to the first of them
    tokens      |int| n| =| "|a|";\\n|
    blamed                ^^^^^^^      every token that wrote one of these bytes

The bytes that a message speaks of may run over several lines (a method whose last ``return`` is missing: the whole of
its body); then only the byte that it points to counts. A message without a place (a line alone, from Python's
compiler): the lexeme that begins there. At the program's end, or beyond it, the token that ended it is blamed: the
first of what closes its code block, or the completion's last.
"""

from __future__ import annotations

from collections.abc import Sequence

from problems.bytemap import ByteMap
from problems.lexing import LANGUAGES, lexemes
from sandbox.verdict import Diagnostic


def blamed_tokens(one: Diagnostic, language: str, program: bytes, byte_map: ByteMap) -> range | None:
    """Tokens of the completion that a message points to; None where it points to none of them.

    None stands for: outside the program, in what the prompt or the harness wrote, or at the completion's end.
    """
    if is_at_end(one, program, byte_map):
        return _behind(byte_map)
    place = _place(one, language, program, byte_map)
    if place is None:
        return None
    tokens = byte_map.tokens_of_bytes(*place)
    return tokens if len(tokens) else None


def is_at_end(one: Diagnostic, program: bytes, byte_map: ByteMap) -> bool:
    """Whether a message is about where the program stops."""
    position = _position(one, byte_map)
    return position is not None and not program[position:].strip()


def _behind(byte_map: ByteMap) -> range | None:
    """The token that wrote the first byte behind the program; None where the completion ends there."""
    if not byte_map.segments:
        return None
    last = byte_map.segments[-1]
    token = byte_map.token_of_byte(last.completion_start + last.length)
    return None if token is None else range(token, token + 1)


def _place(one: Diagnostic, language: str, program: bytes, byte_map: ByteMap) -> tuple[int, int] | None:
    """Bytes [start, end) of the program."""
    position = _position(one, byte_map)
    if position is None:
        return None
    start, end = one.start, one.end
    if 0 <= start < end <= len(program) and not any(ending in program[start:end] for ending in (b"\n", b"\r")):
        return start, end
    if one.position < 0 and language in LANGUAGES:
        lexeme = next((found for found in lexemes(language, program) if found.end > position), None)
        if lexeme is not None and lexeme.start <= position:
            return position, lexeme.end
    return position, position + 1


def _position(one: Diagnostic, byte_map: ByteMap) -> int | None:
    """The byte that a message points to; None for a message without a place in the program."""
    if one.position >= 0:
        return one.position if one.position <= byte_map.program_length else None
    if one.line == byte_map.num_lines + 1:
        return byte_map.program_length  # Python's compiler misses something after the last line
    if not 1 <= one.line <= byte_map.num_lines:
        return None
    return byte_map.program_offset(one.line, one.column)


def spread(total: float, places: Sequence[range | None]) -> list[tuple[int | None, float]]:
    """(token, value) of a reward that is shared among messages first and then among the tokens of each.

    None stands for the last token. The values add up, from first to last, to exactly ``total``.
    """
    tokens: list[int | None] = []
    weights: list[float] = []
    for place in places:
        chosen: list[int | None] = [None] if place is None else list(place)
        tokens += chosen
        weights += [1 / len(places) / len(chosen)] * len(chosen)
    values = [total * weight for weight in weights[:-1]]
    return list(zip(tokens, [*values, total - sum(values)], strict=True))
