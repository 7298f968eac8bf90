"""Controller and generators with simulated times: throughput, staleness, and that what is long is trained as often."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.generator import GenerationRequest
from cluster.actor_config import GeneratorsConfig, SupervisionConfig
from cluster.controller import Controller, StepInput
from cluster.generator_pool import GeneratorPool
from cluster.journal import JournalEntry
from cluster.rollout import Group
from cluster.stream import Draw, ProblemStream
from learner.trajectory import Trajectory
from problems.identity import TrajectoryId, WeightsVersion
from problems.problem import CompletionStyle, FunctionSuite, Problem
from tests.cluster.fake_actors import Cluster, watched
from tests.stand_in_engine import StandInConfig, StandInGenerator
from tests.virtual_time import run_virtually

SAMPLES = 4
MAX_TOKENS = 400
LONG_TAIL = StandInConfig(tokens_per_s=50.0, mean_tokens=60.0, max_num_seqs=8, load_s=0.2)
L0 = WeightsVersion(0, 0)


def requests_of(draw: Draw) -> list[GenerationRequest]:
    prompt = np.frombuffer(draw.problem.id.encode(), np.uint8).astype(np.int32)
    return [
        GenerationRequest(TrajectoryId("r", "s", draw.epoch, draw.problem.id, index), prompt, MAX_TOKENS)
        for index in range(SAMPLES)
    ]


def stream() -> ProblemStream:
    suite = FunctionSuite(("f",), "", ("assert f(1) == 1",))
    return ProblemStream(
        [Problem(f"p{i}", "python", "def f(x):\n", CompletionStyle.CONTINUE, {"main": suite}) for i in range(40)],
        seed=3,
    )


class Simulation:
    """A ppo stage without executors and trainer; ``trained`` holds (step, trajectory)."""

    def __init__(self, pool: GeneratorPool, *, num_steps: int, prompts_per_step: int, max_staleness: int) -> None:
        self.pool = pool
        self.trained: list[tuple[int, Trajectory]] = []
        self.step_ends: list[float] = []
        self.controller = Controller(
            stream=stream(),
            produce=self.produce,
            train=self.train,
            push=self.push,
            done=self.done,
            prompts_per_step=prompts_per_step,
            num_steps=num_steps,
            max_staleness=max_staleness,
            group_timeout_s=1e6,
        )

    async def produce(self, draw: Draw, position: int) -> Group:
        results = [generated.result async for generated in self.pool.stream(requests_of(draw))]
        entries = tuple(JournalEntry(Trajectory(result.id, position, (result.turn,))) for result in results)
        return Group(position, draw.problem, entries)

    async def train(self, step_input: StepInput) -> None:
        self.trained += [(step_input.step, entry.trajectory) for group in step_input.groups for entry in group.entries]
        await asyncio.sleep(0.5)

    async def push(self, version: WeightsVersion) -> None:
        await self.pool.push({"version": str(version)}, version)

    async def done(self, step_input: StepInput, version: WeightsVersion) -> None:  # noqa: ARG002
        self.step_ends.append(asyncio.get_running_loop().time())

    async def run(self) -> None:
        await self.pool.start(Path("m"), L0)
        async with watched(self.pool.roster):
            await self.controller.run(L0)

    def staleness(self) -> list[int]:
        return [step - trajectory.oldest_version.step for step, trajectory in self.trained]


def simulate(monkeypatch: pytest.MonkeyPatch, engines: Any, count: int, **settings: int) -> Simulation:
    cluster = Cluster(monkeypatch, lambda n: StandInGenerator(engines(n)))

    async def run() -> Simulation:
        pool = GeneratorPool(GeneratorsConfig(count=count), SupervisionConfig(), cluster.report)
        simulation = Simulation(pool, **settings)
        await simulation.run()
        return simulation

    return run_virtually(run(), monkeypatch)


def lengths_of_the_stream(num_places: int) -> dict[str, int]:
    """Tokens of what the stand-in samples for the first places, whoever samples it and however long that takes."""
    engine = StandInGenerator(LONG_TAIL)
    requests = [request for place in range(num_places) for request in requests_of(stream().at(place))]
    return {str(request.id): len(engine._whole_completion(request)[0]) for request in requests}


@pytest.mark.parametrize("max_staleness", [1, 3])
def test_what_is_long_is_trained_as_often_as_it_is_generated(monkeypatch, max_staleness: int) -> None:
    simulation = simulate(
        monkeypatch, lambda _: LONG_TAIL, 2, num_steps=20, prompts_per_step=6, max_staleness=max_staleness
    )
    generated = lengths_of_the_stream(20 * 6)
    trained = Counter(str(trajectory.id) for _, trajectory in simulation.trained)
    assert trained == Counter(generated.keys())
    lengths = {str(trajectory.id): trajectory.num_completion_tokens for _, trajectory in simulation.trained}
    assert lengths == generated
    assert max(lengths.values()) > 4 * np.mean(list(lengths.values())), "the tail is not long: this shows nothing"
    # Nor are the short ones trained first: the steps' lengths are those of their own places in the stream.
    by_step = [sorted(t.num_completion_tokens for step, t in simulation.trained if step == at) for at in range(20)]
    own = list(generated.values())
    assert by_step == [sorted(own[at * 6 * SAMPLES : (at + 1) * 6 * SAMPLES]) for at in range(20)]
    assert max(simulation.staleness()) == max_staleness
    assert min(simulation.staleness()) >= 0


def test_a_bound_of_one_with_one_very_slow_generator_neither_breaks_nor_stops_the_run(monkeypatch) -> None:
    def engines(index: int) -> StandInConfig:
        return StandInConfig(tokens_per_s=1.0 if index == 0 else 50.0, mean_tokens=60.0, max_num_seqs=8, load_s=0.2)

    simulation = simulate(monkeypatch, engines, 3, num_steps=12, prompts_per_step=6, max_staleness=1)
    assert len(simulation.step_ends) == 12
    assert set(simulation.staleness()) <= {0, 1}
    assert len({str(trajectory.id) for _, trajectory in simulation.trained}) == 12 * 6 * SAMPLES
    versions = {len(turn.spans) for _, trajectory in simulation.trained for turn in trajectory.turns}
    assert max(versions) > 1, "no request was in flight over a push: this shows nothing"


def test_scaling_from_one_to_four_to_two_scales_the_throughput_and_loses_nothing(monkeypatch) -> None:
    """A closed loop of groups; completions a second, each time from 5 s after the scaling on."""
    engine = StandInConfig(tokens_per_s=400.0, mean_tokens=60.0, max_num_seqs=4)
    cluster = Cluster(monkeypatch, lambda _: StandInGenerator(engine))
    finished: list[tuple[float, TrajectoryId]] = []
    places = iter(range(10**6))
    asked = 0

    async def worker(pool: GeneratorPool) -> None:
        nonlocal asked
        loop = asyncio.get_running_loop()
        while loop.time() < 105.0:
            asked += 1
            async for generated in pool.stream(requests_of(stream_.at(next(places)))):
                finished.append((loop.time(), generated.result.id))

    async def run() -> GeneratorPool:
        pool = GeneratorPool(GeneratorsConfig(count=1), SupervisionConfig(leave_timeout_s=5.0), cluster.report)
        await pool.start(Path("m"), L0)
        async with watched(pool.roster), asyncio.TaskGroup() as tasks:
            for _ in range(16):
                tasks.create_task(worker(pool))
            await asyncio.sleep(35.0)
            pool.scale(4)
            await asyncio.sleep(35.0)
            pool.scale(2)
        return pool

    stream_ = stream()
    pool = run_virtually(run(), monkeypatch)
    assert len(pool.roster.serving) == 2

    def rate(start: float, end: float) -> float:
        return sum(start <= at < end for at, _ in finished) / (end - start)

    one, four, two = rate(5, 35), rate(40, 70), rate(75, 105)
    print(f"completions/s with 1, 4, 2 generators: {one:.2f} {four:.2f} {two:.2f}")
    assert 4 * 0.9 < four / one < 4 * 1.1
    assert 2 * 0.9 < two / one < 2 * 1.1
    assert len(finished) == len({identity for _, identity in finished}) == asked * SAMPLES
