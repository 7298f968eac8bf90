# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Arithmetic of a model's passes, and what a device can do at most.

    forward of a sequence of s tokens, c of them trained   2 P s + 2 D V c + 2 L A s^2
    backward                                               twice that

P: parameters of all matrix products but the output layer's (norms and biases are left out, embeddings are looked up);
D V: the output layer, applied to trained tokens alone; L layers of attention of total head width A: scores and values
are 4 A s^2, of which the causal half is counted. Work that is done again (activation checkpointing, chunked output
layer) is not counted: the utilisation is of the model's own arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from learner.packing import TokenSequence
from learner.parallel import decoder_layers
from learner.policy import Policy
from learner.scalar_head import ScalarHeadModel

TERA = 1e12
# dense bfloat16 peaks from the makers' data sheets, without sparsity
PEAK_FLOPS = {
    "H200": 989 * TERA,
    "H100 PCIe": 756 * TERA,
    "H100": 989 * TERA,
    "H800": 989 * TERA,
    "B200": 2250 * TERA,
    "A100": 312 * TERA,
    "A800": 312 * TERA,
    "L40S": 362 * TERA,
    "L4": 121 * TERA,
    "A10": 125 * TERA,
    "RTX 4090": 165 * TERA,
}


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What decides the arithmetic of a model's pass; see the module.

    Attributes:
        matrix_parameters: P.
        head_parameters: D V for a causal LM, D for a scalar head.
        attention_width: L A.
    """

    matrix_parameters: int
    head_parameters: int
    attention_width: int

    @staticmethod
    def of(model: PreTrainedModel, *, head_parameters: int) -> Arithmetic:
        """Of a backbone before it is sharded; ``head_parameters`` of what stands on it."""
        layers = decoder_layers(model)
        matrices = sum(
            weight.numel() for layer in layers for name, weight in layer.named_parameters() if name.endswith("weight")
            and weight.ndim == 2
        )  # fmt: skip
        config = model.config
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return Arithmetic(matrices, head_parameters, len(layers) * config.num_attention_heads * head)

    def forward(self, sequences: Sequence[TokenSequence], *, trained_only: bool = True) -> float:
        """Floating-point operations of one forward pass; a backward pass costs twice that.

        Args:
            sequences: what passes.
            trained_only: whether the head sees trained tokens alone (policy) or all (critic).
        """
        return float(
            sum(
                2 * self.matrix_parameters * s.num_tokens
                + 2 * self.head_parameters * (s.num_trained if trained_only else s.num_tokens)
                + 2 * self.attention_width * s.num_tokens**2
                for s in sequences
            )
        )


def peak_flops(device: torch.device) -> float | None:
    """Dense bfloat16 peak of a GPU by its name, operations a second; None where it is not known (a CPU)."""
    if device.type != "cuda":
        return None
    return peak_of_name(torch.cuda.get_device_name(device))


def peak_of_name(name: str) -> float | None:
    """The entry of PEAK_FLOPS whose name is a part of the device's; the longest such one."""
    fitting = [known for known in PEAK_FLOPS if known in name]
    return PEAK_FLOPS[max(fitting, key=len)] if fitting else None


def policy_arithmetic(policy: Policy) -> Arithmetic:
    """Of a policy that has no adapter yet."""
    output: Any = policy.model.get_output_embeddings()
    return Arithmetic.of(policy.model, head_parameters=output.weight.numel())


def critic_arithmetic(critic: ScalarHeadModel) -> Arithmetic:
    """Of a critic."""
    return Arithmetic.of(critic.model, head_parameters=critic.score.weight.numel())
