"""Estimates of what each role needs in memory, from a model's config alone; no weights are read. See docs/plan.md.

P parameters, L layers, D width, A width of all query heads, K width of all key (or value) heads, F width of the
feed-forward block, V vocabulary, T tokens of a row, R trainer ranks. All sizes are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from actors.config import GeneratorConfig
from cluster.actor_config import ExecutorsConfig
from learner.config import GAE, PPOConfig, SFTConfig
from learner.logprobs import CHUNK_ELEMENTS
from learner.lora import add_adapter
from learner.model_config import ComputeConfig, LoRAConfig
from learner.scalar_config import DPOConfig

# Resident before any model is there (interpreter, torch, Ray, vLLM), as measured on a CPU.
TRAINER_PROCESS = 600 << 20
GENERATOR_PROCESS = 1500 << 20
EXECUTOR_PROCESS = 300 << 20
SANDBOX_SLOT = 40 << 20
_MASTER = 4  # weights, gradients and each of AdamW's two moments are float32
_CHUNK_COPIES = 4  # logits, log-probabilities, probabilities and their gradient
_ENGINE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What the estimates need of a dense decoder.

    Attributes:
        num_parameters: tied ones counted once.
        num_backbone: without an output layer of its own; what a critic has beside its head.
        config: the Hugging Face config that all this is of.
    """

    num_parameters: int
    num_backbone: int
    vocab_size: int
    num_layers: int
    hidden_size: int
    query_width: int
    key_width: int
    intermediate_size: int
    dtype_bytes: int
    config: Any = field(repr=False, compare=False)

    @staticmethod
    def of(config: Any) -> ModelShape:
        """Of a Hugging Face config: the model is built without storage, so that its parameters are counted."""
        model = _without_storage(config)
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        dtype = getattr(config, "dtype", None)
        return ModelShape(
            num_parameters=sum(parameter.numel() for parameter in model.parameters()),
            num_backbone=sum(parameter.numel() for parameter in model.base_model.parameters()),
            vocab_size=config.vocab_size,
            num_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            query_width=config.num_attention_heads * head_dim,
            key_width=(getattr(config, "num_key_value_heads", None) or config.num_attention_heads) * head_dim,
            intermediate_size=config.intermediate_size,
            dtype_bytes=dtype.itemsize if isinstance(dtype, torch.dtype) else 4,
            config=config,
        )

    def num_trained(self, lora: LoRAConfig | None) -> int:
        """Parameters that are trained: all, or the adapter's. Raises ModelRefusedError where it finds no layer."""
        if lora is None:
            return self.num_parameters
        model = _without_storage(self.config)
        add_adapter(model, lora, seed=0)
        return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _without_storage(config: Any) -> Any:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Named parts of one process, in bytes. ``device``: where they lie; the process itself is always in host memory."""

    who: str
    device: str
    parts: dict[str, int]
    note: str = ""

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def activations(shape: ModelShape, tokens: int, compute: ComputeConfig) -> int:
    """What forward and backward pass of one row hold at most, of T tokens.

    A layer keeps for each token, in elements: 6 D (input, normalised and scaled, of two norms), 3 A + 2 K (query, key,
    value after the rotary embedding, attention's output and its contiguous copy) and 4 F (gate, its activation, up,
    their product). Under bfloat16 products are held in half, norms in float32 with a half copy of their result. With
    checkpointing each layer keeps its input alone, and one layer at a time is held whole. The gradients on their way
    through one layer are as large as what it keeps.
    """
    products = 3 * shape.query_width + 2 * shape.key_width + 4 * shape.intermediate_size
    half = compute.precision == "bfloat16"
    layer = tokens * (28 * shape.hidden_size + 2 * products if half else 4 * (6 * shape.hidden_size + products))
    if compute.activation_checkpointing:
        return 2 * layer + shape.num_layers * tokens * shape.hidden_size * _MASTER
    return layer * (shape.num_layers + 1)


def logits_chunk(shape: ModelShape, tokens: int, device: str = "cpu") -> int:
    """The output layer is applied to a chunk of tokens at a time; the gradient of its weight is made beside it."""
    chunk = max(CHUNK_ELEMENTS[device] // shape.vocab_size, 1)
    logits = min(tokens, chunk) * shape.vocab_size
    return _MASTER * (_CHUNK_COPIES * logits + shape.vocab_size * shape.hidden_size)


def ppo_trainer(shape: ModelShape, config: PPOConfig, *, ranks: int = 1, device: str = "cpu") -> Estimate:
    """One rank of a ppo stage's trainer at its fullest: in a policy update.

    Weights 4 P, gradients 4 P and moments 8 P of the policy; 12 P of the critic (its gradients are gone by then) and
    4 P of the reference; all over R. With LoRA gradients and moments are those of the adapter, and the reference costs
    nothing. The undo copy (trained weights and moments, of policy and critic) lies in host memory; so does, as large,
    the copy of which a checkpoint is written while the next step trains, and what the config places there. Activations
    and logits are those of one row.
    """
    device_parts, host_parts = _parts_of_ppo_trainer(shape, config, ranks, device)
    parts = device_parts | host_parts if device == "cpu" else device_parts
    return Estimate("trainer", device, _with_process(parts, TRAINER_PROCESS, device))


def host_of_ppo_trainer(shape: ModelShape, config: PPOConfig, *, ranks: int = 1) -> Estimate:
    """What the process of a trainer on a GPU holds in host memory."""
    _, parts = _parts_of_ppo_trainer(shape, config, ranks, "cuda")
    return Estimate("trainer in host memory", "cpu", _with_process(parts, TRAINER_PROCESS, "cpu"))


def _parts_of_ppo_trainer(
    shape: ModelShape, config: PPOConfig, ranks: int, device: str
) -> tuple[dict[str, int], dict[str, int]]:
    """What lies on the device, and what lies in host memory whatever the device is."""
    counts = shape.num_parameters, shape.num_trained(config.lora), shape.num_backbone
    policy, trained, backbone = (count // ranks for count in counts)
    advantage = config.advantage
    critic = advantage.critic if isinstance(advantage, GAE) else None
    num_critic = backbone if critic is not None else 0
    copy = 3 * _MASTER * (trained + num_critic)
    kept = {
        "policy weights": _MASTER * (policy + (trained if config.lora is not None else 0)),
        "policy gradients": _MASTER * trained,
        "half-precision weights": 2 * shape.num_parameters if config.compute.precision == "bfloat16" else 0,
        "activations": activations(shape, config.row_tokens, config.compute),
        "logits chunk": logits_chunk(shape, config.row_tokens, device),
    }
    has_reference = config.kl.coefficient and config.lora is None
    states = config.compute.optimizer_states
    waits_at = critic.placement if critic is not None else "device"
    placed = [
        ("policy moments", states, 2 * _MASTER * trained),
        ("reference weights", config.kl.placement, _MASTER * policy if has_reference else 0),
        ("critic weights", waits_at, _MASTER * num_critic),
        ("critic moments", "host" if "host" in (states, waits_at) else "device", 2 * _MASTER * num_critic),
    ]
    on_host = {name: part for name, place, part in placed if place == "host"}
    kept |= {name: part for name, place, part in placed if place == "device"}
    return kept, on_host | {"undo copy": copy, "checkpoint's copy": copy}


def fine_tuner(shape: ModelShape, config: SFTConfig | DPOConfig, *, ranks: int = 1, device: str = "cpu") -> Estimate:
    """One rank: weights 4 P, gradients 4 P and moments 8 P (of what is trained), all over R, and one row's activations
    and logits. Moments in host memory are left out of a GPU's."""
    lora = config.lora if isinstance(config, SFTConfig) else None
    held, trained = shape.num_parameters // ranks, shape.num_trained(lora) // ranks
    on_host = device != "cpu" and config.compute.optimizer_states == "host"
    parts = {
        "weights": _MASTER * (held + (trained if lora is not None else 0)),
        "gradients": _MASTER * trained,
        "moments": 0 if on_host else 2 * _MASTER * trained,
        "half-precision weights": 2 * shape.num_parameters if config.compute.precision == "bfloat16" else 0,
        "activations": activations(shape, config.row_tokens, config.compute),
        "logits chunk": logits_chunk(shape, config.row_tokens, device),
    }
    return Estimate("fine-tuner", device, _with_process(parts, TRAINER_PROCESS, device))


