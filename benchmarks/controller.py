"""The controller and its weight push: what they add to the work that they organise.

python -m benchmarks.controller            the arms that are missing; names after it choose some

``stages``  Controller, pools and Ray as they are; sampling, execution and training are sleeps of known length. Three
            times, each with another stage as the slowest: completions a second over what that stage alone could do.
``actors``  Trajectories of 16,384 tokens from generator actors through the driver into a trainer actor, with 1 to 32
            generators that answer at once: how many a second, and the CPU time of one.
``pause``   A vLLM engine with 100M float32 parameters and requests in flight: how much later than usual the next token
            of a watched one comes when weights are pushed, against how long the loading alone takes, with the KV cache
            kept and recomputed; the trainer writes the weights before.

The actors are the stand-ins of tests/. Each figure stands beside the load of the machine; CPU time is that of the whole
machine where it says so, since Ray's processes are many.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import ray

from actors.config import GeneratorConfig
from actors.executor import Executed, Execution
from actors.generator import GenerationRequest, Generator
from benchmarks.experiment import machine_cpu_s, run_missing
from cluster.actor_config import ExecutorsConfig, GeneratorsConfig
from cluster.background import background
from cluster.controller import Controller, StepInput
from cluster.executor_pool import ExecutorPool
from cluster.generator_pool import Generated, GeneratorPool
from cluster.journal import JournalEntry
from cluster.presence import Present
from cluster.rollout import Group
from cluster.session import end_actor, start_actor
from cluster.stream import Draw, ProblemStream
from learner.trajectory import Trajectory, Turn
from problems.identity import TrajectoryId, WeightsVersion
from problems.problem import CompletionStyle, FunctionSuite, Limits, Problem
from sandbox.config import SandboxConfig
from sandbox.verdict import Outcome, Program, Verdict
from tests.patient_ray import be_patient
from tests.stand_in_engine import StandInConfig, StandInGenerator

L0 = WeightsVersion(0, 0)
SAMPLES = 4
SUITE = FunctionSuite(("f",), "", ("assert f(1) == 1",))
PROBLEMS = [Problem(f"p{i}", "python", "def f(x):\n", CompletionStyle.CONTINUE, {"main": SUITE}) for i in range(64)]


@dataclass(frozen=True, slots=True)
class Stages:
    """Seconds of each stage, and how many of it run at once."""

    sample_s: float
    generators: int
    sequences: int
    execute_s: float
    slots: int
    train_s: float
    prompts_per_step: int = 8

    def rates(self) -> dict[str, float]:
        """Completions a second that each stage could do by itself."""
        return {
            "sampling": self.generators * self.sequences / self.sample_s,
            "execution": self.slots / self.execute_s,
            "training": self.prompts_per_step * SAMPLES / self.train_s,
        }


# Sampling 20, execution 40, training 40 a second; then each other stage the slow one.
SETTINGS = {
    "sampling": Stages(sample_s=0.8, generators=2, sequences=8, execute_s=0.2, slots=8, train_s=0.8),
    "execution": Stages(sample_s=0.4, generators=2, sequences=8, execute_s=0.4, slots=8, train_s=0.8),
    "training": Stages(sample_s=0.4, generators=2, sequences=8, execute_s=0.2, slots=8, train_s=1.6),
}
WARM_STEPS, STEPS = 4, 24


class SleepingGenerator(StandInGenerator, Present):
    """Every completion takes ``sample_s`` seconds, and has as many tokens as it may have."""

    sample_s = 0.0

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__(StandInConfig(mean_tokens=1e12, max_num_seqs=config.max_num_seqs))

    async def stream_group(self, who: str, requests: Sequence[GenerationRequest]) -> AsyncIterator[Generated]:
        start = time.time()
        async for result in self.generate_group(requests):
            yield Generated(result, who, start, time.time())

    async def _sample(self, request: GenerationRequest, key: str) -> Turn:
        if self.sample_s:
            await asyncio.sleep(self.sample_s)
        return await super()._sample(request, key)


class SleepingExecutor(Present):
    """Every program takes ``execute_s`` in one of the slots, and passes."""

    execute_s = 0.0

    def __init__(self, config: SandboxConfig) -> None:
        self._slots = asyncio.Semaphore(config.slots)

    async def start(self) -> None: ...

    async def run(self, work: Execution) -> Executed:
        start = time.time()
        async with self._slots:
            await asyncio.sleep(self.execute_s)
        verdict = Verdict(Outcome.PASSED, num_cases=len(work.suite.cases), wall_s=self.execute_s)
        return Executed(verdict, start, time.time())

    async def check_health(self) -> None: ...

    async def close(self) -> None: ...


class SleepingTrainer:
    """Takes the groups of a step, counts their tokens and sleeps."""

    def __init__(self, train_s: float) -> None:
        self._train_s = train_s

    def step(self, groups: list[list[Trajectory]]) -> int:
        time.sleep(self._train_s)
        return sum(trajectory.num_completion_tokens for group in groups for trajectory in group)


@asynccontextmanager
async def generator_pool(count: int, max_num_seqs: int, sample_s: float) -> AsyncIterator[GeneratorPool]:
    """Started and watched."""
    engine = GeneratorConfig(max_num_seqs=max_num_seqs)
    kind = type("TimedGenerator", (SleepingGenerator,), {"sample_s": sample_s})
    pool = GeneratorPool(GeneratorsConfig(count=count, engine=engine, start_timeout_s=600.0), kind=kind)
    await pool.start(Path("none"), L0)
    try:
        async with background(pool.roster.watch):
            yield pool
    finally:
        await pool.stop()


def requests_of(draw: Draw, max_tokens: int) -> list[GenerationRequest]:
    prompt = np.arange(16, dtype=np.int32)
    return [
        GenerationRequest(TrajectoryId("r", "s", draw.epoch, draw.problem.id, index), prompt, max_tokens)
        for index in range(SAMPLES)
    ]


async def measure_stages(stages: Stages) -> dict[str, Any]:
    """One setting: the loop of a ppo stage from the problem stream to the push, without a sandbox and a learner."""
    trainer = start_actor(SleepingTrainer, stages.train_s, num_cpus=0)
    ends: list[float] = []
    programs = iter(range(10**9))
    kind = type("TimedExecutor", (SleepingExecutor,), {"execute_s": stages.execute_s})
    config = ExecutorsConfig(count=1, sandbox=SandboxConfig(slots=stages.slots), start_timeout_s=600.0)
    executors = ExecutorPool(config, kind=kind)

    async def execute(draw: Draw, generated: Generated) -> JournalEntry:
        program = Program("python", f"# {next(programs)}".encode())  # distinct: the pool remembers equal ones
        work = Execution(program, SUITE, Limits(), stop_at_first_failure=True, problem_id=draw.problem.id)
        executed = await executors.run(work)
        trajectory = Trajectory(generated.result.id, 0, (generated.result.turn,))
        return JournalEntry(trajectory, outcome=executed.verdict.outcome)

    async def produce(draw: Draw, position: int) -> Group:
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(execute(draw, generated)) async for generated in pool.stream(requests_of(draw, 16))
            ]
        return Group(position, draw.problem, tuple(task.result() for task in running))

    async def train(step_input: StepInput) -> None:
        await trainer.step.remote([[entry.trajectory for entry in group.entries] for group in step_input.groups])

    async def push(version: WeightsVersion) -> None:
        await pool.push({"version": str(version)}, version)

    async def done(step_input: StepInput, version: WeightsVersion) -> None:  # noqa: ARG001
        ends.append(time.monotonic())

    await executors.start()
    async with generator_pool(stages.generators, stages.sequences, stages.sample_s) as pool:
        await Controller(
            stream=ProblemStream(PROBLEMS, seed=1),
            produce=produce,
            train=train,
            push=push,
            done=done,
            prompts_per_step=stages.prompts_per_step,
            num_steps=WARM_STEPS + STEPS,
            max_staleness=2,
            group_timeout_s=600.0,
        ).run(L0)
    await executors.stop()
    end_actor(trainer)
    seconds = ends[-1] - ends[WARM_STEPS - 1]
    rates = stages.rates()
    slowest = min(rates, key=lambda name: rates[name])
    reached = STEPS * stages.prompts_per_step * SAMPLES / seconds
    return {
        "slowest": slowest,
        "alone_per_s": rates[slowest],
        "reached_per_s": reached,
        "share": reached / rates[slowest],
    }


def stages_arm() -> dict[str, Any]:
    with local_ray(num_cpus=8, sandbox=1):
        settings = {name: asyncio.run(measure_stages(stages)) for name, stages in SETTINGS.items()}
    return {"settings": settings, "target": 0.95}


COUNTS = (1, 2, 4, 8, 16, 32)
TOKENS = 16_384
TRAJECTORIES = 1200
GROUPS_AT_ONCE = 16


async def measure_actors(count: int) -> dict[str, float]:
    """A closed loop of groups through the pool; every eight of them go to the trainer together."""
    trainer = start_actor(SleepingTrainer, 0.0, num_cpus=0)
    places = iter(range(10**9))
    stream = ProblemStream(PROBLEMS, seed=1)
    arrived: list[list[Trajectory]] = []
    received = 0

    async def worker(pool: GeneratorPool, limit: int) -> None:
        nonlocal received
        while (place := next(places)) * SAMPLES < limit:
            draw = replace(stream.at(place), position=place)
            turns = [generated.result async for generated in pool.stream(requests_of(draw, TOKENS))]
            arrived.append([Trajectory(result.id, place, (result.turn,)) for result in turns])
            if len(arrived) == 8:
                batch, arrived[:] = list(arrived), []
                received += await trainer.step.remote(batch)

    async def run(pool: GeneratorPool, limit: int) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(GROUPS_AT_ONCE):
                tasks.create_task(worker(pool, limit))

    async with generator_pool(count, 64, 0.0) as pool:
        await run(pool, 64 * count)  # every actor has answered once
        places = iter(range(10**9))
        received = 0
        own, machine, begun = psutil.Process().cpu_times(), machine_cpu_s(), time.monotonic()
        await run(pool, TRAJECTORIES)
        seconds, machine = time.monotonic() - begun, machine_cpu_s() - machine
        now = psutil.Process().cpu_times()
    end_actor(trainer)
    driver = now.user + now.system - own.user - own.system
    return {
        "generators": count,
        "per_s": TRAJECTORIES / seconds,
        "driver_cpu_ms": driver / TRAJECTORIES * 1e3,
        "machine_cpu_ms": machine / TRAJECTORIES * 1e3,
        "tokens_received": received,
    }


def actors_arm() -> dict[str, Any]:
    """The machine's CPU time holds what other work it has: compare it only on a quiet one."""
    with local_ray(num_cpus=64, sandbox=1):
        points = [asyncio.run(measure_actors(count)) for count in COUNTS]
    cost = [point["driver_cpu_ms"] for point in points]
    return {"points": points, "tokens": TOKENS, "target_per_s": 150, "spread": max(cost) / min(cost) - 1}


