"""Python's compile check as a resident process: its own compiler, then pyflakes. It never runs what it reads.

Python's compiler alone takes nearly every text whose brackets match. pyflakes reads the syntax tree, and imports
nothing. It speaks as the resident Java compiler does (``Compiler.java``), and is kept by the same server: a program too
deep for Python's parser ends this process, not another program's verdict.
"""

from __future__ import annotations

import ast
import functools
import importlib
import json
import os
import re
import struct
import sys
from collections.abc import Iterator
from typing import Any

from pyflakes import messages
from pyflakes.checker import Assignment, Checker

ERRORS = frozenset({
    "BreakOutsideLoop", "ContinueOutsideLoop", "DefaultExceptNotLast", "DuplicateArgument",
    "ForwardAnnotationSyntaxError", "PercentFormatExpectedMapping", "PercentFormatExpectedSequence",
    "PercentFormatInvalidFormat", "PercentFormatMissingArgument", "PercentFormatMixedPositionalAndNamed",
    "PercentFormatPositionalCountMismatch", "PercentFormatStarRequiresSequence",
    "PercentFormatUnsupportedFormatCharacter", "RaiseNotImplemented", "ReturnOutsideFunction",
    "StringDotFormatInvalidFormat", "StringDotFormatMissingArgument", "StringDotFormatMixingAutomatic",
    "TooManyExpressionsInStarredAssignment", "TwoStarredExpressions", "UndefinedExport", "UndefinedLocal",
    "UndefinedName", "YieldOutsideFunction",
})  # fmt: skip
"""Messages of pyflakes that count: the line fails when it is reached. The others (unused names, redefinitions) are
about style."""

STARRED = frozenset({
    "bisect", "cmath", "collections", "copy", "datetime", "decimal", "enum", "fractions", "functools", "heapq",
    "itertools", "math", "operator", "os", "random", "re", "statistics", "string", "sys", "time", "typing",
})  # fmt: skip
"""Modules whose names ``from M import *`` is known to bring. With any other the star could bring every name, and a
program that names nothing right would pass."""

_FILE = "solution.py"
_MAX_MESSAGE = 200
_LENGTH = struct.Struct("!I")
_LINE_END = re.compile(r"\r\n?|\n")
_TOO_MUCH = (RecursionError, MemoryError, OverflowError)

_SCOPES = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda,
    ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp,
)  # fmt: skip

Found = tuple[str, str, int, int]
"""(kind, message, line, column in bytes), both from 1; 0 where there is none."""


class _Checker(Checker):
    """A name that is not there is none: pyflakes forgives it where a star import may have brought it, or where a
    handler for NameError, or for all, stands around it, or where any ``global`` names it."""

    def __init__(self, tree: ast.Module, filename: str) -> None:
        self._global_names = bound_globally(tree)
        super().__init__(tree, filename=filename)

    def GLOBAL(self, node: ast.Global) -> None:  # noqa: N802 (pyflakes' own)  # pyright: ignore
        names = [name for name in node.names if name in self._global_names]
        if names:
            super().GLOBAL(ast.copy_location(ast.Global(names), node))

    def NONLOCAL(self, node: ast.Nonlocal) -> None:  # noqa: N802 (pyflakes' own)  # pyright: ignore
        """Python's own compiler has found the names in a function around."""
        scope: Any = self.scope
        for name in node.names:
            value = Assignment(name, node)
            value.used = (self.scopeStack[0], node)
            scope[name] = value
            scope.indirect_assignments[name] = node

    @property
    def exceptHandlers(self) -> Any:  # noqa: N802 (pyflakes' own)
        return [()]

    @exceptHandlers.setter
    def exceptHandlers(self, _: Any) -> None:  # noqa: N802  # pyright: ignore[reportIncompatibleVariableOverride]
        pass

    def report(self, kind: Any, *arguments: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        if kind is messages.ImportStarUsage:
            node, name, modules = arguments
            if not any(name in _exported(module) for module in modules.split(", ")):
                kind, arguments = messages.UndefinedName, (node, name)
        super().report(kind, *arguments)


def bound_globally(tree: ast.Module) -> set[str]:
    """Names that a module binds: in its own code, or in functions that declare them ``global``."""
    found: set[str] = set()
    scopes: list[ast.AST] = [tree]
    for scope in scopes:  # grows
        nodes = list(_nodes_of(scope))
        scopes += [node for node in nodes if isinstance(node, _SCOPES)]
        declared = {name for node in nodes if isinstance(node, ast.Global) for name in node.names}
        bound = {name for node in nodes for name in _bound_by(node)}
        found |= bound if scope is tree else bound & declared
    return found


def _nodes_of(scope: ast.AST) -> Iterator[ast.AST]:
    """All that stands in a scope, and of the scopes within it the heads alone."""
    waiting = list(ast.iter_child_nodes(scope))
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, _SCOPES):
            waiting += ast.iter_child_nodes(node)


