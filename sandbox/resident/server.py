"""Process 1 of a slot: forks a candidate and a judge for each order, and keeps their accounts.

    client --order, job--> [server] --fork--> candidate <==socket pair==> judge <--job-- client
                               |                                            |
    client <--result, report---+<--------- report in a memory file ---------+

It is the zygote of both, so it must stay clean: it reads orders, which are numbers, and no byte of a program, a test,
an output or a report (those go through it by splice and sendfile). When its standard input ends, it ends, and with it
everything in its pid namespace.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from . import accounts, candidate, judge, lockdown, pair
from .cleaning import Spent, Sweeper
from .ending import Ending
from .protocol import JUDGE_GRACE_S, NO_SUITE, ORDER_BYTES, START_S, End, Kind, Order, Result, with_length
from .proxies import BEGINS
from .seccomp import Filter
from .shelf import SealedSuites, take_in
from .wire import PeerGoneError, read_exactly, write_all

_JUDGE_CPU_S = 10  # beyond what the candidate may use
# An engine that was killed, or a line that was cut, may leave our input open for ever with nobody behind it.
_IDLE_S = 3600.0
_TICK_S = 0.1  # on average
_SHORT_S = 0.05
_MIN_TICK_S = 0.02
_NOT_OVERDRAWN = (End.BLOCKED, End.STARVED)
_STARVED_SHARE = 0.5  # of the time without a processor, spent waiting for one
_STARVED_LEAST = 0.1  # of the wall limit
_UIDS_PER_SLOT = 60_000
_SPLICE_BYTES = 1 << 20
_GC_THRESHOLDS = (20_000, 20, 20)  # of children, whose lives are short
_COMPILE_SCRATCH_MB, _SCRATCH_MB = 64, 16
# A candidate that is to become another program first takes that program in: nothing below this may stop it.
_LEAST_FILE_BYTES = 64 << 20
# Everything at or above this number is out of the way of the children's 0, 1, 2, ..
_LOWEST_DESCRIPTOR = 16
# What programs import most: paid once here instead of in each run. Not threading and not random: what they do after
# each fork costs more than importing them where they are used.
PRELOADED = (
    "abc", "array", "ast", "bisect", "cmath", "collections", "collections.abc", "contextlib", "copy", "dataclasses",
    "datetime", "decimal", "enum", "fractions", "functools", "hashlib", "heapq", "inspect", "io", "itertools", "json",
    "math", "numbers", "operator", "re", "string", "traceback", "typing",
)  # fmt: skip


class Server:
    """One slot. ``settings``: ``namespaces`` (or a uid a run), ``own_users`` (no root outside), ``first_uid``,
    ``judge_memory_bytes``, ``hard_memory`` (a control group bounds the slot's memory), ``shows_proc`` (programs that
    the candidate becomes see /proc), and in some languages ``pair``: what judge and candidate become in runs of that
    kind (see ``pair.py``)."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.namespaces: bool = settings["namespaces"]
        self.own_users: bool = settings["own_users"]
        self.hard_memory: bool = settings["hard_memory"]
        self.shows_proc: bool = settings["shows_proc"]
        self.first_uid: int = settings["first_uid"]
        self.judge_memory: int = settings["judge_memory_bytes"]
        self.pair: dict[str, Any] = settings.get("pair", {})
        self.filter, self.executing_filter = Filter(), Filter(executes=True)
        self.orders = fcntl.fcntl(0, fcntl.F_DUPFD, _LOWEST_DESCRIPTOR)
        self.results = fcntl.fcntl(1, fcntl.F_DUPFD, _LOWEST_DESCRIPTOR)
        self.null = _null()
        os.dup2(self.null, 0)
        os.dup2(2, 1)
        self.own_pid_namespace = -1
        if self.namespaces:
            self.own_pid_namespace = _out_of_the_way(os.open("/proc/self/ns/pid", os.O_RDONLY))
        self.sweeper = Sweeper(self.namespaces)
        self.mapped_bytes, self.resident_bytes = _own_memory()
        self.num_runs = 0
        self._suites = SealedSuites()

    def serve(self) -> NoReturn:
        """Runs orders until the client goes away."""
        hello = json.dumps({"memory_limit_bytes": accounts.memory_limit_bytes(), "python": sys.version}).encode()
        write_all(self.results, with_length(hello))
        while select.select([self.orders], [], [], _IDLE_S)[0]:
            order = Order.unpack(read_exactly(self.orders, ORDER_BYTES))
            self.num_runs += 1
            Run(self, order, self._suite(order)).perform()
        os._exit(0)

    def _suite(self, order: Order) -> int:
        """The descriptor for the order's judge. Takes in a suite that comes with the order; it is never read here."""
        if order.suite_digest == NO_SUITE:
            return self.null
        if order.suite_follows:
            file = _out_of_the_way(take_in(self.orders))
            self._suites.add(order.suite_digest, file, order.suites_dropped)
        return self._suites.file(order.suite_digest)

    @property
    def judge_uid(self) -> int:
        return self.first_uid

    def candidate_uid(self) -> int:
        """Another one in each run, so that nothing of an earlier run belongs to it."""
        return self.first_uid + 1 + self.num_runs % _UIDS_PER_SLOT


