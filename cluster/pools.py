"""Pools of Ray actors: generators and executors. Each hides which actor does the work, and what happens if one dies."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.exceptions import RayActorError, RayError, RayTaskError

from actors.engine import engine_environment
from actors.executor import Executed, Execution, ExecutorWorker
from actors.generator import GenerationRequest, GenerationResult, Generator
from cluster.config import ExecutorsConfig, GeneratorsConfig
from cluster.errors import ActorError
from cluster.session import SANDBOX_RESOURCE, end_actor, start_actor
from problems.identity import WeightsVersion
from sandbox.verdict import Outcome, Verdict

_LOG = logging.getLogger(__name__)
_MAX_CONCURRENCY = 4096
_CACHE_ENTRIES = 100_000
# What a program does is the same each time, unless a limit of time or memory, or our own fault, cut it short.
_CACHEABLE = {Outcome.PASSED, Outcome.WRONG_ANSWER, Outcome.RUNTIME_ERROR, Outcome.COMPILE_ERROR}


@dataclass(frozen=True, slots=True)
class Generated:
    """A completion, and when its request reached the generator and left it (seconds since the epoch)."""

    result: GenerationResult
    who: str
    start: float
    end: float


class GeneratorActor(Generator):
    """The generator as a Ray actor: adds who and when to each completion."""

    async def stream_group(self, who: str, requests: Sequence[GenerationRequest]) -> AsyncIterator[Generated]:
        """See Generator.generate_group."""
        start = time.time()
        async for result in self.generate_group(requests):
            yield Generated(result, who, start, time.time())


async def within(awaitable: Awaitable[Any], timeout_s: float, who: str, what: str) -> Any:
    """Awaits, and turns a time-out or an actor's error into one sentence that names the actor."""
    try:
        return await asyncio.wait_for(awaitable, timeout_s)
    except TimeoutError:
        raise ActorError(f"{who} did not {what} within {timeout_s:g} s") from None
    except RayTaskError as error:
        raise ActorError(f"{who} could not {what}: {_cause(error)}") from error
    except RayError as error:
        raise ActorError(f"{who} could not {what}: {type(error).__name__}") from error


def _cause(error: RayTaskError) -> str:
    cause = getattr(error, "cause", None) or error
    return str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__


@dataclass(slots=True)
class _Member:
    """One generator and the groups that it holds."""

    who: str
    handle: Any  # a Ray actor handle: its methods are made at run time
    num_groups: int = 0


class GeneratorPool:
    """The generators of a run. All samples of one prompt go to one engine, whose prefill they share."""

    def __init__(self, config: GeneratorsConfig) -> None:
        self._config = config
        self._members: list[_Member] = []

    @property
    def running(self) -> bool:
        return bool(self._members)

    async def start(self, model: Path, version: WeightsVersion) -> None:
        """Starts all engines on the model of a folder."""
        engine = self._config.engine
        self._members = [
            _Member(
                f"generator-{index}",
                start_actor(
                    GeneratorActor,
                    engine,
                    num_cpus=1,
                    num_gpus=engine.tensor_parallel_size if engine.device == "cuda" else 0,
                    max_concurrency=_MAX_CONCURRENCY,
                    runtime_env={"env_vars": engine_environment(engine.device)},
                ),
            )
            for index in range(self._config.count)
        ]
        await self._all("start_engine", str(model), version, timeout_s=self._config.start_timeout_s)
        await self._all("init", timeout_s=self._config.push_timeout_s)

    async def push(self, ticket: dict[str, str], version: WeightsVersion) -> float:
        """Brings published weights into every engine while requests are in flight; returns the longest pause in s."""
        pauses = await asyncio.gather(*(self._push_one(member, ticket, version) for member in self._members))
        return max(pauses)

    async def _push_one(self, member: _Member, ticket: dict[str, str], version: WeightsVersion) -> float:
        timeout_s = self._config.push_timeout_s
        await within(member.handle.verify.remote(ticket), timeout_s, member.who, "verify published weights")
        begun = time.monotonic()
        await within(member.handle.start.remote(version), timeout_s, member.who, "pause for a weight update")
        await within(member.handle.update.remote(ticket), timeout_s, member.who, "load new weights")
        await within(member.handle.finish.remote(version), timeout_s, member.who, "finish a weight update")
        return time.monotonic() - begun

    async def stream(self, requests: Sequence[GenerationRequest]) -> AsyncIterator[Generated]:
        """Samples one group on the engine that holds the fewest, and yields each completion when it is finished."""
        member = min(self._members, key=lambda member: member.num_groups)
        member.num_groups += 1
        try:
            stream = member.handle.stream_group.options(num_returns="streaming").remote(member.who, list(requests))
            async for reference in stream:
                yield await reference
        except RayTaskError as error:
            raise ActorError(f"{member.who} could not sample: {_cause(error)}") from error
        except RayActorError as error:
            raise ActorError(f"{member.who} died while it sampled") from error
        finally:
            member.num_groups -= 1

    async def stats(self) -> list[Any]:
        """``GeneratorStats`` of each engine."""
        return await self._all("stats", timeout_s=self._config.push_timeout_s)

    async def stop(self) -> None:
        """Ends all engines."""
        members, self._members = self._members, []
        for member in members:
            try:
                await asyncio.wait_for(member.handle.shutdown.remote(), 10.0)
            except (TimeoutError, RayError) as error:
                _LOG.warning("%s did not shut down in order (%s); it is killed", member.who, type(error).__name__)
            end_actor(member.handle)

    async def _all(self, method: str, *arguments: Any, timeout_s: float) -> list[Any]:
        calls = (
            within(getattr(member.handle, method).remote(*arguments), timeout_s, member.who, method.replace("_", " "))
            for member in self._members
        )
        return list(await asyncio.gather(*calls))


