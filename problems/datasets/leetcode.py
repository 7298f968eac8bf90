"""LeetCode Contest (DeepSeek-Coder, arXiv 2401.14196): 180 problems of contests from July 2023 to January 2024.

The repository is MIT, the problems' text is LeetCode's own: evaluation only. There are no solutions.

    test    my_solution = Solution()                              setup, in the judge: Solution is the candidate's
            _f1 = lambda lst: ..                                  helpers of two problems, for linked lists
            test_input = {"word": "abc"}                          a case: its input, and what must come out
            assert my_solution.minimumPushes(**test_input) == 5

The prompt is the one for instruction models (``prompt_sft``): the text, and the head of ``class Solution`` to complete.
LeetCode's own environment lends its solutions the standard library's names; so do we (numpy not).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from problems.datasets.mbpp import parsed
from problems.datasets.rows import Row, read_rows, unique_problems
from problems.problem import CompletionStyle, FunctionSuite, Limits, Problem, Split, Use

_ENTRY_POINT = "Solution"
_LENT = """
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import *
from typing import *
from builtins import *
import bisect, collections, copy, datetime, functools, hashlib, heapq, itertools, json, math, operator, random, re
import statistics, string, sys, time
"""  # builtins for pow: that of math takes no modulus; then modules: bisect is a function's name too
_LIMITS = Limits(cpu_s=10.0, wall_s=30.0)  # a hundred inputs, some of them near the contest's bounds
_DIFFICULTIES = {"Easy": 1.0, "Medium": 2.0, "Hard": 3.0}


class LeetCodeMeta(Row):
    """What LeetCode says of a problem."""

    difficulty: str


class LeetCodeRow(Row):
    """One line of 20240121-Jul.jsonl."""

    task_id: str
    prompt: str
    prompt_sft: str = Field(min_length=1)
    test: str
    meta: LeetCodeMeta


def _suite(row: LeetCodeRow) -> FunctionSuite:
    """Cases end with an assert; what stands before the first input is the setup.

    Classes that the prompt defines beside the solution (``ListNode``) are the candidate's too: the judge builds its
    inputs of the candidate's own, and looks at what comes out through them.
    """
    head = parsed(row.prompt + "pass", "prompt")
    defined = [node for node in head.body if isinstance(node, ast.ClassDef)]
    if _ENTRY_POINT not in (node.name for node in defined):
        raise ValueError(f"field prompt: does not define class {_ENTRY_POINT}")
    setup: list[str] = []
    cases: list[str] = []
    waiting: list[str] = []
    for node in parsed(row.test, "test").body:
        if isinstance(node, ast.Assert):
            cases.append("\n".join([*waiting, ast.unparse(node)]))
            waiting = []
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "test_input":
            waiting.append(ast.unparse(node))
        else:
            setup.append(ast.unparse(node))
    if not cases:
        raise ValueError("field test: holds no assert")
    lent = [_LENT.strip(), *(ast.unparse(node) for node in defined if node.name != _ENTRY_POINT)]
    return FunctionSuite(
        tuple(node.name for node in defined),
        "\n".join(setup),
        tuple(cases),
        candidate_setup="\n\n".join(lent),
        namespaces=(_ENTRY_POINT,),
    )


def _problem(row: LeetCodeRow, path: Path) -> Problem:
    difficulty = _DIFFICULTIES.get(row.meta.difficulty)
    if difficulty is None:
        raise ValueError(f"field meta.difficulty: {row.meta.difficulty!r} is none of {', '.join(_DIFFICULTIES)}")
    return Problem(
        id=f"LeetCode/{row.task_id}",
        language="python",
        prompt=row.prompt_sft,
        completion_style=CompletionStyle.PROGRAM,
        suites={"main": _suite(row)},
        limits=_LIMITS,
        split=Split.TEST,
        use=Use.EVALUATE,
        licence="MIT; the problems' text is LeetCode's",
        source=f"leetcode:{path.name}",
        difficulty=difficulty,
    )


def read_leetcode(path: Path) -> list[Problem]:
    """The problems of a LeetCode Contest file (.jsonl). Raises ValueError naming file, line and field."""

    def located() -> Iterator[tuple[str, Problem]]:
        for where, row in read_rows(path, LeetCodeRow):
            try:
                yield where, _problem(row, path)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None

    return unique_problems(path, located())
