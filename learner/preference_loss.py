"""Losses on pairs of answers to one prompt: Bradley-Terry of a reward model, DPO of a policy."""

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


def dpo_loss(
    *,
    chosen_logprobs: Float[Tensor, " P"],
    rejected_logprobs: Float[Tensor, " P"],
    chosen_reference_logprobs: Float[Tensor, " P"],
    rejected_reference_logprobs: Float[Tensor, " P"],
    beta: float,
) -> Float[Tensor, " P"]:
    """Direct preference optimisation: Bradley-Terry on the reward that the policy stands for.

        r(y)  = beta (log pi(y) - log pi_ref(y))
        loss  = -log sigmoid(r(y+) - r(y-))

    Rafailov et al. (arXiv 2305.18290). No gradient flows into the reference's log-probabilities.

    Args:
        chosen_logprobs: sums over the completion's tokens, nats, of the better answers.
        rejected_logprobs: of the worse.
        chosen_reference_logprobs: the same under the policy that training began with.
        rejected_reference_logprobs: likewise.
        beta: above 0; the larger, the nearer the policy stays to the reference.

    Returns:
        The losses, nats; ln 2 where the policy is the reference.
    """
    return bradley_terry_loss(
        chosen_scores=beta * (chosen_logprobs - chosen_reference_logprobs.detach()),
        rejected_scores=beta * (rejected_logprobs - rejected_reference_logprobs.detach()),
    )
