"""A program of ours that tries the walls from the inside; what it could not do is stamped on every verdict."""

from __future__ import annotations

from problems.problem import FunctionSuite, Limits
from sandbox.errors import IsolationError

LIMITS = Limits(cpu_s=5.0, wall_s=30.0, memory_bytes=64 << 20)

PROGRAM = b"""
import ctypes, os, socket, struct

libc = ctypes.CDLL(None, use_errno=True)
libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]

def fails(action, *arguments):
    try:
        action(*arguments)
    except OSError:
        return True
    return False

def capabilities():
    header, data = struct.pack("Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    return data.raw.strip(b"\\0") if libc.capget(header, data) == 0 else b"?"

def writable():
    # Folders in which a file could be made that outlives the run.
    for top, folders, _ in os.walk("/"):
        if top == "/":
            folders[:] = [name for name in folders if name not in ("proc", "sys", "tmp")]
        if os.access(top, os.W_OK):
            yield top

def probe():
    return {
        "no_capabilities": capabilities() == b"",
        "ordinary_uid": 0 not in os.getresuid() + os.getresgid(),
        "no_new_privileges": libc.prctl(39, 0, 0, 0, 0) == 1,
        "seccomp": libc.prctl(21, 0, 0, 0, 0) == 2 and libc.unshare(0x10000000) != 0,
        "network": fails(socket.socket, socket.AF_INET) and fails(socket.socket, socket.AF_INET6),
        "read_only": fails(open, "/left_over", "w") and not list(writable()),
        "pid_namespace": os.getpid() == 1 and not os.path.exists("/proc/self/status"),
    }
"""

_NEEDED = ("no_capabilities", "ordinary_uid", "no_new_privileges", "seccomp", "network", "read_only")
_WITH_NAMESPACES = "pid_namespace"

SUITE = FunctionSuite(
    entry_points=("probe",),
    setup="found = probe()",
    cases=tuple(f"assert found[{name!r}] is True" for name in (*_NEEDED, _WITH_NAMESPACES)),
)


def properties(passed: list[bool]) -> frozenset[str]:
    """Names of what holds, from the results of SUITE's cases."""
    return frozenset(name for name, holds in zip((*_NEEDED, _WITH_NAMESPACES), passed, strict=False) if holds)


def demand(holds: frozenset[str], *, namespaces: bool, where: str) -> None:
    """Raises IsolationError if the slot is weaker than asked for."""
    needed = {*_NEEDED, _WITH_NAMESPACES} if namespaces else set(_NEEDED)
    if missing := sorted(needed - holds):
        raise IsolationError(f"the {where} sandbox does not hold here: {', '.join(missing)} failed in the canary run")
