"""Ray actors as plain objects in this process, for tests of the pools: they can be killed, and answer as Ray does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from actors.generator import GenerationRequest
from cluster.generator_pool import Generated
from cluster.nodes import versions
from cluster.presence import Presence
from cluster.roster import Roster


class Handle:
    """An actor in this process. ``kill`` is what SIGKILL would be: calls that wait fail, and so do all later ones."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.dead = asyncio.Event()
        self.calls: list[str] = []

    def kill(self) -> None:
        self.dead.set()

    async def until_killed(self, work: Awaitable[Any]) -> Any:
        task, dead = asyncio.ensure_future(work), asyncio.ensure_future(self.dead.wait())
        try:
            await asyncio.wait({task, dead}, return_when=asyncio.FIRST_COMPLETED)
            if self.dead.is_set():
                raise ActorDiedError
            return task.result()
        except (ActorDiedError, asyncio.CancelledError):
            raise
        except Exception as error:  # noqa: BLE001
            raise RayTaskError("run", "trace", error).as_instanceof_cause() from None
        finally:
            task.cancel()
            dead.cancel()

    def __getattr__(self, name: str) -> Any:
        return Method(self, name)


class Method:
    def __init__(self, handle: Handle, name: str) -> None:
        self._handle = handle
        self._name = name

    def options(self, **_: Any) -> Method:
        return self

    def remote(self, *arguments: Any) -> Any:
        self._handle.calls.append(self._name)
        if self._name == "stream_group":
            return self._streamed(*arguments)
        return asyncio.ensure_future(self._handle.until_killed(self._called(*arguments)))

    async def _called(self, *arguments: Any) -> Any:
        if self._name == "presence":
            return getattr(self._handle.actor, "present", Presence("here", 1, versions()))
        result = getattr(self._handle.actor, self._name)(*arguments)
        return await result if asyncio.iscoroutine(result) else result

    async def _streamed(self, who: str, requests: Sequence[GenerationRequest]) -> AsyncIterator[Awaitable[Generated]]:
        results = self._handle.actor.generate_group(requests)
        for _ in requests:
            result = await self._handle.until_killed(anext(results))
            yield asyncio.sleep(0, Generated(result, who, 0.0, 0.0))


class Cluster:
    """Stands in for Ray: makes actors, counts them, ends them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, make: Callable[[int], Any]) -> None:
        self.handles: list[Handle] = []
        self.reports: list[tuple[str, str, str]] = []

        def start_actor(*_: Any, **__: Any) -> Handle:
            self.handles.append(Handle(make(len(self.handles))))
            return self.handles[-1]

        for pool in ("generator_pool", "executor_pool"):
            monkeypatch.setattr(f"cluster.{pool}.start_actor", start_actor)
        monkeypatch.setattr("cluster.roster.end_actor", lambda handle: handle.kill())

    def report(self, who: str, what: str, why: str) -> None:
        self.reports.append((who, what, why))

    def reported(self, what: str) -> list[str]:
        return [f"{who}: {why}" for who, said, why in self.reports if said == what]


@asynccontextmanager
async def watched(roster: Roster) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(roster.watch())
    yield task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
