"""An event loop whose clock jumps to the next timer: hours of waiting in no time, whatever else the machine does."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # nothing else can happen before the next timer
            self._now = max(self._now, self._scheduled[0].when())
        super()._run_once()


def run_virtually(work: Coroutine[Any, Any, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The result of ``work``, which must wait for nothing but timers and other tasks."""
    loop = _VirtualLoop()
    monkeypatch.setattr("time.monotonic", loop.time)
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()
