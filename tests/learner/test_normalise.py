import statistics

import numpy as np
import pytest
import torch
from torch import tensor

from learner.config import AdaptiveKLConfig, KLConfig, PPOConfig
from learner.experience import Experience
from learner.kl_control import next_coefficient
from learner.normalise import RunningMoments
from learner.signals import normalised

VALUES = [0.3, -0.2, 1.0, 0.0, 0.7, 0.7]


def test_moments_are_those_of_all_values_however_they_came():
    for split in (0, 1, 3, 6):
        moments = RunningMoments().updated(VALUES[:split]).updated(VALUES[split:]).updated([])
        assert moments.count == 6
        assert moments.mean == pytest.approx(statistics.mean(VALUES))
        assert moments.std == pytest.approx(statistics.stdev(VALUES))


def test_without_spread_the_scale_is_one():
    assert (
        RunningMoments().std == RunningMoments().updated([3.0]).std == RunningMoments().updated([3.0, 3.0]).std == 1.0
    )


def test_large_offsets_lose_no_digits():
    moments = RunningMoments()
    for value in VALUES:
        moments = moments.updated([value + 1e8])
    assert moments.std == pytest.approx(statistics.stdev(VALUES), rel=1e-6)


def experience(rewards, lengths):
    totals = [sum(part) for part in np.split(rewards, np.cumsum(lengths)[:-1])]
    return Experience(
        sequences=(),
        lengths=tensor(lengths),
        groups=torch.arange(len(lengths)),
        total_rewards=tensor(totals, dtype=torch.float32),
        behaviour_logprobs=torch.zeros(len(rewards)),
        rewards=tensor(rewards),
    )


def test_rewards_are_scaled_and_shifted_once_a_trajectory():
    moments = RunningMoments().updated([0.0, 2.0])  # mean 1, std sqrt 2
    before = experience([0.0, 3.0, 1.0], [2, 1])
    scaled = normalised(before, moments, PPOConfig(reward_normalisation="scale"))
    assert scaled.rewards.tolist() == pytest.approx([0.0, 3 / 2**0.5, 1 / 2**0.5])
    shifted = normalised(before, moments, PPOConfig(reward_normalisation="standardise"))
    assert shifted.rewards.tolist() == pytest.approx([0.0, 2 / 2**0.5, 0.0])
    assert shifted.total_rewards.tolist() == pytest.approx([2 / 2**0.5, 0.0])
    assert normalised(before, moments, PPOConfig()) is before


def test_the_coefficient_by_hand():
    config = KLConfig(coefficient=0.2, adaptive=AdaptiveKLConfig(target=0.1, horizon=1000.0))
    assert next_coefficient(config, 0.2, 0.11, num_samples=500) == pytest.approx(0.2 * (1 + 0.1 * 0.5))
    assert next_coefficient(config, 0.2, 9.0, num_samples=500) == pytest.approx(0.2 * (1 + 0.2 * 0.5))  # bounded
    assert next_coefficient(config, 0.2, 0.0, num_samples=500) == pytest.approx(0.2 * (1 - 0.2 * 0.5))
    assert next_coefficient(config, 0.2, 0.1, num_samples=500) == 0.2
    assert next_coefficient(KLConfig(coefficient=0.2), 0.2, 9.0, num_samples=500) == 0.2


def test_the_coefficient_stays_above_zero_where_a_batch_is_larger_than_the_horizon():
    config = KLConfig(coefficient=0.2, adaptive=AdaptiveKLConfig(target=0.1, horizon=10.0))
    assert next_coefficient(config, 0.2, 0.0, num_samples=1000) == pytest.approx(0.1)  # not 0.2 (1 - 20)
    assert next_coefficient(config, 0.2, -3.0, num_samples=1000) == pytest.approx(0.1)  # k1 may be negative
