"""The one door to vLLM. It knows vLLM's names and none of ours but the settings; `actors.generator` gives it meaning.

vLLM's RL interfaces moved between releases: everything that depends on 0.32 is here and in `actors.vllm_worker`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from actors.config import GeneratorConfig
from actors.errors import EngineDiedError, EngineUnavailableError
from actors.owner import own_children

_WORKER_MODULE = "actors.vllm_worker"
_FILES = "shm"  # the backend for weights that come as files of the host, whichever way they came there
_NCCL, _IPC = "nccl", "ipc"  # vLLM's own
_SHUTDOWN_GRACE_S = 3.0


def engine_environment(device: str, transport: str = "") -> dict[str, str]:
    """Environment of a process that holds an engine, set before its Python starts (Ray: ``runtime_env``)."""
    common = {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # the owner has threads: a fork of it can deadlock
    }
    if transport == _IPC:  # its handles are pickled; they come from the run's own trainer, through Ray
        common["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
    if device == "cuda":
        return common
    if device != "cpu":
        raise ValueError(f"device {device!r} is neither 'cpu' nor 'cuda'")
    return common | {
        "OMP_NUM_THREADS": "1",  # two engines on two busy cores collapse with more
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the model runs in the engine's process, not in one more
        "TORCHDYNAMO_DISABLE": "1",  # log-probability ranking would compile for 5-16 s at the first sampled request
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }


@dataclass(frozen=True, slots=True)
class SamplingRequest:
    """What vLLM is asked for. Temperature 0 is greedy. Nothing truncates the distribution, but ``allowed_token_ids``
    where they are given: then it is over these ids alone."""

    request_id: str
    prompt_ids: list[int]
    max_tokens: int
    temperature: float
    seed: int
    stop: tuple[str, ...]
    stop_token_ids: tuple[int, ...]
    cache_salt: str | None
    allowed_token_ids: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Sampled:
    """What vLLM answered. T tokens.

    Attributes:
        token_ids: all T sampled tokens, those of a stop string included.
        logprobs: T log-probabilities under the distribution that was sampled from.
        finish_reason: ``stop``, ``length`` or ``abort``.
        stop_string: the stop string that ended it, or None.
        version_spans: (label of the weights, start, end), covering [0, T).
    """

    token_ids: Sequence[int]
    logprobs: Sequence[float]
    finish_reason: str
    stop_string: str | None
    version_spans: list[tuple[str, int, int]]


class VllmEngine:
    """A running vLLM engine: this process talks to the engine's own process, which ends with this one."""

    def __init__(self, llm: Any) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        self._llm: Any = llm
        self._params = SamplingParams
        self._final_only = RequestOutputKind.FINAL_ONLY

    @staticmethod
    async def start(config: GeneratorConfig, model_path: str, version: str) -> VllmEngine:
        """Loads ``model_path`` and labels its weights ``version``. Takes 15-20 s on a CPU, most of it imports.

        Raises EngineUnavailableError where vLLM is missing or the engine does not come up.
        """
        own_children()
        try:
            llm = await asyncio.to_thread(_make_llm, config, model_path)
        except ImportError as error:
            raise EngineUnavailableError(
                f"vLLM cannot be imported ({error}): install the extra 'cpu' or 'gpu'"
            ) from error
        except Exception as error:
            raise EngineUnavailableError(f"vLLM's engine did not start with {model_path}: {error}") from error
        engine = VllmEngine(llm)
        if config.weight_transport != _NCCL:  # there the engine joins a group at its first update
            await engine._init_weight_transfer({})
        await engine.label_weights(version)
        return engine

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer, or None without ``stop_strings``."""
        return self._llm.tokenizer

    async def sample(self, request: SamplingRequest) -> Sampled:
        """Samples one completion; an aborted one is returned as far as it got."""
        prompt: dict[str, Any] = {"type": "token", "prompt_token_ids": request.prompt_ids}
        if request.cache_salt is not None:
            prompt["cache_salt"] = request.cache_salt
        with _EngineErrors():
            async for output in self._llm.generate(prompt, self._sampling_params(request), request.request_id):
                if output.finished:
                    return _sampled(output.outputs[0])
        raise EngineDiedError(f"the engine ended request {request.request_id} without an answer")

    async def abort(self, request_ids: Iterable[str]) -> None:
        """Gives up these requests; unknown ids are none of its business."""
        await self._llm.abort(list(request_ids))

    async def pause(self, *, clear_cache: bool) -> None:
        """Returns when nothing is being sampled any more. Requests in flight are kept; new ones wait."""
        with _EngineErrors():
            # Not pause_generation: it sleeps 20 ms more, for the order of events alone. Spans are labelled in the
            # engine's process, so late outputs are labelled right.
            await self._llm.engine_core.pause_scheduler_async(mode="keep", clear_cache=clear_cache)

    async def resume(self) -> None:
        with _EngineErrors():
            await self._llm.resume_generation()

    async def begin_update(self) -> None:
        with _EngineErrors():
            await self._llm.start_weight_update()

    async def load(self, files: Sequence[str]) -> None:
        """Loads published files, in place. When this fails the weights are lost."""
        await self._update_weights({"files": list(files)})

    async def join_group(self, address: str, port: int, world_size: int, buffer_bytes: int) -> None:
        """The engine's workers join the trainer's communicator, as ranks 1 and up. See actors.nccl_weights."""
        place = {"master_address": address, "master_port": port, "rank_offset": 1, "world_size": world_size}
        await self._init_weight_transfer(place | {"packed": True, "packed_buffer_size_bytes": buffer_bytes})

    async def receive(self, names: list[str], dtype_names: list[str], shapes: list[list[int]]) -> None:
        """Takes what the trainer broadcasts meanwhile. When this fails the weights are lost."""
        await self._update_weights({"names": names, "dtype_names": dtype_names, "shapes": shapes})

    async def map_memory(self, names: list[str], dtype_names: list[str], shapes: list[list[int]], handles: str) -> None:
        """Loads from memory of the same GPU in another process. When this fails the weights are lost."""
        layout = {"names": names, "dtype_names": dtype_names, "shapes": shapes}
        await self._update_weights(layout | {"ipc_handles_pickled": handles})

    async def sleep(self) -> None:
        """Gives the GPU's memory up, weights and cache. Requests in flight are kept, and prefilled again later."""
        with _EngineErrors():
            await self._llm.sleep(level=2, mode="keep")

    async def wake_weights(self) -> None:
        """Takes memory for the weights again: what is in it must be loaded before ``wake_cache``."""
        with _EngineErrors():
            await self._llm.wake_up(tags=["weights"])

    async def wake_cache(self) -> None:
        """Takes memory for the cache again; sampling goes on from here."""
        with _EngineErrors():
            await self._llm.wake_up(tags=["kv_cache"])

    async def _update_weights(self, info: dict[str, Any]) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        with _EngineErrors():
            await self._llm.update_weights(WeightTransferUpdateRequest(update_info=info))

    async def commit_update(self, version: str | None) -> None:
        """Makes what was loaded the weights; ``version`` None leaves the label as it is."""
        with _EngineErrors():
            await self._llm.finish_weight_update(weight_version=version)

    async def label_weights(self, version: str) -> None:
        """What the spans of tokens sampled from now on will say. Only while nothing is sampled."""
        await self._llm.update_weight_version(version)

    async def weights_label(self) -> str:
        return await self._llm.get_weight_version()

    async def check_health(self) -> None:
        """Raises EngineDiedError if the engine's process is gone; does not return while it hangs."""
        with _EngineErrors():
            await self._llm.check_health()
            await self._llm.get_weight_version()  # which vLLM asks the process; the check above does not

    async def shutdown(self) -> None:
        """Ends the engine's process and waits for it."""
        llm = self._llm
        self._llm = _Closed()
        if llm.output_handler is not None:
            llm.output_handler.cancel()  # or it reports the end that follows as a crash
        await asyncio.to_thread(_end_engine, llm)
        llm.shutdown = _nothing  # its finaliser calls this again, as late as in the interpreter's own end

    async def _init_weight_transfer(self, info: dict[str, Any]) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        await self._llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info=info))

    def _sampling_params(self, request: SamplingRequest) -> Any:
        return self._params(
            temperature=request.temperature,
            seed=request.seed,
            max_tokens=request.max_tokens,
            stop=list(request.stop) or None,
            stop_token_ids=list(request.stop_token_ids),
            allowed_token_ids=list(request.allowed_token_ids) if request.allowed_token_ids else None,
            ignore_eos=True,  # the request's own ids end it, and no other
            logprobs=0,
            flat_logprobs=True,
            detokenize=bool(request.stop),
            output_kind=self._final_only,
            skip_clone=True,
        )


