"""The system call filter of judge and candidate: a list of what programs need; all else is refused.

One table for x86_64 and aarch64. A call that is missing on an architecture has the number -1 there.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_JUMP = 0x05
_NUMBER_OFFSET, _ARCH_OFFSET, _ARGUMENTS_OFFSET = 0, 4, 16
_X32_BIT = 0x40000000
_NAMESPACE_FLAGS = 0x7E020080  # every CLONE_NEW*, CLONE_NEWTIME's bit included
_SIGCHLD = 17
_AF_UNIX = 1

# name: (x86_64, aarch64)
_ALLOWED: dict[str, tuple[int, int]] = {
    "read": (0, 63), "write": (1, 64), "open": (2, -1), "close": (3, 57), "stat": (4, -1), "fstat": (5, 80),
    "lstat": (6, -1), "poll": (7, -1), "lseek": (8, 62), "mmap": (9, 222), "mprotect": (10, 226),
    "munmap": (11, 215), "brk": (12, 214), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "ioctl": (16, 29), "pread64": (17, 67), "pwrite64": (18, 68), "readv": (19, 65), "writev": (20, 66),
    "access": (21, -1), "pipe": (22, -1), "select": (23, -1), "sched_yield": (24, 124), "mremap": (25, 216),
    "msync": (26, 227), "mincore": (27, 232), "madvise": (28, 233), "dup": (32, 23), "dup2": (33, -1),
    "pause": (34, -1), "nanosleep": (35, 101), "getitimer": (36, 102), "alarm": (37, -1), "setitimer": (38, 103),
    "getpid": (39, 172), "sendfile": (40, 71), "connect": (42, 203), "accept": (43, 202), "sendto": (44, 206),
    "recvfrom": (45, 207), "sendmsg": (46, 211), "recvmsg": (47, 212), "shutdown": (48, 210), "bind": (49, 200),
    "listen": (50, 201), "getsockname": (51, 204), "getpeername": (52, 205), "socketpair": (53, 199),
    "setsockopt": (54, 208), "getsockopt": (55, 209), "fork": (57, -1), "vfork": (58, -1),
    "exit": (60, 93), "wait4": (61, 260), "kill": (62, 129), "uname": (63, 160), "fcntl": (72, 25),
    "flock": (73, 32), "fsync": (74, 82), "fdatasync": (75, 83), "truncate": (76, 45), "ftruncate": (77, 46),
    "getdents": (78, -1), "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50), "rename": (82, -1),
    "mkdir": (83, -1), "rmdir": (84, -1), "creat": (85, -1), "link": (86, -1), "unlink": (87, -1),
    "symlink": (88, -1), "readlink": (89, -1), "chmod": (90, -1), "fchmod": (91, 52), "umask": (95, 166),
    "gettimeofday": (96, 169), "getrlimit": (97, 163), "getrusage": (98, 165), "sysinfo": (99, 179),
    "times": (100, 153), "getuid": (102, 174), "getgid": (104, 176), "geteuid": (107, 175), "getegid": (108, 177),
    "setpgid": (109, 154), "getppid": (110, 173), "getpgrp": (111, -1), "setsid": (112, 157),
    "getgroups": (115, 158), "getresuid": (118, 148), "getresgid": (120, 150), "getpgid": (121, 155),
    "getsid": (124, 156), "capget": (125, 90), "rt_sigpending": (127, 136), "rt_sigtimedwait": (128, 137),
    "rt_sigsuspend": (130, 133), "sigaltstack": (131, 132), "utime": (132, -1), "statfs": (137, 43),
    "fstatfs": (138, 44), "getpriority": (140, 141), "setpriority": (141, 140), "sched_getparam": (143, 121),
    "sched_getscheduler": (145, 120), "sched_get_priority_max": (146, 125), "sched_get_priority_min": (147, 126),
    "prctl": (157, 167), "arch_prctl": (158, -1), "setrlimit": (160, 164), "sync": (162, 81), "gettid": (186, 178),
    "tkill": (200, 130), "time": (201, -1), "futex": (202, 98), "sched_setaffinity": (203, 122),
    "sched_getaffinity": (204, 123), "epoll_create": (213, -1), "getdents64": (217, 61),
    "set_tid_address": (218, 96), "restart_syscall": (219, 128), "fadvise64": (221, 223),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115),
    "exit_group": (231, 94), "epoll_wait": (232, -1), "epoll_ctl": (233, 21), "tgkill": (234, 131),
    "utimes": (235, -1), "waitid": (247, 95), "openat": (257, 56), "mkdirat": (258, 34), "newfstatat": (262, 79),
    "unlinkat": (263, 35), "renameat": (264, 38), "linkat": (265, 37), "symlinkat": (266, 36),
    "readlinkat": (267, 78), "fchmodat": (268, 53), "faccessat": (269, 48), "pselect6": (270, 72),
    "ppoll": (271, 73), "set_robust_list": (273, 99), "get_robust_list": (274, 100), "splice": (275, 76),
    "tee": (276, 77), "utimensat": (280, 88), "epoll_pwait": (281, 22), "timerfd_create": (283, 85),
    "eventfd": (284, -1), "fallocate": (285, 47), "timerfd_settime": (286, 86), "timerfd_gettime": (287, 87),
    "accept4": (288, 242), "signalfd4": (289, 74), "eventfd2": (290, 19), "epoll_create1": (291, 20),
    "dup3": (292, 24), "pipe2": (293, 59), "preadv": (295, 69), "pwritev": (296, 70), "getcpu": (309, 168),
    "renameat2": (316, 276), "getrandom": (318, 278), "membarrier": (324, 283), "copy_file_range": (326, 285),
    "statx": (332, 291), "rseq": (334, 293), "close_range": (436, 436), "faccessat2": (439, 439),
}  # fmt: skip
# Only for a process that is to become another program. It gains nothing by that: uid, namespaces, limits and this
# filter stay with it.
_EXECUTING: dict[str, tuple[int, int]] = {"execve": (59, 221), "execveat": (322, 281)}
# Allowed for some arguments only.
_CLONE, _CLONE3 = (56, 220), (435, 435)
_SIGACTION, _PRLIMIT, _SOCKET = (13, 134), (302, 261), (41, 198)
_SCHEDULER = (144, 119)


def _argument(index: int) -> tuple[int, int, int, int]:
    return (_LOAD, 0, 0, _ARGUMENTS_OFFSET + 8 * index)


def _argument_high(index: int) -> tuple[int, int, int, int]:
    """The upper half of a pointer."""
    return (_LOAD, 0, 0, _ARGUMENTS_OFFSET + 8 * index + 4)


def _refuse(code: int) -> tuple[int, int, int, int]:
    return (_RETURN, 0, 0, _ERRNO | code)


_PERMIT = (_RETURN, 0, 0, _ALLOW)


def _instructions(machine: str, executes: bool) -> list[tuple[int, int, int, int]]:
    """The BPF program: (code, jump if true, jump if false, operand)."""
    column = list(_AUDIT_ARCH).index(machine)
    kill = (_RETURN, 0, 0, _KILL_PROCESS)
    program = [(_LOAD, 0, 0, _ARCH_OFFSET), (_JUMP_EQUAL, 1, 0, _AUDIT_ARCH[machine]), kill]
    program.append((_LOAD, 0, 0, _NUMBER_OFFSET))
    if machine == "x86_64":
        program += [(_JUMP_GREATER_EQUAL, 0, 1, _X32_BIT), kill]
    rules = {
        _CLONE: [_argument(0), (_JUMP_SET, 0, 1, _NAMESPACE_FLAGS), _refuse(errno.EPERM), _PERMIT],
        # clone3 hides its flags behind a pointer; without it the C library falls back to clone.
        _CLONE3: [_refuse(errno.ENOSYS)],
        # A parent that ignores SIGCHLD hides its children's CPU time from its own parent's accounts. Some runtimes give
        # up where they cannot set it, or their threads' class: they are told that it is done, and nothing is.
        _SIGACTION: [
            _argument(0), (_JUMP_EQUAL, 0, 6, _SIGCHLD),
            _argument(1), (_JUMP_EQUAL, 0, 3, 0),
            _argument_high(1), (_JUMP_EQUAL, 0, 1, 0), _PERMIT,
            _refuse(0 if executes else errno.EPERM), _PERMIT,
        ],
        _PRLIMIT: [_argument(0), (_JUMP_EQUAL, 0, 1, 0), _PERMIT, _refuse(errno.EPERM)],  # its own limits only
        _SOCKET: [_argument(0), (_JUMP_EQUAL, 0, 1, _AF_UNIX), _PERMIT, _refuse(errno.EAFNOSUPPORT)],
    }  # fmt: skip
    if executes:
        rules[_SCHEDULER] = [_refuse(0)]
    for numbers, body in rules.items():
        program += [(_JUMP_EQUAL, 0, len(body), numbers[column]), *body]
    allowed = {**_ALLOWED, **_EXECUTING} if executes else _ALLOWED
    return [*program, *_search(_runs(sorted(numbers[column] for numbers in allowed.values())))]


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    """First and one past the last of each run of neighbours; numbers below zero are left out."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number:
            runs[-1] = (runs[-1][0], number + 1)
        elif number >= 0:
            runs.append((number, number + 1))
    return runs


