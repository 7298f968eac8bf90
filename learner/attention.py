# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Attention over packed rows: linear layers see one long row of tokens, attention sees its trajectories one by one.

    row        a0 a1 a2 | b0 b1 | c0 c1 c2 c3
    attention  [a x a]   [b x b]  [c x c]            no token of another trajectory, no padding

Registered with transformers' AttentionInterface under ``PACKED_ATTENTION``; the lengths travel as the keyword argument
``packed_lengths`` of the model's forward. Since no mask function is registered under that name, transformers builds no
[T, T] mask. One call of scaled_dot_product_attention a trajectory is, on a CPU, faster than gathering similar lengths
into padded buckets (measured: 16 ms against 20 ms forward and backward, 4192 tokens in 50 trajectories). On a
GPU one kernel takes the whole row in half precision (``learner.varlen``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface

from learner.varlen import fits_one_kernel, packed_varlen_attention

PACKED_ATTENTION = "crucible_packed"
_UNSUPPORTED = ("softcap", "s_aux", "position_bias")  # would change the result silently if ignored


def rows_attention(
    query: Float[Tensor, "1 H T D"],
    key: Float[Tensor, "1 K T D"],
    value: Float[Tensor, "1 K T E"],
    *,
    lengths: Sequence[int],
    scale: float | None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    causal: bool = True,
) -> Float[Tensor, "1 T H E"]:
    """Attention within each of the row's trajectories.

    H query heads, K key-value heads (H a multiple of K), T tokens of the row, D and E widths of a head.

    Args:
        query: after the rotary embedding.
        key: likewise.
        value: likewise.
        lengths: tokens of each trajectory, in the row's order; they sum to T.
        scale: of the scores; None: 1/sqrt(D).
        dropout: probability of dropping a weight.
        sliding_window: a token sees this many tokens, itself included; None: all before it.
        causal: a token sees none behind it; False for encoders.
    """
    if fits_one_kernel(query, value, dropout):
        return packed_varlen_attention(
            query, key, value, lengths=lengths, scale=scale, sliding_window=sliding_window, causal=causal
        )
    parts = zip(*(x.split(list(lengths), dim=2) for x in (query, key, value)), strict=True)
    outputs: list[Tensor] = []
    grouped = query.shape[1] != key.shape[1]
    for one_query, one_key, one_value in parts:
        num_tokens = one_query.shape[2]
        band = None
        if causal and sliding_window is not None and num_tokens > sliding_window:
            distance = torch.arange(num_tokens, device=query.device)
            distance = distance[:, None] - distance[None, :]
            band = (distance >= 0) & (distance < sliding_window)
        outputs.append(
            F.scaled_dot_product_attention(
                one_query, one_key, one_value, attn_mask=band, dropout_p=dropout,
                is_causal=causal and band is None, scale=scale, enable_gqa=grouped,
            )
        )  # fmt: skip
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    packed_lengths: Sequence[int] | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The function that transformers calls in place of its own; see ``rows_attention``."""
    if packed_lengths is None:
        raise ValueError(
            f"{type(module).__name__}: no packed_lengths reached the attention; this model takes packed rows"
        )
    if attention_mask is not None:
        raise ValueError(f"{type(module).__name__}: packed rows take no attention mask")
    for name in _UNSUPPORTED:
        if kwargs.get(name) is not None:
            raise ValueError(f"{type(module).__name__}: attention argument {name!r} is not supported on packed rows")
    causal = bool(getattr(module, "is_causal", True))
    if not causal and sliding_window is not None:
        raise ValueError(f"{type(module).__name__}: an encoder's sliding window is not supported on packed rows")
    output = rows_attention(
        query, key, value, lengths=packed_lengths, scale=scaling, dropout=dropout, sliding_window=sliding_window,
        causal=causal,
    )  # fmt: skip
    return output, None


def register_packed_attention() -> None:
    """Makes ``PACKED_ATTENTION`` known to transformers. Safe to call again."""
    AttentionInterface.register(PACKED_ATTENTION, packed_attention)
