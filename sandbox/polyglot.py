"""An executor for all languages: a pool of slots for each, made when a program of that language comes first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from problems.problem import Limits
from sandbox.errors import SandboxError
from sandbox.pool import SlotPool
from sandbox.verdict import Executor, Program, Suite, Verdict


class Polyglot(Executor):
    """Executor over pools that ``open_pool`` opens, by the name of a language."""

    def __init__(self, open_pool: Callable[[str], Awaitable[SlotPool]]) -> None:
        self._open_pool = open_pool
        self._opening: dict[str, asyncio.Lock] = {}
        self.pools: dict[str, SlotPool] = {}
        self._is_closed = False

    async def pool(self, language: str) -> SlotPool:
        """The pool of a language, opened if need be. Raises as ``open_executor`` does, ValueError if it is unknown."""
        async with self._opening.setdefault(language, asyncio.Lock()):
            if self._is_closed:
                raise SandboxError("the executor is closed")
            if language not in self.pools:
                self.pools[language] = await self._open_pool(language)
            return self.pools[language]

    async def run(
        self, program: Program, suite: Suite, limits: Limits, *, stop_at_first_failure: bool = True
    ) -> Verdict:
        """See ``Executor.run``. A language that cannot be run here is an error, never a verdict."""
        pool = await self.pool(program.language)
        return await pool.run(program, suite, limits, stop_at_first_failure=stop_at_first_failure)

    async def close(self) -> None:
        self._is_closed = True
        for language in list(self._opening):
            async with self._opening[language]:  # one that is being opened must be closed too
                if pool := self.pools.pop(language, None):
                    await pool.close()
