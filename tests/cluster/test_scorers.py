"""Scorers that die, hang or cannot be had: what they held is scored again, and nothing waits for ever. No Ray."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from actors.errors import EngineDiedError, EngineUnavailableError
from cluster.actor_config import ScorersConfig, SupervisionConfig
from cluster.errors import ActorError, ClusterError
from cluster.nodes import versions
from cluster.presence import Presence
from cluster.scorers import BatchingPool
from tests.cluster.fake_actors import Handle, until

QUICK = SupervisionConfig(health_every_s=0.02, health_timeout_s=0.2, max_failed_starts=3)


class Doubling:
    """Scores an item by its double. ``stuck``: never; ``silent``: answers no health check either."""

    def __init__(self, *, stuck: bool = False, silent: bool = False, present: Presence | None = None) -> None:
        self.stuck, self.silent, self.hangs = stuck, silent, False
        self._presence = present or Presence("here", 1, versions())
        self._checks = 0

    async def healthy(self) -> Presence:
        self._checks += 1
        if self.hangs or (self.silent and self._checks > 1):
            await asyncio.sleep(60)
        return self._presence

    async def score(self, items: list[int]) -> list[int]:
        if self.stuck:
            await asyncio.sleep(60)
        if -1 in items:
            raise ValueError("an item that cannot be scored")
        return [2 * item for item in items]


class Pool(BatchingPool):
    def __init__(self, monkeypatch: pytest.MonkeyPatch, make: Any) -> None:
        self.reports: list[tuple[str, str, str]] = []
        super().__init__(
            Path("m"), ScorersConfig(count=1), QUICK, lambda *report: self.reports.append(report)
        )  # fmt: skip
        self.handles: list[Handle] = []
        self._make = make
        monkeypatch.setattr("cluster.scorers.end_actor", lambda handle: handle.kill())
        monkeypatch.setattr("cluster.scorers._health", lambda handle: handle.until_killed(handle.actor.healthy()))

    def _start_actor(self) -> Handle:
        self.handles.append(Handle(self._make(len(self.handles))))
        return self.handles[-1]


async def test_what_a_dead_scorer_held_is_scored_by_the_next_one(monkeypatch) -> None:
    pool = Pool(monkeypatch, lambda number: Doubling(stuck=number == 0))
    pool.start()
    asked = [asyncio.create_task(pool.ask(item)) for item in range(4)]
    await until(lambda: bool(pool.handles) and pool.handles[0].calls == ["score"])
    pool.handles[0].kill()
    assert await asyncio.gather(*asked) == [0, 2, 4, 6]
    ((who, what, why),) = pool.reports
    assert (who, what) == ("scorer-0", "lost")
    assert "ActorDiedError" in why
    await pool.stop()


async def test_a_scorer_that_answers_no_health_check_is_replaced_while_it_hangs(monkeypatch) -> None:
    pool = Pool(monkeypatch, lambda number: Doubling(stuck=number == 0, silent=number == 0))
    pool.start()
    async with asyncio.timeout(5.0):
        assert await pool.ask(3) == 6
    assert "did not answer its health check within 0.2 s" in pool.reports[0][2]
    await pool.stop()


async def test_a_scorer_that_hangs_while_nothing_is_asked_of_it_is_replaced_at_the_next_batch(monkeypatch) -> None:
    pool = Pool(monkeypatch, lambda _: Doubling())
    pool.start()
    assert await pool.ask(1) == 2
    first = pool.handles[0].actor
    first.stuck, first.hangs = True, True
    async with asyncio.timeout(5.0):
        assert await pool.ask(3) == 6
    assert len(pool.handles) == 2
    assert "did not answer its health check within 0.2 s" in pool.reports[0][2]
    await pool.stop()


@pytest.mark.parametrize("error", [EngineDiedError, EngineUnavailableError])
async def test_a_judge_whose_engine_has_gone_is_replaced_though_its_actor_lives(monkeypatch, error) -> None:
    class Engineless(Doubling):
        async def score(self, _items: list[int]) -> list[int]:
            raise error("the engine's process has ended")

    pool = Pool(monkeypatch, lambda number: Doubling() if number else Engineless())
    pool.start()
    async with asyncio.timeout(5.0):
        assert await asyncio.gather(*(pool.ask(item) for item in range(3))) == [0, 2, 4]
    ((_, what, why),) = pool.reports
    assert what == "lost"
    assert "the engine's process has ended" in why
    await pool.stop()


async def test_one_bad_item_fails_alone_and_the_scorer_stays(monkeypatch) -> None:
    pool = Pool(monkeypatch, lambda _: Doubling())
    pool.start()
    good, bad, other = (asyncio.create_task(pool.ask(item)) for item in (1, -1, 2))
    assert (await good, await other) == (2, 4)
    with pytest.raises(ActorError, match="an item that cannot be scored"):
        await bad
    assert len(pool.handles) == 1
    assert pool.reports == []
    await pool.stop()


async def test_losses_in_a_row_end_the_run_with_the_reason_and_nobody_waits(monkeypatch) -> None:
    pool = Pool(monkeypatch, lambda _: Doubling(stuck=True, silent=True))
    pool.start()
    answers = await asyncio.gather(*(pool.ask(item) for item in range(3)), return_exceptions=True)
    assert any(isinstance(answer, ClusterError) for answer in answers), "the run would go on without any reward"
    with pytest.raises(ClusterError, match="3 losses of scorers in a row, the last one: scorer-0 did not answer"):
        await pool.ask(1)
    await pool.stop()


async def test_a_scorer_on_a_node_with_other_versions_is_named_and_nothing_is_scored_by_it(monkeypatch) -> None:
    other = Presence("there", 1, versions() | {"crucible-rl": "0.0.0"})
    pool = Pool(monkeypatch, lambda _: Doubling(stuck=True, present=other))
    pool.start()
    with pytest.raises(ActorError, match=r"scorer-0 \(node there, process 1\) has crucible-rl 0\.0\.0"):
        await pool.ask(1)
    await pool.stop()
