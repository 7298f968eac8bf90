"""From reward events to rewards per token.

A trajectory's stream is its *trained* tokens, turn after turn (``Turn.loss_mask``). An event names a token of the last
turn's completion, or none: then it is paid at the last trained token. An event at a token that is not trained is paid
at the last trained one before it in that turn, or else at the last trained token of all: moved, never lost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from learner.errors import NonFiniteRewardError
from learner.trajectory import RewardEvent, Trajectory


def finite_events(trajectory: Trajectory) -> tuple[RewardEvent, ...]:
    """Its events. Raises NonFiniteRewardError for one that is NaN or infinite."""
    for event in trajectory.events:
        if not math.isfinite(event.value):
            raise NonFiniteRewardError(str(trajectory.id), f"term {event.term!r} gave {event.value}")
    return trajectory.events


def raw_reward(events: Sequence[RewardEvent]) -> float:
    """What the filter ranks by: the sum of all events, before any KL term."""
    return float(sum(event.value for event in events))


def event_rewards(trajectory: Trajectory, events: Sequence[RewardEvent]) -> NDArray[np.float64]:
    """Events placed on the trained tokens. Their sum is the raw reward.

    Raises ValueError for an event beyond the last turn's completion.
    """
    last_mask = trajectory.turns[-1].loss_mask
    before = sum(int(turn.loss_mask.sum()) for turn in trajectory.turns[:-1])
    num_trained = before + int(last_mask.sum())
    trained_up_to = np.cumsum(last_mask)
    rewards = np.zeros(num_trained)
    for event in events:
        place = num_trained - 1
        if event.token is not None:
            if not 0 <= event.token < len(last_mask):
                raise ValueError(
                    f"trajectory {trajectory.id}: event {event.term!r} at token {event.token} of a completion "
                    f"of {len(last_mask)} tokens"
                )
            if trained_up_to[event.token]:
                place = before + int(trained_up_to[event.token]) - 1
        rewards[place] += event.value
    return rewards


def overlong_penalty(num_tokens: int, *, max_tokens: int, buffer_tokens: int, scale: float = 1.0) -> float:
    """DAPO's soft overlong penalty (arXiv 2503.14476), from 0 down to -scale.

        0                                    L <= max - buffer
        scale (max - buffer - L) / buffer    in between
        -scale                               L >= max

    Args:
        num_tokens: L, completion tokens of the whole trajectory.
        max_tokens: length at which it is full.
        buffer_tokens: tokens over which it grows.
        scale: full penalty, in units of reward.
    """
    excess = num_tokens - (max_tokens - buffer_tokens)
    return -scale * min(max(excess / buffer_tokens, 0.0), 1.0)


def with_penalty(
    rewards: Float[Tensor, " C"], *, divergence: Float[Tensor, " C"], coefficient: float
) -> Float[Tensor, " C"]:
    """r_t - beta KL_t: the anchor to the reference as a part of the reward (k1 in the papers).

    Args:
        rewards: per token, in units of reward.
        divergence: estimate at each token, nats; taken as a number, without gradient.
        coefficient: beta, at least 0.
    """
    return rewards - coefficient * divergence.detach()
