"""From completion to program: the rules, written down.

``CONTINUE``: program = prompt + completion, byte for byte.
``PROGRAM``: the *last* fenced block whose tag is the problem's language or empty, closed or not (a cut completion still
counts as what it is); if there is no fence at all, the whole completion; if all fences are of other languages, the last
of them. The tag line and the fences themselves are not part of the program.
"""

from __future__ import annotations

import re

from problems.bytemap import Extraction, Segment
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
    position = 0
    while (opening := _FENCE.search(completion, position)) is not None:
        closing = _FENCE.search(completion, opening.end())
        end = closing.start() if closing is not None else len(completion)
        blocks.append((opening[1].lower(), opening.end(), end))
        if closing is None:
            break
        position = closing.end()
    return blocks


def extract_program(problem: Problem, completion: bytes) -> Extraction:
    """The program in ``completion`` (its bytes, without special tokens), with the map of its bytes."""
    if problem.completion_style is CompletionStyle.CONTINUE:
        head = problem.prompt.encode()
        return Extraction(head + completion, (Segment(0, len(head), len(completion)),), "continue")
    blocks = _blocks(completion)
    if not blocks:
        return Extraction(completion, (Segment(0, 0, len(completion)),), "bare")
    tags = _TAGS.get(problem.language, {problem.language.encode()}) | {b""}
    matching = [block for block in blocks if block[0] in tags]
    _, start, end = (matching or blocks)[-1]
    rule = "block" if matching else "foreign-block"
    return Extraction(completion[start:end], (Segment(start, 0, end - start),), rule)
