"""The embedded backend's way into a root of its own: namespaces, a minimal read-only root, few capabilities.

Sent in before the server, in the same way; when the jail stands it starts a fresh interpreter in it, so that nothing
of the client's memory or files comes along.
"""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import sys
from typing import Any, NoReturn

from . import lockdown
from .lockdown import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_PRIVATE, MS_REC, mount

_CLONE_NEWUTS, _CLONE_NEWNET = 0x04000000, 0x40000000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_NOATIME, _MS_NODIRATIME, _MS_RELATIME = 1, 32, 4096, 1024, 2048, 1 << 21
_MNT_DETACH = 2
_PR_SET_PDEATHSIG, _SIGKILL = 1, 9
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_KILL, _SETGID, _SETUID, _SYS_ADMIN, _SETFCAP = 5, 6, 7, 21, 31
_BASE = b"/tmp"  # covered by our own root in our own mount namespace only
_DEVICES = ("null", "zero", "full", "random", "urandom")

_libc = ctypes.CDLL(None, use_errno=True)


def main(plan: dict[str, Any]) -> NoReturn:
    """Builds the jail and becomes, as the parent, its keeper; the child becomes the interpreter in it.

    ``plan``: ``files`` and ``folders`` (pairs of source and place in the root), ``links`` (pairs of target and name in
    the root), ``masked`` (folders to hide),
    ``own_users``, ``command``, ``environment``.
    """
    uid, gid = os.getuid(), os.getgid()
    if plan["own_users"]:
        lockdown.unshare(lockdown.CLONE_NEWUSER)
        for name, line in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(line)
    lockdown.unshare(
        lockdown.CLONE_NEWNS | lockdown.CLONE_NEWPID | lockdown.CLONE_NEWIPC | _CLONE_NEWUTS | _CLONE_NEWNET
    )
    keeper = os.getpid()
    child = os.fork()
    if child:
        _keep(child)
    _libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() not in (0, keeper):  # 0: the keeper is in the outer pid namespace, which we cannot see
        os._exit(1)
    _build(plan)
    # Without SETFCAP the kernel would let no child map the uid that is root here.
    extra = [_SETFCAP] if plan["own_users"] else []
    lockdown.drop_capabilities(frozenset([_KILL, _SETGID, _SETUID, _SYS_ADMIN, *extra]))
    os.execve(plan["command"][0], plan["command"], plan["environment"])


def _keep(child: int) -> NoReturn:
    """Waits for the jail's process 1; with that one everything in it ends."""
    os.closerange(0, 3)
    _, status = os.waitpid(child, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _build(plan: dict[str, Any]) -> None:
    mount(b"none", b"/", None, MS_REC | MS_PRIVATE)
    # Opened before our root covers the place where some of them may lie.
    sources = [
        (os.open(source, os.O_PATH), place, is_folder)
        for key, is_folder in (("files", False), ("folders", True))
        for source, place in plan[key]
    ]
    devices = [(os.open(f"/dev/{name}", os.O_PATH), name) for name in _DEVICES]
    mount(b"root", _BASE, b"tmpfs", MS_NOSUID | MS_NODEV, b"mode=755,size=1m")
    os.chdir(_BASE)
    os.umask(0o022)
    for descriptor, place, is_folder in sources:
        _bind(descriptor, place.lstrip("/"), is_folder)
    for target, name in plan["links"]:
        os.symlink(target, name)
    for folder in ("dev", "proc", "tmp"):
        os.makedirs(folder, exist_ok=True)
    for number, name in enumerate(("stdin", "stdout", "stderr")):  # which lead nowhere where /proc is not shown
        os.symlink(f"/proc/self/fd/{number}", f"dev/{name}")
    for descriptor, name in devices:
        _touch(f"dev/{name}")
        mount(f"/proc/self/fd/{descriptor}".encode(), f"dev/{name}".encode(), None, _MS_BIND)
    for folder in plan["masked"]:
        if os.path.isdir(folder.lstrip("/")):
            mount(
                b"mask", folder.lstrip("/").encode(), b"tmpfs", MS_NOSUID | MS_NODEV | _MS_RDONLY, b"size=4k,mode=755"
            )
    mount(b"proc", b"proc", b"proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    _enter()
    socket.sethostname("sandbox")
    os.closerange(3, 1024)


def _bind(descriptor: int, place: str, is_folder: bool) -> None:
    if is_folder:
        os.makedirs(place, exist_ok=True)
    else:
        _touch(place)
    mount(f"/proc/self/fd/{descriptor}".encode(), place.encode(), None, _MS_BIND | MS_REC)
    flags = _MS_REMOUNT | _MS_BIND | _MS_RDONLY | MS_NOSUID | MS_NODEV | _locked_flags(place)
    mount(b"none", place.encode(), None, flags)


def _locked_flags(place: str) -> int:
    """Flags of the source's mount, which a user namespace may not take away."""
    have = os.statvfs(place).f_flag
    pairs = ((os.ST_NOEXEC, MS_NOEXEC), (os.ST_NOATIME, _MS_NOATIME), (os.ST_NODIRATIME, _MS_NODIRATIME))
    flags = sum(flag for bit, flag in pairs if have & bit)
    return flags | (_MS_RELATIME if have & os.ST_RELATIME else 0)


def _touch(place: str) -> None:
    os.makedirs(os.path.dirname(place), exist_ok=True)
    os.close(os.open(place, os.O_CREAT | os.O_WRONLY, 0o644))


def _enter() -> None:
    """Makes the new root the only one: the old one is taken off from under it."""
    number = _PIVOT_ROOT[platform.machine()]
    if _libc.syscall(number, b".", b".") != 0:
        sys.exit(f"pivot_root: {os.strerror(ctypes.get_errno())}")
    _libc.umount2(b".", _MNT_DETACH)
    os.chdir("/")
    mount(b"none", b"/", None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | MS_NOSUID | MS_NODEV)
