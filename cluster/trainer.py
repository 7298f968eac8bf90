"""A trainer of several ranks: one actor each, called together, watched, and lost together."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from actors.trainer import TrainerWorker
from cluster.actor_config import SupervisionConfig
from cluster.calls import FULL_STORE, STORE_ERRORS, within
from cluster.errors import ActorError, LostActorError, TrainerLostError
from cluster.placement import SHARE
from cluster.presence import Present, refuse_other_versions
from cluster.relay import of_this_node
from cluster.roster import Report
from cluster.session import close_actors, end_actor, start_actor
from cluster.stage_config import PPOStage
from learner.environment import torch_environment
from problems.identity import WeightsVersion

TRAINER = "trainer"
_OTHERS_TIMEOUT_S = 15.0
_HEALTH = "health"  # answers while the default group's one thread trains
_BESIDE = "beside"  # waits for what goes on beside the training, such as a checkpoint's write


class TrainerActor(TrainerWorker, Present):
    """The trainer's worker as a Ray actor: its tickets say which node they are of."""

    def publish(self, version: WeightsVersion) -> dict[str, str]:
        return of_this_node(super().publish(version))


class RankGroup:
    """All ranks of one start of a trainer. A rank that dies or hangs takes the others along: TrainerLostError.

    Args:
        who: the trainer, for people.
        handles: of the ranks' actors, the first one first.
        timeout_s: for a call that is given none of its own.
        report: told when a rank is lost.
    """

    def __init__(self, who: str, handles: Sequence[Any], timeout_s: float, report: Report) -> None:
        self._who = who
        self._timeout_s = timeout_s
        self._report = report
        self._handles = handles
        self._names = [who] if len(handles) == 1 else [f"{who}-{rank}" for rank in range(len(handles))]

    async def meet(self) -> None:
        """Compares versions with the driver's, and lets the ranks find each other."""
        for name, handle in zip(self._names, self._handles, strict=True):
            refuse_other_versions(name, await self._together([(name, handle.presence.remote())], "come up"))
        if len(self._handles) > 1:
            first = (self._names[0], self._handles[0].meeting_place.remote())
            place = await self._together([first], "name a meeting place")
            await self.call("join", place, len(self._handles), self._timeout_s, what="meet the other ranks")

    async def call(self, method: str, *arguments: Any, what: str, timeout_s: float | None = None) -> Any:
        """The same call to every rank; the first one's answer. Raises TrainerLostError, ActorError if one refused."""
        try:
            calls = [getattr(handle, method).remote(*arguments) for handle in self._handles]
        except STORE_ERRORS as error:  # the arguments did not even leave the driver
            raise ActorError(f"{self._who} could not {what}: {FULL_STORE}") from error
        return await self._together(list(zip(self._names, calls, strict=True)), what, timeout_s)

    def end(self) -> None:
        """Ends all ranks at once."""
        for handle in self._handles:
            end_actor(handle)

    async def _together(self, calls: list[tuple[str, Any]], what: str, timeout_s: float | None = None) -> Any:
        """The first answer, when all are there. If one rank is lost, the others fail or hang in what they do together:
        the loss is the reason, not what they say."""
        timeout_s = timeout_s or self._timeout_s
        tasks = [asyncio.create_task(within(call, timeout_s, name, what)) for name, call in calls]
        try:
            _, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            if waiting:
                _, waiting = await asyncio.wait(waiting, timeout=_OTHERS_TIMEOUT_S)
            errors = [error for task in tasks if task.done() and (error := task.exception()) is not None]
            lost = [str(error) for error in errors if isinstance(error, LostActorError)]
            lost += [f"{calls[tasks.index(task)][0]} did not {what} when the others had failed" for task in waiting]
            if lost:
                raise self._lost(lost[0]) from errors[0]
            if errors:
                raise errors[0]
            return tasks[0].result()
        finally:
            for task in tasks:
                task.cancel()

    def _lost(self, why: str) -> TrainerLostError:
        self._report(self._who, "lost", why)
        self.end()
        return TrainerLostError(why)


class TrainerGroup(RankGroup):
    """The trainer of a ppo stage."""

    def __init__(
        self,
        stage: PPOStage,
        run: str,
        supervision: SupervisionConfig,
        report: Report,
        transport: str,
        where: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        handles = [
            start_actor(
                TrainerActor,
                stage.learner,
                run,
                stage.threads,
                rank,
                transport,
                num_cpus=1,
                num_gpus=SHARE if where else stage.gpus_per_rank,
                concurrency_groups={_HEALTH: 1, _BESIDE: 1},
                runtime_env={"env_vars": torch_environment(stage.threads)},
                **where,
            )
            for rank in range(stage.ranks)
        ]
        super().__init__(TRAINER, handles, supervision.trainer_timeout_s, report)
        self._supervision = supervision
        self._met = asyncio.Event()

    async def meet(self) -> None:
        """Compares versions with the driver's, and lets the ranks find each other."""
        await super().meet()
        self._met.set()

    def close(self) -> None:
        """Ends all ranks, and frees the weights that they have published."""
        close_actors(self._handles, concurrency_group=_BESIDE)

    async def call_beside(self, method: str, *arguments: Any, what: str) -> Any:
        """Like ``call``, while other calls may train."""
        calls = [
            getattr(handle, method).options(concurrency_group=_BESIDE).remote(*arguments) for handle in self._handles
        ]
        return await self._together(list(zip(self._names, calls, strict=True)), what)

    async def watch(self) -> None:
        """Consumes nothing; waits for ``meet`` and between checks. Ends with TrainerLostError when a rank is lost."""
        await self._met.wait()
        timeout_s = self._supervision.health_timeout_s
        while True:
            await asyncio.sleep(self._supervision.health_every_s)
            for name, handle in zip(self._names, self._handles, strict=True):
                ping = handle.ping.options(concurrency_group=_HEALTH).remote()
                try:
                    await within(ping, timeout_s, name, "answer its health check")
                except LostActorError as error:
                    raise self._lost(str(error)) from error
