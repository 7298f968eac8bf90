"""The executor's worker: takes programs, gives verdicts. cluster/ turns it into a Ray actor."""

from __future__ import annotations

import time
from dataclasses import dataclass

from problems.problem import Limits
from sandbox import open_executor
from sandbox.config import SandboxConfig
from sandbox.verdict import Executor, Program, Suite, Verdict


@dataclass(frozen=True, slots=True)
class Execution:
    """One program to run.

    Attributes:
        program, suite, limits: see sandbox.verdict.Executor.
        stop_at_first_failure: False where the reward is the share of cases that pass.
        problem_id: of the problem that the program answers.
    """

    program: Program
    suite: Suite
    limits: Limits
    stop_at_first_failure: bool
    problem_id: str


@dataclass(frozen=True, slots=True)
class Executed:
    """A verdict, and when the executor had the program (seconds since the epoch, queueing in it included).

    ``set_aside``: it was not run, since its problem's programs had killed too many executors.
    """

    verdict: Verdict
    start: float
    end: float
    set_aside: bool = False


class ExecutorWorker:
    """Runs programs in its own sandbox slots; calls beyond the slots wait here, which is not the candidate's time."""

    def __init__(self, config: SandboxConfig) -> None:
        self._config = config
        self._executor: Executor | None = None

    async def start(self) -> None:
        """Opens the sandbox and warms its slots. Raises SandboxError with the way out."""
        self._executor = await open_executor(self._config)

    async def run(self, work: Execution) -> Executed:
        """Never raises for what a program does."""
        assert self._executor is not None, "start() comes first"
        start = time.time()
        verdict = await self._executor.run(
            work.program, work.suite, work.limits, stop_at_first_failure=work.stop_at_first_failure
        )
        return Executed(verdict, start, time.time())

    async def check_health(self) -> None:
        """Answers while the worker can take work."""

    async def close(self) -> None:
        """Ends the sandbox's containers and processes."""
        if self._executor is not None:
            await self._executor.close()