PUSHES = 7


async def measure_pause(folder: Path, kv: Literal["keep", "recompute"]) -> dict[str, Any]:
    """Requests in flight throughout; each push is published, verified, and then loaded."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from actors.weights import ShmSender, bucketed

    torch.set_num_threads(1)
    shape = LlamaConfig(
        vocab_size=16_000,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=11,
        num_attention_heads=12,
        tie_word_embeddings=False,
        max_position_embeddings=2048,
    )
    model = LlamaForCausalLM(shape).eval()
    model.save_pretrained(folder)
    generator = Generator(GeneratorConfig(dtype="float32", max_model_len=2048, max_num_seqs=8, kv=kv))
    await generator.start_engine(str(folder), L0)
    sender = ShmSender(f"benchmark-{kv}")
    prompt = np.arange(5, 21, dtype=np.int32)
    requests = [GenerationRequest(TrajectoryId("r", "s", 0, f"p{i}", 0), prompt, 2000) for i in range(3)]
    in_flight = [asyncio.create_task(generator.generate(request)) for request in requests]
    tokens: list[float] = []
    watched = asyncio.create_task(_watch(generator, prompt.tolist(), tokens))
    await asyncio.sleep(3.0)
    rows: list[dict[str, float]] = []
    version = L0
    for _ in range(PUSHES):
        version = version.next()
        begun = time.monotonic()
        ticket = await asyncio.to_thread(sender.publish, version, bucketed(model.named_parameters()))
        written = time.monotonic()
        await generator.verify(ticket)
        verified, num_before = time.monotonic(), len(tokens)
        await generator.start(version)
        started = time.monotonic()
        await generator.update(ticket)
        loaded = time.monotonic()
        await generator.finish(version)
        finished, num_then = time.monotonic(), len(tokens)
        while len(tokens) < num_then + 8:  # a cache that is recomputed takes its time
            await asyncio.sleep(0.05)
        usual = statistics.median(np.diff(tokens[-5:]))  # after the push: nothing of the trainer's runs beside it
        rows.append(
            {
                "write_ms": 1e3 * (written - begun),
                "verify_ms": 1e3 * (verified - written),
                "start_ms": 1e3 * (started - verified),
                "load_ms": 1e3 * (loaded - started),
                "finish_ms": 1e3 * (finished - loaded),
                "token_ms": 1e3 * usual,
                "pause_ms": 1e3 * (max(np.diff(tokens[num_before - 1 :])) - usual),
            }
        )
    assert not any(task.done() for task in (*in_flight, watched)), "nothing was in flight: this shows nothing"
    watched.cancel()
    await generator.abort([request.id for request in requests])
    spans = [len((await task).turn.spans) for task in in_flight]
    await generator.shutdown()
    sender.close()
    medians = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    over = statistics.median(row["pause_ms"] - row["load_ms"] for row in rows)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {**medians, "pause_over_load_ms": over, "pushes": rows, "parameters": parameters, "spans": spans}


async def _watch(generator: Generator, prompt_ids: list[int], times: list[float]) -> None:
    """When each token of one request came."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    parameters = SamplingParams(max_tokens=2000, ignore_eos=True, detokenize=False, output_kind=RequestOutputKind.DELTA)
    prompt: Any = {"type": "token", "prompt_token_ids": prompt_ids}
    async for _ in generator._engine._llm.generate(prompt, parameters, "watched"):
        times.append(time.monotonic())


