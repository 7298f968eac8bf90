"""Asks whether a prefix of an answer can still become a program that passes: K completions, run by the tests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np

from actors.executor import Execution
from actors.generator import GenerationRequest
from cluster.executor_pool import ExecutorPool
from cluster.generator_pool import GeneratorPool
from cluster.rollout import MAIN_SUITE
from cluster.stage_config import SamplingConfig
from learner.trajectory import FinishReason
from problems.extraction import extract_program
from problems.identity import TrajectoryId
from problems.problem import Problem
from problems.prompting import PromptStyle, TokenBytes
from sandbox.verdict import Outcome, Program


@dataclass(frozen=True, slots=True)
class Probed:
    """What came of one prefix.

    Attributes:
        is_good: some completion of it passes; None if no completion did and a fault of ours hid what some do.
        num_completions: completions that were asked for.
    """

    is_good: bool | None
    num_completions: int


class Prober:
    """Samples completions of prefixes and runs them; any number of prefixes at once, up to a number of completions."""

    def __init__(
        self,
        generators: GeneratorPool,
        executors: ExecutorPool,
        *,
        style: PromptStyle,
        token_bytes: TokenBytes,
        sampling: SamplingConfig,
        max_in_flight: int,
    ) -> None:
        self._generators = generators
        self._executors = executors
        self._style = style
        self._token_bytes = token_bytes
        self._sampling = sampling
        self._max_in_flight = max_in_flight
        self._room = max_in_flight
        self._freed = asyncio.Condition()

    async def probe(
        self, problem: Problem, prompt_ids: Sequence[int], prefix_ids: Sequence[int], ids: Sequence[TrajectoryId]
    ) -> Probed:
        """Completes ``prompt_ids`` and ``prefix_ids`` once for each of ``ids``, until one passes.

        A prefix that leaves no token of the limit cannot be completed: it is bad, at no cost. A completion that the
        limit cuts is not run, as in training. Equal programs are run once.

        Consumes room for ``len(ids)`` completions, and gives it back as they are sampled, the last one's at its end;
        waits for it, for the generator and the executors; is unblocked by the first completion that passes, or by the
        last.
        """
        room = self._sampling.max_new_tokens - len(prefix_ids)
        if room < 1:
            return Probed(False, 0)
        prompt = np.array([*prompt_ids, *prefix_ids], np.int32)
        requests = [
            GenerationRequest(
                identity,
                prompt,
                room,
                self._sampling.temperature,
                self._style.eos_token_ids,
                (*self._style.stop, *problem.stop_strings),
            )
            for identity in ids
        ]
        return Probed(await self._any_passes(problem, prefix_ids, requests), len(ids))

    async def _any_passes(
        self, problem: Problem, prefix_ids: Sequence[int], requests: Sequence[GenerationRequest]
    ) -> bool | None:
        head = self._token_bytes.decode(prefix_ids)
        running: dict[bytes, asyncio.Task[bool | None]] = {}
        left = len(requests)
        held = min(left, self._max_in_flight)
        async with self._freed:
            await self._freed.wait_for(lambda: self._room >= held)
            self._room -= held
        try:
            async with aclosing(self._generators.stream(requests)) as stream:
                async for generated in stream:
                    # Given back one by one: a probe's longest completion must not keep the engines' other places idle.
                    # But for the last, which waits for the programs: so probes do not pile up before the executors.
                    left -= 1
                    if 0 < left < held:
                        held -= 1
                        await self._give_back(1)
                    turn = generated.result.turn
                    if turn.finish_reason is FinishReason.STOP:
                        source = extract_program(
                            problem, head + self._token_bytes.decode(turn.completion_ids.tolist())
                        ).program
                        if source not in running:
                            running[source] = asyncio.create_task(self._passes(problem, source))
                    if any(task.done() and task.result() for task in running.values()):
                        return True
            return await _first_pass(list(running.values()))
        finally:
            for task in running.values():
                task.cancel()
            await asyncio.gather(*running.values(), return_exceptions=True)
            await self._give_back(held)

    async def _give_back(self, num_places: int) -> None:
        async with self._freed:
            self._room += num_places
            self._freed.notify_all()

    async def _passes(self, problem: Problem, source: bytes) -> bool | None:
        """None: a fault of ours hides what the program does."""
        work = Execution(
            Program(problem.language, source),
            problem.suites[MAIN_SUITE],
            problem.limits,
            stop_at_first_failure=True,
            problem_id=problem.id,
        )
        verdict = (await self._executors.run(work)).verdict
        return None if verdict.outcome is Outcome.INFRASTRUCTURE_ERROR else verdict.passed


async def _first_pass(running: Sequence[asyncio.Task[bool | None]]) -> bool | None:
    """True at the first that passes; else, when all have ended, None if one is not known."""
    unknown = False
    for next_ended in asyncio.as_completed(running):
        verdict = await next_ended
        if verdict:
            return True
        unknown = unknown or verdict is None
    return None if unknown else False
