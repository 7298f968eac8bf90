"""Pools over actors that are plain objects: what is replaced, what is issued again, who is blamed. No Ray, no time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ObjectStoreFullError

from actors.errors import EngineDiedError, WeightsCorruptedError
from actors.executor import Executed, Execution
from actors.generator import GenerationRequest
from cluster.actor_config import ExecutorsConfig, GeneratorsConfig, SupervisionConfig
from cluster.errors import ActorError
from cluster.executor_pool import ExecutorPool
from cluster.generator_pool import Generated, GeneratorPool
from cluster.nodes import versions
from cluster.presence import Presence
from cluster.relay import Relay
from problems.identity import TrajectoryId, WeightsVersion
from problems.problem import FunctionSuite, Limits
from sandbox.verdict import Isolation, Outcome, Program, Verdict
from tests.cluster.fake_actors import Cluster, until, watched
from tests.stand_in_engine import StandInConfig, StandInGenerator

QUICK = SupervisionConfig(health_every_s=0.05, health_timeout_s=0.2, restart_delay_s=0.01, leave_timeout_s=0.3)
L0 = WeightsVersion(0, 0)


def group(problem: str, num_samples: int = 4, max_tokens: int = 60) -> list[GenerationRequest]:
    prompt = np.arange(3, dtype=np.int32)
    return [
        GenerationRequest(TrajectoryId("r", "s", 0, problem, index), prompt, max_tokens) for index in range(num_samples)
    ]


async def sample(pool: GeneratorPool, requests: list[GenerationRequest]) -> dict[TrajectoryId, Generated]:
    return {generated.result.id: generated async for generated in pool.stream(requests)}


def generators(cluster: Cluster, **config: Any) -> GeneratorPool:
    return GeneratorPool(GeneratorsConfig(**config), QUICK, cluster.report)


def slow_to_load(release: asyncio.Event) -> type[StandInGenerator]:
    """An engine that is not done with the first version's weights before ``release``."""

    class SlowToLoad(StandInGenerator):
        async def update(self, ticket: dict[str, str]) -> None:
            await super().update(ticket)
            if ticket["version"] == "L0.S1":
                await release.wait()

    return SlowToLoad


class FullStore:
    """A method of an actor whose arguments find no room in the driver's object store."""

    def options(self, **_: Any) -> FullStore:
        return self

    def remote(self, *_: Any) -> Any:
        raise ObjectStoreFullError


full_store = FullStore()


async def test_what_a_dead_generator_held_is_sampled_elsewhere_with_the_same_draws(monkeypatch) -> None:
    engine = StandInConfig(tokens_per_s=400.0, mean_tokens=25.0)
    cluster = Cluster(monkeypatch, lambda _: StandInGenerator(engine))
    pool = generators(cluster, count=2)
    await pool.start(Path("m"), L0)
    undisturbed = await sample(pool, group("p", num_samples=12))
    async with watched(pool.roster):
        sampling = asyncio.create_task(sample(pool, group("p", num_samples=12)))
        await until(lambda: any(member.held for member in pool.roster.serving))
        await asyncio.sleep(0.03)
        (holder,) = [member for member in pool.roster.serving if member.held]
        holder.handle.kill()
        disturbed = await sampling
        await until(lambda: len(pool.roster.serving) == 2)
    assert disturbed.keys() == undisturbed.keys()
    for identity, one in disturbed.items():
        assert one.result.turn.completion_ids.tolist() == undisturbed[identity].result.turn.completion_ids.tolist()
    assert {generated.who for generated in disturbed.values()} - {holder.who}
    assert holder.who in cluster.reported("lost")[0]
    assert "generator-2" in {member.who for member in pool.roster.serving}
    assert all(not member.held for member in pool.roster.serving)


