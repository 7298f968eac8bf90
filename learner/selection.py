"""PF-PPO's filters: which samples of a prompt are trained (arXiv 2409.06957).

Each takes one group: the raw rewards of its N members (before any KL term) and two random keys a member. Ranks are
within the group, so that prompts of different difficulty are treated alike; only the *order* of the rewards counts.

    BoN  keeps the best                         inclusion (1, 0, ..., 0)
    BR   the best and one uniform of the rest   inclusion (1, 1/(N-1), ..., 1/(N-1))
    BW   the best and the worst                 inclusion (1, 0, ..., 0, 1)

The paper gives weights over ranks, for BR (1/2, 1/(2(N-1)), ...), for BW (1/2, 0, ..., 1/2). We draw two *without*
replacement (the paper does not say), so inclusion is twice the weights and 2 of N are trained, always.

Ties: equal rewards are ordered by the members' tie keys. The keys are hashes of (seed, identity of the trajectory), so
the draw depends on who a sample is and not on its place in the batch or on any generator's state.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from learner.filter_config import BestOfN, BestRandom, BestWorst, Filter, KeepAll, PowerK, RandomK, Threshold
from problems.identity import TrajectoryId, derive_seed

Keys = NDArray[np.uint64]
KEY_BITS = 63  # of problems.identity.derive_seed


def identity_keys(purpose: str, seed: int, ids: Sequence[TrajectoryId]) -> Keys:
    """A random number for each trajectory that depends on purpose, seed and identity alone."""
    return np.array([derive_seed(purpose, seed, str(trajectory)) for trajectory in ids], dtype=np.uint64)


def rank(rewards: NDArray[np.float64], tie_keys: Keys) -> NDArray[np.intp]:
    """Member indices from best to worst; equal rewards in the order of their keys."""
    return np.lexsort((tie_keys, -rewards))


def _uniform(candidates: NDArray[np.intp], count: int, draw_keys: Keys) -> list[int]:
    """``count`` of the candidates, each set equally likely: those with the smallest keys."""
    return [int(i) for i in candidates[np.argsort(draw_keys[candidates], kind="stable")][:count]]


def select(rule: Filter, *, rewards: NDArray[np.float64], tie_keys: Keys, draw_keys: Keys) -> list[int]:
    """Indices of the members that are trained, ascending.

    Args:
        rule: the filter.
        rewards: of the N members of one group, finite, before any KL term.
        tie_keys: order among equal rewards.
        draw_keys: what a random choice is made by; independent of ``tie_keys``.

    Raises:
        ValueError: best-random or best-worst on a group of one, or an empty group.
    """
    if not len(rewards):
        raise ValueError("an empty group can't be filtered")
    if isinstance(rule, BestRandom | BestWorst) and len(rewards) < 2:
        raise ValueError(f"filter {rule.kind!r} needs at least two members")
    order = rank(rewards, tie_keys)
    if isinstance(rule, KeepAll):
        kept = [int(i) for i in order]
    elif isinstance(rule, BestOfN):
        kept = [int(order[0])]
    elif isinstance(rule, BestRandom):
        kept = [int(order[0]), *_uniform(order[1:], 1, draw_keys)]
    elif isinstance(rule, BestWorst):
        kept = [int(order[0]), int(order[-1])]
    elif isinstance(rule, RandomK):
        kept = _uniform(order, rule.k, draw_keys)
    elif isinstance(rule, PowerK):
        kept = _weighted(power_weights(rule, rewards), rule.count, draw_keys)
    else:
        chances = threshold_weights(rule, rewards)
        kept = [int(i) for i in np.flatnonzero(_unit(draw_keys) < chances)]
    return sorted(kept)


def power_weights(rule: PowerK, rewards: NDArray[np.float64]) -> NDArray[np.float64]:
    """pow-k's |R|^k, not normalised, of rewards brought to [-1, 1]."""
    middle, half = (rule.low + rule.high) / 2, (rule.high - rule.low) / 2
    return np.abs(np.clip((rewards - middle) / half, -1.0, 1.0)) ** rule.power


def threshold_weights(rule: Threshold, rewards: NDArray[np.float64]) -> NDArray[np.float64]:
    """Chance of each member to be kept by the threshold filters."""
    if rule.rest == "half":
        rest = np.full(len(rewards), 0.5)
    else:
        rest = (rewards <= rule.low if rule.rest == "bottom" else np.zeros(len(rewards))).astype(np.float64)
    return np.where(rewards >= rule.high, 1.0, rest)


def _unit(keys: Keys) -> NDArray[np.float64]:
    """Keys as numbers in [0, 1)."""
    return keys.astype(np.float64) / 2.0**KEY_BITS


def _weighted(weights: NDArray[np.float64], count: int, draw_keys: Keys) -> list[int]:
    """``count`` members drawn one after the other without replacement, each time in proportion to the weights left.

    Exponential races (Efraimidis and Spirakis, 2006): the first to ring at rate w. Members of weight 0 come last, in a
    uniform order.
    """
    waits = -np.log1p(-_unit(draw_keys))
    rings = np.divide(waits, weights, out=np.full(len(weights), np.inf), where=weights > 0)
    return [int(i) for i in np.lexsort((waits, rings))[:count]]
