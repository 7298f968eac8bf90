"""R^2: how well a reward model's score predicts the real score in the samples that a filter would train (PF-PPO).

With the SFT policy, before RL, sample some responses a prompt; give each its weight under the filter's ranks; put
responses of similar reward into a bin; regress the bins' mean real score on their mean reward. The filter with the
highest R^2 is the one whose samples the reward model judges most reliably (arXiv 2409.06957).

    s_hat = a + b r        R^2 = 1 - sum_k (s_k - s_hat_k)^2 / sum_k (s_k - mean s)^2      over bins k

The number of bins and their borders are not in the paper: 20, of equal mass or of equal width, ours. The order of the
filters depends on that choice, so both are computed.

It depends on numbers, too. The mean of a bin scatters about what it estimates, the more so the fewer responses it
holds, and of five responses one filter trains five and another one. The scatter counts as unexplained, so that of
filters which are equally good the one that trains most looks best. ``at_equal_numbers`` compares them on as many
responses each; with many thousands of responses, as in the paper, the two agree.

M responses, K bins, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from learner.filter_config import BestOfN, BestRandom, BestWorst, Filter, KeepAll, PowerK, RandomK, name_of
from learner.selection import power_weights, threshold_weights

Binning = Literal["equal_mass", "equal_width"]
Array = NDArray[np.float64]
_ROUNDING = 1e-12  # relative, of a weighted mean of equal scores


class Fit(NamedTuple):
    """Attributes:
    r_squared: 1 is a straight line; 0 where the bins' scores do not vary.
    rewards: [K] mean reward of each bin.
    scores: [K] mean real score of each bin.
    masses: [K] share of the sampling weight in each bin.
    """

    r_squared: float
    rewards: Array
    scores: Array
    masses: Array


def inclusion_probabilities(rule: Filter, rewards: Array) -> Array:
    """Chance of each member of one group to be trained under the filter; ties share their ranks' chances.

    For pow-k the paper's weights, of a single draw: R^2 asks for proportions alone.

    Args:
        rule: the filter.
        rewards: [N] of the group, in any order.
    """
    size = len(rewards)
    order = np.argsort(-rewards, kind="stable")
    by_rank = np.empty(size)
    by_rank[order] = _by_rank(rule, rewards[order])
    if isinstance(rule, BestOfN | BestRandom | BestWorst):
        for value in np.unique(rewards):
            by_rank[rewards == value] = by_rank[rewards == value].mean()
    return by_rank


def _by_rank(rule: Filter, descending: Array) -> Array:
    size = len(descending)
    if isinstance(rule, KeepAll):
        return np.ones(size)
    if isinstance(rule, RandomK):
        return np.full(size, min(rule.k / size, 1.0))
    if isinstance(rule, BestOfN | BestRandom | BestWorst):
        chances = np.full(size, 1 / (size - 1) if isinstance(rule, BestRandom) else 0.0)
        chances[0] = 1.0
        if isinstance(rule, BestWorst):
            chances[-1] = 1.0
        return chances
    if isinstance(rule, PowerK):
        weights = power_weights(rule, descending)
        return weights / weights.sum() if weights.sum() else np.full(size, 1 / size)
    return threshold_weights(rule, descending)


def r_squared(
    rewards: Array, scores: Array, weights: Array, *, num_bins: int = 20, binning: Binning = "equal_mass"
) -> Fit:
    """Fit of the binned real score on the binned reward.

    Args:
        rewards: [M] what the reward model says.
        scores: [M] what is true, such as 1 for a pass and 0 for a failure.
        weights: [M] chance of each to be trained; 0 leaves it out.
        num_bins: K; empty bins are left out.
        binning: ``equal_mass``: each bin holds the same weight. ``equal_width``: the same range of reward.

    Raises:
        ValueError: fewer than three bins hold anything (a line through two points fits always), or none does.
    """
    used = weights > 0
    if not used.any():
        raise ValueError("the filter trains none of the responses")
    rewards, scores, weights = rewards[used], scores[used], weights[used]
    bins = _bins(rewards, weights, num_bins, binning)
    masses = np.bincount(bins, weights, num_bins)
    filled = masses > 0
    if filled.sum() < 3:
        raise ValueError(f"only {int(filled.sum())} of {num_bins} bins hold a response; R^2 needs three")
    masses = masses[filled]
    mean_rewards = np.bincount(bins, weights * rewards, num_bins)[filled] / masses
    mean_scores = np.bincount(bins, weights * scores, num_bins)[filled] / masses
    slope, intercept = np.polyfit(mean_rewards, mean_scores, 1)
    residual = ((mean_scores - slope * mean_rewards - intercept) ** 2).sum()
    spread = ((mean_scores - mean_scores.mean()) ** 2).sum()
    varies = not np.allclose(mean_scores, mean_scores[0], rtol=_ROUNDING, atol=0)
    return Fit(float(1 - residual / spread) if varies else 0.0, mean_rewards, mean_scores, masses / masses.sum())


def compare_filters(
    rules: Sequence[Filter],
    groups: Sequence[tuple[Array, Array]],
    *,
    ranked_by: Sequence[Array] | None = None,
    num_bins: int = 20,
    binning: Binning = "equal_mass",
) -> dict[str, Fit]:
    """R^2 of each filter, by ``filter_config.name_of``, over the same groups of (rewards, scores).

    ``ranked_by``: of each group what the filters rank its members by, where that is not the reward model's word alone.
    """
    rewards, scores = (np.concatenate([group[part] for group in groups]) for part in (0, 1))
    ranked = [group_rewards for group_rewards, _ in groups] if ranked_by is None else ranked_by
    return {
        name_of(rule): r_squared(
            rewards,
            scores,
            np.concatenate([inclusion_probabilities(rule, ranks) for ranks in ranked]),
            num_bins=num_bins,
            binning=binning,
        )
        for rule in rules
    }


def at_equal_numbers(
    rules: Sequence[Filter],
    groups: Sequence[tuple[Array, Array]],
    *,
    ranked_by: Sequence[Array] | None = None,
    num_bins: int = 20,
    binning: Binning = "equal_mass",
    num_draws: int = 50,
) -> dict[str, float]:
    """R^2 of each filter on as many responses as the one that trains fewest, mean over draws from those it trains.

    Arguments as of ``compare_filters``. The draws are the same each time.

    Raises:
        ValueError: a filter trains none, or a draw fills fewer than three bins.
    """
    rewards, scores = (np.concatenate([group[part] for group in groups]) for part in (0, 1))
    ranked = [group_rewards for group_rewards, _ in groups] if ranked_by is None else ranked_by
    chances = {
        name_of(rule): np.concatenate([inclusion_probabilities(rule, ranks) for ranks in ranked]) for rule in rules
    }
    # Each is drawn by itself, so that chances stay in proportion; the number drawn varies a little about ``size``.
    size = min(_number_trained(rule, chances[name_of(rule)]) for rule in rules)
    found: dict[str, float] = {}
    for name, chance in chances.items():
        generator = np.random.default_rng(0)
        fits = [
            r_squared(rewards, scores, drawn.astype(np.float64), num_bins=num_bins, binning=binning)
            for drawn in generator.random((num_draws, len(chance))) < chance * (size / chance.sum())
        ]
        found[name] = float(np.mean([fit.r_squared for fit in fits]))
    return found


def _number_trained(rule: Filter, chances: Array) -> float:
    """Expected number of responses that a filter trains; pow-k's chances are those of a single draw."""
    return chances.sum() * (rule.count if isinstance(rule, PowerK) else 1)


def _bins(rewards: Array, weights: Array, num_bins: int, binning: Binning) -> NDArray[np.intp]:
    if binning == "equal_width":
        low, high = rewards.min(), rewards.max()
        scaled = (rewards - low) / (high - low) if high > low else np.zeros_like(rewards)
    else:
        order = np.argsort(rewards, kind="stable")
        middle = np.empty_like(rewards)
        middle[order] = np.cumsum(weights[order]) - weights[order] / 2
        scaled = middle / weights.sum()
        for value, count in zip(*np.unique(rewards, return_counts=True), strict=True):
            if count > 1:  # equal rewards stand in one bin: a border between them would be an accident of order
                scaled[rewards == value] = scaled[rewards == value].mean()
    return np.minimum((scaled * num_bins).astype(np.intp), num_bins - 1)
