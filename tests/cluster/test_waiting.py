"""An actor that Ray holds back is told with the reason; one whose process starts slowly is not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
import ray

from cluster.session import choose_agent_ports, end_actor, start_actor
from cluster.waiting import tell_who_waits, waiting_actors


class Slow:
    """Takes its time to come up."""

    def __init__(self, seconds: float) -> None:
        time.sleep(seconds)


@pytest.fixture
def one_processor() -> Iterator[None]:
    choose_agent_ports()
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("one_processor")
async def test_an_actor_without_a_place_is_told_with_the_reason_and_a_slow_one_is_not() -> None:
    told: list[tuple[str, str, str]] = []
    telling = asyncio.create_task(tell_who_waits(lambda *what: told.append(what), look_s=0.2))
    slow = start_actor(Slow, 8.0, num_cpus=1)
    until = time.monotonic() + 6.0
    while time.monotonic() < until:
        assert waiting_actors() == {}
        await asyncio.sleep(0.2)
    ray.get(slow.__ray_ready__.remote())
    held_back = start_actor(Slow, 0.0, num_cpus=1)
    async with asyncio.timeout(60.0):
        while not told:
            await asyncio.sleep(0.1)
    (event,) = told
    assert event[:2] == ("Slow", "waits for room")
    assert "asks 1 of resource 'CPU'" in event[2]
    assert f"has 0 of 1 free (held: Slow of job {ray.get_runtime_context().get_job_id()} 1)" in event[2]
    end_actor(slow)
    ray.get(held_back.__ray_ready__.remote())
    assert waiting_actors() == {}
    telling.cancel()
