"""Whether a prefix can still be saved: what is sampled, what is run, and what a fault of ours means."""

import asyncio
from collections.abc import Sequence

import pytest

from actors.executor import Executed, Execution
from cluster.prober import Probed, Prober
from cluster.stage_config import SamplingConfig
from learner.trajectory import FinishReason
from problems.identity import TrajectoryId
from problems.prompting import PromptStyle
from sandbox.verdict import Outcome, Verdict
from tests.cluster.test_rollout import EOS, PROBLEM, PROMPT, Generators, token_bytes, verdict

STOP, LENGTH = FinishReason.STOP, FinishReason.LENGTH
RIGHT, WRONG = verdict(Outcome.PASSED, Outcome.PASSED), verdict(Outcome.WRONG_ANSWER)
BROKEN = Verdict(Outcome.INFRASTRUCTURE_ERROR, num_cases=2, detail="the engine died")


class Programs:
    """Answers by the program's text without the prompt."""

    def __init__(self, verdicts: dict[str, Verdict]) -> None:
        self.verdicts = verdicts
        self.seen: list[str] = []

    async def run(self, work: Execution) -> Executed:
        text = work.program.source.decode().removeprefix(PROMPT)
        self.seen.append(text)
        await asyncio.sleep(0)
        return Executed(self.verdicts[text], 0.0, 0.0)


def prober(generators, executors, **settings) -> Prober:
    return Prober(
        generators,
        executors,
        style=PromptStyle("plain", (EOS,)),
        token_bytes=token_bytes(),
        sampling=SamplingConfig(max_new_tokens=12),
        max_in_flight=settings.get("max_in_flight", 100),
    )


def ids(count: int) -> list[TrajectoryId]:
    return [TrajectoryId("run", "labels.probe.0.1", 0, "p", index) for index in range(count)]


async def probe(completions: Sequence[tuple[str, FinishReason]], verdicts: dict[str, Verdict], prefix: str = "ab\n"):
    generators, executors = Generators(completions), Programs(verdicts)
    made = prober(generators, executors)
    probed = await made.probe(PROBLEM, list(PROMPT.encode()), list(prefix.encode()), ids(len(completions)))
    return probed, generators, executors


async def test_a_prefix_is_good_if_any_completion_passes_and_it_is_the_whole_that_is_run() -> None:
    probed, generators, executors = await probe([("c", STOP), ("d", STOP)], {"ab\nc": WRONG, "ab\nd": RIGHT})
    assert probed == Probed(True, 2)
    assert bytes(generators.requests[0].prompt_ids.tolist()) == PROMPT.encode() + b"ab\n"
    assert {request.max_tokens for request in generators.requests} == {12 - 3}
    assert len({request.id.sampling_seed() for request in generators.requests}) == 2
    assert "ab\nd" in executors.seen


async def test_a_prefix_is_bad_if_none_does_and_equal_programs_are_run_once() -> None:
    probed, _, executors = await probe([("c", STOP), ("d", STOP), ("c", STOP)], {"ab\nc": WRONG, "ab\nd": WRONG})
    assert probed == Probed(False, 3)
    assert sorted(executors.seen) == ["ab\nc", "ab\nd"]


async def test_a_fault_of_ours_makes_a_prefix_unknown_and_never_bad_unless_another_completion_passes() -> None:
    unknown, _, _ = await probe([("c", STOP), ("d", STOP)], {"ab\nc": BROKEN, "ab\nd": WRONG})
    assert unknown == Probed(None, 2)
    good, _, _ = await probe([("c", STOP), ("d", STOP)], {"ab\nc": BROKEN, "ab\nd": RIGHT})
    assert good == Probed(True, 2)


async def test_a_completion_that_the_limit_cuts_is_not_run() -> None:
    probed, _, executors = await probe([("c", LENGTH)], {})
    assert probed == Probed(False, 1)
    assert executors.seen == []


async def test_a_prefix_as_long_as_the_limit_is_bad_at_no_cost() -> None:
    probed, generators, _ = await probe([("c", STOP)], {}, prefix="x" * 12)
    assert probed == Probed(False, 0)
    assert generators.requests == []


@pytest.mark.parametrize(("max_in_flight", "together"), [(4, 1), (8, 2), (2, 1)])
async def test_no_more_completions_are_in_flight_than_are_allowed(max_in_flight: int, together: int) -> None:
    class Slow:
        running = most = 0

        async def stream(self, _requests):
            Slow.running += 1
            Slow.most = max(Slow.most, Slow.running)
            await asyncio.sleep(0.01)
            Slow.running -= 1
            for generated in ():
                yield generated

    made = prober(Slow(), Programs({}), max_in_flight=max_in_flight)
    await asyncio.gather(*(made.probe(PROBLEM, [1], [2], ids(4)) for _ in range(6)))
    assert Slow.most == together


async def test_a_completion_that_is_sampled_makes_room_for_another_probe_at_once() -> None:
    """Of four places three are free again while the fourth completion goes on; a fifth place there never is."""
    goes_on, begun = asyncio.Event(), list[int]()

    class OneIsLong(Generators):
        async def stream(self, requests):
            begun.append(len(requests))
            self.completions = [("c", LENGTH)] * len(requests)
            async for generated in super().stream(requests):
                if generated.result.id == requests[0].id:  # which comes last
                    await goes_on.wait()
                yield generated

    made = prober(OneIsLong([]), Programs({}), max_in_flight=4)
    first, of_three, of_one = (
        asyncio.create_task(made.probe(PROBLEM, [1], list(b"ab\n"), ids(count))) for count in (4, 3, 1)
    )
    await asyncio.sleep(0.05)
    assert not first.done()
    assert begun == [4, 3, 1]  # the third began when one of the second's was sampled
    goes_on.set()
    assert await asyncio.gather(first, of_three, of_one) == [Probed(False, 4), Probed(False, 3), Probed(False, 1)]
    assert made._room == 4


async def test_with_room_for_one_probe_the_next_begins_when_the_programs_of_the_first_have_been_run() -> None:
    judged, begun = asyncio.Event(), list[int]()

    class Begun(Generators):
        async def stream(self, requests):
            begun.append(len(requests))
            async for generated in super().stream(requests):
                yield generated

    class Slow(Programs):
        async def run(self, work: Execution) -> Executed:
            await judged.wait()
            return await super().run(work)

    made = prober(Begun([("c", STOP)] * 2), Slow({"ab\nc": WRONG}), max_in_flight=2)
    asked = [asyncio.create_task(made.probe(PROBLEM, list(PROMPT.encode()), list(b"ab\n"), ids(2))) for _ in range(2)]
    await asyncio.sleep(0.05)
    assert begun == [2]
    judged.set()
    assert await asyncio.gather(*asked) == [Probed(False, 2)] * 2
    assert begun == [2, 2]


async def test_the_first_that_passes_ends_the_probe() -> None:
    closed = []

    class Endless(Generators):
        async def stream(self, requests):
            try:
                async for generated in super().stream(requests):
                    yield generated
                    await asyncio.sleep(0.01)
                await asyncio.sleep(60)
            finally:
                closed.append(True)

    generators = Endless([("c", STOP), ("d", STOP)])
    asked = prober(generators, Programs({"ab\nc": RIGHT, "ab\nd": RIGHT})).probe(PROBLEM, [1], list(b"ab\n"), ids(2))
    assert await asyncio.wait_for(asked, 5) == Probed(True, 2)
    assert closed == [True]
