"""The files of ``crucible execute`` and ``crucible rerank``: a JSON object a line, whole or not there."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def read_numbered(path: Path) -> list[tuple[int, str]]:
    """(number, text) of the lines that are not blank; ``.gz`` is unpacked. Raises ValueError if it cannot be read."""
    try:
        packed = path.read_bytes()
        text = (gzip.decompress(packed) if path.suffix == ".gz" else packed).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: the programs cannot be read: {getattr(error, 'strerror', None) or error}") from None
    # Not splitlines(): JSON text may hold characters that Python takes for ends of lines.
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def refuse_unwritable(path: Path) -> None:
    """Raises ValueError where ``write_lines`` could not write: better before the work than after it."""
    if path.is_dir():
        raise ValueError(f"{path}: the output is a folder")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise ValueError(f"{path}: the output cannot be written: {error.strerror}") from None


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Writes beside the target and renames: the file is there as a whole or as it was before."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
