# Attacks are programs on one line each.
# ruff: noqa: E501
"""Ways out of the box, each tried from the inside: a program lists what it could do, and the list must be empty."""

from __future__ import annotations

import pytest

from sandbox import Outcome

from .conftest import Assault

HEAD = """
import ctypes, errno, os, resource, signal, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    '''True if a function of the C library says that it has done it.'''
    return getattr(libc, name)(*arguments) >= 0
def syscall(*arguments): return libc.syscall(*arguments) >= 0
def done(action, *arguments):
    '''True unless it is refused.'''
    try: action(*arguments)
    except (OSError, AttributeError, ValueError): return False
    return True
def write(path):
    with open(path, 'wb') as file: file.write(b'x')
"""
TRIES = {
    "sockets of every family": "[n for n in range(0, 50) if n != socket.AF_UNIX and done(socket.socket, n, socket.SOCK_STREAM)]",
    "datagrams of every family": "[n for n in range(0, 50) if n != socket.AF_UNIX and done(socket.socket, n, socket.SOCK_DGRAM)]",
    "raw sockets": "[n for n in (2, 10, 16, 17) if done(socket.socket, n, socket.SOCK_RAW)]",
    "names": "[n for n in ('example.com', 'metadata.google.internal') if done(socket.getaddrinfo, n, 80)]",
    "the metadata address": "[1] if done(socket.create_connection, ('169.254.169.254', 80), 1) else []",
    "the engine's socket": "[p for p in ('/var/run/docker.sock', '/run/docker.sock', '/run/containerd/containerd.sock') if os.path.exists(p)]",
    "uids": "[n for n in (0, 1, 1000) if done(os.setuid, n) or done(os.setresuid, n, n, n) or done(os.seteuid, n) or done(os.setgid, n)]",
    "groups": "[1] if done(os.setgroups, [0]) else []",
    "namespaces": "[hex(n) for n in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000, 0x80) if call('unshare', n)]",
    "namespaces by clone": "[hex(n) for n in (0x10000011, 0x20000011, 0x50000011) if syscall(56, n, 0, 0, 0, 0)]",
    "namespaces by clone3": "[1] if syscall(435, ctypes.create_string_buffer(88), 88) else []",
    "mounts": "[1] if call('mount', b'x', b'/tmp', b'tmpfs', 0, None) or call('umount2', b'/tmp', 2) or syscall(429, 0, 0, 0, 0, 0) else []",
    "another root": "[1] if done(os.chroot, '/tmp') or syscall(155, b'.', b'.') else []",
    "devices": "[1] if done(os.mknod, 'null', 0o20666, os.makedev(1, 1)) or done(os.open, '/dev/mem', 0) or done(os.open, '/dev/kmsg', 0) else []",
    "writing outside": "[p for p in ('/x', '/usr/x', '/usr/bin/python3.11', '/etc/passwd', '/dev/x', '/dev/shm/x', '/dev/mqueue/x', '/var/x', '/proc/x', '/tmp/../x')"
    " if done(write, p)]",
    "the interpreter's own files": "[p for p in (os.__file__, os.__file__ + '/../json/__init__.py', os.__file__ + '/../sitecustomize.py') if done(write, p)"
    " or done(os.unlink, p)]",
    "tracing": "[n for n in (os.getppid(), 1, 2, 3) if n != os.getpid() and libc.ptrace(16, n, 0, 0) == 0 or libc.ptrace(0, 0, 0, 0) == 0]",
    "other processes' limits": "[n for n in (1, 2, 3, os.getppid()) if n not in (0, os.getpid()) and done(resource.prlimit, n, resource.RLIMIT_CPU)]",
    "its own limits": "[n for n in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_NPROC, resource.RLIMIT_CORE)"
    " if done(resource.setrlimit, n, (-1, -1))]",
    "signals": "[n for n in [os.getppid(), *range(1, 60)] if n not in (0, os.getpid()) and done(os.kill, n, 0)]",
    "process descriptors": "[n for n in (1, 2, 3) if syscall(434, n, 0)]",
    "keys": "[1] if syscall(248, b'user', b'k', b'v', 1, -3) or syscall(250, 0, -3, 0) else []",
    "System V queues": "[1] if syscall(29, 0, 100, 0o1777) or syscall(64, 0, 1, 0o1777) or syscall(68, 0, 0o1777) else []",
    "POSIX queues": "[1] if syscall(240, b'q', 0o102, 0o600, 0) else []",
    "memory files": "[1] if syscall(319, b'm', 0) or syscall(447, 0) else []",
    "io_uring, bpf, perf and faults": "[n for n in (425, 321, 298, 323) if syscall(n, 8, ctypes.create_string_buffer(256), 120, 0, 0)]",
    "kernel modules and boot": "[n for n in (175, 313, 246, 169, 153, 167, 163, 139) if syscall(n, 0, 0, 0, 0)]",
    "clocks": "[1] if syscall(227, 0, ctypes.create_string_buffer(16)) or syscall(164, 0, 0) or syscall(305, 0, 0) else []",
    "files by handle": "[1] if syscall(304, -100, ctypes.create_string_buffer(64), 0) else []",
    "host names": "[1] if call('sethostname', b'x', 1) else []",
    "capabilities": "[1] if libc.prctl(47, 2, 21, 0, 0) == 0 or libc.prctl(24, 0, 0, 0, 0) == 0 else []",
    "hiding children's time": "[1] if done(signal.signal, signal.SIGCHLD, signal.SIG_IGN) else []",
    "personality and ports": "[n for n in (172, 173, 135) if syscall(n, 0x0040000, 0, 0)]",
    "calls by the 32-bit door": "[1] if syscall(0x40000000 + 39) else []",
    "the slot's own scratch folder": "[n for n in os.listdir('/tmp') if n != os.path.basename(os.getcwd())] if os.access('/tmp', os.R_OK) else []",
    "watching files": "[1] if syscall(253) or syscall(300, 0, 0) else []",
}  # fmt: skip


