"""Ending a candidate and everything it started, and clearing what it left."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from dataclasses import dataclass
from typing import NoReturn

from . import accounts, lockdown
from .protocol import SWEEP_S

_SCRATCH = "/tmp"


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds in all, and the largest resident size of one process."""

    cpu_s: float
    peak_bytes: int

    def plus(self, usage: resource.struct_rusage) -> Spent:
        """With one more process that has been waited for."""
        peak_bytes = max(self.peak_bytes, usage.ru_maxrss * 1024)
        return Spent(self.cpu_s + usage.ru_utime + usage.ru_stime, peak_bytes)


class Sweeper:
    """Ends runs. With namespaces the kernel does it all; without, the candidate's uid is swept."""

    def __init__(self, namespaces: bool) -> None:
        self._namespaces = namespaces
        if not namespaces:
            assert os.getpid() == 1, "a sweep by uid is for a pid namespace of one's own"
            os.umask(0o077)
            os.chmod(_SCRATCH, 0o711)

    def make_scratch(self, uid: int) -> str:
        """A folder of the run's own under /tmp, which only that uid can enter."""
        path = f"{_SCRATCH}/{uid}"
        os.mkdir(path, 0o700)
        os.chown(path, uid, uid)
        return path

    def end(self, candidate: int, judge: int, uid: int, has_others: bool) -> tuple[int, Spent]:
        """Kills the candidate and its processes; exit status and what all of them used."""
        os.kill(candidate, signal.SIGKILL)  # process 1 of its namespace: all others in it end before wait4 returns
        children = Spent(0.0, 0)
        if has_others and not self._namespaces:
            children = self._sweep_processes(uid, frozenset({os.getpid(), candidate, judge}))
        _, status, usage = os.wait4(candidate, 0)
        if not self._namespaces:
            self._clear_scratch(uid)
        return os.waitstatus_to_exitcode(status), children.plus(usage)

    def is_empty(self) -> bool:
        """Waits for what was handed to process 1; False if something still lives, say of a careless test."""
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return True  # no child at all
        return not accounts.candidate_pids(os.getpid())

    def _as_candidate(self, uid: int, work: int) -> None:
        """Runs one of the two sweeps in a child that has become the candidate's uid, all three ids of it."""
        pid = os.fork()
        if pid == 0:
            try:
                # As the candidate's uid this child could be looked into by it: it must hold nothing of the server.
                lockdown.keep_descriptors()
                lockdown.become(uid)
                assert os.getresuid() == (uid, uid, uid)
                _SWEEPS[work](uid)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)

    def _sweep_processes(self, uid: int, spared: frozenset[int]) -> Spent:
        """Kills all of the uid, and waits for what is handed to process 1 by that."""
        deadline, spent = time.monotonic() + SWEEP_S, Spent(0.0, 0)
        while others := accounts.owned_by(uid, accounts.candidate_pids(*spared)):
            if time.monotonic() > deadline:
                _give_up("processes are left over")
            self._as_candidate(uid, _PROCESSES)
            for pid in others:
                with contextlib.suppress(ChildProcessError):
                    ended, _, usage = os.wait4(pid, os.WNOHANG)
                    spent = spent.plus(usage) if ended else spent
            time.sleep(0.001)  # what was just killed is still on its way out
        return spent

    def _clear_scratch(self, uid: int) -> None:
        path = f"{_SCRATCH}/{uid}"
        try:
            os.rmdir(path)
        except OSError:
            self._as_candidate(uid, _FILES)
            try:
                os.rmdir(path)
            except OSError:
                _give_up("files are left over")


def _give_up(what: str) -> NoReturn:
    """The slot ends, and the client starts another: the surest broom."""
    os.write(2, f"sandbox server: {what}\n".encode())
    os._exit(71)


def _kill_all(uid: int) -> None:
    assert os.getresuid() == (uid, uid, uid)
    assert os.getppid() == 1
    os.kill(-1, signal.SIGKILL)  # all of our uid but ourselves, at one stroke


def _remove_all(uid: int) -> None:
    """Empties the run's folder with a stack of our own: a deep tree must not exhaust recursion."""
    os.chdir(f"{_SCRATCH}/{uid}")
    depth = 0
    while True:
        os.chmod(".", 0o700)
        folders = [entry for entry in os.scandir(".") if _is_folder(entry)]
        if folders:
            os.chmod(folders[0].name, 0o700)
            os.chdir(folders[0].name)
            depth += 1
            continue
        if depth == 0:
            return
        here = os.stat(".").st_ino
        os.chdir("..")
        depth -= 1
        for entry in os.scandir("."):
            if entry.inode() == here:
                os.rmdir(entry.name)
                break


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Removes what is no folder on the way."""
    if entry.is_dir(follow_symlinks=False):
        return True
    os.unlink(entry.name)
    return False


_PROCESSES, _FILES = 0, 1
_SWEEPS = (_kill_all, _remove_all)