async def test_a_joining_generator_has_the_current_weights_before_its_first_request(monkeypatch) -> None:
    cluster = Cluster(monkeypatch, lambda _: StandInGenerator(StandInConfig()))
    pool = generators(cluster, count=1)
    await pool.start(Path("m"), L0)
    await pool.push({"version": "L0.S1"}, WeightsVersion(0, 1))
    async with watched(pool.roster):
        pool.scale(2)
        await until(lambda: len(pool.roster.serving) == 2)
    newcomer = cluster.handles[1]
    assert newcomer.actor.version == WeightsVersion(0, 1)
    assert "stream_group" not in newcomer.calls
    await pool.stop()


async def test_a_push_while_one_joins_is_not_missed_by_it(monkeypatch) -> None:
    release = asyncio.Event()

    cluster = Cluster(monkeypatch, lambda n: (slow_to_load(release) if n else StandInGenerator)(StandInConfig()))
    pool = generators(cluster, count=1)
    await pool.start(Path("m"), L0)
    await pool.push({"version": "L0.S1"}, WeightsVersion(0, 1))
    async with watched(pool.roster):
        pool.scale(2)
        await until(lambda: len(cluster.handles) == 2 and "update" in cluster.handles[1].calls)
        await pool.push({"version": "L0.S2"}, WeightsVersion(0, 2))
        assert len(pool.roster.serving) == 1
        release.set()
        await until(lambda: len(pool.roster.serving) == 2)
        assert cluster.handles[1].actor.version == WeightsVersion(0, 2)


async def test_a_generator_that_is_stuck_in_a_push_delays_nobody_and_is_replaced_by_name(monkeypatch) -> None:
    stuck = asyncio.Event()

    class Stuck(StandInGenerator):
        async def update(self, ticket: dict[str, str]) -> None:  # noqa: ARG002
            await stuck.wait()

    engine = StandInConfig(tokens_per_s=100.0, mean_tokens=1e6)
    cluster = Cluster(monkeypatch, lambda n: (Stuck if n == 0 else StandInGenerator)(engine))
    pool = generators(cluster, count=2, push_timeout_s=1.5, push_grace_s=0.2)
    await pool.start(Path("m"), L0)
    async with watched(pool.roster):
        sampling = [asyncio.create_task(sample(pool, group(name))) for name in ("p", "q")]
        await until(lambda: all(member.held for member in pool.roster.serving))
        begun = asyncio.get_running_loop().time()
        await pool.push({"version": "L0.S1"}, WeightsVersion(0, 1))
        assert asyncio.get_running_loop().time() - begun < 1.0
        assert [member.who for member in pool.roster.serving] == ["generator-1"]
        groups = await asyncio.gather(*sampling)
        assert {generated.who for one in groups for generated in one.values()} == {"generator-1"}
        await until(lambda: len(pool.roster.serving) == 2)
    assert any("generator-0 (node here" in said and "within 1.5 s" in said for said in cluster.reported("lost"))
    assert cluster.handles[0].dead.is_set()
    assert cluster.handles[2].actor.version == WeightsVersion(0, 1)


async def test_a_generator_that_was_only_late_serves_again_when_it_has_caught_up(monkeypatch) -> None:
    release = asyncio.Event()

    class Late(StandInGenerator):
        async def update(self, ticket: dict[str, str]) -> None:
            await release.wait()
            await super().update(ticket)

    cluster = Cluster(monkeypatch, lambda n: (Late if n == 0 else StandInGenerator)(StandInConfig()))
    pool = generators(cluster, count=2, push_grace_s=0.05)
    await pool.start(Path("m"), L0)
    async with watched(pool.roster):
        await pool.push({"version": "L0.S1"}, WeightsVersion(0, 1))
        await pool.push({"version": "L0.S2"}, WeightsVersion(0, 2))
        assert len(pool.roster.serving) == 1
        release.set()
        await until(lambda: len(pool.roster.serving) == 2)
    assert cluster.handles[0].actor.version == WeightsVersion(0, 2)
    assert len(cluster.handles) == 2


