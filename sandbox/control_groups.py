"""A memory control group for each embedded slot, within that of this process, where root may make one (v1 or v2)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from pathlib import Path

_V1, _V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
_PREFIX = "crucible-"
_TRIES, _BETWEEN_TRIES_S = 200, 0.01
_numbers = itertools.count()


class ControlGroup:
    """Bounds the memory of all processes in it."""

    def __init__(self, folder: Path, limit_bytes: int, *, is_v1: bool) -> None:
        """Raises OSError where it cannot be made."""
        self._folder = folder
        self._is_v1 = is_v1
        folder.mkdir()
        try:
            self._write("memory.limit_in_bytes" if is_v1 else "memory.max", limit_bytes)
            with contextlib.suppress(OSError):  # not every kernel counts swap; version 1 counts it with the memory
                self._write(*("memory.memsw.limit_in_bytes", limit_bytes) if is_v1 else ("memory.swap.max", 0))
        except OSError:
            folder.rmdir()
            raise

    def _write(self, name: str, value: int) -> None:
        (self._folder / name).write_text(str(value))

    def take_in(self, pid: int) -> None:
        """Moves a process in, and with it what it will start."""
        self._write("cgroup.procs", pid)

    def files(self) -> list[tuple[str, str]]:
        """(source, place) of what the server reads of it, where it looks for that."""
        names = ("memory.limit_in_bytes", "memory.oom_control") if self._is_v1 else ("memory.max", "memory.events")
        return [(str(self._folder / name), str((_V1 if self._is_v1 else _V2) / name)) for name in names]

    async def remove(self) -> None:
        """Waits a little for processes in it that are on their way out; what is then still there is swept later."""
        for _ in range(_TRIES):
            with contextlib.suppress(OSError):
                self._folder.rmdir()
            if not self._folder.exists():
                return
            await asyncio.sleep(_BETWEEN_TRIES_S)


def new_control_group(limit_bytes: int) -> ControlGroup | None:
    """None where none can be made. Sweeps those of processes that are no more."""
    is_v1 = _V1.is_dir()
    parent = _own_folder(is_v1=is_v1)
    if os.geteuid() != 0 or parent is None:
        return None
    for left in parent.glob(f"{_PREFIX}*"):
        if not os.path.exists(f"/proc/{left.name.removeprefix(_PREFIX).split('-')[0]}"):
            with contextlib.suppress(OSError):
                left.rmdir()
    try:
        return ControlGroup(parent / f"{_PREFIX}{os.getpid()}-{next(_numbers)}", limit_bytes, is_v1=is_v1)
    except OSError:
        return None


def _own_folder(*, is_v1: bool) -> Path | None:
    """The control group of this process; the topmost in sight where a container shows no more."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if ("memory" in controllers.split(",")) if is_v1 else not controllers:
            root = _V1 if is_v1 else _V2
            own = root / path.lstrip("/")
            return own if own.is_dir() else root
    return None
