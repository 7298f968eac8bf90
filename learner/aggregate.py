"""From token losses to one number: four ways, written as weights.

loss = sum_t w_t * loss_t. The weights are made once for the whole mini-batch, so that splitting it into packed rows or
over ranks changes nothing: each part adds its share of the same sum (global token denominators).

With B trajectories of L_i trained tokens:

    token_mean                 w = 1 / sum_i L_i     every token alike (DAPO)
    sequence_mean_token_mean   w = 1 / (B L_i)       every trajectory alike; tokens of long ones count less (GRPO)
    sequence_mean_token_sum    w = 1 / B             the policy gradient of the mean return
    constant_length            w = 1 / (B L)         the same over a constant L (Dr.GRPO), without bias by length
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from learner.ragged import owner

Aggregation = Literal["token_mean", "sequence_mean_token_mean", "sequence_mean_token_sum", "constant_length"]


def token_weights(
    aggregation: Aggregation,
    *,
    lengths: Int[Tensor, " B"],
    constant_length: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, " C"]:
    """Weight of each trained token of a mini-batch.

    Args:
        aggregation: see the module.
        lengths: trained tokens of each trajectory of the *whole* mini-batch. One without any counts for nothing: it is
            not among the B.
        constant_length: L of ``constant_length``, tokens.
        dtype: of the result.

    Returns:
        Weights in the order of the flat layout.
    """
    num_trajectories, num_tokens = max(int((lengths > 0).sum()), 1), int(lengths.sum())
    if aggregation == "token_mean":
        return torch.full((num_tokens,), 1 / max(num_tokens, 1), dtype=dtype)
    if aggregation == "sequence_mean_token_mean":
        return (1 / (num_trajectories * lengths.to(dtype)))[owner(lengths)]
    if aggregation == "sequence_mean_token_sum":
        return torch.full((num_tokens,), 1 / num_trajectories, dtype=dtype)
    if constant_length is None or constant_length < 1:
        raise ValueError(f"aggregation 'constant_length' needs constant_length of at least 1, not {constant_length}")
    return torch.full((num_tokens,), 1 / (num_trajectories * constant_length), dtype=dtype)


def weighted_sum(losses: Float[Tensor, "*tokens"], weights: Float[Tensor, "*tokens"]) -> Float[Tensor, ""]:
    """sum_t w_t loss_t; a token of weight 0 is inert, even if its loss is NaN."""
    return (losses.where(weights != 0, losses.new_zeros(())) * weights).sum()