def _search(runs: list[tuple[int, int]]) -> list[tuple[int, int, int, int]]:
    """Permits what lies in one of the runs, by halving: the kernel tries every call against the filter when it is
    put on, so a long walk is paid for in each run."""
    if len(runs) == 1:
        ((first, end),) = runs
        inside = [(_JUMP_GREATER_EQUAL, 0, 2, first), (_JUMP_GREATER_EQUAL, 1, 0, end), _PERMIT]
        return [*inside, _refuse(errno.EPERM)]
    middle = len(runs) // 2
    lower, upper = _search(runs[:middle]), _search(runs[middle:])
    # Conditional jumps reach 255 instructions; the plain one reaches all.
    return [(_JUMP_GREATER_EQUAL, 0, 1, runs[middle][0]), (_JUMP, 0, 0, len(lower)), *lower, *upper]


class Filter:
    """A compiled filter, made once in the server and put on in each child. ``executes``: may become another program."""

    def __init__(self, *, executes: bool = False) -> None:
        machine = os.uname().machine
        if machine not in _AUDIT_ARCH:
            raise OSError(errno.ENOSYS, f"no system call filter for {machine}")
        packed = b"".join(struct.pack("HBBI", *instruction) for instruction in _instructions(machine, executes))
        self._buffer = ctypes.create_string_buffer(packed, len(packed))
        self._header = struct.pack("HxxxxxxQ", len(packed) // 8, ctypes.addressof(self._buffer))

    @property
    def header(self) -> bytes:
        """``struct sock_fprog``; valid as long as this object lives."""
        return self._header