def _null() -> int:
    """Opened anew for each process: flags, locks and owners of an open file outlive the process that set them."""
    return _out_of_the_way(os.open("/dev/null", os.O_RDWR))


def _out_of_the_way(descriptor: int) -> int:
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD, _LOWEST_DESCRIPTOR)
    os.close(descriptor)
    return moved


def _holds_bytes(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return any(event & select.POLLIN for _, event in poll.poll(0))


def _own_memory() -> tuple[int, int]:
    """Bytes that this process has mapped, and those that are resident."""
    with open("/proc/self/statm") as file:
        mapped, resident = (int(pages) * os.sysconf("SC_PAGE_SIZE") for pages in file.read().split()[:2])
    return mapped, resident


class Run:
    """One order: from the fork of the candidate to the result."""

    def __init__(self, server: Server, order: Order, suite: int) -> None:
        """``suite``: the descriptor of the judge's suite."""
        self._server = server
        self._order = order
        self._suite = suite
        self._kind = Kind(order.kind)
        self._start = time.monotonic()
        self._waited_before_s = 0.0
        self._end = End.JUDGED
        self._printed = 0
        self._polled_cpu_s = 0.0
        self._last_tick = self._memory_due = self._start
        self._runnable_s = 0.0
        self._has_begun = False
        self._oom_kills_before = accounts.oom_kills()

    def perform(self) -> None:
        """Forks, watches, ends everything, and sends the result."""
        ours, theirs = (part.detach() for part in socket.socketpair())
        printed, prints = os.pipe()
        report = os.memfd_create("report")
        streams = (*os.pipe(), *os.pipe()) if self._kind.has_streams else ()
        for descriptor in streams[::2]:
            os.fchmod(descriptor, 0o666)  # the candidate may open its own again, by name
        # The candidate is forked first: what the judge learns later cannot be in its memory.
        self._candidate = self._fork_alone(lambda: self._be_candidate(theirs, prints, streams))
        begun, begins = os.pipe()
        self._judge = self._fork_alone(lambda: self._be_judge(ours, report, begins, streams))
        for descriptor in (ours, theirs, prints, begins, *streams):
            os.close(descriptor)
        self._watch(printed, begun, report)
        # Of a job that nobody came to hand over, some may still stand where the next order should.
        is_last = not self._server.sweeper.is_empty() or self._end is End.UNBEGUN
        self._send(report, is_last)
        if is_last:
            os._exit(0)  # the end of process 1 is the surest broom
        os.close(printed)
        os.close(begun)
        os.close(report)

    # -- forks

    def _fork(self, child: Callable[[], None]) -> int:
        pid = os.fork()
        if pid == 0:
            try:
                child()
                os._exit(0)
            except BaseException:  # noqa: BLE001 - a child must never return into the server's loop
                traceback.print_exc()
            finally:
                os._exit(70)
        return pid

    def _fork_alone(self, child: Callable[[], None]) -> int:
        """Forks into a pid namespace of its own, where there are such: all that is in it ends with the child."""
        server = self._server
        if not server.namespaces:
            return self._fork(child)
        lockdown.unshare(lockdown.CLONE_NEWPID)
        try:
            return self._fork(child)
        finally:
            lockdown.enter_pid_namespace(server.own_pid_namespace)

    def _be_candidate(self, channel: int, prints: int, streams: tuple[int, ...]) -> None:
        server, order = self._server, self._order
        uid = server.candidate_uid()
        lockdown.prefer_for_oom()
        own_proc = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY) if server.own_users else -1
        if server.namespaces:
            scratch_mb = _COMPILE_SCRATCH_MB if self._kind is Kind.COMPILE else _SCRATCH_MB
            lockdown.private_view(scratch_mb, shows_proc=server.shows_proc and self._kind.becomes_another)
            scratch = "/tmp"
        else:
            scratch = server.sweeper.make_scratch(uid)
        if server.own_users:
            lockdown.become_nobody_inside(own_proc)
        stdin, stdout = (streams[0], streams[3]) if streams else (_null(), prints)
        # Made here, since the filter lets no candidate make one: a program cannot be run from the scratch folder.
        images = (os.memfd_create("program"),) if self._kind is Kind.EXECUTE else ()
        if self._kind is Kind.PAIR:
            lockdown.keep_descriptors(channel, prints, prints)
        else:
            lockdown.keep_descriptors(stdin, stdout, prints, channel, *images)
        os.setsid()
        cpu_s = int(order.cpu_s) + 2  # a backstop; the exact limit is kept by the server
        address_space = order.address_space_bytes and order.address_space_bytes + server.mapped_bytes
        becomes_another = self._kind.becomes_another
        file_bytes = max(order.file_bytes, _LEAST_FILE_BYTES) if becomes_another else order.file_bytes
        lockdown.set_ceilings(
            lockdown.Ceilings(cpu_s, address_space, order.num_processes, order.open_files, file_bytes)
        )
        if server.own_users:
            lockdown.drop_capabilities()
        else:
            lockdown.become(uid)
        os.chdir(scratch)
        lockdown.seal(server.executing_filter if becomes_another else server.filter)
        if self._kind is Kind.PAIR:
            pair.become_candidate(server.pair, order.memory_bytes)
        candidate.run(3)

    def _be_judge(self, channel: int, report: int, begins: int, streams: tuple[int, ...]) -> None:
        server, order = self._server, self._order
        ends = (streams[1], streams[2]) if streams else ()
        is_pair = self._kind is Kind.PAIR
        if is_pair:
            job = pair.job_file(server.orders)
            os.write(begins, BEGINS)
            lockdown.keep_descriptors(channel, report, job)
        else:
            null = _null()
            lockdown.keep_descriptors(server.orders, null, null, channel, report, self._suite, begins, *ends)
        memory = 0 if is_pair else server.judge_memory + server.mapped_bytes
        lockdown.set_ceilings(lockdown.Ceilings(_JUDGE_CPU_S + int(order.cpu_s), memory, 64, 64, 1 << 26))
        if server.own_users:
            lockdown.drop_capabilities()
        else:
            lockdown.become(server.judge_uid)
        if is_pair:
            lockdown.seal(server.executing_filter)
            pair.become_judge(server.pair)
        lockdown.seal(server.filter)
        judge.run(0, 3, 4, 5, 6, (7, 8) if streams else None)

    # -- watching

    def _watch(self, printed: int, begun: int, report: int) -> None:
        """Consumes the ends of judge and candidate and what is printed; unblocked by the wall limit at the latest.

        The wall's time begins when the judge writes to ``begun``: when it hands the program over, or becomes another
        program. What it waits for before, an engine that is slow to bring the job, is not the program's doing, nor is
        it if it ends before.
        """
        order, poll = self._order, select.poll()
        judge_end, candidate_end = Ending(self._judge), Ending(self._candidate)
        judge_end.register(poll)
        candidate_end.register(poll)
        poll.register(printed, select.POLLIN)
        poll.register(begun, select.POLLIN)
        poll.register(self._server.orders, 0)  # hang-up only: the job itself is the judge's to read
        wall_end, next_tick = self._start + START_S, self._start + _TICK_S
        is_judged = False
        while True:
            now = time.monotonic()
            wait_s = min(max(0.0, min(wall_end, next_tick) - now) + 1e-3, candidate_end.patience_s)
            events = dict(poll.poll(wait_s * 1e3))
            ready = set(events)
            if self._server.orders in ready:
                os._exit(0)
            if begun in ready:
                poll.unregister(begun)
                if events[begun] & select.POLLIN:  # else the judge is gone
                    self._has_begun, self._start = True, time.monotonic()
                    self._waited_before_s = self._waited_s([self._candidate])
                    self._last_tick, self._runnable_s = self._start, 0.0
                    wall_end = self._start + order.wall_s
            if not is_judged and judge_end.has_come(ready):
                if self._kind is not Kind.EXECUTE:
                    break
                is_judged = True  # all output is there; how the program ends counts too
                judge_end.unregister(poll)
            if candidate_end.has_come(ready):
                break  # what it leaves running, holding its streams, ends with it
            if printed in ready and not self._count_prints(printed):
                poll.unregister(printed)
            now = time.monotonic()
            if now >= wall_end:
                self._end = self._end or (self._blocked_or_starved(now) if self._has_begun else End.UNBEGUN)
                if not self._has_begun or self._end is not End.STARVED or now - self._start >= order.longest_wall_s:
                    break
                self._end, wall_end = End.JUDGED, now + order.wall_s
            if now >= next_tick:
                next_tick = now + self._tick(now)
            if self._end:
                break
        candidate_end.close()
        # Looked at again: where an end is asked for after the poll, the program may have been handed over in between.
        self._has_begun = self._has_begun or _holds_bytes(begun)
        self._finish(judge_end, report)

    def _count_prints(self, printed: int) -> bool:
        """False at the end of the stream."""
        count = os.splice(printed, self._server.null, _SPLICE_BYTES)
        self._printed += count
        if self._printed > self._order.output_bytes:
            self._end = End.OUTPUT
        return count > 0

    def _tick(self, now: float) -> float:
        """Checks CPU and memory, and whether there is something to do; seconds until the next check is due.

        That is random, so that no program can be busy in step with the checks and asleep between them.
        """
        server, order = self._server, self._order
        shared_bytes = 0 if self._kind.becomes_another else server.resident_bytes
        used = accounts.usage(self._candidate_pids(), shared_bytes)
        self._polled_cpu_s = max(self._polled_cpu_s, used.cpu_s)
        if used.is_runnable:
            self._runnable_s += now - self._last_tick
        self._last_tick = now
        left = order.cpu_s - used.cpu_s
        if left <= 0:
            self._end = End.CPU
        soonest_s = max(_MIN_TICK_S, left / (os.cpu_count() or 1))
        # Where a ceiling of the kernel's stands right above what the run may use, that is exact, and this sum, which
        # counts what processes share once for each of them, is seldom looked at.
        is_bounded = server.hard_memory and 0 < order.address_space_bytes <= order.memory_bytes
        if not is_bounded or now >= self._memory_due:
            self._memory_due = now + soonest_s
            if used.resident_bytes > self._most_resident_bytes() - shared_bytes:
                self._end = End.MEMORY
        return min(soonest_s, _TICK_S * (0.5 + int.from_bytes(os.urandom(2), "big") / 65536))

    def _most_resident_bytes(self) -> int:
        """A child of the server shares its memory, which does not count; a program that replaced it does not."""
        shared_bytes = 0 if self._kind.becomes_another else self._server.mapped_bytes
        return self._order.memory_bytes + shared_bytes

    def _candidate_pids(self) -> list[int]:
        server, others = self._server, accounts.candidate_pids(os.getpid(), self._judge)
        # Without namespaces the children of a careless test are in sight too.
        return others if server.namespaces else accounts.owned_by(server.candidate_uid(), others)

    def _blocked_or_starved(self, now: float) -> End:
        """A program that waited for a processor most of the time it did not run was starved, not asleep.

        The kernel forgets how long processes waited that have ended, as most of a script's have; of those it is known
        how often one was seen that had something to do, and what all of them ran.
        """
        pids = self._candidate_pids()
        used = accounts.usage([*pids, self._judge])
        idle_s = max(0.0, now - self._start - used.cpu_s)
        least_s = max(_STARVED_SHARE * idle_s, _STARVED_LEAST * self._order.wall_s)
        waited_s = max(self._waited_s(pids) - self._waited_before_s, self._runnable_s - used.cpu_s)
        return End.STARVED if waited_s >= least_s else End.BLOCKED

    def _waited_s(self, pids: list[int]) -> float:
        """How long program and judge, which take turns, have waited for a processor."""
        return accounts.run_delay_s(pids) + accounts.run_delay_s([self._judge])

    # -- the end

    def _finish(self, judge_end: Ending, report: int) -> None:
        """Ends the candidate and all it started, then the judge, which hears of it by the end of its stream."""
        others: list[int] = []
        # What the kernel ends with the namespace drops out of its accounts, so it is looked at before; not in short
        # runs, where there is little to be missed.
        if not self._server.namespaces or time.monotonic() - self._start > _SHORT_S:
            others = [pid for pid in self._candidate_pids() if pid != self._candidate]
        if others:
            self._polled_cpu_s = max(self._polled_cpu_s, accounts.usage([*others, self._candidate]).cpu_s)
        uid = self._server.candidate_uid()
        self._candidate_exit, spent = self._server.sweeper.end(self._candidate, self._judge, uid, bool(others))
        self._account(spent)
        # A judge that has written and goes on runs the suite by itself: with the program gone it gets all the time that
        # a run may take, so that no program can make it look like a suite that hangs.
        is_alone = self._kind.is_judged_by_suite and os.fstat(report).st_size > 0
        is_hurried = self._end and not (is_alone and self._end in _NOT_OVERDRAWN)
        grace_s = JUDGE_GRACE_S if is_hurried else max(JUDGE_GRACE_S, self._order.wall_s)
        if not judge_end.comes_within(grace_s):
            os.kill(self._judge, signal.SIGKILL)
        _, status = os.waitpid(self._judge, 0)
        self._judge_exit = os.waitstatus_to_exitcode(status)
        if not self._has_begun and self._judge_exit != 0:
            self._end = End.UNBEGUN
        judge_end.close()

    def _account(self, spent: Spent) -> None:
        self._cpu_s = max(self._polled_cpu_s, spent.cpu_s)
        self._peak_bytes = spent.peak_bytes
        is_killed = self._candidate_exit == -signal.SIGKILL
        if is_killed and not self._end and accounts.oom_kills() > self._oom_kills_before:
            self._end = End.MEMORY
        if not self._end and self._peak_bytes > self._most_resident_bytes():
            self._end = End.MEMORY
        if not self._end and (self._cpu_s > self._order.cpu_s or self._candidate_exit == -signal.SIGXCPU):
            self._end = End.CPU

    def _send(self, report: int, is_last: bool) -> None:
        # Of a judge that runs a suite also what it wrote in advance.
        is_whole = self._judge_exit == 0 or self._kind.is_judged_by_suite
        size = os.fstat(report).st_size if is_whole else 0
        wall_s = time.monotonic() - self._start
        result = Result(
            int(self._end),
            self._candidate_exit,
            self._judge_exit,
            self._cpu_s,
            wall_s,
            self._peak_bytes,
            size,
            int(is_last),
        )
        write_all(self._server.results, result.pack())
        offset = 0
        while offset < size:
            offset += os.sendfile(self._server.results, report, offset, size - offset)


def main(settings: dict[str, Any]) -> NoReturn:
    """Called by the shipped start-up code in the slot. Never returns."""
    for name in PRELOADED:
        __import__(name)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as a program started from a shell has it; children inherit it
    try:
        server = Server(settings)
        gc.collect()
        gc.set_threshold(*_GC_THRESHOLDS)
        gc.freeze()  # children then leave the preloaded objects' pages alone
        server.serve()
    except PeerGoneError:
        os._exit(0)
    except BaseException:  # noqa: BLE001 - process 1 must not linger half broken
        traceback.print_exc()
        os._exit(70)
