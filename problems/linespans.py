"""Lines as units of supervision: which token ends which line, and which lines say nothing.

The rules, written down:

- A line is a physical line of the program, as compilers count them (LF, CR LF, CR alone). A statement over several
  lines is as many lines: a prefix that ends inside of it can be completed like any other.
- It belongs to the token that holds its end (its line break, or its last byte where the program ends without one). The
  end-of-sequence token belongs to no line.
- Lines that one token ends together (a brace and the blank line after it, say) are one span.
- A span is *neutral* if all its lines are blank, a comment, or a docstring (any statement of Python that is nothing but
  string literals). Lines inside a string literal that means something are not neutral, unless they are blank.
- Lines that the prompt wrote have no span. A line that the prompt begins and the completion ends has one.
- In a completion that the length limit cut, the last line has no span unless its line break was written: nobody knows
  what it would have become.
"""

from __future__ import annotations

from dataclasses import dataclass

from problems.bytemap import ByteMap
from problems.comments import without_comments


@dataclass(frozen=True, slots=True)
class LineSpan:
    """Lines of the program that one token of the completion ends.

    Attributes:
        token: index of that token in the completion.
        first_line, last_line: lines of the program, from 1; mostly one.
        is_neutral: nothing in them that the program does.
    """

    token: int
    first_line: int
    last_line: int
    is_neutral: bool


def neutral_lines(program: bytes, byte_map: ByteMap, language: str) -> list[bool]:
    """For each line of the program, in order, whether it is neutral. Raises ValueError for an unknown language."""
    text = without_comments(program, language)
    ends = [*byte_map.line_starts[1:], len(program)]
    return [not text[start:end].strip() for start, end in zip(byte_map.line_starts, ends, strict=True)]


def line_spans(program: bytes, byte_map: ByteMap, language: str, *, is_cut: bool) -> tuple[LineSpan, ...]:
    """The spans of a completion, ascending.

    Args:
        program: what was extracted from the completion.
        byte_map: of that extraction.
        language: of the program.
        is_cut: the token limit ended the completion.

    Raises:
        ValueError: for a language whose comments are not known.
    """
    neutral = neutral_lines(program, byte_map, language)
    num_lines = byte_map.num_lines
    if is_cut and not program.endswith((b"\n", b"\r")):
        num_lines -= 1
    spans: list[LineSpan] = []
    for line in range(1, num_lines + 1):
        token = byte_map.last_token_of_line(line)
        if token is None:
            continue
        if spans and spans[-1].token == token:
            last = spans.pop()
            spans.append(LineSpan(token, last.first_line, line, last.is_neutral and neutral[line - 1]))
        else:
            spans.append(LineSpan(token, line, line, neutral[line - 1]))
    return tuple(spans)
