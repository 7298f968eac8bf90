"""Settings of the actors. Pydantic only: importing this costs neither torch nor vLLM."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

_CPU_STEP_TOKENS = 2048
_CPU_KV_CACHE_BYTES = 256 << 20  # vLLM's own choice reads NUMA node 0 and can be larger than the machine


class GeneratorConfig(BaseModel):
    """One generator: one vLLM engine."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    device: Literal["cpu", "cuda"] = "cpu"
    """Where the engine runs."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights in the engine; ``auto`` takes the checkpoint's. Only float32 is bitwise repeatable in every
    batch that we tried, and only there do log-probabilities agree with the trainer's to 1e-5 (bfloat16: 3e-2)."""

    max_model_len: int = Field(default=1024, ge=2)
    """Tokens of prompt and completion together. A request that could outgrow it is refused."""

    max_num_seqs: int = Field(default=128, ge=1)
    """Requests sampled in one engine step; more wait inside the engine."""

    max_num_batched_tokens: int | None = Field(default=None, ge=1)
    """Tokens (prefill and decode) of one engine step. None: vLLM's choice on a GPU; on a CPU 2048, or ``max_model_len``
    where that is more, since a CPU engine prefills a prompt in one step."""

    kv_cache_bytes: int | None = Field(default=None, ge=1 << 20)
    """Memory of the KV cache in bytes. None: 256 MiB on a CPU, on a GPU what ``gpu_memory_utilization`` leaves."""

    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    """Share of the GPU's memory that the engine may take; without meaning on a CPU."""

    tensor_parallel_size: int = Field(default=1, ge=1)
    """GPUs of one node that share the model."""

    enforce_eager: bool | None = None
    """No CUDA graphs and no compilation. None: on for a CPU, off for a GPU."""

    prefix_caching: bool = True
    """The N completions of a prompt share its prefill."""

    stop_strings: bool = False
    """Load the tokenizer beside the weights, so that requests may carry stop strings. Costs a detokenizer step a token;
    end-of-sequence ids need none of it."""

    kv: Literal["recompute", "keep"] = "recompute"
    """KV cache at a weight update. ``recompute``: cleared; what is in flight is prefilled again with the new weights.
    ``keep``: requests in flight keep theirs; new ones get a cache salt of the version, so that no prefix of old weights
    is reused."""

    weight_transport: Literal["per_node", "shm", "nccl", "ipc"] = "per_node"
    """How new weights arrive. ``per_node`` and ``shm``: as files in the host's shared memory, published there by the
    trainer; with ``per_node`` they are copied once to each other Ray node, through Ray's object store, and loaded
    there, with ``shm`` nothing is copied, so that all Ray nodes of the run must lie on one host and see one
    ``/dev/shm``. ``nccl``: from the trainer's GPU into the engine's, over a communicator of its own; for
    ``device: cuda`` and a trainer with ``gpus_per_rank: 1``. ``ipc``: within the GPU that both share, for ``placement:
    colocated``. Neither of the last two was ever run."""

    sleep_mode: bool = False
    """The engine can give its GPU's memory up and take it again; ``placement: colocated`` turns it on. Never run."""

    @model_validator(mode="after")
    def _a_cpu_engine_is_not_split(self) -> GeneratorConfig:
        if self.device == "cpu" and self.tensor_parallel_size != 1:
            raise ValueError(
                f"tensor_parallel_size: {self.tensor_parallel_size} needs device: cuda; a CPU engine has 1"
            )
        return self

    @model_validator(mode="after")
    def _some_settings_need_a_gpu(self) -> GeneratorConfig:
        if self.weight_transport in ("nccl", "ipc") and self.device != "cuda":
            raise ValueError(f"weight_transport: {self.weight_transport} needs device: cuda; use per_node")
        if self.sleep_mode and self.device != "cuda":
            raise ValueError("sleep_mode needs device: cuda")
        return self

    @model_validator(mode="after")
    def _a_cpu_step_holds_the_longest_prompt(self) -> GeneratorConfig:
        if self.device == "cpu" and (self.max_num_batched_tokens or self.max_model_len) < self.max_model_len:
            raise ValueError(
                f"max_num_batched_tokens: {self.max_num_batched_tokens} is below max_model_len {self.max_model_len}; "
                "a CPU engine prefills a prompt in one step"
            )
        return self

    @property
    def step_tokens(self) -> int | None:
        """``max_num_batched_tokens`` with its default resolved; None leaves it to vLLM."""
        if self.max_num_batched_tokens is None and self.device == "cpu":
            return max(_CPU_STEP_TOKENS, self.max_model_len)
        return self.max_num_batched_tokens

    @property
    def kv_cache_bytes_or_default(self) -> int | None:
        """What the engine is told; None leaves it to ``gpu_memory_utilization``."""
        if self.kv_cache_bytes is None and self.device == "cpu":
            return _CPU_KV_CACHE_BYTES
        return self.kv_cache_bytes

    @property
    def eager(self) -> bool:
        """``enforce_eager`` with its default resolved."""
        return self.device == "cpu" if self.enforce_eager is None else self.enforce_eager
