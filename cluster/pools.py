"""Pools of Ray actors: generators and executors. Each hides which actor does the work, and what happens if one dies."""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ray.exceptions import RayError, RayTaskError

from actors.engine import engine_environment
from actors.errors import EngineDiedError, EngineUnavailableError, WeightsLostError
from actors.executor import Executed, Execution, ExecutorWorker
from actors.generator import GenerationRequest, GenerationResult, Generator
from cluster.config import ExecutorsConfig, GeneratorsConfig, SupervisionConfig
from cluster.errors import ActorError, LostActorError
from cluster.placement import SANDBOX_RESOURCE
from cluster.presence import Present, refuse_other_versions
from cluster.roster import Member, Report, Roster, sentence_of, unless_given_up
from cluster.session import start_actor
from learner.trajectory import FinishReason
from problems.identity import TrajectoryId, WeightsVersion
from sandbox.verdict import Outcome, Verdict

_MAX_CONCURRENCY = 4096
_CACHE_ENTRIES = 100_000
_CATCH_UP_RETRY_S = 0.5
_PUSH_LOOK_S = 0.2  # one that joins with the new weights may be the first to have them
_WORK_PER_SLOT = 2  # one runs, one waits: a slot is never idle, and a dead executor held little
# What a program does is the same each time, unless a limit of time or memory, or our own fault, cut it short.
_CACHEABLE = {Outcome.PASSED, Outcome.WRONG_ANSWER, Outcome.RUNTIME_ERROR, Outcome.COMPILE_ERROR}
# The engine is of no use any more; the request is as good as before.
_ENGINE_GONE = (EngineDiedError, EngineUnavailableError, WeightsLostError)


def _unheard(who: str, what: str, why: str) -> None:
    """A report that nobody asked for."""


@dataclass(frozen=True, slots=True)
class Generated:
    """A completion, and when its request reached the generator and left it (seconds since the epoch)."""

    result: GenerationResult
    who: str
    start: float
    end: float


class GeneratorActor(Generator, Present):
    """The generator as a Ray actor: adds who and when to each completion."""

    async def stream_group(self, who: str, requests: Sequence[GenerationRequest]) -> AsyncIterator[Generated]:
        """See Generator.generate_group."""
        start = time.time()
        async for result in self.generate_group(requests):
            yield Generated(result, who, start, time.time())


class ExecutorActor(ExecutorWorker, Present):
    """The executor as a Ray actor."""


async def within(awaitable: Awaitable[Any], timeout_s: float, who: str, what: str) -> Any:
    """Awaits, and turns a time-out or an actor's error into one sentence that names the actor.

    LostActorError says that it died or does not answer, any other ActorError that it lives and refused.
    """
    try:
        return await asyncio.wait_for(awaitable, timeout_s)
    except TimeoutError:
        raise LostActorError(f"{who} did not {what} within {timeout_s:g} s") from None
    except RayTaskError as error:
        raise ActorError(f"{who} could not {what}: {sentence_of(error)}") from error
    except RayError as error:
        raise LostActorError(f"{who} could not {what}: {type(error).__name__}") from error


@dataclass(frozen=True, slots=True)
class _Weights:
    """What every generator serves: a model's folder, and the weights pushed over it since."""

    model: Path
    version: WeightsVersion
    ticket: dict[str, str] | None


