"""What the Java processes are sent and what they answer, as bytes; the other ends are ``Judge.java`` and
``Compiler.java``."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from problems.java import JavaSuite
from sandbox.verdict import Diagnostic

Files = tuple[tuple[str, bytes], ...]
"""Names and contents; class files are called ``Name.class``."""
_LENGTH = struct.Struct("!I")
_MAX_BYTES = struct.Struct("!Q")
_SUFFIX = ".class"


def _block(content: bytes) -> bytes:
    return _LENGTH.pack(len(content)) + content


def _classes(files: Files) -> bytes:
    named = [(name.removesuffix(_SUFFIX).replace("/", "."), content) for name, content in files]
    return _LENGTH.pack(len(named)) + b"".join(_block(name.encode()) + _block(content) for name, content in named)


def _names(names: Iterable[str]) -> bytes:
    encoded = [_block(name.encode()) for name in names]
    return _LENGTH.pack(len(encoded)) + b"".join(encoded)


def judge_job(suite: JavaSuite, program: Files, tests: Files, output_bytes: int) -> bytes:
    """What the judge reads: its own classes, and those that it hands on to the candidate."""
    candidate = _classes(program) + _names(suite.class_names)
    return _MAX_BYTES.pack(output_bytes) + _block(candidate) + _block(suite.main_class.encode()) + _classes(tests)


def compile_request(sources: Sequence[tuple[str, bytes]]) -> bytes:
    """Names and contents of the sources that are compiled together."""
    content = _LENGTH.pack(len(sources))
    content += b"".join(_block(name.encode()) + _block(source) for name, source in sources)
    return _block(content)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiler's answer.

    Attributes:
        files: the classes; empty if there are errors.
        diagnostics: the errors. Those without a place in the first source have line 0.
    """

    files: Files
    diagnostics: tuple[Diagnostic, ...]


def compile_answer(content: bytes, source_name: str) -> Compiled:
    """Reads the answer to a request whose program was called ``source_name``.

    Raises:
        ValueError: if it is no such answer. What wrote it had read a hostile program.
    """
    try:
        head, rest = _take(content)
        told = cast("dict[str, Any]", json.loads(head))
        (count,), rest = _LENGTH.unpack(rest[:4]), rest[4:]
        files: list[tuple[str, bytes]] = []
        for _ in range(count):
            name, rest = _take(rest)
            code, rest = _take(rest)
            files.append((name.decode().replace(".", "/") + _SUFFIX, code))
        found = tuple(_diagnostic(source_name, fields) for fields in told["diagnostics"])
        return Compiled(tuple(files), found)
    except (struct.error, KeyError, TypeError) as error:
        raise ValueError(f"a compiler's answer is malformed: {error}") from None


def _take(content: bytes) -> tuple[bytes, bytes]:
    (length,) = _LENGTH.unpack(content[:4])
    if length > len(content) - 4:
        raise ValueError("a compiler's answer ends early")
    return content[4 : 4 + length], content[4 + length :]


def _diagnostic(source_name: str, fields: list[Any]) -> Diagnostic:
    file, kind, message, line, column, start, end, position = fields
    if file != source_name:
        return Diagnostic(str(kind), str(message))
    return Diagnostic(str(kind), str(message), int(line), int(column), int(start), int(end), int(position))
