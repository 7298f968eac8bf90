"""Records that outlive their writer: JSON lines, each appended whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def append_line(path: Path, record: dict[str, Any], *, sync: bool = True) -> None:
    """Appends one JSON line in a single write: a kill leaves whole lines, and at most one torn last one.

    Args:
        path: made if it is not there, with its folder.
        record: what JSON can hold.
        sync: wait until it is on disk. Without, it outlives the process but perhaps not the machine; a later synced
            line of the same file brings it along.

    Raises:
        OSError: it could not be written (a full disk, say); the file is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        before = os.fstat(file).st_size
        try:
            written = os.write(file, line)
            if written < len(line):  # the disk is full: the next line must not stand behind half of this one
                os.write(file, line[written:])
        except OSError as error:
            os.ftruncate(file, before)
            error.filename = str(path)
            raise
        if sync:
            os.fsync(file)
    finally:
        os.close(file)
