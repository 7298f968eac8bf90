"""The generators of a run as a pool of Ray actors: hides which one does the work, and what happens if one dies."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ray.exceptions import RayError, RayTaskError

from actors.engine import engine_environment
from actors.errors import EngineDiedError, EngineUnavailableError, WeightsLostError
from actors.generator import GenerationRequest, GenerationResult, Generator
from cluster.actor_config import GeneratorsConfig, SupervisionConfig
from cluster.calls import FULL_STORE, MAX_CONCURRENCY, STORE_ERRORS, was_raised_as, within
from cluster.errors import ActorError, LostActorError
from cluster.placement import SHARE
from cluster.presence import Present, refuse_other_versions
from cluster.relay import Relay
from cluster.roster import Member, Report, Roster, sentence_of, unheard, unless_given_up
from cluster.session import start_actor
from learner.trajectory import FinishReason
from problems.identity import TrajectoryId, WeightsVersion

_CATCH_UP_RETRY_S = 0.5
_STATS_TIMEOUT_S = 5.0
# Completions that a generator holds for each one that it samples at a time: it is never idle, and what waits beyond
# that waits here, where one that joins finds it.
_WORK_PER_SEQUENCE = 2
_PUSH_LOOK_S = 0.2  # one that joins with the new weights may be the first to have them
# The engine is of no use any more; the request is as good as before.
_ENGINE_GONE = (EngineDiedError, EngineUnavailableError, WeightsLostError)


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
        where: options of the actors where they share a GPU with the trainer; see cluster.placement.
    """

    def __init__(
        self,
        config: GeneratorsConfig,
        supervision: SupervisionConfig | None = None,
        report: Report = unheard,
        kind: type = GeneratorActor,
        where: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._config = config
        self._count = config.count
        self._supervision = supervision or SupervisionConfig()
        self._report = report
        self._kind = kind
        self._where = where
        self._weights: _Weights | None = None
        self._versions: dict[Member, WeightsVersion] = {}
        self._relay = Relay(config.push_timeout_s)
        self._pushing: set[asyncio.Task[float]] = set()
        self.answered = 0
        """Completions, in all."""
        self.roster = self._new_roster()

    name = "generator"

    def _new_roster(self) -> Roster:
        return Roster(
            self,
            self._supervision,
            start_timeout_s=self._config.start_timeout_s,
            capacity=_WORK_PER_SEQUENCE * self._config.engine.max_num_seqs,
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
            num_gpus=SHARE if self._where else self._config.resources.get("GPU", 0),
            max_concurrency=MAX_CONCURRENCY,
            runtime_env={"env_vars": engine_environment(engine.device, engine.weight_transport)},
            **self._where,
        )

    async def open(self, member: Member) -> None:
        """Starts the engine and brings it to the current weights: it serves no request before."""
        assert self._weights is not None, "start() comes first"
        timeout_s = self._config.start_timeout_s
        presence = await within(member.handle.presence.remote(), timeout_s, member.who, "come up")
        member.where, member.node_id = str(presence), presence.node_id
        refuse_other_versions(member.who, presence)
        if member.node_id and self._config.engine.weight_transport == "per_node":
            self._relay.enter(member.node_id, member.who)
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
        await member.handle.shutdown.remote()

    def gone(self, member: Member) -> None:
        self._versions.pop(member, None)
        self._relay.leave(member.node_id, member.who)

    # --- weights

    async def sleep(self) -> None:
        """Every engine gives its GPU to the trainer, until the next push."""
        for member in list(self.roster.serving):
            try:
                await within(member.handle.sleep.remote(), self._config.push_timeout_s, str(member), "give its GPU up")
            except ActorError as error:
                self.roster.lose(member, str(error))

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
        deadline, why = math.inf, "the push was given up while its weight update was under way"
        try:
            while waiting and (now := time.monotonic()) < deadline:
                timeout_s = min(_PUSH_LOOK_S, deadline - now)
                done, waiting = await asyncio.wait(waiting, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    self._settle(task, members[task], pauses, refusals)
                if any(self._is_current(member) for member in self.roster.serving):
                    deadline = min(deadline, time.monotonic() + self._config.push_grace_s)
            why = f"its weight update takes more than {self._config.push_grace_s:g} s longer than others'"
        finally:
            # Also where the push is given up, because the trainer was lost: an update under way cannot be taken back,
            # and whoever is in one takes no other.
            for task in waiting:
                self._set_aside(task, members[task], why)
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

    def _set_aside(self, task: asyncio.Task[float], member: Member, why: str) -> None:
        """The run goes on without this one; it serves again when it has caught up, or is replaced."""
        self.roster.bench(member, why)
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
            async with asyncio.timeout(timeout_s):
                return await self._phases(member)
        except ActorError:
            self._relay.forget(member.node_id)  # if its copy is what is wrong, the next one is made anew
            raise
        except TimeoutError:
            raise LostActorError(
                f"{member} did not take new weights within {timeout_s:g} s; it is killed and replaced"
            ) from None

    async def _phases(self, member: Member) -> float:
        assert self._weights is not None
        ticket, version, timeout_s = self._weights.ticket, self._weights.version, self._config.push_timeout_s
        if ticket is not None and self._config.engine.weight_transport == "per_node":
            ticket = await self._local(self._weights, ticket, member)
        await within(member.handle.verify.remote(ticket), timeout_s, str(member), "verify published weights")
        begun = time.monotonic()
        await within(member.handle.start.remote(version), timeout_s, str(member), "pause for a weight update")
        await within(member.handle.update.remote(ticket), timeout_s, str(member), "load new weights")
        await within(member.handle.finish.remote(version), timeout_s, str(member), "finish a weight update")
        self._versions[member] = version
        return time.monotonic() - begun

    async def _local(self, weights: _Weights, ticket: dict[str, str], member: Member) -> dict[str, str]:
        """The ticket for a member's node. A copy that fails is no fault of the member, whose old weights are whole: it
        is made again until the update's time is up, or until there are newer weights."""
        while True:
            try:
                return await self._relay.local(ticket, member.node_id)
            except ActorError as error:
                self._report(str(member), "waits for weights", str(error))
                if self._weights is not weights:
                    raise
                await asyncio.sleep(_CATCH_UP_RETRY_S)

    def _is_current(self, member: Member) -> bool:
        return self._weights is not None and self._versions.get(member) == self._weights.version

    # --- requests

    async def stream(self, requests: Sequence[GenerationRequest]) -> AsyncGenerator[Generated, None]:
        """Samples one group on the engine that holds the fewest, and yields each completion when it is finished.

        What is not finished when the engine is lost is asked of another, with the same identities and seeds.
        """
        open_requests = {request.id: request for request in requests}
        avoid: Member | None = None
        while open_requests:
            member = await self.roster.take(avoid, len(open_requests))
            held = len(open_requests)
            try:
                async for generated in self._stream_from(member, list(open_requests.values())):
                    if generated.result.turn.finish_reason is not FinishReason.ABORTED:
                        del open_requests[generated.result.id]
                        held -= 1
                        self.roster.put_back(member)
                        self.answered += 1
                        yield generated
                if open_requests:  # nobody here asks for that: an engine whose weights were lost gives up what it has
                    raise LostActorError("it gave them up")
            except LostActorError as error:
                self._report(str(member), "handed over", f"{len(open_requests)} completions: {error}")
                avoid = member
            finally:
                self.roster.put_back(member, held)
                if open_requests:
                    self._abort(member, list(open_requests))

    async def _stream_from(self, member: Member, requests: Sequence[GenerationRequest]) -> AsyncIterator[Generated]:
        given_up = member.given_up
        try:
            stream = member.handle.stream_group.options(num_returns="streaming").remote(member.who, requests)
            iterator = aiter(stream)
            for _ in requests:
                yield await unless_given_up(given_up, _next(iterator))
        except STORE_ERRORS as error:
            raise ActorError(f"{member} could not sample: {FULL_STORE}") from error
        except RayTaskError as error:
            if not was_raised_as(error, *_ENGINE_GONE):
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
        timeout_s = min(self._config.push_timeout_s, _STATS_TIMEOUT_S)  # the loop waits for it
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
        self._relay.close()
        self._versions.clear()


async def _next(iterator: AsyncIterator[Any]) -> Any:
    return await (await anext(iterator))