def _end_engine(llm: Any) -> None:
    """vLLM kills what does not end in time (a paused engine, say) but does not wait for the kill."""
    manager = llm.engine_core.resources.engine_manager
    processes = list(manager.processes) if manager is not None else []
    llm.shutdown(timeout=_SHUTDOWN_GRACE_S)
    for process in processes:
        process.join(_SHUTDOWN_GRACE_S)


def _nothing() -> None:
    pass


class _Closed:
    """In the place of an engine that was shut down: every use is answered with one clear error."""

    def __getattr__(self, name: str) -> Any:
        raise EngineUnavailableError(f"{name}: this engine was shut down")


class _EngineErrors:
    """Turns vLLM's word for a dead engine into ours."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, Exception):
            return
        from vllm.v1.engine.exceptions import EngineDeadError

        if isinstance(error, EngineDeadError) or isinstance(error.__cause__, EngineDeadError):
            raise EngineDiedError("the engine's process has ended") from error


def _make_llm(config: GeneratorConfig, model_path: str) -> Any:
    from vllm.config.weight_transfer import WeightTransferConfig
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    limits: dict[str, Any] = {}
    if config.kv_cache_bytes_or_default is not None:
        limits["kv_cache_memory_bytes"] = config.kv_cache_bytes_or_default
    if config.step_tokens is not None:
        limits["max_num_batched_tokens"] = config.step_tokens
    if config.device == "cuda":
        limits["gpu_memory_utilization"] = config.gpu_memory_utilization
        limits["enable_sleep_mode"] = config.sleep_mode
    else:
        # A prompt cut into two steps samples a token to throw away, and vLLM then winds the request's own generator
        # back, which a CPU generator cannot: the engine dies.
        limits["enable_chunked_prefill"] = False
    arguments = AsyncEngineArgs(
        model=model_path,
        dtype=config.dtype,
        max_model_len=config.max_model_len,
        max_num_seqs=config.max_num_seqs,
        tensor_parallel_size=config.tensor_parallel_size,
        enforce_eager=config.eager,
        enable_prefix_caching=config.prefix_caching,
        skip_tokenizer_init=not config.stop_strings,
        logprobs_mode="processed_logprobs",
        generation_config="vllm",
        worker_extension_cls=f"{_WORKER_MODULE}.WorkerExtension",
        weight_transfer_config=WeightTransferConfig(
            backend=config.weight_transport if config.weight_transport in (_NCCL, _IPC) else _FILES
        ),
        disable_log_stats=True,
        use_tqdm_on_load=False,
        **limits,
    )
    return AsyncLLM.from_engine_args(arguments)


def _sampled(completion: Any) -> Sampled:
    return Sampled(
        token_ids=completion.token_ids,
        logprobs=completion.logprobs.logprobs[:],
        finish_reason=completion.finish_reason,
        stop_string=completion.stop_reason if isinstance(completion.stop_reason, str) else None,
        version_spans=[(span.version, span.start, span.end) for span in completion.weight_versions or ()],
    )
