"""Suites that stay in a slot, by hash, so that a large one travels once.

The client keeps the books. The server holds each suite in a sealed memory file. It never reads one, nor learns how long
it is: the bytes are copied in by a child that ends with it, so the process of which candidates are forked has them in
no page of its own, and only judges keep the descriptor.
"""

from __future__ import annotations

import fcntl
import os
from collections import OrderedDict

from .protocol import read_length
from .wire import read_exactly, write_all

MAX_BYTES = 32 << 20
MAX_SUITES = 256
LEAST_BYTES = 16 << 10  # a smaller suite travels with each job
_CHUNK = 1 << 16


class Shelf:
    """The client's books of which suites are there: digest -> bytes, those used last at the end."""

    def __init__(self) -> None:
        self._sizes: OrderedDict[bytes, int] = OrderedDict()

    def holds(self, digest: bytes) -> bool:
        """True if it is there; it counts as used."""
        if digest in self._sizes:
            self._sizes.move_to_end(digest)
        return digest in self._sizes

    def put(self, digest: bytes, size: int) -> int:
        """Adds a suite of at most MAX_BYTES; how many of those not used for longest make room for it."""
        self._sizes[digest] = size
        dropped = 0
        while len(self._sizes) > MAX_SUITES or sum(self._sizes.values()) > MAX_BYTES:
            self._sizes.popitem(last=False)
            dropped += 1
        return dropped


class SealedSuites:
    """The server's: digest -> memory file, those used last at the end."""

    def __init__(self) -> None:
        self._files: OrderedDict[bytes, int] = OrderedDict()

    def add(self, digest: bytes, file: int, num_dropped: int) -> None:
        """``num_dropped``: how many of those not used for longest make room for it."""
        for _ in range(num_dropped):
            os.close(self._files.popitem(last=False)[1])
        self._files[digest] = file

    def file(self, digest: bytes) -> int:
        """It counts as used. Raises KeyError."""
        self._files.move_to_end(digest)
        return self._files[digest]


def take_in(source: int) -> int:
    """A sealed memory file with the next bytes of ``source``, before which stands their number. Raises OSError if they
    do not come."""
    file = os.memfd_create("suite", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    pid = os.fork()
    if pid == 0:
        _copy(source, file)
    if os.waitpid(pid, 0)[1] != 0:
        raise OSError("a suite did not arrive")
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
    return file


def _copy(source: int, file: int) -> None:
    """Never returns: a child must not come into the server's loop."""
    try:
        size = read_length(source)
        while size:
            chunk = read_exactly(source, min(size, _CHUNK))
            write_all(file, chunk)
            size -= len(chunk)
        os._exit(0)
    finally:
        os._exit(70)
