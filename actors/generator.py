"""A generator: token ids in, sampled token ids out, with weights that change while it samples.

requests --> [ vLLM engine: waiting | running ] --> one Turn each, the moment it is finished
                          ^
   start(version) .. update(ticket) .. finish(version)     nothing is sampled between start and finish

Where it shares its GPU with the trainer, ``sleep`` comes before: from there to ``finish`` it has neither weights nor
cache.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.busy_clock import BusyClock
from actors.config import GeneratorConfig
from actors.engine import Sampled, SamplingRequest, VllmEngine
from actors.errors import EngineDiedError, EngineUnavailableError, WeightPhaseError, WeightsLostError
from actors.ipc_weights import TRANSPORT as IPC
from actors.nccl_weights import TRANSPORT as NCCL
from actors.nccl_weights import NcclFetcher
from actors.weights import PublishedWeights, verify_published
from learner.trajectory import FinishReason, Turn, VersionSpan
from problems.identity import TrajectoryId, WeightsVersion
from problems.prompting import TokenBytes

_FINISH_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH, "abort": FinishReason.ABORTED}


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One completion to sample. There is no top_p and no top_k: both would renormalise what PPO takes its ratio from.

    Attributes:
        id: identity; the sampler's seed is derived from it.
        prompt_ids: int32 [P], P >= 1.
        max_tokens: limit of the completion, in tokens.
        temperature: 0 is greedy (its log-probabilities are those of temperature 1).
        eos_token_ids: ids that end the completion and are part of it.
        stop: strings that end it and are not part of it; need ``GeneratorConfig.stop_strings``.
    """

    id: TrajectoryId
    prompt_ids: NDArray[np.int32]
    max_tokens: int
    temperature: float = 1.0
    eos_token_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """What was sampled for ``id``. An aborted turn holds the tokens sampled so far."""

    id: TrajectoryId
    turn: Turn


@dataclass(frozen=True, slots=True)
class GeneratorStats:
    """Totals since the start.

    Attributes:
        version: of the weights that it samples with.
        tokens_generated: completion tokens of finished requests.
        requests_finished: aborted ones included.
        requests_running: in the engine now, waiting or being sampled.
        busy_s: time with at least one request, pauses not included.
        paused_s: time in weight updates.
        up_s: time since the start.
    """

    version: WeightsVersion
    tokens_generated: int
    requests_finished: int
    requests_running: int
    busy_s: float
    paused_s: float
    up_s: float


class _Phase(StrEnum):
    SERVING = "serving"
    STARTED = "started"
    LOADED = "loaded"
    LOST = "lost"