@dataclass(slots=True)
class ExecutorStats:
    """Totals of the pool since its start."""

    executed: int = 0
    cached: int = 0
    retried: int = 0
    busy_s: float = 0.0
    candidate_cpu_s: float = 0.0
    outcomes: dict[str, int] = field(default_factory=dict)


class ExecutorPool:
    """The executors of a run, with a cache of what identical programs did."""

    def __init__(self, config: ExecutorsConfig) -> None:
        self._config = config
        self._members: list[_Member] = []
        self._verdicts: OrderedDict[bytes, Verdict] = OrderedDict()
        self.stats = ExecutorStats()

    async def start(self) -> None:
        """Opens all sandboxes. Raises ActorError with the sandbox's own sentence."""
        if not self._members:
            self._members = [
                _Member(
                    f"executor-{index}",
                    start_actor(
                        ExecutorWorker,
                        self._config.sandbox,
                        num_cpus=0,
                        resources={SANDBOX_RESOURCE: 1},
                        max_concurrency=_MAX_CONCURRENCY,
                    ),
                )
                for index in range(self._config.count)
            ]
            await asyncio.gather(*(self._start_one(member) for member in self._members))

    async def _start_one(self, member: _Member) -> None:
        await within(member.handle.start.remote(), self._config.start_timeout_s, member.who, "open its sandbox")

    async def run(self, work: Execution) -> Executed:
        """One verdict. A fault of ours is tried once more, on another executor where there is one; then it stands."""
        key = _content_key(work)
        if key in self._verdicts:
            self._verdicts.move_to_end(key)
            self.stats.cached += 1
            now = time.time()
            return Executed(self._verdicts[key], now, now)
        executed, tried = await self._run_once(work, exclude=None)
        if executed.verdict.outcome is Outcome.INFRASTRUCTURE_ERROR:
            self.stats.retried += 1
            executed, _ = await self._run_once(work, exclude=tried)
        self._count(executed)
        if executed.verdict.outcome in _CACHEABLE:
            self._verdicts[key] = executed.verdict
            if len(self._verdicts) > _CACHE_ENTRIES:
                self._verdicts.popitem(last=False)
        return executed

    async def _run_once(self, work: Execution, exclude: _Member | None) -> tuple[Executed, _Member]:
        members = [member for member in self._members if member is not exclude] or self._members
        member = min(members, key=lambda member: member.num_groups)
        member.num_groups += 1
        start = time.time()
        try:
            return await member.handle.run.remote(work), member
        except RayError as error:
            detail = f"{member.who}: {type(error).__name__}"
            verdict = Verdict(Outcome.INFRASTRUCTURE_ERROR, num_cases=len(work.suite.cases), detail=detail)
            return Executed(verdict, start, time.time()), member
        finally:
            member.num_groups -= 1

    def _count(self, executed: Executed) -> None:
        stats, verdict = self.stats, executed.verdict
        stats.executed += 1
        stats.busy_s += verdict.wall_s
        stats.candidate_cpu_s += verdict.cpu_s
        stats.outcomes[verdict.outcome] = stats.outcomes.get(verdict.outcome, 0) + 1

    async def stop(self) -> None:
        """Ends all sandboxes."""
        members, self._members = self._members, []
        for member in members:
            try:
                await asyncio.wait_for(member.handle.close.remote(), 20.0)
            except (TimeoutError, RayError) as error:
                _LOG.warning("%s did not close in order (%s); it is killed", member.who, type(error).__name__)
            end_actor(member.handle)


def _content_key(work: Execution) -> bytes:
    """Equal for equal program, suite, limits and mode."""
    content = repr((work.program, work.suite, work.limits, work.stop_at_first_failure))
    return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).digest()