async def test_a_copy_to_another_node_that_fails_is_made_again_and_costs_no_generator(monkeypatch) -> None:
    cluster = Cluster(monkeypatch, lambda _: StandInGenerator(StandInConfig()))
    pool = generators(cluster, count=2)
    await pool.start(Path("m"), L0)
    asked: list[str] = []

    async def local(_: Relay, ticket: dict[str, str], node_id: str) -> dict[str, str]:
        asked.append(node_id)
        if len(asked) <= 3:
            raise ActorError("node b could not copy weights L0.S1")
        return ticket

    monkeypatch.setattr(Relay, "local", local)
    monkeypatch.setattr("cluster.generator_pool._CATCH_UP_RETRY_S", 0.01)
    await pool.push({"version": "L0.S1"}, WeightsVersion(0, 1))
    assert [handle.actor.version for handle in cluster.handles] == [WeightsVersion(0, 1)] * 2
    assert len(cluster.reported("waits for weights")) == 3
    assert "could not copy weights L0.S1" in cluster.reported("waits for weights")[0]
    assert cluster.reported("lost") == []


async def test_weights_that_every_generator_refuses_end_the_run_with_the_reason(monkeypatch) -> None:
    class Refuses(StandInGenerator):
        async def verify(self, ticket: dict[str, str]) -> None:  # noqa: ARG002
            raise WeightsCorruptedError("bucket-00000 has 3 bytes")

    cluster = Cluster(monkeypatch, lambda _: Refuses(StandInConfig()))
    pool = generators(cluster, count=2)
    await pool.start(Path("m"), L0)
    with pytest.raises(
        ActorError, match=r"generator-\d .* could not verify published weights: bucket-00000 has 3 bytes"
    ):
        await pool.push({"version": "L0.S1"}, WeightsVersion(0, 1))


async def test_the_only_generator_whose_engine_dies_in_a_push_is_replaced(monkeypatch) -> None:
    """Its actor lives and says so: that is a loss, and no refusal of the weights by all."""

    class Dying(StandInGenerator):
        async def update(self, ticket: dict[str, str]) -> None:  # noqa: ARG002
            raise EngineDiedError("the engine's process has ended")

    cluster = Cluster(monkeypatch, lambda n: (StandInGenerator if n else Dying)(StandInConfig()))
    pool = generators(cluster, count=1)
    await pool.start(Path("m"), L0)
    async with watched(pool.roster):
        await pool.push({"version": "L0.S1"}, WeightsVersion(0, 1))
        await until(lambda: [member.who for member in pool.roster.serving] == ["generator-1"])
    (why,) = cluster.reported("lost")
    assert "the engine's process has ended" in why


async def test_a_generator_that_leaves_finishes_what_it_holds_or_hands_it_back(monkeypatch) -> None:
    cluster = Cluster(monkeypatch, lambda _: StandInGenerator(StandInConfig(tokens_per_s=100.0, mean_tokens=1e6)))
    pool = generators(cluster, count=2)
    await pool.start(Path("m"), L0)
    async with watched(pool.roster):
        short, long = group("p", max_tokens=10), group("q", max_tokens=100)  # 0.1 s, and 1 s: longer than it may stay
        sampling = [asyncio.create_task(sample(pool, requests)) for requests in (short, long)]
        await until(lambda: all(member.held for member in pool.roster.serving))
        pool.roster.serving.sort(key=lambda member: member.who == "generator-1")  # as if it had joined last: it goes
        pool.scale(1)
        one, other = await asyncio.gather(*sampling)
    assert {generated.who for generated in one.values()} == {"generator-0"}
    assert len(other) == 4
    assert {generated.who for generated in other.values()} == {"generator-0"}
    assert cluster.handles[1].dead.is_set()
    assert not cluster.handles[0].dead.is_set()


