"""Log-probabilities and entropy of chosen tokens, without ever holding the [C, V] logits whole.

The output layer is applied to a chunk of tokens at a time, in the forward pass and again in the backward pass, which
computes its gradients itself. C tokens, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

CHUNK_ELEMENTS = {"cpu": 1 << 21, "cuda": 1 << 26}
"""Logits held at once: 8 MiB in float32 fit a CPU's cache; 256 MiB keep a GPU busy (by reckoning, not measured)."""


class TokenLogprobs(NamedTuple):
    """Attributes:
    logprobs: log-probability of each target token, nats.
    entropy: of the distribution it was drawn from, nats; without gradient unless asked for.
    """

    logprobs: Float[Tensor, " C"]
    entropy: Float[Tensor, " C"]


def token_logprobs(
    hidden: Float[Tensor, "C D"],
    weight: Float[Tensor, "V D"],
    targets: Int[Tensor, " C"],
    *,
    bias: Float[Tensor, " V"] | None = None,
    temperature: float = 1.0,
    chunk_elements: int | None = None,
    tied: TiedGradient | None = None,
) -> TokenLogprobs:
    """log softmax((h W^T + b) / temperature) at the targets, and the entropy of the same distribution.

    Both carry a gradient to ``hidden``, ``weight`` and ``bias``. Memory beside inputs and gradients: O(chunk_elements).

    Args:
        hidden: state from which each target is predicted.
        weight: output layer.
        targets: ids in [0, V).
        bias: of the output layer.
        temperature: that the tokens were sampled with, above 0.
        chunk_elements: most logits at once; at least one token is done at a time. None: by the device.
        tied: where ``tied_embedding`` looks for the gradient of ``weight``, if that embeds too.
    """
    chunk_elements = chunk_elements or CHUNK_ELEMENTS.get(hidden.device.type, CHUNK_ELEMENTS["cpu"])
    logprobs, entropy = _ChunkedLogprobs.apply(  # type: ignore[misc]
        hidden, weight, bias, targets, temperature, chunk_elements, tied
    )
    return TokenLogprobs(logprobs, entropy)


class _ChunkedLogprobs(torch.autograd.Function):
    """With z = logits / temperature, p = softmax(z), H the entropy:

    d logp[y] / dz = onehot(y) - p          dH / dz = -p (log p + H)
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        chunk_elements: int,
        tied: TiedGradient | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.temperature, ctx.chunk, ctx.tied = temperature, max(1, chunk_elements // len(weight)), tied
        logprobs = torch.empty(len(hidden), dtype=_sum_dtype(hidden), device=hidden.device)
        entropies = torch.empty_like(logprobs)
        only_chunk = None
        for start in range(0, len(hidden), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            log_p = _log_softmax(hidden[part], weight, bias, temperature)
            logprobs[part] = log_p.gather(1, targets[part, None])[:, 0]
            entropies[part] = -log_p.exp().mul_(log_p).sum(1)
            only_chunk = log_p if len(hidden) <= ctx.chunk else None  # within the bound: kept, not computed again
            del log_p  # or the next chunk stands beside it
        ctx.save_for_backward(hidden, weight, bias, targets, only_chunk)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, grad_logprobs: Tensor, grad_entropy: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight, bias, targets, only_chunk = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        sums = _sum_dtype(hidden)  # hundreds of chunks are added up: in bfloat16 the later ones would be lost
        grad_weight = torch.zeros_like(weight, dtype=sums) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias, dtype=sums) if bias is not None and ctx.needs_input_grad[2] else None
        wants_entropy = bool(grad_entropy.any())
        for start in range(0, len(hidden), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            log_p = only_chunk if only_chunk is not None else _log_softmax(hidden[part], weight, bias, ctx.temperature)
            p = log_p.exp()
            through_entropy = None
            if wants_entropy:
                entropy = -(p * log_p).sum(1, keepdim=True)
                through_entropy = grad_entropy[part, None] * p * (log_p + entropy)
            del log_p
            grad = p.mul_(-grad_logprobs[part, None])
            grad.scatter_add_(1, targets[part, None], grad_logprobs[part, None])
            if through_entropy is not None:
                grad -= through_entropy
            grad = grad.div_(ctx.temperature).to(hidden.dtype)
            grad_hidden[part] = grad @ weight
            if grad_weight is not None and grad.dtype == sums:
                grad_weight.addmm_(grad.T, hidden[part])  # without a second matrix of the vocabulary
            elif grad_weight is not None:
                grad_weight += grad.T @ hidden[part]
            if grad_bias is not None:
                grad_bias += grad.sum(0, dtype=sums)
        grad_weight = _as(grad_weight, weight)
        if ctx.tied is not None:
            ctx.tied.left, grad_weight = grad_weight, None
        return grad_hidden, grad_weight, _as(grad_bias, bias), None, None, None, None


class TiedGradient:
    """Where an output layer leaves its weight's gradient, for the embedding by the same matrix to add its rows and to
    hand both to autograd, which would else add up two matrices of the vocabulary.

    One for each forward pass: the embedding's backward pass waits for what flows back from the output layer's.
    """

    def __init__(self) -> None:
        self.left: Tensor | None = None


def tied_embedding(
    ids: Int[Tensor, " T"], weight: Float[Tensor, "V D"], tied: TiedGradient, *, padding_id: int | None = None
) -> Float[Tensor, "T D"]:
    """The embedding of tokens by the matrix that is the output layer too.

    Args:
        ids: in [0, V).
        weight: input embedding and output layer.
        tied: given to ``token_logprobs`` with the same ``weight``.
        padding_id: token whose row gets no gradient from here, as in torch's own embedding.
    """
    return _TiedEmbedding.apply(ids, weight, tied, padding_id)  # type: ignore[no-any-return]


class _TiedEmbedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor, tied: TiedGradient, padding_id: int | None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(ids, weight)
        ctx.tied, ctx.padding_id = tied, padding_id
        return weight[ids]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        ids, weight = ctx.saved_tensors
        gradient, ctx.tied.left = ctx.tied.left, None
        if gradient is None:  # nothing of the output layer was asked for
            gradient = torch.zeros_like(weight)
        if ctx.padding_id is not None:
            grad = grad.masked_fill((ids == ctx.padding_id)[:, None], 0)
        return None, gradient.index_add_(0, ids, grad), None, None


def _log_softmax(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    logits = torch.nn.functional.linear(hidden, weight, bias).to(_sum_dtype(hidden))
    return logits.div_(temperature).log_softmax(1)


def _as(gradient: Tensor | None, like: Tensor | None) -> Tensor | None:
    return gradient if gradient is None or like is None else gradient.to(like.dtype)


def _sum_dtype(hidden: Tensor) -> torch.dtype:
    """Sums over the vocabulary are never in half precision."""
    return torch.promote_types(hidden.dtype, torch.float32)
