"""From completion to program: the rules, written down.

``CONTINUE``: program = prompt + completion, byte for byte. Where the problem ``ends_when_closed``, the program ends
with the brace that closes the last one which the prompt has left open.
``PROGRAM``: the *last* fenced block whose tag is the problem's language or empty, closed or not (a cut completion still
counts as what it is); if there is no fence at all, the whole completion; if all fences are of other languages, the last
of them. The tag line and the fences themselves are not part of the program. A fence stands at the beginning of its
line, blanks aside. A bare fence closes an open block; a fence with a tag opens a block, and ends the one before it if
that was left open. A program of blanks alone has the rule ``no-code``.
"""

from __future__ import annotations

import re
from dataclasses import replace

from problems.bytemap import Extraction, Segment
from problems.lexing import LexemeKind, lexemes
from problems.problem import CompletionStyle, Problem

_FENCE = re.compile(rb"^[ \t]*```[ \t]*([A-Za-z0-9_+#-]*)[^\n]*(?:\n|\Z)", re.MULTILINE)
_TAGS = {
    "python": {b"python", b"py", b"python3"},
    "java": {b"java"},
    "cpp": {b"cpp", b"c++", b"cc"},
    "javascript": {b"javascript", b"js"},
}


def _blocks(completion: bytes) -> list[tuple[bytes, int, int]]:
    """(tag in lower case, start, end) of each fenced block; the last may be open-ended."""
    blocks: list[tuple[bytes, int, int]] = []
    opening: re.Match[bytes] | None = None
    for fence in _FENCE.finditer(completion):
        if opening is not None:
            blocks.append((opening[1].lower(), opening.end(), fence.start()))
        opening = fence if opening is None or fence[1] else None
    if opening is not None:
        blocks.append((opening[1].lower(), opening.end(), len(completion)))
    return blocks


def extract_program(problem: Problem, completion: bytes) -> Extraction:
    """The program in ``completion`` (its bytes, without special tokens), with the map of its bytes."""
    if problem.completion_style is CompletionStyle.CONTINUE:
        head = problem.prompt.encode()
        written = len(completion)
        if problem.ends_when_closed:
            written = _end_of_block(problem.language, head, completion) - len(head)
        return Extraction(head + completion[:written], (Segment(0, len(head), written),), "continue")
    blocks = _blocks(completion)
    if not blocks:
        return _cut(completion, 0, len(completion), "bare")
    tags = _TAGS.get(problem.language, {problem.language.encode()}) | {b""}
    matching = [block for block in blocks if block[0] in tags]
    _, start, end = (matching or blocks)[-1]
    return replace(_cut(completion, start, end, "block" if matching else "foreign-block"), num_blocks=len(blocks))


def _end_of_block(language: str, head: bytes, completion: bytes) -> int:
    """Where the braces that ``head`` leaves open are closed, as an offset in both; the end where they are not."""
    source = head + completion
    depth = 0
    for one in lexemes(language, source):
        if one.kind is LexemeKind.SIGN:
            content = source[one.start : one.end]
            depth += (content == b"{") - (content == b"}")
            if content == b"}" and depth == 0 and one.end > len(head):
                return one.end
    return len(source)


def _cut(completion: bytes, start: int, end: int, rule: str) -> Extraction:
    program = completion[start:end]
    return Extraction(program, (Segment(start, 0, end - start),), rule if program.strip() else "no-code")
