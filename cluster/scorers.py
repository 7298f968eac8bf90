"""Pools of actors that score: what is waiting when one of them is free goes to it as one batch."""

from __future__ import annotations

import abc
import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.comparer import Comparer
from actors.comparison import JudgeTermConfig, TooLong
from actors.engine import engine_environment
from actors.judging import Judge
from actors.rewards import Tokens
from actors.scorer import Scorer, ScoringConfig
from cluster.actor_config import ScorersConfig, SupervisionConfig
from cluster.background import background
from cluster.calls import within
from cluster.errors import ActorError, ClusterError, LostActorError
from cluster.presence import Present, refuse_other_versions
from cluster.roster import Report, unheard
from cluster.session import end_actor, start_actor
from learner.environment import torch_environment

_TIMEOUT_S = 600.0
_TRIES = 2
_HEALTH = "health"  # answers while the default group's one thread scores


class ScorerActor(Scorer, Present):
    """The scorer as a Ray actor."""


class ComparerActor(Comparer, Present):
    """The comparer as a Ray actor."""


class JudgeActor(Judge, Present):
    """The judge as a Ray actor."""


@dataclass(slots=True)
class _Waiting:
    """One item that waits for its score."""

    item: Any
    score: asyncio.Future[Any]
    tries: int = 0


