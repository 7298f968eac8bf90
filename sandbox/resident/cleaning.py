"""Ending a candidate and everything it started, and clearing what it left."""

from __future__ import annotations

import os
import resource
import signal
import time
from typing import NoReturn

from . import accounts, lockdown

_SCRATCH = "/tmp"
_SWEEP_S = 5.0


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

    def end(self, candidate: int, uid: int, has_others: bool) -> tuple[int, resource.struct_rusage]:
        """Kills the candidate and its processes; exit status and what all of them used."""
        os.kill(candidate, signal.SIGKILL)  # process 1 of its namespace: all others in it end before wait4 returns
        if has_others and not self._namespaces:
            self._sweep_processes(uid)
        _, status, spent = os.wait4(candidate, 0)
        if not self._namespaces:
            self._clear_scratch(uid)
        return os.waitstatus_to_exitcode(status), spent

    def reap_orphans(self) -> None:
        """Waits for what was handed to process 1 when its parent ended."""
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

    def _as_candidate(self, uid: int, work: int) -> None:
        """Runs one of the two sweeps in a child that has become the candidate's uid, all three ids of it."""
        pid = os.fork()
        if pid == 0:
            try:
                lockdown.become(uid)
                assert os.getresuid() == (uid, uid, uid)
                _SWEEPS[work](uid)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)

    def _sweep_processes(self, uid: int) -> None:
        deadline = time.monotonic() + _SWEEP_S
        while self._alive(uid):
            if time.monotonic() > deadline:
                _give_up("processes are left over")
            self._as_candidate(uid, _PROCESSES)
            time.sleep(0.001)  # what was just killed is still on its way out

    def _alive(self, uid: int) -> bool:
        for pid in accounts.candidate_pids(os.getpid()):
            try:
                with open(f"/proc/{pid}/status", "rb") as file:
                    lines = file.read().splitlines()
            except OSError:
                continue
            is_ours = any(line.startswith(b"Uid:") and int(line.split()[1]) == uid for line in lines)
            is_zombie = any(line.startswith(b"State:") and line.split()[1] == b"Z" for line in lines)
            if is_ours and not is_zombie:
                return True
        return False

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
    while True:
        os.kill(-1, signal.SIGKILL)  # ends with ProcessLookupError when none is left


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
