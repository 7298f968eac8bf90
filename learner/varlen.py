# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Attention over a packed row in one kernel: torch's varlen_attn (flash attention), on NVIDIA GPUs in half precision.

    row      a0 a1 a2 | b0 b1 | c0 c1 c2 c3        bounds  [0, 3, 5, 9]

One launch a layer, where ``learner.attention`` needs one a trajectory. **Not yet run on a GPU**: what we give to the
kernel is tested with a plain one of the same meaning, and the call against torch's own signature (2.11 to 2.13).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention import varlen

_HALF = (torch.bfloat16, torch.float16)
_AMPERE = (8, 0)  # flash attention needs it
_MAX_WIDTH, _WIDTH_MULTIPLE = 256, 8  # of a head, likewise
_KNOWS_GROUPS = "enable_gqa" in inspect.signature(varlen.varlen_attn).parameters  # torch 2.11 does not


def fits_one_kernel(query: Tensor, value: Tensor, dropout: float) -> bool:
    """Whether the kernel can take these: half precision on a GPU that has it, widths it knows, no dropout."""
    width = query.shape[-1]
    return (
        query.is_cuda
        and _computing_dtype(query) in _HALF
        and not dropout
        and width == value.shape[-1]
        and width <= _MAX_WIDTH
        and width % _WIDTH_MULTIPLE == 0
        and torch.cuda.get_device_capability(query.device) >= _AMPERE
    )


def packed_varlen_attention(
    query: Float[Tensor, "1 H T D"],
    key: Float[Tensor, "1 K T D"],
    value: Float[Tensor, "1 K T D"],
    *,
    lengths: Sequence[int],
    scale: float | None,
    sliding_window: int | None = None,
    causal: bool = True,
) -> Float[Tensor, "1 T H D"]:
    """Attention within each of the row's trajectories; arguments as in ``learner.attention``."""
    dtype = _computing_dtype(query)
    queries, keys, values = (x[0].transpose(0, 1).to(dtype) for x in (query, key, value))
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and not _KNOWS_GROUPS:
        keys, values = (x.repeat_interleave(groups, dim=1) for x in (keys, values))
    grouped: dict[str, Any] = {"enable_gqa": True} if groups > 1 and _KNOWS_GROUPS else {}
    bounds, longest = _bounds(tuple(lengths), query.device), max(lengths)
    left = -1 if sliding_window is None or sliding_window >= longest else sliding_window - 1  # theirs leaves itself out
    output = varlen.varlen_attn(
        queries,
        keys,
        values,
        bounds,
        bounds,
        longest,
        longest,
        scale=scale,
        window_size=(left, 0 if causal else -1),
        **grouped,
    )
    assert isinstance(output, Tensor)
    return output[None]


def _computing_dtype(query: Tensor) -> torch.dtype:
    """Under autocast the rotary embedding gives float32; torch's own attention then computes in half all the same."""
    kind = query.device.type
    half = kind in ("cpu", "cuda") and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if half else query.dtype


@lru_cache(maxsize=8)
def _bounds(lengths: tuple[int, ...], device: torch.device) -> Int[Tensor, " M_plus_1"]:
    """Where trajectories begin and end; made once for all layers of a pass."""
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