class Generator:
    """Wraps one vLLM engine. All methods belong to one event loop; any number of requests may be in flight.

    Args:
        config: the engine's settings.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        self._config = config
        self._engine_or_none: VllmEngine | None = None
        self._token_bytes: TokenBytes | None = None
        self._version = WeightsVersion(0, 0)
        self._next_version = self._version
        self._phase = _Phase.SERVING
        self._is_asleep = False
        self._fetcher = NcclFetcher(config.tensor_parallel_size)
        self._verified: tuple[dict[str, str], PublishedWeights] | None = None
        self._running: dict[str, int] = {}
        self._tokens_generated = 0
        self._requests_finished = 0
        self._clock = BusyClock()

    async def start_engine(self, model_path: str, version: WeightsVersion) -> None:
        """Loads a Hugging Face folder as ``version``. Raises EngineUnavailableError."""
        if self._engine_or_none is not None:
            raise EngineUnavailableError("this generator's engine is running already")
        self._engine_or_none = await VllmEngine.start(self._config, model_path, str(version))
        self._version = version
        self._clock = BusyClock()
        if self._config.stop_strings:
            self._token_bytes = TokenBytes.of(self._engine.tokenizer)

    @property
    def version(self) -> WeightsVersion:
        """Version that tokens are sampled with now."""
        return self._version

    async def generate(self, request: GenerationRequest) -> GenerationResult:
        """Samples one completion.

        Consumes the request; waits for the engine; is unblocked by the completion's end, ``abort`` or the engine's
        death (EngineDiedError). Raises ValueError for a request that the engine cannot hold.
        """
        self._check(request)
        key = str(request.id)
        self._enter(key)
        num_tokens = 0
        try:
            sampled = await self._engine.sample(self._sampling_request(request, key))
            num_tokens = len(sampled.token_ids)
        finally:
            self._leave(key, num_tokens)
        return GenerationResult(request.id, self._turn(request, sampled))

    async def generate_group(self, requests: Sequence[GenerationRequest]) -> AsyncIterator[GenerationResult]:
        """Samples several completions and yields each the moment it is finished, in that order.

        Consumes the requests; waits for whichever is next; is unblocked by it, or by the first error, which is raised
        and gives the others up. Dropping the iterator gives up what is not finished.
        """
        tasks = [asyncio.create_task(self.generate(request)) for request in requests]
        try:
            for finished in asyncio.as_completed(tasks):
                yield await finished
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def abort(self, ids: Iterable[TrajectoryId]) -> None:
        """Ends these requests now; each is returned with what it has. Unknown or finished ids are ignored."""
        await self._engine.abort([str(id) for id in ids])

    # Weight updates: WeightReceiver.

    async def init(self) -> None:
        """Nothing is agreed upon beforehand by the shm transport; checks that the engine lives."""
        await self._engine.check_health()

    async def verify(self, ticket: dict[str, str]) -> None:
        """Checks the published files while sampling goes on, so that ``update`` need not do it during the pause.

        By NCCL and on a shared GPU there are none; by NCCL it joins the sender's communicator.
        """
        transport = ticket.get("transport")
        if transport == NCCL:
            await self._fetcher.join(ticket, self._engine)
        if transport in (NCCL, IPC):
            weights = PublishedWeights(WeightsVersion.parse(ticket["version"]), ())
        else:
            weights = await asyncio.to_thread(verify_published, ticket)
        self._verified = ticket, weights

    async def sleep(self) -> None:
        """Gives the GPU to whom it shares it with: nothing is sampled until the next update is finished."""
        self._expect(_Phase.SERVING, "sleep")
        if not self._is_asleep:
            self._is_asleep = True
            self._clock.pause()
            await self._engine.sleep()

    async def start(self, version: WeightsVersion) -> None:
        """Pauses sampling and opens an update to ``version``. No token is sampled until ``finish`` returns."""
        self._expect(_Phase.SERVING, "start")
        self._phase, self._next_version = _Phase.STARTED, version
        if self._is_asleep:
            await self._engine.wake_weights()
        else:
            self._clock.pause()
            await self._engine.pause(clear_cache=self._config.kv == "recompute")
        await self._engine.begin_update()

    async def update(self, ticket: dict[str, str]) -> None:
        """Loads the published weights.

        A ticket that is refused (WeightsMissingError, WeightsCorruptedError, WeightPhaseError) changes nothing: the
        update is over and sampling goes on with the weights as they were. WeightsLostError: the engine must be started
        anew; so it must where it was asleep, and has no weights to go on with.
        """
        self._expect(_Phase.STARTED, "update")
        try:
            weights = await self._published(ticket)
            if weights.version != self._next_version:
                raise WeightPhaseError(f"update to {self._next_version} was given a ticket of {weights.version}")
            if ticket.get("transport") == NCCL:
                await self._fetcher.ask(ticket)
        except Exception as error:
            if self._is_asleep:
                raise await self._lost(error) from error
            await self._abandon_update()
            raise
        await self._or_lost(self._load(ticket, weights))
        self._phase = _Phase.LOADED

    async def finish(self, version: WeightsVersion) -> None:
        """Samples with ``version`` from here on; requests in flight go on."""
        self._expect(_Phase.LOADED, "finish")
        if version != self._next_version:
            raise WeightPhaseError(f"update to {self._next_version} cannot be finished as {version}")
        await self._or_lost(self._engine.commit_update(str(version)))
        if self._is_asleep:
            await self._engine.wake_cache()
            self._is_asleep = False
        self._version = version
        await self._resume()

    def stats(self) -> GeneratorStats:
        """Totals for metrics; cheap."""
        busy_s, paused_s, up_s = self._clock.read()
        return GeneratorStats(
            version=self._version,
            tokens_generated=self._tokens_generated,
            requests_finished=self._requests_finished,
            requests_running=sum(self._running.values()),
            busy_s=busy_s,
            paused_s=paused_s,
            up_s=up_s,
        )

    async def check_health(self) -> None:
        """Raises EngineDiedError, EngineUnavailableError or WeightsLostError if nothing can be sampled any more."""
        await self._engine.check_health()
        if self._phase is _Phase.LOST:
            raise WeightsLostError("a weight update failed half-way; start the engine anew")

    async def shutdown(self) -> None:
        """Gives up what is in flight (each request is answered as aborted) and ends the engine's process."""
        if self._engine_or_none is None:
            return
        engine, self._engine_or_none = self._engine_or_none, None
        await engine.abort(list(self._running))
        await engine.shutdown()

    @property
    def _engine(self) -> VllmEngine:
        if self._engine_or_none is None:
            raise EngineUnavailableError("this generator has no engine: start it first")
        return self._engine_or_none

    def _check(self, request: GenerationRequest) -> None:
        if self._phase is _Phase.LOST:
            raise EngineDiedError("the engine's weights were lost in a failed update")
        num_prompt = len(request.prompt_ids)
        if num_prompt < 1 or request.max_tokens < 1 or request.temperature < 0:
            raise ValueError(
                f"request {request.id}: {num_prompt} prompt_ids, max_tokens {request.max_tokens}, "
                f"temperature {request.temperature}"
            )
        if num_prompt + request.max_tokens > self._config.max_model_len:
            raise ValueError(
                f"request {request.id}: {num_prompt} prompt tokens and max_tokens {request.max_tokens} "
                f"exceed max_model_len {self._config.max_model_len}"
            )
        if request.stop and not self._config.stop_strings:
            raise ValueError(f"request {request.id} has stop strings; set stop_strings: true in the generator's config")

    def _sampling_request(self, request: GenerationRequest, key: str) -> SamplingRequest:
        return SamplingRequest(
            request_id=key,
            prompt_ids=np.asarray(request.prompt_ids).tolist(),
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            seed=request.id.sampling_seed(),
            stop=request.stop,
            stop_token_ids=request.eos_token_ids,
            cache_salt=str(self._next_version) if self._config.kv == "keep" else None,
        )

    def _turn(self, request: GenerationRequest, sampled: Sampled) -> Turn:
        """The engine's answer as a record, without the tokens of a stop string."""
        completion_ids = np.asarray(sampled.token_ids, dtype=np.int32)
        num_kept = self._num_before_stop(completion_ids, sampled.stop_string)
        spans = [
            VersionSpan(WeightsVersion.parse(label), start, min(end, num_kept))
            for label, start, end in sampled.version_spans
            if start < num_kept
        ]
        return Turn(
            prompt_ids=request.prompt_ids,
            completion_ids=completion_ids[:num_kept],
            loss_mask=np.ones(num_kept, dtype=np.bool_),
            behaviour_logprobs=np.asarray(sampled.logprobs, dtype=np.float32)[:num_kept],
            spans=tuple(spans),
            finish_reason=_FINISH_REASONS[sampled.finish_reason],
        )

    def _num_before_stop(self, completion_ids: NDArray[np.int32], stop_string: str | None) -> int:
        """Tokens that begin before the stop string. One that holds its first bytes and earlier ones is kept whole."""
        if stop_string is None or self._token_bytes is None:
            return len(completion_ids)
        pieces = self._token_bytes.pieces(completion_ids.tolist())
        stop_at = b"".join(pieces).rfind(stop_string.encode())
        if stop_at < 0:
            return len(completion_ids)
        starts = np.cumsum([0, *(len(piece) for piece in pieces[:-1])])
        return int(np.searchsorted(starts, stop_at, side="left"))

    def _enter(self, key: str) -> None:
        self._running[key] = self._running.get(key, 0) + 1
        self._clock.enter()

    def _leave(self, key: str, num_tokens: int) -> None:
        self._running[key] -= 1
        if not self._running[key]:
            del self._running[key]
        self._clock.leave()
        self._tokens_generated += num_tokens
        self._requests_finished += 1

    def _expect(self, phase: _Phase, action: str) -> None:
        if self._phase is _Phase.LOST:
            raise WeightsLostError("an earlier weight update failed half-way; start the engine anew")
        if self._phase is not phase:
            raise WeightPhaseError(f"{action} was called in phase '{self._phase}', it belongs to '{phase}'")

    async def _published(self, ticket: dict[str, str]) -> PublishedWeights:
        if self._verified is None or self._verified[0] != ticket:
            await self.verify(ticket)
        assert self._verified is not None
        weights, self._verified = self._verified[1], None
        return weights

    async def _load(self, ticket: dict[str, str], weights: PublishedWeights) -> None:
        transport = ticket.get("transport")
        if transport == NCCL:
            await self._fetcher.receive(ticket, self._engine)
        elif transport == IPC:
            names, dtype_names, shapes = (json.loads(ticket[part]) for part in ("names", "dtype_names", "shapes"))
            await self._engine.map_memory(names, dtype_names, shapes, ticket["handles"])
        else:
            await self._engine.load([str(file) for file in weights.files])

    async def _abandon_update(self) -> None:
        """Nothing was loaded yet, so the old weights are whole: closes the update and samples on with them."""
        self._next_version = self._version
        await self._engine.commit_update(None)
        await self._resume()

    async def _resume(self) -> None:
        await self._engine.resume()
        self._phase = _Phase.SERVING
        self._clock.resume()

    async def _or_lost(self, loading: Any) -> None:
        try:
            await loading
        except EngineDiedError:
            raise
        except Exception as error:
            raise await self._lost(error) from error

    async def _lost(self, error: Exception) -> WeightsLostError:
        self._phase = _Phase.LOST
        await self._engine.abort(list(self._running))
        return WeightsLostError(f"loading weights {self._next_version} failed half-way: {error}")