@pytest.mark.parametrize("name", TRIES)
def test_nothing_leads_out(assault: Assault, name: str) -> None:
    program = f"{HEAD}\ndef f(x):\n    return {TRIES[name]}"
    # Calls by the 32-bit door end the process.
    expect = Outcome.RUNTIME_ERROR if name == "calls by the 32-bit door" else Outcome.PASSED
    assault(program, "assert f(1) == []", expect=expect)


def test_killing_everyone_kills_nobody_else(assault: Assault) -> None:
    program = "import os\ndef f(x):\n    os.kill(-1, 9)\n    return x + 1"
    verdicts = assault(program, expect=frozenset({Outcome.PASSED, Outcome.RUNTIME_ERROR}))
    assert len(verdicts) == 2


def test_no_signal_goes_by_way_of_a_descriptor(assault: Assault) -> None:
    """To own one's input may be offered to everybody; the signal that comes with it is refused like any other."""
    program = """
import fcntl, os, signal, socket
F_SETSIG = 10
def f(x):
    ours, theirs = socket.socketpair()
    fcntl.fcntl(ours, F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(ours, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    for pid in {os.getppid(), *range(1, 60)} - {0, os.getpid()}:
        try: fcntl.fcntl(ours, fcntl.F_SETOWN, pid)
        except OSError: continue
        theirs.send(b'x')
    return x + 1
"""
    assault(program, expect=Outcome.PASSED)


def test_abstract_sockets_do_not_last(assault: Assault) -> None:
    program = """
import os, socket
def f(x):
    link = socket.socket(socket.AF_UNIX)
    link.bind(b'\\0left')
    link.listen()
    return x + 1
"""
    assault(program, expect=Outcome.PASSED)


def test_setuid_programs_give_nothing(assault: Assault) -> None:
    program = """
import os, subprocess
def f(x):
    found = []
    for folder in ('/bin', '/usr/bin', '/sbin', '/usr/sbin'):
        for name in os.listdir(folder) if os.path.isdir(folder) else ():
            path = os.path.join(folder, name)
            if os.path.isfile(path) and os.stat(path).st_mode & 0o6000: found.append(path)
    return found
"""
    assault(program, "assert f(1) == []", expect=Outcome.PASSED)


def test_programs_written_to_the_scratch_folder_cannot_be_run(assault: Assault) -> None:
    program = """
import os, shutil
def f(x):
    shutil.copy('/usr/bin/python3.11', 'python')
    os.chmod('python', 0o755)
    pid = os.fork()
    if pid == 0:
        try: os.execv('./python', ['python', '-c', ''])
        except OSError: os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""
    from problems.problem import Limits

    assault(program, "assert f(1) == 7", expect=Outcome.PASSED, limits=Limits(file_bytes=64 << 20))
