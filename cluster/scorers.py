"""A pool of scorer actors: what is waiting when a scorer is free goes to it as one batch."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.exceptions import RayActorError

from actors.rewards import Tokens
from actors.scorer import Scorer, ScoringConfig
from cluster.actor_config import ScorersConfig
from cluster.calls import within
from cluster.errors import ActorError
from cluster.session import end_actor, start_actor

_TIMEOUT_S = 600.0
_TRIES = 2


@dataclass(slots=True)
class _Waiting:
    """One answer that waits for its score."""

    prompt_ids: Tokens
    completion_ids: Tokens
    score: asyncio.Future[float]
    tries: int = 0


class ScorerPool:
    """Scorers of one model.

    Each has a loop that consumes what is waiting, up to ``batch_answers`` at once; it waits for the next answer, and is
    unblocked by ``score``. A scorer that dies is started anew, and what it held is scored again, once.
    """

    def __init__(self, model: Path, config: ScorersConfig) -> None:
        self._model = model
        self._config = config
        self._waiting: deque[_Waiting] = deque()
        self._there_is_work = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Starts all scorers."""
        self._loops = [asyncio.create_task(self._serve(f"scorer-{index}")) for index in range(self._config.count)]

    async def score(self, prompt_ids: Tokens, completion_ids: Tokens) -> float:
        """The model's score of one answer. Raises ActorError if it cannot be had."""
        item = _Waiting(prompt_ids, completion_ids, asyncio.get_running_loop().create_future())
        self._waiting.append(item)
        self._there_is_work.set()
        return await item.score

    async def stop(self) -> None:
        """Ends all scorers; answers that still wait are errors."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        self._loops = []
        for item in self._waiting:
            _fail(item, ActorError("the scorers were ended"))
        self._waiting.clear()

    def _start_actor(self) -> Any:
        config = self._config
        return start_actor(
            Scorer,
            str(self._model),
            ScoringConfig(config.compute, config.row_tokens, config.threads),
            num_cpus=config.num_cpus,
            num_gpus=config.num_gpus,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(config.threads)}},
        )

    async def _serve(self, who: str) -> None:
        actor = self._start_actor()
        batch: list[_Waiting] = []
        try:
            while True:
                batch = await self._next_batch()
                try:
                    await self._score_batch(actor, who, batch)
                except ActorError as error:
                    self._put_back(batch, error)
                    if isinstance(error.__cause__, RayActorError) or isinstance(error.__context__, TimeoutError):
                        # Dead or stuck; what an answer alone brings about (too long, say) leaves it serving.
                        end_actor(actor)
                        actor = self._start_actor()
        finally:
            for item in batch:
                _fail(item, ActorError(f"{who} was ended"))
            with contextlib.suppress(Exception):
                end_actor(actor)

    async def _next_batch(self) -> list[_Waiting]:
        while not self._waiting:
            self._there_is_work.clear()
            await self._there_is_work.wait()
        if self._waiting[0].tries:  # alone, so that one bad answer fails no others
            return [self._waiting.popleft()]
        return [self._waiting.popleft() for _ in range(min(len(self._waiting), self._config.batch_answers))]

    async def _score_batch(self, actor: Any, who: str, batch: list[_Waiting]) -> None:
        answers = [(item.prompt_ids, item.completion_ids) for item in batch]
        scores = await within(actor.score.remote(answers), _TIMEOUT_S, who, "score answers")
        for item, score in zip(batch, scores, strict=True):
            if not item.score.done():
                item.score.set_result(float(score))

    def _put_back(self, batch: list[_Waiting], error: ActorError) -> None:
        for item in reversed(batch):
            item.tries += 1
            if item.tries >= _TRIES:
                _fail(item, error)
            else:
                self._waiting.appendleft(item)
        self._there_is_work.set()


def _fail(item: _Waiting, error: ActorError) -> None:
    if not item.score.done():
        item.score.set_exception(error)
