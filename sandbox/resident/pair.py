"""Judge and candidate as two programs of the root, instead of two forks of the server: Java's way.

Both start from words that the client gave when the slot was made, never from anything in a job. The candidate's
standard input is the socket pair. The judge's is its other end; its standard error is the job, to be read, and its
standard output takes the report.
"""

from __future__ import annotations

import fcntl
import os
from typing import Any, NoReturn

from .protocol import read_length
from .wire import read_exactly, write_all

_MEMORY = "{memory_mb}"
_ADD_SEALS, _SEAL_WRITE = 1033, 8  # not in the fcntl module of every Python


def become_candidate(plan: dict[str, Any], memory_bytes: int) -> NoReturn:
    """Descriptors are in place: 0 is the socket pair, 1 and 2 count what is printed. The process is sealed."""
    memory_mb = str(memory_bytes >> 20)
    words = [word.replace(_MEMORY, memory_mb) for word in plan["candidate"]]
    os.execve(words[0], words, plan["environment"])


def job_file(orders: int) -> int:
    """The job in a memory file, sealed: what a program writes to its standard error by mistake is refused."""
    file = os.memfd_create("job", os.MFD_ALLOW_SEALING)
    write_all(file, read_exactly(orders, read_length(orders)))
    fcntl.fcntl(file, _ADD_SEALS, _SEAL_WRITE)
    os.lseek(file, 0, os.SEEK_SET)
    return file


def become_judge(plan: dict[str, Any]) -> NoReturn:
    """0 is the socket pair, 1 the report, 2 the job. The process is sealed."""
    os.execve(plan["judge"][0], plan["judge"], plan["environment"])
