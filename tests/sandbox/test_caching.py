"""Remembered verdicts: the same as those of a run, and of nothing that the machine had a part in."""

from __future__ import annotations

import asyncio

import pytest

from problems.problem import FunctionSuite, Limits
from sandbox import Outcome, Program, Verdict
from sandbox.caching import CachingExecutor
from sandbox.verdict import Suite

SUITE = FunctionSuite(("f",), "", ("assert f(1) == 2",))


class Counting:
    """An executor that gives the outcome which the source names, and counts."""

    def __init__(self) -> None:
        self.sources: list[bytes] = []

    async def run(
        self, program: Program, suite: Suite, limits: Limits, *, stop_at_first_failure: bool = True
    ) -> Verdict:
        del limits, stop_at_first_failure
        self.sources.append(program.source)
        await asyncio.sleep(0.01)
        return Verdict(Outcome(program.source.decode()), len(suite.cases))

    async def close(self) -> None:
        pass


def program(outcome: Outcome) -> Program:
    return Program("python", outcome.value.encode())


async def test_the_same_work_is_done_once() -> None:
    counting = Counting()
    executor = CachingExecutor(counting, 10)
    right = program(Outcome.PASSED)
    together = await asyncio.gather(*(executor.run(right, SUITE, Limits()) for _ in range(5)))
    later = await executor.run(right, SUITE, Limits())
    assert all(verdict == later for verdict in together)
    assert len(counting.sources) == 1
    assert (executor.num_runs, executor.num_hits) == (1, 5)


async def test_other_suites_limits_and_modes_are_other_work() -> None:
    counting = Counting()
    executor = CachingExecutor(counting, 10)
    right = program(Outcome.PASSED)
    other = FunctionSuite(("f",), "", ("assert f(1) == 3",))
    await executor.run(right, SUITE, Limits())
    await executor.run(right, other, Limits())
    await executor.run(right, SUITE, Limits(cpu_s=1.0))
    await executor.run(right, SUITE, Limits(), stop_at_first_failure=False)
    assert len(counting.sources) == 4


@pytest.mark.parametrize("outcome", [Outcome.INFRASTRUCTURE_ERROR, Outcome.TIME_LIMIT])
async def test_what_the_machine_had_a_part_in_is_run_again(outcome: Outcome) -> None:
    counting = Counting()
    executor = CachingExecutor(counting, 10)
    for _ in range(2):
        assert (await executor.run(program(outcome), SUITE, Limits())).outcome is outcome
    assert len(counting.sources) == 2


async def test_what_was_used_longest_ago_is_forgotten_first() -> None:
    counting = Counting()
    executor = CachingExecutor(counting, 2)
    first, second, third = (program(o) for o in (Outcome.PASSED, Outcome.WRONG_ANSWER, Outcome.RUNTIME_ERROR))
    for each in (first, second, first, third, first):
        await executor.run(each, SUITE, Limits())
    assert len(counting.sources) == 3
    await executor.run(second, SUITE, Limits())
    assert len(counting.sources) == 4


async def test_a_caller_that_gives_up_does_not_end_the_run_of_the_others() -> None:
    counting = Counting()
    executor = CachingExecutor(counting, 2)
    impatient = asyncio.create_task(executor.run(program(Outcome.PASSED), SUITE, Limits()))
    patient = asyncio.create_task(executor.run(program(Outcome.PASSED), SUITE, Limits()))
    await asyncio.sleep(0.001)
    impatient.cancel()
    assert (await patient).passed
    assert len(counting.sources) == 1