async def test_scaling_back_while_others_start_ends_those_and_lets_nobody_go(monkeypatch) -> None:
    class NeverUp(StandInGenerator):
        async def start_engine(self, model_path: str, version: WeightsVersion) -> None:  # noqa: ARG002
            await asyncio.Event().wait()

    cluster = Cluster(monkeypatch, lambda n: (NeverUp if n else StandInGenerator)(StandInConfig()))
    pool = generators(cluster, count=1)
    await pool.start(Path("m"), L0)
    async with watched(pool.roster) as watch:
        pool.scale(4)
        await until(lambda: sum("start_engine" in handle.calls for handle in cluster.handles) == 4)
        pool.scale(2)
        await until(lambda: [handle.dead.is_set() for handle in cluster.handles] == [False, False, True, True])
        pool.scale(1)
        await until(lambda: cluster.handles[1].dead.is_set())
        await asyncio.sleep(3 * QUICK.health_every_s)
        assert [member.who for member in pool.roster.serving] == ["generator-0"]
        assert not watch.done()
    assert cluster.reported("leaves") == []
    assert len(cluster.handles) == 4


async def test_a_generator_that_joins_takes_its_share_of_what_waits_in_the_order_of_coming(monkeypatch) -> None:
    """Each samples 2 at a time and holds 4, one group of 4: the other 9 groups wait for whoever has room."""
    slow = StandInConfig(tokens_per_s=200.0, mean_tokens=1e6, max_num_seqs=2)
    cluster = Cluster(monkeypatch, lambda _: StandInGenerator(slow))
    pool = generators(cluster, count=1, engine={"max_num_seqs": 2})
    await pool.start(Path("m"), L0)
    ended: list[int] = []

    async def one(index: int) -> set[str]:
        results = await sample(pool, group(f"p{index}", max_tokens=10))
        ended.append(index)
        return {generated.who for generated in results.values()}

    async with watched(pool.roster):
        sampling = [asyncio.create_task(one(index)) for index in range(10)]
        await until(lambda: pool.roster.serving[0].held == 4)
        pool.scale(3)
        holders = await asyncio.gather(*sampling)
    counts = [sum(who in held for held in holders) for who in ("generator-0", "generator-1", "generator-2")]
    assert min(counts) >= 2, counts
    assert all(abs(index - place) <= 3 for place, index in enumerate(ended)), ended
    assert all(member.held == 0 for member in pool.roster.serving)


async def test_what_an_engine_gives_up_by_itself_is_sampled_elsewhere(monkeypatch) -> None:
    cluster = Cluster(monkeypatch, lambda _: StandInGenerator(StandInConfig(tokens_per_s=200.0, mean_tokens=1e6)))
    pool = generators(cluster, count=2)
    await pool.start(Path("m"), L0)
    sampling = asyncio.create_task(sample(pool, group("p")))
    await until(lambda: any(member.held for member in pool.roster.serving))
    await asyncio.sleep(0.05)
    (holder,) = [member for member in pool.roster.serving if member.held]
    await holder.handle.actor.abort([request.id for request in group("p")])
    results = await sampling
    assert [len(one.result.turn.completion_ids) for one in results.values()] == [60] * 4
    assert {one.who for one in results.values()} == {"generator-0", "generator-1"} - {holder.who}


async def test_a_generator_that_does_not_answer_is_killed_and_replaced(monkeypatch) -> None:
    class Hangs(StandInGenerator):
        async def check_health(self) -> None:
            await asyncio.Event().wait()

        async def init(self) -> None:
            pass

    cluster = Cluster(monkeypatch, lambda n: (StandInGenerator if n else Hangs)(StandInConfig()))
    pool = generators(cluster, count=1)
    await pool.start(Path("m"), L0)
    async with watched(pool.roster):
        await until(lambda: [member.who for member in pool.roster.serving] == ["generator-1"])
    assert "did not answer its health check within 0.2 s" in cluster.reported("lost")[0]


