"""The controller, with stand-ins for everything that is slow: order, bound, overlap, failing parts."""

import asyncio
import itertools

import pytest

from cluster.controller import Controller, StepInput, shuffled_rewards
from cluster.errors import ActorError
from cluster.rollout import Group
from cluster.stream import Draw, ProblemStream
from learner.trajectory import RewardEvent, Trajectory
from problems.identity import TrajectoryId, WeightsVersion
from problems.problem import CompletionStyle, FunctionSuite, Problem


def make_problem(name: str) -> Problem:
    suite = FunctionSuite(("f",), "", ("assert f(1) == 1",))
    return Problem(name, "python", "def f(x):\n", CompletionStyle.CONTINUE, {"main": suite})


class Bench:
    """Records what the controller asks for. ``delay`` gives a group's seconds by its position."""

    def __init__(self, *, num_steps: int, prompts_per_step: int, max_staleness: int, delay=lambda _: 0.0) -> None:
        self.pushed = 0
        self.sampled_at: dict[int, int] = {}
        self.trained: list[list[int]] = []
        self.staleness: list[int] = []
        self.events: list[tuple[str, int]] = []
        self.delay = delay
        self.controller = Controller(
            stream=ProblemStream([make_problem(f"p{i}") for i in range(5)], seed=3),
            produce=self.produce,
            train=self.train,
            push=self.push,
            done=self.done,
            prompts_per_step=prompts_per_step,
            num_steps=num_steps,
            max_staleness=max_staleness,
            group_timeout_s=5.0,
        )

    async def produce(self, draw: Draw, position: int) -> Group:
        self.sampled_at[position] = self.pushed
        self.events.append(("sample", position))
        await asyncio.sleep(self.delay(position))
        self.events.append(("sampled", position))
        return Group(position, draw.problem, ())

    async def train(self, step_input: StepInput) -> None:
        positions = [group.index for group in step_input.groups]
        self.trained.append(positions)
        self.staleness += [step_input.step - self.sampled_at[position] for position in positions]
        self.events.append(("train", step_input.step))
        await asyncio.sleep(0.02)
        self.events.append(("trained", step_input.step))

    async def push(self, version: WeightsVersion) -> None:
        self.pushed = version.step

    async def done(self, step_input: StepInput, version: WeightsVersion) -> None:
        assert version.step == step_input.step + 1


async def test_every_place_of_the_stream_is_trained_once_and_in_order() -> None:
    bench = Bench(num_steps=4, prompts_per_step=3, max_staleness=2, delay=lambda position: 0.01 * (position % 3))
    last = await bench.controller.run(WeightsVersion(7, 0))
    assert last == WeightsVersion(7, 4)
    assert bench.trained == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


async def test_without_staleness_groups_are_sampled_by_the_weights_that_they_train() -> None:
    bench = Bench(num_steps=4, prompts_per_step=2, max_staleness=0)
    await bench.controller.run(WeightsVersion(0, 0))
    assert set(bench.staleness) == {0}


@pytest.mark.parametrize("bound", [1, 3])
async def test_the_staleness_bound_is_reached_and_never_broken(bound: int) -> None:
    bench = Bench(num_steps=8, prompts_per_step=2, max_staleness=bound, delay=lambda position: 0.03 * (position == 4))
    await bench.controller.run(WeightsVersion(0, 0))
    assert max(bench.staleness) == bound


async def test_the_slowest_group_of_a_step_is_waited_for_and_not_overtaken() -> None:
    bench = Bench(num_steps=3, prompts_per_step=2, max_staleness=2, delay=lambda position: 0.2 * (position == 0))
    await bench.controller.run(WeightsVersion(0, 0))
    assert bench.trained[0] == [0, 1]
    assert bench.events.index(("sampled", 3)) < bench.events.index(("sampled", 0))


async def test_training_overlaps_sampling_where_the_bound_allows_and_only_there() -> None:
    def overlaps(bench: Bench) -> bool:
        inside = False
        for what, _ in bench.events:
            inside = what == "train" or (inside and what != "trained")
            if inside and what in {"sample", "sampled"}:
                return True
        return False

    asynchronous = Bench(num_steps=4, prompts_per_step=2, max_staleness=1, delay=lambda _: 0.015)
    await asynchronous.controller.run(WeightsVersion(0, 0))
    synchronous = Bench(num_steps=4, prompts_per_step=2, max_staleness=0, delay=lambda _: 0.015)
    await synchronous.controller.run(WeightsVersion(0, 0))
    assert overlaps(asynchronous)
    assert not overlaps(synchronous)


async def test_a_resumed_run_asks_for_the_places_that_were_not_trained() -> None:
    bench = Bench(num_steps=4, prompts_per_step=3, max_staleness=0)
    bench.pushed = 2
    await bench.controller.run(WeightsVersion(1, 2))
    assert bench.trained == [[6, 7, 8], [9, 10, 11]]


async def test_a_failing_group_stops_the_run_with_its_own_error_and_gives_up_the_rest() -> None:
    bench = Bench(num_steps=2, prompts_per_step=4, max_staleness=1, delay=lambda _: 10.0)

    async def produce(draw: Draw, position: int) -> Group:
        if position == 1:
            raise ActorError("generator-0 died while it sampled")
        return await bench.produce(draw, position)

    bench.controller._produce = produce
    with pytest.raises(ActorError, match="generator-0 died"):
        await bench.controller.run(WeightsVersion(0, 0))
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


async def test_a_group_that_does_not_end_is_an_error_that_names_its_problem() -> None:
    bench = Bench(num_steps=1, prompts_per_step=1, max_staleness=0, delay=lambda _: 10.0)
    bench.controller._group_timeout_s = 0.05
    with pytest.raises(ActorError, match=r"nothing has come of 1 groups for 0.05 s .* that of problem 'p\d'"):
        await bench.controller.run(WeightsVersion(0, 0))


@pytest.mark.parametrize("sign", ["answered", "is_missing"])
async def test_a_group_that_takes_long_is_no_error_while_something_comes_or_somebody_is_replaced(sign: str) -> None:
    bench = Bench(num_steps=1, prompts_per_step=1, max_staleness=0, delay=lambda _: 0.6)
    bench.controller._group_timeout_s = 0.1
    count = itertools.count()
    setattr(bench.controller, f"_{sign}", lambda: next(count) if sign == "answered" else True)
    assert (await bench.controller.run(WeightsVersion(0, 0))).step == 1


def test_shuffled_rewards_keep_the_rewards_and_lose_their_owners() -> None:
    trajectories = [
        Trajectory(TrajectoryId("r", "s", 0, f"p{i}", 0), i, (), (RewardEvent("t", float(i)),)) for i in range(50)
    ]
    broken = Trajectory(TrajectoryId("r", "s", 0, "p50", 0), 50, (), drop_reason="infrastructure")
    groups = [[*trajectories[:25], broken], trajectories[25:]]
    shuffled = shuffled_rewards(groups, seed=1, step=0)
    assert [[t.id for t in group] for group in shuffled] == [[t.id for t in group] for group in groups]
    assert shuffled[0].pop() == broken
    flat = [trajectory for group in shuffled for trajectory in group]
    assert sorted(t.reward for t in flat) == [float(i) for i in range(50)]
    assert sum(a.reward == b.reward for a, b in zip(flat, trajectories, strict=True)) < 10
    assert shuffled[1] == shuffled_rewards(groups, seed=1, step=0)[1]
    assert shuffled[1] != shuffled_rewards(groups, seed=1, step=1)[1]
