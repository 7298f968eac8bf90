"""Suites that stay in a slot, by hash, so that a large one travels once.

Client and server keep the same books: both see the same orders in the same sequence. The server holds each suite in a
sealed memory file. It never reads one: the bytes are copied in by a child that ends with it, so the process of which
candidates are forked has them in no page of its own, and only judges keep the descriptor.
"""

from __future__ import annotations

import fcntl
import os
from collections import OrderedDict

from .wire import read_exactly, write_all

MAX_BYTES = 32 << 20
MAX_SUITES = 256
LEAST_BYTES = 16 << 10  # a smaller suite travels with each job
_CHUNK = 1 << 16


class Shelf:
    """Which suites are there: digest -> bytes, those used last at the end."""

    def __init__(self) -> None:
        self._sizes: OrderedDict[bytes, int] = OrderedDict()

    def holds(self, digest: bytes) -> bool:
        """True if it is there; it counts as used."""
        if digest in self._sizes:
            self._sizes.move_to_end(digest)
        return digest in self._sizes

    def put(self, digest: bytes, size: int) -> list[bytes]:
        """Adds a suite of at most MAX_BYTES; the digests of those that make room for it."""
        self._sizes[digest] = size
        dropped: list[bytes] = []
        while len(self._sizes) > MAX_SUITES or sum(self._sizes.values()) > MAX_BYTES:
            dropped.append(self._sizes.popitem(last=False)[0])
        return dropped


def take_in(source: int, size: int) -> int:
    """A sealed memory file with the next ``size`` bytes of ``source``. Raises OSError if they do not come."""
    file = os.memfd_create("suite", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    pid = os.fork()
    if pid == 0:
        _copy(source, file, size)
    if os.waitpid(pid, 0)[1] != 0:
        raise OSError("a suite did not arrive")
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
    return file


def _copy(source: int, file: int, size: int) -> None:
    """Never returns: a child must not come into the server's loop."""
    try:
        while size:
            chunk = read_exactly(source, min(size, _CHUNK))
            write_all(file, chunk)
            size -= len(chunk)
        os._exit(0)
    finally:
        os._exit(70)
