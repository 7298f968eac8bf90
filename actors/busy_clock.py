"""How much of its time an actor works: the source of 'what blocks me'."""

from __future__ import annotations

import time


class BusyClock:
    """Adds up seconds with at least one request, and seconds paused; a paused second is not a busy one."""

    def __init__(self) -> None:
        self._started = self._since = time.monotonic()
        self._running = 0
        self._paused = False
        self._busy_s = 0.0
        self._paused_s = 0.0

    def enter(self) -> None:
        self._settle()
        self._running += 1

    def leave(self) -> None:
        self._settle()
        self._running -= 1

    def pause(self) -> None:
        self._settle()
        self._paused = True

    def resume(self) -> None:
        self._settle()
        self._paused = False

    def read(self) -> tuple[float, float, float]:
        """Busy, paused and total seconds."""
        self._settle()
        return self._busy_s, self._paused_s, self._since - self._started

    def _settle(self) -> None:
        now = time.monotonic()
        if self._paused:
            self._paused_s += now - self._since
        elif self._running:
            self._busy_s += now - self._since
        self._since = now
