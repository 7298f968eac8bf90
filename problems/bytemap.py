"""Byte map: which token wrote which byte of which line of the program.

A completion is a row of tokens; each token is a piece of the completion's bytes. The program that runs is made of the
completion (through a template and a code block) and sometimes of the prompt. Compiler diagnostics, line rewards and the
report all speak in lines and columns of the program; the learner pays rewards at tokens. This map joins the two, and is
computed once.

    completion  "Sure:\\n```python\\ndef f(x):\\n    return x\\n```"
    tokens      |Sure|:\\n|```|python\\n|def| f|(x|):\\n|    |return| x|\\n|```|
    segment                              [=========================]
    program     (prompt's head, if any) + the segment's bytes
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

# What Python's and Java's compilers count as the end of a line: LF, CR LF, and CR alone; not form feed, not U+2028.
_LINE_END = re.compile(rb"\r\n?|\n")


@dataclass(frozen=True, slots=True)
class Segment:
    """``length`` bytes of the completion from ``completion_start`` stand in the program from ``program_start``."""

    completion_start: int
    program_start: int
    length: int


@dataclass(frozen=True, slots=True)
class Extraction:
    """The program that was taken from a completion.

    Attributes:
        program: source to run, as bytes.
        segments: which bytes of the completion stand where in it, ascending and disjoint.
        rule: which rule of extraction applied, such as ``continue``, ``block``, ``bare`` or ``no-code``.
        num_blocks: code blocks in the completion, where they were looked for.
    """

    program: bytes
    segments: tuple[Segment, ...]
    rule: str
    num_blocks: int = 0


@dataclass(frozen=True, slots=True)
class ByteMap:
    """Token <-> byte of the completion <-> line and column of the program. Lines and columns count from 1.

    Attributes:
        token_ends: for each token of the completion, the end (exclusive) of its bytes; a token may be empty.
        segments: from the extraction.
        line_starts: byte offset of each line of the program.
        program_length: bytes in the program.
    """

    token_ends: tuple[int, ...]
    segments: tuple[Segment, ...]
    line_starts: tuple[int, ...]
    program_length: int

    @staticmethod
    def build(token_bytes: Sequence[bytes], extraction: Extraction) -> ByteMap:
        """``token_bytes``: the bytes of each token of the completion; special tokens (end of sequence) are empty."""
        starts = [0, *(ending.end() for ending in _LINE_END.finditer(extraction.program))]
        if len(starts) > 1 and starts[-1] == len(extraction.program):
            starts.pop()  # a final newline ends the last line, it does not begin another
        ends = tuple(accumulate(len(piece) for piece in token_bytes))
        return ByteMap(ends, extraction.segments, tuple(starts), len(extraction.program))

    @property
    def num_lines(self) -> int:
        return len(self.line_starts)

    def program_offset(self, line: int, column: int = 1) -> int:
        """Byte offset of a line and a byte column in the program; a column past the line's end is its last byte.

        Raises ValueError for a line below 1 or beyond the program: such a diagnostic belongs to no line.
        """
        start, end = self._line_bounds(line)
        return max(min(start + max(column, 1), end) - 1, start)

    def _line_bounds(self, line: int) -> tuple[int, int]:
        """Byte offsets [start, end) of a line, its newline included."""
        if not 1 <= line <= self.num_lines:
            raise ValueError(f"line {line} is outside the program's {self.num_lines} lines")
        return self.line_starts[line - 1], self.line_starts[line] if line < self.num_lines else self.program_length

    def completion_offset(self, program_offset: int) -> int | None:
        """Offset in the completion of a byte of the program; None where the prompt or the harness wrote it."""
        for segment in self.segments:
            if 0 <= program_offset - segment.program_start < segment.length:
                return segment.completion_start + program_offset - segment.program_start
        return None

    def token_of_byte(self, completion_offset: int) -> int | None:
        """Index of the token that wrote a byte of the completion; None past its end."""
        index = bisect_right(self.token_ends, completion_offset)
        return index if index < len(self.token_ends) else None

    def token_at(self, line: int, column: int = 1) -> int | None:
        """Index of the token at a line and byte column; None where the completion did not write that byte."""
        offset = self.completion_offset(self.program_offset(line, column))
        return None if offset is None else self.token_of_byte(offset)

    def tokens_of_line(self, line: int) -> range:
        """Tokens with at least one byte in this line, its newline included; empty where the prompt wrote the line.

        A token that spans two lines belongs to both.
        """
        return self.tokens_of_bytes(*self._line_bounds(line))

    def tokens_of_bytes(self, start: int, end: int) -> range:
        """Tokens that wrote at least one of the program's bytes [start, end); empty where the completion wrote none."""
        touched: list[int] = []
        for segment in self.segments:
            low = max(start, segment.program_start)
            high = min(end, segment.program_start + segment.length)
            if low < high:
                shift = segment.completion_start - segment.program_start
                for offset in (low + shift, high - 1 + shift):
                    token = self.token_of_byte(offset)
                    if token is not None:
                        touched.append(token)
        return range(min(touched), max(touched) + 1) if touched else range(0)

    def last_token_of_line(self, line: int) -> int | None:
        """The token that ends a line (the one holding its newline, or its last byte); None if the prompt wrote it."""
        tokens = self.tokens_of_line(line)
        return tokens[-1] if len(tokens) else None
