"""What the kernel knows of the candidate's processes: CPU, memory, and how long they waited for a processor.

The server is process 1 of its own pid namespace, so whatever it sees beside itself and the judge is the candidate's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Fields of /proc/<pid>/stat after the command's name, which may hold anything.
_STATE, _UTIME, _CUTIME_END, _RSS = 0, 11, 15, 21
_OOM_COUNTS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
_MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True, slots=True)
class Usage:
    """Sums over the candidate's living processes and the children that these have waited for.

    ``is_runnable``: whether any of the processes had something to do, with a processor or without.
    """

    cpu_s: float
    resident_bytes: int
    is_runnable: bool


def candidate_pids(*ours: int) -> list[int]:
    """All processes in sight but those given."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in ours]


def owned_by(uid: int, pids: list[int]) -> list[int]:
    """Those of ``pids`` whose real uid this is."""
    owned: list[int] = []
    for pid in pids:
        try:
            with open(f"/proc/{pid}/status", "rb") as file:
                lines = file.read().splitlines()
        except OSError:
            continue
        if any(line.startswith(b"Uid:") and int(line.split()[1]) == uid for line in lines):
            owned.append(pid)
    return owned


def usage(pids: list[int], shared_bytes: int = 0) -> Usage:
    """Processes that end meanwhile count nothing; their parent has their time by then.

    ``shared_bytes``: what each of them shares with the process that it was forked of, and does not use itself.
    """
    cpu_s, resident_bytes, is_runnable = 0.0, 0, False
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        cpu_s += sum(map(int, fields[_UTIME:_CUTIME_END])) * _TICK_S
        resident_bytes += max(0, int(fields[_RSS]) * _PAGE_BYTES - shared_bytes)
        is_runnable = is_runnable or fields[_STATE] == b"R"
    return Usage(cpu_s, resident_bytes, is_runnable)


def run_delay_s(pids: list[int]) -> float:
    """Seconds that the threads of these processes were runnable without a processor; the largest of them."""
    longest = 0.0
    for pid in pids:
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/schedstat", "rb") as file:
                    longest = max(longest, int(file.read().split()[1]) / 1e9)
        except OSError:
            continue
    return longest


def oom_kills() -> int:
    """How often the kernel has ended a process of this control group for memory; 0 where none can be read."""
    for path in _OOM_COUNTS:
        try:
            with open(path) as file:
                for line in file:
                    if line.startswith("oom_kill "):
                        return int(line.split()[1])
        except OSError:
            continue
    return 0


def memory_limit_bytes() -> int:
    """The control group's limit as seen from inside; 0 for none."""
    for path in _MEMORY_LIMITS:
        try:
            with open(path) as file:
                text = file.read().strip()
        except OSError:
            continue
        return int(text) if text.isdigit() and int(text) < 1 << 60 else 0
    return 0
