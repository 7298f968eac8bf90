"""Process 1 of a compiler's slot: keeps one resident compiler, and hands it one program after another.

    client --order, request--> [server] --pipe--> compiler
    client <--result, answer---[server] <--pipe-- (sealed as a candidate is; never runs what it compiles)

As the other server it reads numbers only; requests and answers go through it by splice. A compiler that overdraws a
limit is ended together with the slot, and the client puts another in its place.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import sys
import time
import traceback
from typing import Any, NoReturn

from . import accounts, lockdown
from .protocol import ORDER_BYTES, End, Order, Result, read_length, with_length
from .seccomp import Filter
from .wire import PeerGoneError, read_exactly, write_all

_IDLE_S = 3600.0  # as for the other server
_TICK_S = 0.05
_CHUNK = 1 << 16
_FRAME_BYTES = 4
_MAX_ANSWER_BYTES = 64 << 20
_NUM_PROCESSES, _OPEN_FILES = 64, 256
_NS = 1e-9
_LOWEST_DESCRIPTOR = 16
_SCRATCH_MB = 16


class CompilerServer:
    """One slot. ``settings``: as for the other server, and ``words`` and ``environment`` of the compiler, which says
    by an empty answer that it is ready."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._orders = fcntl.fcntl(0, fcntl.F_DUPFD, _LOWEST_DESCRIPTOR)
        self._results = fcntl.fcntl(1, fcntl.F_DUPFD, _LOWEST_DESCRIPTOR)
        self._null = _out_of_the_way(os.open("/dev/null", os.O_RDWR))
        os.dup2(self._null, 0)
        os.dup2(2, 1)

    def serve(self) -> NoReturn:
        """Runs orders until the client goes away, or the compiler has to be ended."""
        self._start()
        self._take_size(time.monotonic() + _IDLE_S)  # the client's patience is shorter
        hello = {"memory_limit_bytes": accounts.memory_limit_bytes(), "python": sys.version}
        content = json.dumps(hello).encode()
        write_all(self._results, with_length(content))
        while select.select([self._orders], [], [], _IDLE_S)[0]:
            if not self._perform(Order.unpack(read_exactly(self._orders, ORDER_BYTES))):
                break
        os._exit(0)

    # -- the compiler

    def _start(self) -> None:
        requests, self._requests = map(_out_of_the_way, os.pipe())
        self._answers, answers = map(_out_of_the_way, os.pipe())
        os.set_blocking(self._requests, False)
        if self._settings["namespaces"]:
            lockdown.unshare(lockdown.CLONE_NEWPID)
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._become_compiler(requests, answers)
            except BaseException:  # noqa: BLE001 - a child must never return into the server's loop
                traceback.print_exc()
            finally:
                os._exit(70)
        os.close(requests)
        os.close(answers)
        self._clock = ~self._pid << 3 | 2  # the kernel's name for a process's CPU clock

    def _become_compiler(self, requests: int, answers: int) -> None:
        settings = self._settings
        own_proc = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY) if settings["own_users"] else -1
        lockdown.prefer_for_oom()
        if settings["namespaces"]:
            lockdown.private_view(_SCRATCH_MB)
        if settings["own_users"]:
            lockdown.become_nobody_inside(own_proc)
        lockdown.keep_descriptors(requests, answers, self._null)
        os.setsid()
        no_end_s = 1 << 30  # it lives for many programs; the time of each is kept by the server
        lockdown.set_ceilings(lockdown.Ceilings(no_end_s, 0, _NUM_PROCESSES, _OPEN_FILES, 0))
        if settings["own_users"]:
            lockdown.drop_capabilities()
        else:
            lockdown.become(settings["first_uid"])
        os.chdir("/tmp")
        lockdown.seal(Filter(executes=True))
        words = [sys.executable if word == "{python}" else word for word in settings["words"]]
        os.execve(words[0], words, settings["environment"])

    # -- one order

    def _perform(self, order: Order) -> bool:
        """False if the compiler had to be ended."""
        start, used = time.monotonic(), time.clock_gettime(self._clock)
        answer = os.memfd_create("answer")
        end = self._pass_on(order, start + order.longest_wall_s, used)
        size = 0
        if end is End.JUDGED:
            end, size = self._take(order, answer, start + order.longest_wall_s, used)
        cpu_s = time.clock_gettime(self._clock) - used
        is_last = end is not End.JUDGED or self._has_ended()
        result = Result(int(end), 0, 0, cpu_s, time.monotonic() - start, self._resident_bytes(), size, int(is_last))
        if is_last:
            self._drain()
            os.kill(self._pid, signal.SIGKILL)
        write_all(self._results, result.pack())
        offset = 0
        while offset < size:
            offset += os.sendfile(self._results, answer, offset, size - offset)
        os.close(answer)
        return not is_last

    def _pass_on(self, order: Order, deadline: float, used: float) -> End:
        """The request, from the client to the compiler. ``used``: its CPU seconds before this order."""
        self._left = read_length(self._orders)
        poll = select.poll()
        poll.register(self._requests, select.POLLOUT)
        while self._left:
            if not poll.poll(_TICK_S * 1e3):
                if end := self._overdrawn(order, deadline, used):
                    return end
                continue
            try:
                moved = os.splice(self._orders, self._requests, min(self._left, _CHUNK), flags=os.SPLICE_F_NONBLOCK)
            except BlockingIOError:
                select.select([self._orders], [], [], _TICK_S)
                continue
            except BrokenPipeError:
                return End.BROKEN
            if not moved:
                os._exit(0)
            self._left -= moved
        return End.JUDGED

    def _take(self, order: Order, answer: int, deadline: float, used: float) -> tuple[End, int]:
        """The answer, from the compiler into a memory file; and its size."""
        while not select.select([self._answers], [], [], _TICK_S)[0]:
            if end := self._overdrawn(order, deadline, used):
                return end, 0
        size = self._take_size(deadline)
        if not 0 < size <= _MAX_ANSWER_BYTES:
            return (End.BROKEN if size <= 0 else End.OUTPUT), 0
        left = size
        while left:
            if not select.select([self._answers], [], [], _TICK_S)[0]:
                if end := self._overdrawn(order, deadline, used):
                    return end, 0
                continue
            moved = os.splice(self._answers, answer, min(left, _CHUNK))
            if not moved:
                return End.BROKEN, 0
            left -= moved
        return End.JUDGED, size

    def _take_size(self, deadline: float) -> int:
        """The length before an answer; -1 if the compiler has ended or does not come to it."""
        head = b""
        while len(head) < _FRAME_BYTES:
            if not select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return -1
            part = os.read(self._answers, _FRAME_BYTES - len(head))
            if not part:
                return -1
            head += part
        return int.from_bytes(head, "big")

    def _overdrawn(self, order: Order, deadline: float, used: float) -> End | None:
        if time.clock_gettime(self._clock) - used > order.cpu_s:
            return End.CPU
        if self._resident_bytes() > order.memory_bytes:
            return End.MEMORY
        # A compiler does not sleep: one that comes to the wall limit without its CPU time was starved.
        return End.STARVED if time.monotonic() > deadline else None

    def _resident_bytes(self) -> int:
        return accounts.usage([self._pid]).resident_bytes

    def _has_ended(self) -> bool:
        """True soon after the compiler has closed its answers: it has asked to be replaced."""
        poll = select.poll()
        poll.register(self._answers, 0)
        return bool(poll.poll(0))

    def _drain(self) -> None:
        """Takes what the client is still to send of the request, so that it comes to read the result."""
        while self._left and (chunk := os.read(self._orders, min(self._left, _CHUNK))):
            self._left -= len(chunk)


def _out_of_the_way(descriptor: int) -> int:
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD, _LOWEST_DESCRIPTOR)
    os.close(descriptor)
    return moved


def main(settings: dict[str, Any]) -> NoReturn:
    """Called by the shipped start-up code in the slot. Never returns."""
    try:
        CompilerServer(settings).serve()
    except PeerGoneError:
        os._exit(0)
    except BaseException:  # noqa: BLE001 - process 1 must not linger half broken
        traceback.print_exc()
        os._exit(70)