class GeneratorPool:
    """The generators of a run. All samples of one prompt go to one engine, whose prefill they share.

    Args:
        config: of the generators.
        supervision: how they are watched.
        report: told of losses and replacements.
        kind: the class that becomes the Ray actor.
    """

    def __init__(
        self,
        config: GeneratorsConfig,
        supervision: SupervisionConfig | None = None,
        report: Report = _unheard,
        kind: type = GeneratorActor,
    ) -> None:
        self._config = config
        self._count = config.count
        self._supervision = supervision or SupervisionConfig()
        self._report = report
        self._kind = kind
        self._weights: _Weights | None = None
        self._versions: dict[Member, WeightsVersion] = {}
        self._pushing: set[asyncio.Task[float]] = set()
        self.roster = self._new_roster()

    name = "generator"

    def _new_roster(self) -> Roster:
        return Roster(
            self,
            self._supervision,
            start_timeout_s=self._config.start_timeout_s,
            capacity=None,
            report=self._report,
        )

    @property
    def count(self) -> int:
        """How many there are, or will be once they are started."""
        return self._count

    @property
    def running(self) -> bool:
        return self._weights is not None

    async def start(self, model: Path, version: WeightsVersion) -> None:
        """Starts all engines on the model of a folder."""
        self._weights = _Weights(model, version, None)
        try:
            await self.roster.fill(self._count)
        except BaseException:
            self._weights = None
            raise

    def scale(self, count: int) -> None:
        """From now on there shall be ``count`` generators."""
        self._count = count
        if self.running:
            self.roster.scale(count)

    # --- Trade

    def make(self) -> Any:
        engine = self._config.engine
        return start_actor(
            self._kind,
            engine,
            num_cpus=self._config.resources["CPU"],
            num_gpus=self._config.resources.get("GPU", 0),
            max_concurrency=_MAX_CONCURRENCY,
            runtime_env={"env_vars": engine_environment(engine.device)},
        )

    async def open(self, member: Member) -> None:
        """Starts the engine and brings it to the current weights: it serves no request before."""
        assert self._weights is not None, "start() comes first"
        timeout_s = self._config.start_timeout_s
        presence = await within(member.handle.presence.remote(), timeout_s, member.who, "come up")
        member.where = str(presence)
        refuse_other_versions(member.who, presence)
        model, version = self._weights.model, self._weights.version
        first = version if self._weights.ticket is None else WeightsVersion(version.lineage, 0)
        await within(member.handle.start_engine.remote(str(model), first), timeout_s, str(member), "start its engine")
        await within(member.handle.init.remote(), self._config.push_timeout_s, str(member), "init")
        if self._weights.ticket is None:
            self._versions[member] = first

    async def catch_up(self, member: Member) -> None:
        """Until it has the newest weights; those of a moment ago may have been retired while it loaded them."""
        deadline = time.monotonic() + self._config.push_timeout_s
        while not self._is_current(member):
            try:
                await self._update(member)
            except LostActorError:
                raise
            except ActorError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_CATCH_UP_RETRY_S)

    async def check(self, member: Member) -> None:
        await member.handle.check_health.remote()

    async def close(self, member: Member) -> None:
        self._versions.pop(member, None)
        await member.handle.shutdown.remote()

    # --- weights

    async def push(self, ticket: dict[str, str], version: WeightsVersion) -> float:
        """Brings published weights into every engine while requests are in flight; returns the longest pause in s.

        Waits for the first engine and then ``push_grace_s`` for the others. Who is late is set aside and goes on
        alone; who fails is replaced by one that starts with these weights. Raises ActorError if the weights are refused
        by all.
        """
        assert self._weights is not None, "start() comes first"
        self._weights = _Weights(self._weights.model, version, ticket)
        members = {asyncio.create_task(self._update(member)): member for member in self.roster.serving}
        self._pushing |= members.keys()
        waiting, pauses, refusals = set(members), list[float](), list[ActorError]()
        deadline = math.inf
        while waiting and (now := time.monotonic()) < deadline:
            timeout_s = min(_PUSH_LOOK_S, deadline - now)
            done, waiting = await asyncio.wait(waiting, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                self._settle(task, members[task], pauses, refusals)
            if any(self._is_current(member) for member in self.roster.serving):
                deadline = min(deadline, time.monotonic() + self._config.push_grace_s)
        for task in waiting:
            self._set_aside(task, members[task])
        if refusals and len(refusals) == len(members):
            raise refusals[0]
        return max(pauses, default=0.0)

    def _settle(
        self, task: asyncio.Task[float], member: Member, pauses: list[float], refusals: list[ActorError]
    ) -> None:
        """What came of one engine's update in time."""
        self._pushing.discard(task)
        error = task.exception()
        if error is None:
            pauses.append(task.result())
        elif isinstance(error, ActorError):
            if not isinstance(error, LostActorError):
                refusals.append(error)
            self.roster.lose(member, str(error))
        else:
            raise error

    def _set_aside(self, task: asyncio.Task[float], member: Member) -> None:
        """The run goes on without this one; it serves again when it has caught up, or is replaced."""
        self.roster.bench(
            member, f"its weight update takes more than {self._config.push_grace_s:g} s longer than others'"
        )
        task.add_done_callback(lambda task: self._late(task, member))

    def _late(self, task: asyncio.Task[float], member: Member) -> None:
        self._pushing.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self.roster.lose(member, str(error))
        elif self._is_current(member):
            self.roster.rejoin(member)
        else:
            again = asyncio.create_task(self._update(member))
            self._pushing.add(again)
            again.add_done_callback(lambda task: self._late(task, member))

    async def _update(self, member: Member) -> float:
        """Brings the current weights into one engine, under one time-out; returns the pause in s."""
        timeout_s = self._config.push_timeout_s
        try:
            return await asyncio.wait_for(self._phases(member), timeout_s)
        except TimeoutError:
            raise LostActorError(
                f"{member} did not take new weights within {timeout_s:g} s; it is killed and replaced"
            ) from None

    async def _phases(self, member: Member) -> float:
        assert self._weights is not None
        ticket, version, timeout_s = self._weights.ticket, self._weights.version, self._config.push_timeout_s
        await within(member.handle.verify.remote(ticket), timeout_s, str(member), "verify published weights")
        begun = time.monotonic()
        await within(member.handle.start.remote(version), timeout_s, str(member), "pause for a weight update")
        await within(member.handle.update.remote(ticket), timeout_s, str(member), "load new weights")
        await within(member.handle.finish.remote(version), timeout_s, str(member), "finish a weight update")
        self._versions[member] = version
        return time.monotonic() - begun

    def _is_current(self, member: Member) -> bool:
        return self._weights is not None and self._versions.get(member) == self._weights.version

    # --- requests

    async def stream(self, requests: Sequence[GenerationRequest]) -> AsyncIterator[Generated]:
        """Samples one group on the engine that holds the fewest, and yields each completion when it is finished.

        What is not finished when the engine is lost is asked of another, with the same identities and seeds.
        """
        open_requests = {request.id: request for request in requests}
        avoid: Member | None = None
        while open_requests:
            member = await self.roster.take(avoid)
            try:
                async for generated in self._stream_from(member, list(open_requests.values())):
                    if generated.result.turn.finish_reason is not FinishReason.ABORTED:
                        del open_requests[generated.result.id]
                        yield generated
                if open_requests:  # nobody here asks for that: an engine whose weights were lost gives up what it has
                    raise LostActorError("it gave them up")
            except LostActorError as error:
                self._report(str(member), "handed over", f"{len(open_requests)} completions: {error}")
                avoid = member
            finally:
                self.roster.put_back(member)
                if open_requests:
                    self._abort(member, list(open_requests))

    async def _stream_from(self, member: Member, requests: Sequence[GenerationRequest]) -> AsyncIterator[Generated]:
        given_up = member.given_up
        stream = member.handle.stream_group.options(num_returns="streaming").remote(member.who, requests)
        iterator = aiter(stream)
        try:
            for _ in requests:
                yield await unless_given_up(given_up, _next(iterator))
        except RayTaskError as error:
            if not isinstance(error.cause, _ENGINE_GONE):
                raise ActorError(f"{member} could not sample: {sentence_of(error)}") from error
            self.roster.lose(member, sentence_of(error))
            raise LostActorError(sentence_of(error)) from error
        except RayError as error:
            self.roster.lose(member, f"it died while it sampled ({type(error).__name__})")
            raise LostActorError(type(error).__name__) from error

    def _abort(self, member: Member, ids: Sequence[TrajectoryId]) -> None:
        """Nobody waits for these any more; a member that lives need not sample them to their end."""
        if member in self._versions:
            member.handle.abort.remote(ids)

    async def stats(self) -> list[Any]:
        """``GeneratorStats`` of each engine that answers."""
        timeout_s = self._config.push_timeout_s
        calls = (
            within(member.handle.stats.remote(), timeout_s, str(member), "tell its figures")
            for member in self.roster.serving
        )
        answers = await asyncio.gather(*calls, return_exceptions=True)
        return [answer for answer in answers if not isinstance(answer, BaseException)]

    async def stop(self) -> None:
        """Ends all engines."""
        for task in self._pushing:
            task.cancel()
        await asyncio.gather(*self._pushing, return_exceptions=True)
        self._weights = None
        await self.roster.stop()
        self._versions.clear()


async def _next(iterator: AsyncIterator[Any]) -> Any:
    return await (await anext(iterator))


@dataclass(slots=True)
class ExecutorStats:
    """Totals of the pool since its start."""

    executed: int = 0
    cached: int = 0
    retried: int = 0
    reissued: int = 0
    set_aside: int = 0
    busy_s: float = 0.0
    candidate_cpu_s: float = 0.0
    outcomes: dict[str, int] = field(default_factory=dict)


class ExecutorPool:
    """The executors of a run, with a cache of what identical programs did.

    A *fault* (``infrastructure_error``) is tried once more, elsewhere; then it stands, and the sample is dropped. An
    executor with several faults in a row is taken out. Work on an executor that *died* is issued again; a problem whose
    programs were there at several such deaths is set aside. Programs that are sound are cleared of the blame when they
    come to an end.
    """

    name = "executor"

    def __init__(
        self,
        config: ExecutorsConfig,
        supervision: SupervisionConfig | None = None,
        report: Report = _unheard,
        kind: type = ExecutorActor,
    ) -> None:
        self._config = config
        self._kind = kind
        self._report = report
        self._verdicts: OrderedDict[bytes, Verdict] = OrderedDict()
        # Problem -> executor that died -> its programs that were there and have not ended since.
        self._deaths: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._suspects = asyncio.Lock()
        self.stats = ExecutorStats()
        self.roster = Roster(
            self,
            supervision or SupervisionConfig(),
            start_timeout_s=config.start_timeout_s,
            capacity=_WORK_PER_SLOT * config.sandbox.slots,
            report=report,
        )

    async def start(self) -> None:
        """Opens all sandboxes. Raises ActorError with the sandbox's own sentence."""
        if not self.roster.target:
            await self.roster.fill(self._config.count)

    @property
    def count(self) -> int:
        return self.roster.target

    def scale(self, count: int) -> None:
        """From now on there shall be ``count`` executors."""
        self.roster.scale(count)

    # --- Trade

    def make(self) -> Any:
        return start_actor(
            self._kind,
            self._config.sandbox,
            num_cpus=0,
            resources={SANDBOX_RESOURCE: 1},
            max_concurrency=_MAX_CONCURRENCY,
        )

    async def open(self, member: Member) -> None:
        timeout_s = self._config.start_timeout_s
        presence = await within(member.handle.presence.remote(), timeout_s, member.who, "come up")
        member.where = str(presence)
        refuse_other_versions(member.who, presence)
        await within(member.handle.start.remote(), timeout_s, member.who, "open its sandbox")

    async def catch_up(self, member: Member) -> None:
        """An executor knows nothing that could be out of date."""

    async def check(self, member: Member) -> None:
        await member.handle.check_health.remote()

    async def close(self, member: Member) -> None:
        await member.handle.close.remote()

    # --- work

    async def run(self, work: Execution, *, anew: bool = False) -> Executed:
        """One verdict; see the class for what happens to faults.

        ``anew``: the program is run even if it is known what it did.
        """
        key = _content_key(work)
        if key in self._verdicts and not anew:
            self._verdicts.move_to_end(key)
            self.stats.cached += 1
            now = time.time()
            return Executed(self._verdicts[key], now, now)
        executed = await self._run(work)
        self._count(executed)
        if executed.verdict.outcome in _CACHEABLE:
            self._verdicts[key] = executed.verdict
            if len(self._verdicts) > _CACHE_ENTRIES:
                self._verdicts.popitem(last=False)
        return executed

    async def _run(self, work: Execution) -> Executed:
        deaths, retried, avoid = list[str](), False, None
        while len(self._deaths[work.problem_id]) < self._config.set_aside_after:
            # Who was there when an executor died runs alone among its like: the next death has one suspect.
            async with self._suspects if deaths else nullcontext():
                member = await self.roster.take(avoid)
                avoid = member
                try:
                    executed: Executed = await self._run_on(member, work)
                except LostActorError:
                    self.stats.reissued += 1
                    if member.died:
                        deaths.append(member.who)
                        self._accuse(work.problem_id, member.who)
                    continue
                finally:
                    self.roster.put_back(member)
            if executed.verdict.outcome is not Outcome.INFRASTRUCTURE_ERROR or retried:
                self._clear(work.problem_id, deaths)
                return executed
            retried = True
            self.stats.retried += 1
        self.stats.set_aside += 1
        why = f"its problem was in flight when {self._config.set_aside_after} executors died"
        return replace(_not_run(work, why), set_aside=True)

    async def _run_on(self, member: Member, work: Execution) -> Executed:
        try:
            executed: Executed = await unless_given_up(member.given_up, member.handle.run.remote(work))
        except RayTaskError as error:
            executed = _not_run(work, f"{member}: {sentence_of(error)}")
        except RayError as error:
            self.roster.lose(member, f"it died while it ran programs ({type(error).__name__})")
            raise LostActorError(type(error).__name__) from error
        broken = executed.verdict.outcome is Outcome.INFRASTRUCTURE_ERROR
        member.faults = member.faults + 1 if broken else 0
        if member.faults >= self._config.quarantine_after:
            why = f"{member.faults} faults of its sandbox in a row: {executed.verdict.detail}"
            self.roster.lose(member, why, died=False)
        return executed

    def _accuse(self, problem_id: str, who: str) -> None:
        deaths = self._deaths[problem_id]
        deaths[who] += 1
        if len(deaths) == self._config.set_aside_after and deaths[who] == 1:
            self._report(
                f"problem {problem_id}", "set aside", f"its programs were in flight when {', '.join(deaths)} died"
            )

    def _clear(self, problem_id: str, deaths: Sequence[str]) -> None:
        """A program that ends has killed nobody; with the last of its problem that was there the problem is cleared."""
        for who in deaths:
            self._deaths[problem_id][who] -= 1
            self._deaths[problem_id] = +self._deaths[problem_id]

    def _count(self, executed: Executed) -> None:
        stats, verdict = self.stats, executed.verdict
        stats.executed += 1
        stats.busy_s += verdict.wall_s
        stats.candidate_cpu_s += verdict.cpu_s
        stats.outcomes[verdict.outcome] = stats.outcomes.get(verdict.outcome, 0) + 1

    async def stop(self) -> None:
        """Ends all sandboxes."""
        await self.roster.stop()


def _not_run(work: Execution, detail: str) -> Executed:
    now = time.time()
    verdict = Verdict(Outcome.INFRASTRUCTURE_ERROR, num_cases=len(work.suite.cases), detail=detail)
    return Executed(verdict, now, now)


def _content_key(work: Execution) -> bytes:
    """Equal for equal program, suite, limits and mode."""
    content = repr((work.program, work.suite, work.limits, work.stop_at_first_failure))
    return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).digest()