async def test_replacements_that_never_come_up_end_the_run_with_their_error(monkeypatch) -> None:
    class Broken(StandInGenerator):
        async def start_engine(self, model_path: str, version: WeightsVersion) -> None:  # noqa: ARG002
            raise RuntimeError("no such model")

    cluster = Cluster(monkeypatch, lambda n: (Broken if n else StandInGenerator)(StandInConfig()))
    pool = generators(cluster, count=1, start_timeout_s=0.05)
    await pool.start(Path("m"), L0)
    async with watched(pool.roster) as watch:
        cluster.handles[0].kill()
        with pytest.raises(ActorError, match="could not start its engine: no such model"):
            await asyncio.wait_for(watch, 20)
    assert len(cluster.handles) >= 1 + QUICK.max_failed_starts


async def test_replacements_that_fail_at_once_are_tried_for_as_long_as_a_start_may_take(monkeypatch) -> None:
    """Their engine may be on its way back."""

    class Early(StandInGenerator):
        async def start_engine(self, model_path: str, version: WeightsVersion) -> None:
            if len(cluster.handles) <= 3 * QUICK.max_failed_starts:
                raise RuntimeError("no engine answers")
            await super().start_engine(model_path, version)

    cluster = Cluster(monkeypatch, lambda n: (Early if n else StandInGenerator)(StandInConfig()))
    supervision = QUICK.model_copy(update={"max_restart_delay_s": 0.02})
    pool = GeneratorPool(GeneratorsConfig(count=1), supervision, cluster.report)
    await pool.start(Path("m"), L0)
    async with watched(pool.roster):
        cluster.handles[0].kill()
        await until(lambda: not pool.roster.serving)
        assert pool.roster.is_missing
        await until(lambda: bool(pool.roster.serving))
        assert not pool.roster.is_missing


async def test_a_push_that_is_given_up_leaves_no_update_without_an_owner(monkeypatch) -> None:
    """As where the trainer is lost in it: the next push must not meet an engine that is in the middle of this one."""
    release = asyncio.Event()

    cluster = Cluster(monkeypatch, lambda n: (StandInGenerator if n else slow_to_load(release))(StandInConfig()))
    pool = generators(cluster, count=2, push_timeout_s=5.0, push_grace_s=3.0)
    await pool.start(Path("m"), L0)
    async with watched(pool.roster):
        pushing = asyncio.create_task(pool.push({"version": "L0.S1"}, WeightsVersion(0, 1)))
        await until(lambda: "update" in cluster.handles[0].calls)
        pushing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pushing
        assert "generator-0" not in {member.who for member in pool.roster.serving}
        await pool.push({"version": "L1.S1"}, WeightsVersion(1, 1))
        release.set()
        await until(lambda: len(pool.roster.serving) == 2)
    assert {handle.actor.version for handle in cluster.handles} == {WeightsVersion(1, 1)}
    assert cluster.reported("lost") == []


async def test_a_node_with_other_versions_is_refused_in_one_sentence(monkeypatch) -> None:
    class Elsewhere(StandInGenerator):
        present = Presence("10.0.0.7/abc", 42, versions() | {"torch": "1.0"})

    cluster = Cluster(monkeypatch, lambda _: Elsewhere(StandInConfig()))
    with pytest.raises(ActorError) as refused:
        await generators(cluster, count=1).start(Path("m"), L0)
    assert str(refused.value) == (
        f"generator-0 (node 10.0.0.7/abc, process 42) has torch 1.0 and the driver {versions()['torch']}; "
        "install the same on every node"
    )
    assert cluster.handles[0].dead.is_set()


