"""Remembers verdicts: a policy writes the same program many times, and each run costs milliseconds."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict

from problems.problem import Limits
from sandbox.verdict import Executor, Outcome, Program, Suite, Verdict

# What the machine had a part in is not remembered.
_UNSURE = frozenset({Outcome.INFRASTRUCTURE_ERROR, Outcome.TIME_LIMIT})

_Key = tuple[str, bytes, Suite, Limits, bool]


class CachingExecutor:
    """Executor that runs each program once for a suite and limits; those asked for meanwhile wait for that run.

    The caller allows by using it that a program which draws random numbers, or is right by luck, keeps its verdict.
    Infrastructure errors and time limits are not kept. Of the rest the ``max_entries`` used last are.
    """

    def __init__(self, executor: Executor, max_entries: int) -> None:
        self.executor = executor
        self._max_entries = max_entries
        self._verdicts: OrderedDict[_Key, Verdict] = OrderedDict()
        self._running: dict[_Key, asyncio.Future[Verdict]] = {}
        self.num_hits = 0
        self.num_runs = 0

    async def run(
        self, program: Program, suite: Suite, limits: Limits, *, stop_at_first_failure: bool = True
    ) -> Verdict:
        """See ``Executor.run``. CPU and wall time are those of the run that was made."""
        digest = hashlib.sha256(program.source).digest()
        key = (program.language, digest, suite, limits, stop_at_first_failure)
        if key in self._verdicts:
            self.num_hits += 1
            self._verdicts.move_to_end(key)
            return self._verdicts[key]
        if key not in self._running:
            self.num_runs += 1
            work = self.executor.run(program, suite, limits, stop_at_first_failure=stop_at_first_failure)
            self._running[key] = asyncio.ensure_future(work)
            self._running[key].add_done_callback(lambda run: self._keep(key, run))
        else:
            self.num_hits += 1
        # One caller that gives up must not end the run of the others.
        return await asyncio.shield(self._running[key])

    async def close(self) -> None:
        """Closes the executor behind; what is remembered is forgotten."""
        await self.executor.close()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        self._verdicts.clear()

    def _keep(self, key: _Key, run: asyncio.Future[Verdict]) -> None:
        del self._running[key]
        if run.cancelled() or run.exception() is not None or run.result().outcome in _UNSURE:
            return
        self._verdicts[key] = run.result()
        if len(self._verdicts) > self._max_entries:
            self._verdicts.popitem(last=False)