def _bound_by(node: ast.AST) -> list[str]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.alias():
            return [(node.asname or node.name).partition(".")[0]]
        case ast.Name(ctx=ast.Store()):
            return [node.id]
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            return [name]
        case ast.MatchMapping(rest=str(name)):
            return [name]
        case _:
            return []


@functools.cache
def _exported(module: str) -> frozenset[str]:
    if module not in STARRED:
        return frozenset()
    found = importlib.import_module(module)  # one of the list above, not of the program's
    return frozenset(getattr(found, "__all__", None) or (name for name in vars(found) if not name.startswith("_")))


def check(source: bytes) -> list[Found]:
    """What is wrong with a program, in the order of its lines; empty for one that is sound."""
    try:
        tree = compile(source, _FILE, "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
        assert isinstance(tree, ast.Module)
        compile(source, _FILE, "exec", dont_inherit=True)  # what the tree alone does not show, as a lone return
        told: list[Any] = _Checker(tree, filename=_FILE).messages
    except SyntaxError as error:
        return [_of_syntax_error(error, source)]
    except (ValueError, *_TOO_MUCH) as error:
        kind = type(error).__name__ if isinstance(error, _TOO_MUCH) else "SyntaxError"
        return [(kind, str(error)[:_MAX_MESSAGE], 0, 0)]
    found = [
        (type(one).__name__, str(one.message % one.message_args)[:_MAX_MESSAGE], int(one.lineno), int(one.col) + 1)
        for one in told
        if type(one).__name__ in ERRORS
    ]
    return sorted(found, key=lambda one: one[2:])


def _of_syntax_error(error: SyntaxError, source: bytes) -> Found:
    """Columns of a SyntaxError count characters; ours count bytes."""
    line, offset = error.lineno or 0, error.offset or 0
    lines = _LINE_END.split(source.decode("utf-8", "replace"))
    if 1 <= line <= len(lines) and offset > 0:
        offset = len(lines[line - 1][: offset - 1].encode("utf-8", "replace")) + 1
    return type(error).__name__, str(error.msg)[:_MAX_MESSAGE], line, max(offset, 1) if line else 0


def serve() -> None:
    """Answers requests on standard input until it ends; the first, empty answer says that this is ready."""
    answers = os.dup(1)
    os.dup2(2, 1)
    _write(answers, b"")
    while (head := _read(_LENGTH.size)) is not None:
        request = _read(_LENGTH.unpack(head)[0])
        if request is None:
            return
        name, source = _first_source(request)
        found = [[name, kind, message, line, column, -1, -1, -1] for kind, message, line, column in check(source)]
        told = json.dumps({"diagnostics": found}).encode()
        _write(answers, _LENGTH.pack(len(told)) + told + _LENGTH.pack(0))


def _first_source(request: bytes) -> tuple[str, bytes]:
    rest = request[_LENGTH.size :]  # how many there are: one
    parts: list[bytes] = []
    for _ in range(2):
        (size,) = _LENGTH.unpack(rest[: _LENGTH.size])
        parts.append(rest[_LENGTH.size : _LENGTH.size + size])
        rest = rest[_LENGTH.size + size :]
    return parts[0].decode(), parts[1]


def _read(size: int) -> bytes | None:
    content = b""
    while len(content) < size:
        part = os.read(0, size - len(content))
        if not part:
            return None
        content += part
    return content


def _write(descriptor: int, content: bytes) -> None:
    framed = _LENGTH.pack(len(content)) + content
    while framed:
        framed = framed[os.write(descriptor, framed) :]


if __name__ == "__main__":
    sys.setrecursionlimit(3000)
    serve()
