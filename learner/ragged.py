"""Ragged rows of numbers: one value for each trained token, trajectory after trajectory, without padding.

    lengths  [3, 1, 2]
    flat     [a0 a1 a2 | b0 | c0 c1]          C = 6 tokens, B = 3 trajectories
    padded   [[a0 a1 a2], [b0 . .], [c0 c1 .]]

B trajectories, C trained tokens of all of them, T the longest.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor


def valid_positions(lengths: Int[Tensor, " B"]) -> Bool[Tensor, "B T"]:
    """True where the padded layout holds a token."""
    longest = int(lengths.max()) if len(lengths) else 0
    return torch.arange(longest, device=lengths.device)[None, :] < lengths[:, None]


def pad(flat: Shaped[Tensor, " C"], lengths: Int[Tensor, " B"], fill: float = 0.0) -> Shaped[Tensor, "B T"]:
    """Flat to padded on the right with ``fill``. Differentiable."""
    valid = valid_positions(lengths)
    return torch.full(valid.shape, fill, dtype=flat.dtype, device=flat.device).masked_scatter(valid, flat)


def flatten(padded: Shaped[Tensor, "B T"], lengths: Int[Tensor, " B"]) -> Shaped[Tensor, " C"]:
    """The inverse of ``pad``; whatever stands at padded places is ignored."""
    return padded[valid_positions(lengths)]


def owner(lengths: Int[Tensor, " B"]) -> Int[Tensor, " C"]:
    """For each token, the index of its trajectory."""
    return torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)


def sum_by_trajectory(flat: Shaped[Tensor, " C"], lengths: Int[Tensor, " B"]) -> Shaped[Tensor, " B"]:
    """Sum of each trajectory's tokens."""
    return torch.zeros(len(lengths), dtype=flat.dtype, device=flat.device).index_add(0, owner(lengths), flat)


def to_go(flat: Shaped[Tensor, " C"], lengths: Int[Tensor, " B"]) -> Shaped[Tensor, " C"]:
    """Sum from each token to the end of its trajectory, itself included."""
    padded = pad(flat, lengths)
    return flatten(padded.flip(1).cumsum(1).flip(1), lengths)


def places(lengths: Int[Tensor, " B"], members: Int[Tensor, " M"]) -> Int[Tensor, " K"]:
    """Places in the flat layout of the tokens of some trajectories, in the order in which those are named."""
    starts = lengths.cumsum(0) - lengths
    chosen = lengths[members]
    within = torch.arange(int(chosen.sum()), device=lengths.device)
    within -= torch.repeat_interleave(chosen.cumsum(0) - chosen, chosen)
    return torch.repeat_interleave(starts[members], chosen) + within
