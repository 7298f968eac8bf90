# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""How much better than expected each token was.

B trajectories, C trained tokens in the flat layout of ``learner.ragged``, G members of a group.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from learner.ragged import flatten, owner, pad, to_go

GRPO_EPS = 1e-6  # beside the standard deviation, so that a group of equal rewards gives zeros

Baseline = Literal["mean", "leave_one_out", "grpo", "none"]


class Advantages(NamedTuple):
    """Attributes:
    advantages: of each token.
    returns: what the critic should have said: advantages + values.
    """

    advantages: Float[Tensor, " C"]
    returns: Float[Tensor, " C"]


def generalised_advantages(
    *,
    rewards: Float[Tensor, " C"],
    values: Float[Tensor, " C"],
    lengths: Int[Tensor, " B"],
    gamma: float,
    lam: float,
) -> Advantages:
    """Generalised advantage estimation; the state after a trajectory's last token is worth 0.

        delta_t = r_t + gamma v_{t+1} - v_t
        A_t     = delta_t + gamma lam A_{t+1}

    Schulman et al. (arXiv 1506.02438). lam = 1 is reward to go minus value, lam = 0 the one-step error.

    Args:
        rewards: per token, KL penalty included where it is a reward.
        values: of the state in which the token was chosen.
        lengths: tokens of each trajectory; nothing flows from one to the next.
        gamma: discount per token, in [0, 1].
        lam: in [0, 1].
    """
    padded_rewards, padded_values = pad(rewards, lengths).T, pad(values, lengths).T
    next_values = torch.cat([padded_values[1:], torch.zeros_like(padded_values[:1])])
    deltas = padded_rewards + gamma * next_values - padded_values
    # padding is behind the last token: its reward and value are 0, so its advantage is 0 and ends the recursion
    advantages = torch.zeros_like(deltas)
    running = torch.zeros_like(deltas[0]) if len(deltas) else deltas
    for t in range(len(deltas) - 1, -1, -1):
        running = deltas[t] + gamma * lam * running
        advantages[t] = running
    flat = flatten(advantages.T, lengths)
    return Advantages(flat, flat + values)


def returns_to_go(*, rewards: Float[Tensor, " C"], lengths: Int[Tensor, " B"], gamma: float) -> Float[Tensor, " C"]:
    """What is still earned from each token on: G_t = r_t + gamma G_{t+1}, nothing after the last token.

    Args:
        rewards: per token.
        lengths: tokens of each trajectory.
        gamma: discount per token, in [0, 1]; 1 is ``learner.ragged.to_go``.
    """
    nothing = torch.zeros_like(rewards)
    return generalised_advantages(rewards=rewards, values=nothing, lengths=lengths, gamma=gamma, lam=1.0).returns


def group_advantages(
    baseline: Baseline,
    *,
    rewards: Float[Tensor, " B"],
    groups: Int[Tensor, " B"],
    members: Float[Tensor, " M"],
    member_groups: Int[Tensor, " M"],
) -> Float[Tensor, " B"]:
    """Reward of a trajectory compared with its group.

        mean            A = R - mean                        Dr.GRPO (arXiv 2503.20783)
        leave_one_out   A = K/(K-1) (R - mean)              RLOO (arXiv 2402.14740): R minus the mean of the others
        grpo            A = (R - mean) / (std + 1e-6)       GRPO (arXiv 2402.03300), unbiased std
        none            A = R                               REINFORCE++ (arXiv 2501.03262), whitened over the batch;
                                                            with ``mean`` and whitening, its variant with a baseline

    The baseline may be over more members than are trained: ``members`` are all that make it (all that were generated,
    or only the kept), ``rewards`` those that want an advantage. Over the generated ones a filtered batch keeps its
    true mean; best-worst over the kept ones would always see the middle of the two.

    Args:
        baseline: see above.
        rewards: of the trajectories to be trained.
        groups: their group numbers.
        members: rewards that make the baselines; those to be trained are among them.
        member_groups: their group numbers.

    Returns:
        Advantages; exactly 0 in a group of equal rewards.

    Raises:
        ValueError: a group to be trained has fewer than two members to compare.
    """
    if baseline == "none":
        return rewards
    # in float32 the mean of seven times 0.7 is not 0.7, and GRPO divides that last digit by a spread of nearly nothing
    dtype, rewards, members = rewards.dtype, rewards.double(), members.double()
    names, index = torch.unique(torch.cat([member_groups, groups]), return_inverse=True)
    member_index, index = index[: len(members)], index[len(members) :]
    zeros = members.new_zeros(len(names))
    count = zeros.index_add(0, member_index, torch.ones_like(members))
    if len(index) and bool((count[index] < 2).any()):
        lonely = names[index[count[index] < 2][0]]
        raise ValueError(f"group {int(lonely)} has fewer than two members to compare")
    # counted from each group's smallest, so that equal rewards give exactly nothing in float64 too
    low = zeros.scatter_reduce(0, member_index, members, "amin", include_self=False)
    members, rewards = members - low[member_index], rewards - low[index]
    mean = zeros.index_add(0, member_index, members) / count
    if baseline == "mean":
        scale = torch.ones_like(mean)
    elif baseline == "leave_one_out":
        scale = count / (count - 1)
    else:
        squares = zeros.index_add(0, member_index, (members - mean[member_index]).square())
        std = (squares / (count - 1)).sqrt()
        scale = 1 / (std + GRPO_EPS)
    return ((rewards - mean[index]) * scale[index]).to(dtype)


def spread_with_penalty(
    *,
    advantages: Float[Tensor, " B"],
    penalties: Float[Tensor, " C"],
    lengths: Int[Tensor, " B"],
) -> Float[Tensor, " C"]:
    """A trajectory's advantage at each of its tokens, with the KL penalty that is still to come from there.

        A_t = A_i + sum_{s >= t} penalty_s

    With penalties of 0 it is plain GRPO or RLOO. The penalty of earlier tokens is left out: token t could not have
    changed it (reward to go). It has no part in the group's baseline and is not divided by its spread. So beta means
    the same under every baseline, as where the divergence is a loss; where rewards hardly differ, a share of their
    spread would be any number. The expected gradient of ``leave_one_out`` is that of reward less beta times
    divergence, as where the whole penalty is subtracted from the reward first (TRL's RLOO).

    Args:
        advantages: of the trajectories.
        penalties: -beta KL of each token, or 0.
        lengths: tokens of each trajectory.
    """
    return advantages[owner(lengths)] + to_go(penalties, lengths)
