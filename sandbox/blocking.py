"""The executor for code that does not run in an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar

from problems.problem import Limits
from sandbox.config import SandboxConfig
from sandbox.errors import SandboxError
from sandbox.judgement import infrastructure_error
from sandbox.opening import open_executor
from sandbox.verdict import Executor, Program, Suite, Verdict

_T = TypeVar("_T")


class BlockingExecutor:
    """Opens an executor in an event loop of its own, in a thread. Safe to call from several threads."""

    def __init__(
        self,
        config: SandboxConfig | None = None,
        opener: Callable[[SandboxConfig | None], Coroutine[Any, Any, Executor]] = open_executor,
    ) -> None:
        config = config or SandboxConfig()
        # As many as run or may wait: beyond that the pool would only hold callers.
        self._at_once = config.slots + config.max_queued
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sandbox", daemon=True)
        self._thread.start()
        try:
            self._executor = self._wait(opener(config))
        except BaseException:
            self._stop()
            raise

    def run(self, program: Program, suite: Suite, limits: Limits, *, stop_at_first_failure: bool = True) -> Verdict:
        """See ``Executor.run``."""
        return self._wait(self._executor.run(program, suite, limits, stop_at_first_failure=stop_at_first_failure))

    def run_all(self, work: Iterable[tuple[Program, Suite, Limits]]) -> list[Verdict]:
        """Verdicts in order. ``work`` is taken bit by bit, so it may be made while it is run.

        What ``run`` would raise for one item is the detail of that item's infrastructure error: the others go on, be it
        a fault of ours.
        """
        return self._wait(self._run_all(work))

    async def _run_all(self, work: Iterable[tuple[Program, Suite, Limits]]) -> list[Verdict]:
        verdicts: dict[int, Verdict] = {}
        numbered = enumerate(work)

        async def take() -> None:
            for number, item in numbered:
                try:
                    verdicts[number] = await self._executor.run(*item)
                except Exception as error:  # noqa: BLE001
                    detail = str(error) if isinstance(error, SandboxError | ValueError) else repr(error)
                    verdicts[number] = infrastructure_error(len(item[1].cases), detail)

        await asyncio.gather(*(take() for _ in range(self._at_once)))
        return [verdicts[number] for number in range(len(verdicts))]

    def close(self) -> None:
        """Ends everything that this executor started. May be called twice."""
        if self._thread.is_alive():
            self._wait(self._executor.close())
            self._stop()

    def _wait(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