async def test_a_full_object_store_is_no_fault_of_a_generator(monkeypatch) -> None:
    cluster = Cluster(monkeypatch, lambda _: StandInGenerator(StandInConfig()))
    pool = generators(cluster, count=1)
    await pool.start(Path("m"), L0)
    monkeypatch.setattr(cluster.handles[0], "stream_group", full_store, raising=False)
    with pytest.raises(ActorError, match=r"^generator-0 .* could not sample: Ray's object store is full"):
        await sample(pool, group("p"))
    assert [member.held for member in pool.roster.serving] == [0]
    assert cluster.reported("lost") == []


# --- executors


class Sandbox:
    """An executor's worker that does to each program what the test says."""

    def __init__(self, behave: Callable[[str], Awaitable[Outcome]]) -> None:
        self._behave = behave
        self.seen: list[str] = []

    async def start(self) -> None: ...

    async def check_health(self) -> None: ...

    async def close(self) -> None: ...

    async def run(self, work: Execution) -> Executed:
        name = work.program.source.decode()
        self.seen.append(name)
        outcome = await self._behave(name)
        return Executed(Verdict(outcome, num_cases=1, detail="the engine is gone"), 1.0, 2.0)


def work(problem: str, sample: int = 0) -> Execution:
    program = Program("python", f"{problem}/{sample}".encode())
    return Execution(program, FunctionSuite(("f",), "", ("assert f(1)",)), Limits(), True, problem)


def executors(cluster: Cluster, count: int, **config: Any) -> ExecutorPool:
    settings = ExecutorsConfig(count=count, sandbox={"slots": 2}, **config)
    return ExecutorPool(settings, QUICK, cluster.report)


def sandboxes(monkeypatch: pytest.MonkeyPatch, behave: Callable[[int, str], Awaitable[Outcome]]) -> Cluster:
    return Cluster(monkeypatch, lambda n: Sandbox(lambda name: behave(n, name)))


async def test_a_problem_that_kills_three_executors_is_set_aside_and_the_others_are_not(monkeypatch) -> None:
    async def behave(index: int, name: str) -> Outcome:
        await asyncio.sleep(0.01)
        if name.startswith("poison"):
            cluster.handles[index].kill()
        return Outcome.PASSED

    cluster = sandboxes(monkeypatch, behave)
    pool = executors(cluster, 2)
    await pool.start()
    async with watched(pool.roster):
        sound = [asyncio.create_task(pool.run(work("sound", index))) for index in range(12)]
        poisoned = await asyncio.wait_for(pool.run(work("poison")), 20)
        assert [(await task).verdict.outcome for task in sound] == [Outcome.PASSED] * 12
        again = await pool.run(work("poison", 1))
        later = await pool.run(work("sound", 99))
    assert poisoned.set_aside
    assert poisoned.verdict.outcome is Outcome.INFRASTRUCTURE_ERROR
    assert again.set_aside
    assert later.verdict.outcome is Outcome.PASSED
    (reported,) = cluster.reported("set aside")
    assert reported.startswith("problem poison: its programs were in flight when executor-")
    assert sum("poison/1" in handle.actor.seen for handle in cluster.handles) == 0


async def test_a_full_object_store_is_one_sentence_and_no_executor_and_no_problem_is_blamed(monkeypatch) -> None:
    async def behave(index: int, name: str) -> Outcome:  # noqa: ARG001
        return Outcome.PASSED

    cluster = sandboxes(monkeypatch, behave)
    pool = executors(cluster, 2)
    await pool.start()
    for handle in cluster.handles:
        monkeypatch.setattr(handle, "run", full_store, raising=False)
    with pytest.raises(ActorError, match=r"^executor-0 .* could not run programs: Ray's object store is full"):
        await pool.run(work("p"))
    assert len(pool.roster.serving) == 2
    assert cluster.reported("lost") == []
    for handle in cluster.handles:
        monkeypatch.delattr(handle, "run")
    assert (await pool.run(work("p"))).verdict.outcome is Outcome.PASSED


