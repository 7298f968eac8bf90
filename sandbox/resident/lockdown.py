"""What a child of the server gives up before it runs code of others: namespaces, uid, capabilities, limits, calls."""

from __future__ import annotations

import ctypes
import os
import resource
import struct
from dataclasses import dataclass

from .seccomp import Filter

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID = 0x20000, 0x08000000, 0x10000000, 0x20000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 2, 4, 8, 0x4000, 0x40000
_MNT_DETACH = 2
_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 4, 22, 24, 38
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522
_NUM_CAPABILITIES = 64
_MAX_OPEN = 1024
_SCRATCH = b"/tmp"
_SCRATCH_OPTIONS = b"size=%dm,nr_inodes=2048,mode=1777"
_UNLIMITED = resource.RLIM_INFINITY
_NOBODY = 65534

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]


@dataclass(frozen=True, slots=True)
class Ceilings:
    """The kernel's limits for one child. Address space is above what the server itself has mapped; 0 for no bound."""

    cpu_s: int
    address_space_bytes: int
    num_processes: int
    open_files: int
    file_bytes: int


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def unshare(flags: int) -> None:
    """Leaves namespaces. A new pid namespace holds the next child, not the caller."""
    _check(_libc.unshare(flags), "unshare")


def enter_pid_namespace(descriptor: int) -> None:
    """Makes the next child land in this pid namespace."""
    _check(_libc.setns(descriptor, CLONE_NEWPID), "setns")


def mount(source: bytes, target: bytes, kind: bytes | None, flags: int, options: bytes | None = None) -> None:
    """mount(2)."""
    _check(_libc.mount(source, target, kind, flags, options), f"mount {target.decode()}")


def unmount_if_there(target: bytes) -> None:
    """Takes a mount out of this mount namespace; nothing happens where there is none."""
    _libc.umount2(target, _MNT_DETACH)


def private_view(scratch_mb: int, *, shows_proc: bool = False) -> None:
    """Own mount and ipc namespace: no /proc, no /sys, an empty /tmp that ends with the namespace.

    ``shows_proc``: /proc is there, with the processes of the caller's own pid namespace and nothing of the kernel's.
    """
    unshare(CLONE_NEWNS | CLONE_NEWIPC)
    if shows_proc:
        # Over the one that is there: a user namespace may mount its own only where one is in sight.
        mount(b"proc", b"/proc", b"proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, b"subset=pid")
    else:
        unmount_if_there(b"/proc")
    unmount_if_there(b"/sys")
    mount(b"scratch", _SCRATCH, b"tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, _SCRATCH_OPTIONS % scratch_mb)


def become_nobody_inside(own_proc: int) -> None:
    """An ordinary user's server has one uid only: the child gets a user namespace in which it is nobody.

    ``own_proc`` is a descriptor of the caller's folder in /proc, which is no longer mounted by then.
    """
    uid, gid = os.getuid(), os.getgid()
    unshare(CLONE_NEWUSER)
    for name, line in (("setgroups", "deny"), ("uid_map", f"{_NOBODY} {uid} 1"), ("gid_map", f"{_NOBODY} {gid} 1")):
        descriptor = os.open(name, os.O_WRONLY, dir_fd=own_proc)
        os.write(descriptor, line.encode())
        os.close(descriptor)


def become(uid: int) -> None:
    """Changes all uids and gids; with that the kernel clears the capabilities."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def drop_capabilities(keep: frozenset[int] = frozenset()) -> None:
    """Empties the bounding set, and all other sets, but for ``keep``."""
    for capability in range(_NUM_CAPABILITIES):
        if capability not in keep:
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    mask = sum(1 << capability for capability in keep)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    data = struct.pack("6I", low, low, 0, high, high, 0)
    _check(_libc.capset(struct.pack("Ii", _CAPABILITY_VERSION_3, 0), data), "capset")


def set_ceilings(ceilings: Ceilings) -> None:
    """rlimits; hard limits too, so they cannot be raised again."""
    for which, value in (
        (resource.RLIMIT_AS, ceilings.address_space_bytes or _UNLIMITED),
        (resource.RLIMIT_FSIZE, ceilings.file_bytes),
        (resource.RLIMIT_NOFILE, ceilings.open_files),
        (resource.RLIMIT_NPROC, ceilings.num_processes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_CPU, ceilings.cpu_s),
    ):
        resource.setrlimit(which, (value, value))


def seal(call_filter: Filter) -> None:
    """No new privileges, no dump, and the system call filter: the last step."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "dumpable")
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    header = ctypes.create_string_buffer(call_filter.header)
    _check(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(header), 0, 0), "seccomp")


def keep_descriptors(*kept: int) -> None:
    """Moves ``kept`` to 0, 1, 2, .. and closes all others; the numbers given must be above ``len(kept)``."""
    for target, descriptor in enumerate(kept):
        os.dup2(descriptor, target, inheritable=True)
    os.closerange(len(kept), _MAX_OPEN)


def prefer_for_oom() -> None:
    """When the slot's memory runs out, the candidate is what the kernel ends first."""
    descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
    os.write(descriptor, b"1000")
    os.close(descriptor)
