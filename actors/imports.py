"""What a model is not blamed for: names of the standard library that nobody imported.

A prompt that ends inside a class leaves no place for an import, and many data sets take theirs for granted.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import re
import sys
import typing
from dataclasses import replace

from problems.lexing import LexemeKind, lexemes
from problems.problem import FunctionSuite, Problem
from sandbox.verdict import Diagnostic

# On demand, so that what a program imports or declares itself goes before them; no class name is in two of them.
_PACKAGES = (
    "java.util", "java.util.function", "java.util.stream", "java.util.regex", "java.util.concurrent",
    "java.util.concurrent.atomic", "java.math", "java.io", "java.text", "java.time", "java.nio.charset",
    "java.nio.file",
)  # fmt: skip
JAVA_IMPORTS = "".join(f"import {package}.*; " for package in _PACKAGES).encode()
_LINE_END = re.compile(rb"\r\n?|\n")
_MEMBER = re.compile(rb"\s*\.\s*([A-Za-z_]\w*)")
_NOT_TO_BE_IMPORTED = frozenset({"antigravity", "idlelib", "lib2to3", "this", "turtle", "turtledemo"})
_UNDEFINED = re.compile(r"undefined name '(.+)'")


def import_place(source: bytes) -> int:
    """Byte offset at which imports may be put into a Java source: its begin, or after its package declaration."""
    code = (one for one in lexemes("java", source) if one.kind is not LexemeKind.COMMENT)
    first = next(code, None)
    if first is None or source[first.start : first.end] != b"package":
        return 0
    return next((one.end for one in code if source[one.start : one.end] == b";"), 0)


def with_imports(source: bytes) -> bytes:
    """A Java source with ``JAVA_IMPORTS``, on the line that it begins with: lines keep their numbers."""
    place = import_place(source)
    return source[:place] + JAVA_IMPORTS + source[place:]


def without_imports(one: Diagnostic, source: bytes) -> Diagnostic:
    """A message about ``with_imports(source)`` as one about ``source``."""
    place, length = import_place(source), len(JAVA_IMPORTS)

    def moved(offset: int) -> int:
        return offset if offset <= place else max(place, offset - length)

    if one.position < 0:
        return one
    position = moved(one.position)
    line_start = max(source.rfind(b"\n", 0, position), source.rfind(b"\r", 0, position)) + 1
    return replace(one, start=moved(one.start), end=moved(one.end), position=position, column=position - line_start + 1)


def is_supplied_python(one: Diagnostic, problem: Problem, source: bytes) -> bool:
    """Whether a message of pyflakes about ``source`` is about a name that the harness provides, or an import would.

    An import would provide a module only where something is meant that it has: ``math.pi``, but no variable named
    ``string``, and no ``queue.append``.
    """
    name = _UNDEFINED.search(one.message)
    if name is None:
        return False
    if name[1] in typing.__all__ or name[1] in _set_up(problem):
        return True
    line = _LINE_END.split(source)[one.line - 1] if one.line else b""
    behind = line[one.column - 1 + len(name[1].encode()) :]
    member = _MEMBER.match(behind)
    return member is not None and _has(name[1], member[1].decode())


@functools.cache
def _has(module: str, name: str) -> bool:
    """Whether a module of the standard library has such a member or module in it."""
    if module not in sys.stdlib_module_names or module in _NOT_TO_BE_IMPORTED:
        return False
    try:
        return (
            hasattr(importlib.import_module(module), name) or importlib.util.find_spec(f"{module}.{name}") is not None
        )
    except ImportError:
        return False


def _set_up(problem: Problem) -> set[str]:
    """Names that the suites' own code binds in the program's process."""
    found: set[str] = set()
    for suite in problem.suites.values():
        if isinstance(suite, FunctionSuite) and suite.candidate_setup:
            for node in ast.walk(ast.parse(suite.candidate_setup)):
                match node:
                    case ast.alias():
                        found.add((node.asname or node.name).partition(".")[0])
                    case ast.FunctionDef() | ast.ClassDef():
                        found.add(node.name)
                    case ast.Name(ctx=ast.Store()):
                        found.add(node.id)
                    case _:
                        pass
    return found
