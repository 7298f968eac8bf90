"""What a program looks like, apart from what it does: the ways in which a policy could please a judge of lines.

Only the lines that the completion wrote are looked at. Dead code is known for Python alone.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from problems.comments import without_comments
from problems.problem import CompletionStyle, Problem

_LINE_END = re.compile(rb"\r\n?|\n")
_TRY = re.compile(rb"\btry\b")
_LEAVES = (ast.Return, ast.Raise, ast.Break, ast.Continue)
_ACTS = (ast.Call, ast.Await, ast.Yield, ast.YieldFrom, ast.NamedExpr)


@dataclass(frozen=True, slots=True)
class ProgramShape:
    """Lines of one program.

    Attributes:
        code: lines that say something.
        comments: lines of comments and docstrings alone; blank ones are none.
        has_try: an exception is caught somewhere.
        dead: lines of code that change nothing; None where that is not known (other languages, broken programs).
    """

    code: int
    comments: int
    has_try: bool
    dead: int | None


def shape_of(problem: Problem, program: bytes) -> ProgramShape:
    """Of the lines that the completion wrote. Raises ValueError for a language whose comments are not known."""
    head = len(problem.prompt.encode()) if problem.completion_style is CompletionStyle.CONTINUE else 0
    text = without_comments(program, problem.language)
    stripped = without_comments(program, problem.language, literals=False)
    before = len(_LINE_END.findall(program[:head]))
    said = [bool(line.strip()) for line in _LINE_END.split(text)][before:]
    written = [bool(line.strip()) for line in _LINE_END.split(program)][before:]
    return ProgramShape(
        code=sum(said),
        comments=sum(wrote and not says for wrote, says in zip(written, said, strict=True)),
        has_try=_TRY.search(stripped[head:]) is not None,
        dead=_dead_lines(program, before, said) if problem.language == "python" else None,
    )


def _dead_lines(program: bytes, before: int, said: list[bool]) -> int | None:
    """Lines after line ``before`` that say something and change nothing."""
    try:
        tree = ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    dead = {
        line
        for statement in _dead_statements(tree)
        for line in range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)
    }
    return sum(says and before + place in dead for place, says in enumerate(said, 1))


def _dead_statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """What is never reached, computes a value and drops it, or sets names that nothing reads."""
    read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    for node in ast.walk(tree):
        for block in _blocks(node):
            left, alone = False, sum(not _is_docstring(statement) for statement in block) == 1
            for statement in block:
                if left or _changes_nothing(statement, read, alone=alone):
                    yield statement
                left = left or isinstance(statement, _LEAVES)
        if isinstance(node, ast.If | ast.While) and isinstance(node.test, ast.Constant) and not node.test.value:
            yield from node.body


def _blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        block = getattr(node, name, None)
        if isinstance(block, list) and not isinstance(node, ast.Module):
            yield block


def _changes_nothing(statement: ast.stmt, read: set[str], *, alone: bool) -> bool:
    match statement:
        case ast.Pass():
            return not alone
        case ast.Expr(value=value):
            return not alone and not _acts(value)
        case ast.Assign(targets=targets, value=value):
            return not _acts(value) and all(isinstance(t, ast.Name) and t.id not in read for t in targets)
        case _:
            return False


def _is_docstring(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _acts(value: ast.expr) -> bool:
    return any(isinstance(node, _ACTS) for node in ast.walk(value))