def kv_bytes_per_token(shape: ModelShape, engine: GeneratorConfig) -> int:
    """Keys and values of all layers, over all GPUs of the engine: 2 L K elements."""
    return 2 * shape.num_layers * shape.key_width * engine_dtype_bytes(shape, engine)


def engine_dtype_bytes(shape: ModelShape, engine: GeneratorConfig) -> int:
    return _ENGINE_BYTES.get(engine.dtype, shape.dtype_bytes)


def generator(shape: ModelShape, engine: GeneratorConfig, gpu_bytes: int | None = None) -> Estimate:
    """One engine, for each of its GPUs: a share of the weights, and the KV cache.

    On a GPU the cache takes what ``gpu_memory_utilization`` of ``gpu_bytes`` leaves, unless it is set; where the GPU is
    not known, what ``max_num_seqs`` full requests take is put there.
    """
    split = engine.tensor_parallel_size
    weights = shape.num_parameters * engine_dtype_bytes(shape, engine) // split
    per_token = max(kv_bytes_per_token(shape, engine) // split, 1)
    cache = engine.kv_cache_bytes_or_default
    if cache is None and gpu_bytes is not None:
        cache = max(int(gpu_bytes * engine.gpu_memory_utilization) - weights, 0)
    if cache is None:
        cache = engine.max_num_seqs * engine.max_model_len * per_token
    tokens = cache // per_token
    note = f"the cache holds {tokens} tokens, {tokens / engine.max_model_len:.1f} requests of max_model_len"
    packed = weights if engine.device == "cpu" else 0  # the CPU build multiplies with a packed copy of its own
    parts = {"weights": weights, "packed weights": packed, "KV cache": cache}
    return Estimate("generator", engine.device, _with_process(parts, GENERATOR_PROCESS, engine.device), note)


def executor(config: ExecutorsConfig) -> Estimate:
    """One executor with its warm slots. What programs use comes on top, bounded by their limits."""
    sandbox = config.sandbox
    parts = {"process": EXECUTOR_PROCESS, "warm slots": sandbox.slots * SANDBOX_SLOT}
    most = sandbox.slots * (sandbox.memory_bytes + sandbox.judge_memory_bytes)
    return Estimate("executor", "cpu", parts, f"programs may take up to {size(most)} more")


def published(shape: ModelShape, keep: int = 2) -> int:
    """Shared memory of a node for published weights: ``keep`` versions, and the next while it is written."""
    return (keep + 1) * _MASTER * shape.num_parameters


def size(num_bytes: float) -> str:
    """Such as ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} GiB"


def _with_process(parts: dict[str, int], process: int, device: str) -> dict[str, int]:
    """Without the parts that are nothing; on a CPU with the process's own memory."""
    return {name: part for name, part in parts.items() if part} | ({"process": process} if device == "cpu" else {})