async def test_a_fault_is_tried_once_more_on_another_executor_and_then_stands(monkeypatch) -> None:
    async def behave(index: int, name: str) -> Outcome:
        return Outcome.INFRASTRUCTURE_ERROR if name.startswith("broken") or index == 0 else Outcome.PASSED

    cluster = sandboxes(monkeypatch, behave)
    pool = executors(cluster, 2, quarantine_after=100)
    await pool.start()
    saved = await pool.run(work("p"))
    stands = await pool.run(work("broken"))
    assert saved.verdict.outcome is Outcome.PASSED
    assert stands.verdict.outcome is Outcome.INFRASTRUCTURE_ERROR
    assert not stands.set_aside
    assert [handle.actor.seen.count("broken/0") for handle in cluster.handles] == [1, 1]


async def test_an_executor_with_a_broken_engine_is_taken_out_and_nobody_is_blamed(monkeypatch) -> None:
    async def behave(index: int, name: str) -> Outcome:  # noqa: ARG001
        await asyncio.sleep(0.005)
        return Outcome.INFRASTRUCTURE_ERROR if index == 0 else Outcome.PASSED

    cluster = sandboxes(monkeypatch, behave)
    pool = executors(cluster, 2, quarantine_after=3)
    await pool.start()
    async with watched(pool.roster):
        results = await asyncio.gather(*(pool.run(work("p", index)) for index in range(20)))
        await until(lambda: len(pool.roster.serving) == 2)
    assert {result.verdict.outcome for result in results} == {Outcome.PASSED}
    assert "3 faults of its sandbox in a row: the engine is gone" in cluster.reported("lost")[0]
    assert cluster.reported("set aside") == []
    assert {member.who for member in pool.roster.serving} == {"executor-1", "executor-2"}


async def test_an_executor_that_found_another_sandbox_is_told_once(monkeypatch) -> None:
    """The engine of one node has gone: what ``auto`` opens there next is not what it was."""

    class Isolated(Sandbox):
        def __init__(self, backend: str) -> None:
            super().__init__(passes)
            self._held = Isolation(backend, "root", "hard", network=True, pid_namespace=True, seccomp=True)

        async def run(self, work: Execution) -> Executed:
            executed = await super().run(work)
            return replace(executed, verdict=replace(executed.verdict, isolation=self._held))

    async def passes(name: str) -> Outcome:  # noqa: ARG001
        return Outcome.PASSED

    cluster = Cluster(monkeypatch, lambda number: Isolated("docker" if number < 2 else "embedded"))
    pool = executors(cluster, 2)
    await pool.start()
    async with watched(pool.roster):
        await asyncio.gather(*(pool.run(work("p", index)) for index in range(8)))
        assert cluster.reported("other sandbox") == []
        cluster.handles[0].kill()
        await until(lambda: len(cluster.handles) == 3 and len(pool.roster.serving) == 2)
        await asyncio.gather(*(pool.run(work("q", index)) for index in range(8)))
    (told,) = cluster.reported("other sandbox")
    assert told.startswith("executor-2 ")
    assert "python runs in the embedded sandbox here, and in docker before" in told


async def test_an_executor_holds_little_and_a_new_one_shares_the_queue_at_once(monkeypatch) -> None:
    go_on = asyncio.Event()

    async def behave(index: int, name: str) -> Outcome:  # noqa: ARG001
        await go_on.wait()
        return Outcome.PASSED

    cluster = sandboxes(monkeypatch, behave)
    pool = executors(cluster, 1)
    await pool.start()
    async with watched(pool.roster):
        running = [asyncio.create_task(pool.run(work("p", index))) for index in range(40)]
        await until(lambda: len(cluster.handles[0].actor.seen) == 4)
        pool.scale(3)
        await until(lambda: [len(handle.actor.seen) for handle in cluster.handles] == [4, 4, 4])
        go_on.set()
        results = await asyncio.gather(*running)
    assert len(results) == 40
    assert sum(len(handle.actor.seen) for handle in cluster.handles) == 40
