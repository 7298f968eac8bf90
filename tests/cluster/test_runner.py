"""How a run is told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from cluster.runner import run_until_told


@pytest.fixture(params=[signal.default_int_handler, signal.SIG_IGN])
def on_sigint(request: pytest.FixtureRequest) -> Iterator[None]:
    """SIGINT as a terminal leaves it, and as nohup does."""
    before = signal.signal(signal.SIGINT, request.param)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("on_sigint")
def test_sigterm_ends_the_work_and_not_what_is_being_written_beside_it() -> None:
    told: list[str] = []

    async def write() -> None:
        await asyncio.sleep(0.3)
        told.append("written")

    async def work() -> None:
        writing = asyncio.create_task(write())
        asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), signal.SIGTERM)
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            told.append("stop")
            await asyncio.shield(writing)
            raise

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        run_until_told(work())
    assert told == ["stop", "written"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_work_that_ends_by_itself_gives_its_result() -> None:
    async def work() -> int:
        return 3

    assert run_until_told(work()) == 3
