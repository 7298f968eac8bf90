"""The Bradley-Terry loss of a reward model on pairs of answers to one prompt."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def bradley_terry_loss(
    *,
    chosen_scores: Float[Tensor, " P"],
    rejected_scores: Float[Tensor, " P"],
    margin: float = 0.0,
    centring: float = 0.0,
) -> Float[Tensor, " P"]:
    """Negative log-likelihood that the better answer wins, for each of P pairs.

        -log sigmoid(c - r - margin) + centring (c + r)^2

    PF-PPO and RewardRanker use it plain. The margin is Llama 2's (arXiv 2307.09288), the centring that of Eisenstein
    et al. (arXiv 2312.09244): the likelihood knows only differences, so scores may drift together.

    Args:
        chosen_scores: c, of the better answers.
        rejected_scores: r, of the worse.
        margin: at least 0, in units of score.
        centring: at least 0.

    Returns:
        The losses, nats; ln 2 at equal scores without margin and centring.
    """
    losses = -torch.nn.functional.logsigmoid(chosen_scores - rejected_scores - margin)
    return losses + centring * (chosen_scores + rejected_scores) ** 2 if centring else losses
