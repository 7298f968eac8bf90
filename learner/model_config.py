"""Settings of one model: how it is made, how it computes, how it is optimised. And what all settings are made of.

No torch here, as in ``learner.config``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel):
    """Base: frozen, unknown fields refused, the text under a field is its description."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class OptimizerConfig(Settings):
    """AdamW and its schedule, for one model."""

    learning_rate: PositiveFloat = 5e-4
    """Rate, before the factors of warm-up and schedule. PF-PPO at 6.7B: policy 5e-7, critic 9e-6, SFT and reward model
    1e-5."""
    head_factor: PositiveFloat = 1.0
    """A scalar head's rate is this many times the backbone's: it starts from zero, the backbone from what it knows."""
    beta1: Fraction = 0.9
    """Decay of the gradient's first moment."""
    beta2: Fraction = 0.95
    """Decay of the gradient's second moment."""
    eps: PositiveFloat = 1e-6
    """Added to the root of the second moment."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled decay, on matrices only: biases, norms and other vectors are never decayed."""
    max_grad_norm: PositiveFloat = 1.0
    """The gradient of each optimizer step is scaled down to this global 2-norm."""
    warmup_steps: int = Field(default=0, ge=0)
    """Optimizer steps over which the rate grows linearly to the schedule's."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How the rate falls over the stage, from its beginning; the warm-up multiplies it."""
    final_fraction: Fraction = 0.1
    """Share of the peak rate that is left at the end of the schedule."""


class NewModelConfig(Settings):
    """A Llama from scratch: the small models of tests and of the quick start.

    Not a Qwen2: for that model type transformers 5 replaces the folder's own tokenizer by Qwen's, without a word.
    """

    hidden_size: int = Field(default=128, ge=8)
    """Width of the residual stream."""
    num_layers: int = Field(default=2, ge=1)
    """Decoder layers."""
    head_dim: int = Field(default=64, ge=2)
    """Width of one attention head; ``hidden_size`` is a multiple. vLLM's CPU kernels want at least 32."""
    num_key_value_heads: int | None = Field(default=None, ge=1)
    """Grouped-query attention; None: as many as query heads."""
    intermediate_size: int = Field(default=384, ge=8)
    """Width of the feed-forward block."""
    max_position_embeddings: int = Field(default=512, ge=16)
    """Longest sequence, tokens."""
    tie_word_embeddings: bool = True
    """Input and output embeddings are one matrix."""
    initializer_range: PositiveFloat = 0.05
    """Standard deviation of the initial weights. 0.02 is for wide models and learns slowly at width 128."""
    rope_theta: PositiveFloat = 10_000.0
    """Base of the rotary embedding."""

    @model_validator(mode="after")
    def heads_divide_the_width(self) -> NewModelConfig:
        if self.hidden_size % self.head_dim:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of head_dim {self.head_dim}")
        heads = self.hidden_size // self.head_dim
        if self.num_key_value_heads is not None and heads % self.num_key_value_heads:
            raise ValueError(
                f"{heads} query heads are not a multiple of num_key_value_heads {self.num_key_value_heads}"
            )
        return self


class ComputeConfig(Settings):
    """How a model computes; what it holds is always float32."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the backbone's matrix products. Weights, gradients and optimizer states stay float32 (master weights)."""
    float32_head: bool = True
    """The output layer computes in float32 whatever the backbone does: log-probabilities keep more digits."""
    activation_checkpointing: bool = False
    """Layers' activations are computed again in the backward pass, not held: less memory, a third more time."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it computes. ``auto``: the GPU that the process sees, else the CPU."""
    optimizer_states: Literal["device", "host"] = "device"
    """Where AdamW's moments lie. ``host``: in host memory, brought to the device one parameter at a time in a step."""


class LoRAConfig(Settings):
    """A low-rank adapter in place of training the whole model; see learner.lora."""

    rank: int = Field(default=16, ge=1)
    """Of the update to each layer's weight."""
    alpha: PositiveFloat = 32.0
    """The update is scaled by alpha / rank."""
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Layers that get one: all linear layers but the output layer, or those whose names end so, such as ``q_proj``."""
