# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""LoRA (arXiv 2106.09685) by peft: small matrices beside the linear layers are trained, the model itself is frozen.

    y = W x + alpha / rank B (A x)        B begins at 0, so that the first policy is its base

With the adapter off the policy is its own reference, which costs no memory. Generators and exports get merged weights,
W + alpha / rank B A, under the names of the plain model.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from learner.errors import ModelRefusedError
from learner.logprobs import TokenLogprobs
from learner.model_config import LoRAConfig
from learner.packing import PackedRow
from learner.parallel import whole
from learner.policy import Policy

_ADAPTER = "default"  # peft's name for the only one
_BASE = ".base_layer"  # where peft puts the layer that it wraps


def add_adapter(model: PreTrainedModel, config: LoRAConfig, *, seed: int) -> None:
    """Freezes the model and puts an adapter beside its linear layers, in place; A depends on ``seed`` alone.

    Raises ModelRefusedError if the model has no layer of the names asked for.
    """
    from peft import LoraConfig, inject_adapter_in_model  # heavy, and needed by those who ask for it

    conv1d = any(isinstance(module, Conv1D) for module in model.modules())  # GPT-2's transposed linear layer
    targets = config.targets if isinstance(config.targets, str) else list(config.targets)
    settings = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # pyright: ignore[reportArgumentType] - declared int, any number in the formula
        lora_dropout=0.0,
        bias="none",
        target_modules=targets,
        fan_in_fan_out=conv1d,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            inject_adapter_in_model(settings, model, adapter_name=_ADAPTER)
        except ValueError as error:
            raise ModelRefusedError(f"lora.targets {config.targets!r}: {error}") from error


def adapted_layers(model: nn.Module) -> dict[str, Any]:
    """The layers with an adapter, by their names in the plain model; empty without LoRA."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to the adapter."""
    return ".lora_A." in name or ".lora_B." in name


def trained_state(model: nn.Module) -> dict[str, Any]:
    """What a checkpoint must hold: the adapter's weights where there is one, else all."""
    state = model.state_dict()
    adapter = {name: tensor for name, tensor in state.items() if is_adapter(name)}
    return adapter or state


@contextmanager
def adapter_off(model: nn.Module) -> Generator[None]:
    """The plain model, for as long as the block runs."""
    layers = adapted_layers(model).values()
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


class AdapterOff:
    """The reference that LoRA gives for nothing: the policy with its adapter off, called without gradients."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    @torch.no_grad()
    def __call__(self, row: PackedRow) -> TokenLogprobs:
        with adapter_off(self.policy):
            return self.policy(row)


def plain_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every weight whole and once, under its name in the plain model; adapters are merged into what they adapt.

    On several ranks all must ask together, and each gets one weight at a time.
    """
    layers = adapted_layers(model)
    for name, parameter in model.named_parameters():  # tied parameters are named once
        if is_adapter(name):
            continue
        tensor, (owner, _, leaf) = whole(parameter.detach()), name.rpartition(".")
        if owner.endswith(_BASE):
            owner = owner.removesuffix(_BASE)
            tensor = tensor + _delta(layers[owner]) if leaf == "weight" else tensor
        yield f"{owner}.{leaf}", tensor


def _delta(layer: Any) -> Tensor:
    """alpha / rank B A, laid out as the layer's weight (GPT-2's are transposed)."""
    a, b = (whole(part[_ADAPTER].weight.detach()) for part in (layer.lora_A, layer.lora_B))
    product = b @ a
    return (product.T if layer.fan_in_fan_out else product) * layer.scaling[_ADAPTER]
