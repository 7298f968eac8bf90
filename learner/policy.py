# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""The policy as the learner sees it: packed rows in, log-probabilities of trained tokens out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from learner.errors import ModelRefusedError
from learner.logprobs import TiedGradient, TokenLogprobs, tied_embedding, token_logprobs
from learner.model_config import ComputeConfig
from learner.packing import PackedRow
from learner.parallel import SINGLE, Ranks, shard, to_be_sharded

PLAIN = ComputeConfig()
"""Float32, activations held."""


class Policy(nn.Module):
    """A causal LM under a sampling temperature.

    The whole computation is one ``forward``, so that a wrapper that gathers parameters around it (FSDP) sees all of it.
    """

    def __init__(self, model: PreTrainedModel, *, temperature: float = 1.0, compute: ComputeConfig = PLAIN) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.compute = compute
        prepare(model, compute)

    def forward(self, row: PackedRow) -> TokenLogprobs:
        """Log-probability and entropy of each trained token of the row, in the row's order; at least float32.

        They come back to host memory, where all arithmetic on tokens is done: a number a token, whatever the model.
        """
        row = row.to(self.device)
        output: Any = self.model.get_output_embeddings()
        weight, bias = output.weight, getattr(output, "bias", None)
        embedded, tied = self._tied(row, weight)
        hidden = hidden_states(self.model.base_model, row, self.compute, embedded)[row.predicting]
        if self.compute.float32_head:
            hidden = hidden.to(weight.dtype)
        else:
            weight, bias = weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype)
        result = token_logprobs(hidden, weight, row.targets, bias=bias, temperature=self.temperature, tied=tied)
        return TokenLogprobs(result.logprobs.cpu(), result.entropy.cpu())

    def _tied(self, row: PackedRow, weight: Tensor) -> tuple[Tensor | None, TiedGradient | None]:
        """The row's embedding by the output layer's ``weight``, where that is torch's own lookup and is not rounded."""
        embedding: Any = self.model.get_input_embeddings()
        rounded = self.compute.precision == "bfloat16" and not self.compute.float32_head
        if type(embedding) is not nn.Embedding or embedding.weight is not weight or rounded:
            return None, None
        tied = TiedGradient()
        return tied_embedding(row.input_ids, weight, tied, padding_id=embedding.padding_idx), tied

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.parameters()).device

    def frozen_copy(self, ranks: Ranks = SINGLE) -> Policy:
        """The same weights as of now, without gradients: a reference policy. On several ranks it comes sharded, while
        this one is still whole."""
        frozen = to_be_sharded(self, ranks).requires_grad_(False)
        shard(frozen, ranks, values=dict(self.named_parameters()))
        return frozen


def prepare(model: PreTrainedModel, compute: ComputeConfig) -> None:
    """Switches activation checkpointing on where it is wanted."""
    if compute.activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()  # transformers checkpoints in training mode only; nothing else depends on it, dropout is off


def hidden_states(
    backbone: nn.Module, row: PackedRow, compute: ComputeConfig, embedded: Tensor | None = None
) -> Tensor:
    """Last hidden state of each token of a packed row: float [T, D]. ``embedded``: [T, D] in place of the backbone's
    own embedding of the tokens."""
    half = compute.precision == "bfloat16"
    with torch.autocast(row.input_ids.device.type, dtype=torch.bfloat16, enabled=half):
        output = backbone(
            **({"input_ids": row.input_ids[None]} if embedded is None else {"inputs_embeds": embedded[None]}),
            position_ids=row.position_ids[None] + first_position(backbone),
            use_cache=False,
            packed_lengths=row.lengths,
        )
    hidden = output.last_hidden_state[0]
    return hidden.bfloat16() if half else hidden


def first_position(backbone: nn.Module) -> int:
    """Position of a sequence's first token: RoBERTa and its kin count from behind the padding's id, others from 0."""
    embeddings = getattr(backbone, "embeddings", None)
    counts_anew = hasattr(embeddings, "create_position_ids_from_input_ids")
    return int(getattr(embeddings, "padding_idx", 0)) + 1 if counts_anew else 0


@torch.no_grad()
def check_packed_path(policy: Policy, *, max_tokens: int = 0, tolerance: float = 1e-3) -> None:
    """Compares the packed path with the model's own logits on a few tokens.

    Raises ModelRefusedError if they differ (some architectures scale, cap or project between backbone and logits), or
    if the model has fewer positions than ``max_tokens``.
    """
    positions = getattr(policy.model.config, "max_position_embeddings", None)
    if positions is not None and positions < max_tokens:
        raise ModelRefusedError(
            f"{type(policy.model).__name__} has {positions} positions (max_position_embeddings), fewer than the "
            f"{max_tokens} tokens that a trajectory may have: lower max_trajectory_tokens or max_example_tokens"
        )
    ids = torch.arange(12) % policy.model.config.vocab_size
    row = PackedRow(
        members=(0, 1),
        lengths=(7, 5),
        input_ids=ids,
        position_ids=torch.cat([torch.arange(7), torch.arange(5)]),
        predicting=torch.tensor([0, 5, 7, 10]),
        targets=ids[[1, 6, 8, 11]],
        flat=torch.arange(4),
        ends=torch.tensor([6, 11]),
    )
    plain = Policy(policy.model, temperature=policy.temperature)  # in the weights' own precision
    ours = plain(row).logprobs
    logits = torch.cat([
        policy.model(input_ids=part[None], use_cache=False, packed_lengths=(len(part),)).logits[0].cpu()
        for part in ids.to(policy.device).split(row.lengths)
    ])  # fmt: skip
    theirs = (logits.float() / policy.temperature).log_softmax(-1)[row.predicting, row.targets]
    worst = float((ours.float() - theirs).abs().max())
    if not worst <= tolerance:
        raise ModelRefusedError(
            f"{type(policy.model).__name__}: log-probabilities on packed rows are off the model's own by {worst:.3g}"
        )
