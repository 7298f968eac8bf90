"""RLCF's comparison of two programs and its losses (arXiv 2305.18341)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

ComparisonLoss = Literal["logistic", "squared"]


def comparison(first_scores: Float[Tensor, " P"], second_scores: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
    """How much better the first of two programs is, for each of P pairs.

        g(x, y0, y1) = tanh(s(x, y0) - s(x, y1)),    s(x, y) = MLP(enc(x, y))

    In (-1, 1), antisymmetric, and 0 for equal programs, by its form and whatever the weights.

    Args:
        first_scores: s(x, y0).
        second_scores: s(x, y1).
    """
    return torch.tanh(first_scores - second_scores)


def comparison_losses(
    loss: ComparisonLoss,
    *,
    first_scores: Float[Tensor, " P"],
    second_scores: Float[Tensor, " P"],
    targets: Float[Tensor, " P"],
) -> Float[Tensor, " P"]:
    """Losses of P pairs whose better program is known.

        logistic    -log((1 + t g) / 2) = softplus(-2 t (s0 - s1))    nats; ln 2 at g = 0
        squared     (g - t)^2                                         1 at g = 0

    (1 + g) / 2 is sigmoid(2 (s0 - s1)): the probability that the first is the better. The paper does not state its
    loss: both are ours.

    Args:
        loss: which.
        first_scores: s(x, y0).
        second_scores: s(x, y1).
        targets: t, +1 where the first program is the reference, -1 where the second is.
    """
    difference = first_scores - second_scores
    if loss == "logistic":
        return torch.nn.functional.softplus(-2.0 * targets * difference)
    return (torch.tanh(difference) - targets) ** 2
