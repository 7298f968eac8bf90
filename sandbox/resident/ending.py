"""Hearing of a child's end: by a descriptor, or, where the kernel has none (gVisor), by asking again and again."""

from __future__ import annotations

import os
import select
import time

_ASK_S = 0.003


class Ending:
    """Of one child, which is not waited for by that."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        try:
            self.descriptor = os.pidfd_open(pid)
        except OSError:
            self.descriptor = -1

    @property
    def patience_s(self) -> float:
        """How long to wait for other things before asking again."""
        return 3600.0 if self.descriptor >= 0 else _ASK_S

    def register(self, poll: select.poll) -> None:
        """Makes ``poll`` return when it comes, if there is a descriptor."""
        if self.descriptor >= 0:
            poll.register(self.descriptor, select.POLLIN)

    def unregister(self, poll: select.poll) -> None:
        """Takes that back."""
        if self.descriptor >= 0:
            poll.unregister(self.descriptor)

    def has_come(self, ready: set[int]) -> bool:
        """``ready``: the descriptors that ``poll`` has just returned."""
        if self.descriptor >= 0:
            return self.descriptor in ready
        return os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def comes_within(self, timeout_s: float) -> bool:
        """Waits for it."""
        if self.descriptor >= 0:
            return bool(select.select([self.descriptor], [], [], timeout_s)[0])
        deadline = time.monotonic() + timeout_s
        while not self.has_come(set()):
            if time.monotonic() > deadline:
                return False
            time.sleep(_ASK_S)
        return True

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
