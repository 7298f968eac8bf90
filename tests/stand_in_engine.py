"""A generator without vLLM, for tests of the controller: same methods, same records, any speed.

What it samples is a function of prompt and seed alone, so a completion that was issued again is bitwise the same. How
long that takes, and which weights its spans name, depends on time and pushes as with the real one.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from actors.busy_clock import BusyClock
from actors.errors import EngineDiedError, EngineUnavailableError, WeightPhaseError, WeightsLostError
from actors.generator import GenerationRequest, GenerationResult, GeneratorStats
from actors.weights import verify_published
from learner.trajectory import FinishReason, Turn, VersionSpan
from problems.identity import TrajectoryId, WeightsVersion, derive_seed

_TICK_S = 0.005


@dataclass(frozen=True, slots=True)
class StandInConfig:
    """How the stand-in behaves.

    Attributes:
        tokens_per_s: speed of each request; 0 answers at once.
        mean_tokens: mean of the geometric distribution of lengths (cut at ``max_tokens``).
        vocab_size: ids are drawn from [0, vocab_size).
        load_s: seconds that ``update`` takes.
        max_num_seqs: requests that make progress together.
        fail_after: EngineDiedError from this many finished requests on; None: never.
    """

    tokens_per_s: float = 0.0
    mean_tokens: float = 30.0
    vocab_size: int = 1024
    load_s: float = 0.0
    max_num_seqs: int = 128
    fail_after: int | None = None


class StandInGenerator:
    """Stands in for ``actors.generator.Generator``."""

    def __init__(self, config: StandInConfig) -> None:
        self._config = config
        self._version: WeightsVersion | None = None
        self._next_version: WeightsVersion | None = None
        self._is_asleep = False
        self._serving = asyncio.Event()
        self._slots = asyncio.Semaphore(config.max_num_seqs)
        self._aborted: set[str] = set()
        self._running: dict[str, int] = {}
        self._tokens_generated = 0
        self._requests_finished = 0
        self._clock = BusyClock()

    async def start_engine(self, model_path: str, version: WeightsVersion) -> None:
        """Takes no time and reads nothing."""
        del model_path
        self._version = version
        self._clock = BusyClock()
        self._serving.set()

    @property
    def version(self) -> WeightsVersion:
        if self._version is None:
            raise EngineUnavailableError("this generator has no engine: start it first")
        return self._version

    async def generate(self, request: GenerationRequest) -> GenerationResult:
        """Consumes the request; waits for a slot, for time and for the end of a push; ``abort`` unblocks it."""
        key = str(request.id)
        self._running[key] = self._running.get(key, 0) + 1
        self._clock.enter()
        turn = None
        try:
            async with self._slots:
                turn = await self._sample(request, key)
        finally:
            self._clock.leave()
            self._running[key] -= 1
            if not self._running[key]:
                del self._running[key]
                self._aborted.discard(key)
            self._requests_finished += 1
            self._tokens_generated += 0 if turn is None else len(turn.completion_ids)
        return GenerationResult(request.id, turn)

    async def generate_group(self, requests: Sequence[GenerationRequest]) -> AsyncIterator[GenerationResult]:
        """Each completion the moment it is finished."""
        tasks = [asyncio.create_task(self.generate(request)) for request in requests]
        try:
            for finished in asyncio.as_completed(tasks):
                yield await finished
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def abort(self, ids: Iterable[TrajectoryId]) -> None:
        self._aborted |= {str(id) for id in ids} & self._running.keys()

    async def init(self) -> None:
        await self.check_health()

    async def verify(self, ticket: dict[str, str]) -> None:
        """A ticket of the shm transport is checked for real; any other needs only a version."""
        if ticket.get("transport") == "shm":
            await asyncio.to_thread(verify_published, ticket)

    async def sleep(self) -> None:
        if self._next_version is not None:
            raise WeightPhaseError(f"sleep during the update to {self._next_version}")
        self._is_asleep = True
        self._serving.clear()
        self._clock.pause()

    async def start(self, version: WeightsVersion) -> None:
        if not self._serving.is_set() and not self._is_asleep:
            raise WeightPhaseError(f"start of {version} during the update to {self._next_version}")
        if not self._is_asleep:
            self._serving.clear()
            self._clock.pause()
        self._next_version = version

    async def update(self, ticket: dict[str, str]) -> None:
        if self._next_version is None:
            raise WeightPhaseError("update was called in phase 'serving', it belongs to 'started'")
        try:
            await self.verify(ticket)
            if ticket["version"] != str(self._next_version):
                raise WeightPhaseError(f"update to {self._next_version} was given a ticket of {ticket['version']}")
        except Exception as error:
            if self._is_asleep:
                raise WeightsLostError(f"there are no weights to go on with: {error}") from error
            self._resume()
            raise
        await asyncio.sleep(self._config.load_s)

    async def finish(self, version: WeightsVersion) -> None:
        if self._next_version != version:
            raise WeightPhaseError(f"update to {self._next_version} cannot be finished as {version}")
        self._version = version
        self._resume()

    def stats(self) -> GeneratorStats:
        busy_s, paused_s, up_s = self._clock.read()
        return GeneratorStats(
            version=self.version,
            tokens_generated=self._tokens_generated,
            requests_finished=self._requests_finished,
            requests_running=sum(self._running.values()),
            busy_s=busy_s,
            paused_s=paused_s,
            up_s=up_s,
        )

    async def check_health(self) -> None:
        if self._config.fail_after is not None and self._requests_finished >= self._config.fail_after:
            raise EngineDiedError("the engine's process has ended")

    async def shutdown(self) -> None:
        await self.abort([])
        self._aborted |= self._running.keys()
        self._resume()

    def _resume(self) -> None:
        self._next_version = None
        self._is_asleep = False
        self._clock.resume()
        self._serving.set()

    async def _sample(self, request: GenerationRequest, key: str) -> Turn:
        ids, logprobs = self._whole_completion(request)
        num_done = 0.0
        starts: list[tuple[int, WeightsVersion]] = []
        while True:
            await self._serving.wait()
            await self.check_health()
            num_before = min(int(num_done), len(ids))
            if key in self._aborted:
                return _turn(request, ids[:num_before], logprobs, starts, FinishReason.ABORTED)
            if num_before == len(ids):
                break
            if not starts or starts[-1][1] != self.version:
                starts.append((num_before, self.version))
            if self._config.tokens_per_s == 0:
                num_done = len(ids)
                continue
            remaining_s = (len(ids) - num_done) / self._config.tokens_per_s
            step_s = min(_TICK_S, remaining_s)
            await asyncio.sleep(step_s)
            num_done = len(ids) if step_s == remaining_s else num_done + step_s * self._config.tokens_per_s
        reason = FinishReason.LENGTH if len(ids) == request.max_tokens else FinishReason.STOP
        return _turn(request, ids, logprobs, starts, reason)

    def _whole_completion(self, request: GenerationRequest) -> tuple[np.ndarray, np.ndarray]:
        prompt = hashlib.blake2b(np.asarray(request.prompt_ids, np.int32).tobytes(), digest_size=8).hexdigest()
        seed = 0 if request.temperature == 0 else request.id.sampling_seed()
        rng = np.random.default_rng(derive_seed("stand-in", prompt, seed))
        num_tokens = min(int(rng.geometric(1 / self._config.mean_tokens)), request.max_tokens)
        ids = rng.integers(0, self._config.vocab_size, num_tokens, dtype=np.int32)
        return ids, -rng.random(num_tokens, dtype=np.float32)


def _turn(
    request: GenerationRequest,
    ids: np.ndarray,
    logprobs: np.ndarray,
    starts: list[tuple[int, WeightsVersion]],
    reason: FinishReason,
) -> Turn:
    ends = [start for start, _ in starts[1:]] + [len(ids)]
    spans = (VersionSpan(version, start, end) for (start, version), end in zip(starts, ends, strict=True))
    return Turn(
        prompt_ids=request.prompt_ids,
        completion_ids=ids,
        loss_mask=np.ones(len(ids), np.bool_),
        behaviour_logprobs=logprobs[: len(ids)],
        spans=tuple(span for span in spans if span.start < span.end),
        finish_reason=reason,
    )