class BatchingPool(abc.ABC):
    """Actors with a method (``score``) that takes a list of items and gives a list of as many scores.

    Each has a loop that consumes what is waiting, up to ``batch_answers`` at once; it waits for the next item, and is
    unblocked by ``ask``. An actor that dies, or answers no health check while it works, is started anew, and what it
    held is scored again, once. Losses in a row, as for other actors, end the run; so does an unexpected end of a loop.
    """

    who = "scorer"
    method = "score"

    def __init__(
        self,
        model: Path,
        config: ScorersConfig,
        supervision: SupervisionConfig | None = None,
        report: Report = unheard,
    ) -> None:
        self._model = model
        self._config = config
        self._supervision = supervision or SupervisionConfig()
        self._report = report
        self._losses = 0  # since the last batch that was scored
        self._broken: Exception | None = None
        self._generation = 0
        self._waiting: deque[_Waiting] = deque()
        self._there_is_work = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Starts all scorers."""
        self._loops = [asyncio.create_task(self._serve(f"{self.who}-{index}")) for index in range(self._config.count)]

    async def ask(self, item: Any) -> Any:
        """One item's score. Raises ActorError if it cannot be had, another error if none can be had any more."""
        if self._broken is not None:
            raise self._broken
        waiting = _Waiting(item, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._there_is_work.set()
        return await waiting.score

    def change_model(self, model: Path) -> None:
        """From the next batch on another model scores."""
        self._model = model
        self._generation += 1

    async def stop(self) -> None:
        """Ends all scorers; answers that still wait are errors."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        self._loops = []
        for item in self._waiting:
            _fail(item, ActorError("the scorers were ended"))
        self._waiting.clear()

    @abc.abstractmethod
    def _start_actor(self) -> Any:
        """A new Ray actor; returns its handle at once."""

    async def _serve(self, who: str) -> None:
        try:
            await self._score_for_ever(who)
        except Exception as error:
            self._broken = error
            while self._waiting:
                _fail(self._waiting.popleft(), error)
            raise

    async def _score_for_ever(self, who: str) -> None:
        actor, generation, is_up = self._start_actor(), self._generation, False
        batch: list[_Waiting] = []
        try:
            while True:
                batch = await self._next_batch()
                if generation != self._generation:
                    end_actor(actor)
                    actor, generation, is_up = self._start_actor(), self._generation, False
                try:
                    async with background(partial(self._watch, actor, who, is_up)):
                        await self._score_batch(actor, who, batch)
                    self._losses, is_up = 0, True
                except LostActorError as error:  # what an answer alone brings about (too long, say) leaves it serving
                    self._note_loss(who, error)
                    self._put_back(batch, error)
                    end_actor(actor)
                    actor, is_up = self._start_actor(), False
                except ActorError as error:
                    self._put_back(batch, error)
        finally:
            for item in batch:
                _fail(item, self._broken or ActorError(f"{who} was ended"))
            with contextlib.suppress(Exception):
                end_actor(actor)

    async def _watch(self, actor: Any, who: str, is_up: bool) -> None:
        """Consumes nothing; waits for the actor to come up, then between health checks; ends by an error alone."""
        config = self._supervision
        if not is_up:  # as it is once it has scored: it may have hung since, while nothing was asked of it
            presence = await within(_health(actor), _TIMEOUT_S, who, "come up")
            try:
                refuse_other_versions(who, presence)
            except ActorError as error:  # the next one may come to another node
                raise LostActorError(str(error)) from error
        while True:
            await asyncio.sleep(config.health_every_s)
            await within(_health(actor), config.health_timeout_s, who, "answer its health check")

    def _note_loss(self, who: str, error: LostActorError) -> None:
        self._losses += 1
        self._report(who, "lost", str(error))
        if self._losses >= self._supervision.max_failed_starts:
            self._broken = ClusterError(f"{self._losses} losses of {self.who}s in a row, the last one: {error}")
            raise self._broken from error

    async def _next_batch(self) -> list[_Waiting]:
        while not self._waiting:
            self._there_is_work.clear()
            await self._there_is_work.wait()
        if self._waiting[0].tries:  # alone, so that one bad answer fails no others
            return [self._waiting.popleft()]
        return [self._waiting.popleft() for _ in range(min(len(self._waiting), self._config.batch_answers))]

    async def _score_batch(self, actor: Any, who: str, batch: list[_Waiting]) -> None:
        items = [waiting.item for waiting in batch]
        scores = await within(getattr(actor, self.method).remote(items), _TIMEOUT_S, who, "score answers")
        for waiting, score in zip(batch, scores, strict=True):
            if not waiting.score.done():
                waiting.score.set_result(score)

    def _put_back(self, batch: list[_Waiting], error: ActorError) -> None:
        for item in reversed(batch):
            item.tries += 1
            if item.tries >= _TRIES:
                _fail(item, error)
            else:
                self._waiting.appendleft(item)
        self._there_is_work.set()


def _health(actor: Any) -> Any:
    return actor.presence.options(concurrency_group=_HEALTH).remote()


def _fail(item: _Waiting, error: Exception) -> None:
    if not item.score.done():
        item.score.set_exception(error)


class ScorerPool(BatchingPool):
    """Scorers of one scalar-head model."""

    method = "read"

    async def score(self, prompt_ids: Tokens, completion_ids: Tokens) -> float:
        """The model's score of one whole answer, read at its last token. Raises ActorError if it cannot be had."""
        last = np.array([len(completion_ids) - 1], np.int32)
        return float((await self.read(prompt_ids, completion_ids, last))[0])

    async def read(self, prompt_ids: Tokens, completion_ids: Tokens, tokens: Tokens) -> NDArray[np.float64]:
        """The model's numbers at some tokens of the completion. Raises ActorError if they cannot be had."""
        return await self.ask((prompt_ids, completion_ids, tokens))

    def _start_actor(self) -> Any:
        return _start_torch(ScorerActor, self._model, self._config)


class ComparerPool(BatchingPool):
    """Comparers by one discriminator."""

    who = "comparer"

    async def compare(self, prompt: str, answer: str, other: str) -> float | TooLong:
        """How much better the first answer is. Raises ActorError if it cannot be had."""
        return await self.ask((prompt, answer, other))

    def _start_actor(self) -> Any:
        return _start_torch(ComparerActor, self._model, self._config)


class JudgePool(BatchingPool):
    """Judges of one language model."""

    who = "judge"

    def __init__(
        self,
        model: Path,
        config: ScorersConfig,
        term: JudgeTermConfig,
        supervision: SupervisionConfig | None = None,
        report: Report = unheard,
    ) -> None:
        super().__init__(model, config, supervision, report)
        self._term = term

    async def compare(self, prompt: str, answer: str, other: str) -> float | TooLong:
        """How much better the first answer is. Raises ActorError if it cannot be had."""
        return await self.ask((prompt, answer, other))

    def _start_actor(self) -> Any:
        engine, resources = self._config.judge, self._config.judge_resources
        return start_actor(
            JudgeActor,
            self._term,
            engine,
            str(self._model),
            num_cpus=resources["CPU"],
            num_gpus=resources.get("GPU", 0.0),
            concurrency_groups={_HEALTH: 1},
            runtime_env={"env_vars": engine_environment(engine.device)},
        )


def _start_torch(kind: type, model: Path, config: ScorersConfig) -> Any:
    return start_actor(
        kind,
        str(model),
        ScoringConfig(config.compute, config.row_tokens, config.threads, config.placement),
        num_cpus=config.num_cpus,
        num_gpus=config.num_gpus,
        concurrency_groups={_HEALTH: 1},
        runtime_env={"env_vars": torch_environment(config.threads)},
    )