def pause_arm() -> dict[str, Any]:
    from actors.engine import engine_environment

    os.environ.update(engine_environment("cpu"))
    measured: dict[str, Any] = {"target_ms": 50}
    for kv in ("keep", "recompute"):
        with tempfile.TemporaryDirectory() as folder:
            measured[kv] = asyncio.run(measure_pause(Path(folder), kv))
    return measured


_URGENT = {"worker_niceness": 0}  # as in a cluster that `crucible run` starts


class local_ray:  # noqa: N801 (a context manager used as a function)
    """A cluster of our own on this machine."""

    def __init__(self, num_cpus: int, sandbox: int) -> None:
        be_patient()
        self._options = {"num_cpus": num_cpus, "resources": {"sandbox": sandbox}, "_system_config": _URGENT}

    def __enter__(self) -> None:
        path = {"env_vars": {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}}
        ray.init(address="local", include_dashboard=False, log_to_driver=False, runtime_env=path, **self._options)

    def __exit__(self, *_: object) -> None:
        ray.shutdown()


def timed(arm: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """With the load of the machine before, and the wall time."""

    def run() -> dict[str, Any]:
        load, begun = os.getloadavg()[0], time.monotonic()
        return arm() | {"load_before": round(load, 1), "wall_s": round(time.monotonic() - begun, 1)}

    return run


ARMS = {name: timed(arm) for name, arm in (("stages", stages_arm), ("actors", actors_arm), ("pause", pause_arm))}

if __name__ == "__main__":
    run_missing("controller", ARMS)
    sys.exit(0)
