import itertools

import numpy as np
import pytest

from learner.filter_config import BestOfN, BestRandom, BestWorst, KeepAll, PowerK, RandomK, Threshold
from learner.filter_quality import at_equal_numbers, compare_filters, inclusion_probabilities, r_squared

ALL = [KeepAll(), BestOfN(), BestRandom(), BestWorst()]


def chances(rule, rewards):
    return inclusion_probabilities(rule, np.array(rewards, dtype=np.float64)).tolist()


def test_inclusion_is_twice_the_paper_s_weights():
    rewards = [0.1, 0.9, -0.2, 0.5, 0.3]
    assert chances(KeepAll(), rewards) == [1.0] * 5
    assert chances(BestOfN(), rewards) == [0, 1, 0, 0, 0]
    assert chances(BestWorst(), rewards) == [0, 1, 1, 0, 0]
    assert chances(BestRandom(), rewards) == pytest.approx([0.25, 1, 0.25, 0.25, 0.25])
    assert chances(RandomK(k=2), rewards) == pytest.approx([0.4] * 5)


def test_ties_share_their_ranks_chances():
    assert chances(BestWorst(), [1.0, 1.0, 0.0, 0.0, 0.0]) == pytest.approx([1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3])
    assert chances(BestOfN(), [1.0, 1.0]) == [0.5, 0.5]


def test_filters_by_value():
    assert chances(PowerK(power=2.0), [0.0, 1.0, -1.0]) == pytest.approx([0.0, 0.5, 0.5])
    assert chances(Threshold(high=0.5, rest="half"), [0.9, 0.1]) == [1.0, 0.5]
    assert chances(Threshold(high=0.5, rest="drop"), [0.9, 0.1]) == [1.0, 0.0]
    assert chances(Threshold(high=0.5, rest="bottom", low=0.0), [0.9, 0.1, -0.3]) == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("binning", ["equal_mass", "equal_width"])
def test_linear_data_fit_perfectly(binning):
    rewards = np.linspace(-2, 3, 400)
    fit = r_squared(rewards, 0.3 * rewards + 1, np.ones(400), binning=binning)
    assert fit.r_squared == pytest.approx(1.0)
    assert fit.masses.sum() == pytest.approx(1.0)


def test_under_every_filter_linear_data_fit_perfectly():
    rewards = np.random.default_rng(0).uniform(-1, 1, (200, 10))
    fits = compare_filters(ALL, [(row, 2 * row - 1) for row in rewards])
    assert [fits[rule.kind].r_squared for rule in ALL] == pytest.approx([1.0] * 4)


def test_three_bins_by_hand():
    # bins hold rewards 0, 1, 2 with scores 0, 1, 0: the best line is flat at 1/3, nothing is explained
    fit = r_squared(np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 0.0]), np.ones(3), num_bins=3, binning="equal_width")
    assert fit.r_squared == pytest.approx(0.0)
    fit = r_squared(np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 1.0]), np.ones(3), num_bins=3, binning="equal_width")
    assert fit.r_squared == pytest.approx(1 - (1 / 6) / (2 / 3))


def test_equal_masses_hold_equal_weight():
    rewards = np.random.default_rng(0).standard_normal(2000) ** 3
    masses = r_squared(rewards, rewards, np.ones(2000), num_bins=10).masses
    assert masses.tolist() == pytest.approx([0.1] * 10, abs=1e-3)


def test_a_response_of_weight_zero_is_inert():
    rewards, scores = np.arange(5.0), np.array([0.0, 1.0, 1.5, 3.5, 4.0])
    plain = r_squared(rewards, scores, np.ones(5), num_bins=5)
    more = r_squared(np.append(rewards, np.nan), np.append(scores, np.nan), np.append(np.ones(5), 0.0), num_bins=5)
    assert more.r_squared == plain.r_squared


def test_two_bins_are_refused():
    with pytest.raises(ValueError, match="only 2 of 20 bins"):
        r_squared(np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0]), np.ones(3))


def test_with_noise_in_the_middle_the_paper_s_order_appears():
    """Ten samples a prompt; the score is the reward, with little noise at both ends and much in between.

    Under equal widths the order is another: the few middle samples that best-worst keeps fill bins of their own.
    """
    fits: dict[str, list[dict[str, float]]] = {"equal_mass": [], "equal_width": []}
    for seed in range(8):
        rng = np.random.default_rng(seed)
        rewards = rng.uniform(-1, 1, (300, 10))
        noise = np.where(np.abs(rewards) < 0.5, 4.0, 0.5) * rng.normal(size=rewards.shape)
        for binning, found in fits.items():
            measured = compare_filters(ALL, list(zip(rewards, rewards + noise, strict=True)), binning=binning)
            found.append({kind: fit.r_squared for kind, fit in measured.items()})
    for binning, order in (("equal_mass", ("bw", "br", "none", "bon")), ("equal_width", ("none", "br", "bw"))):
        for better, worse in itertools.pairwise(order):
            gains = np.array([found[better] - found[worse] for found in fits[binning]])
            assert gains.mean() > 2 * gains.std(ddof=1) / np.sqrt(len(gains)), (binning, better, worse, gains)


def test_at_equal_numbers_no_filter_gains_by_what_it_trains_more() -> None:
    """A pass is a little likelier at a higher reward. R^2 of all five answers of a prompt is above that of any one of
    them, by numbers alone; on as many answers it is what one of five at random has."""
    rng = np.random.default_rng(0)
    all_five, as_many, one_of_five = [], [], []
    for _ in range(40):
        rewards = rng.uniform(-1, 1, (60, 5))
        passed = (rng.random(rewards.shape) < 0.3 + 0.2 * rewards).astype(np.float64)
        groups = list(zip(rewards, passed, strict=True))
        fits = compare_filters([KeepAll(), BestOfN()], groups)
        equal = at_equal_numbers([KeepAll(), BestOfN()], groups)
        assert equal["bon"] == pytest.approx(fits["bon"].r_squared)  # of the smallest nothing is left out
        all_five.append(fits["none"].r_squared)
        as_many.append(equal["none"])
        drawn = np.arange(60), rng.integers(0, 5, 60)
        one_of_five.append(r_squared(rewards[drawn], passed[drawn], np.ones(60)).r_squared)
    error = np.std(one_of_five) / np.sqrt(40)
    assert np.mean(all_five) - np.mean(as_many) > 4 * error
    assert np.mean(as_many) == pytest.approx(np.mean(one_of_five), abs=3 * error)


def test_scores_that_do_not_vary_are_not_explained():
    """Weighted means of equal scores differ in their last digit, and that digit is no signal."""
    rng = np.random.default_rng(0)
    for score in (0.0, 0.1, 0.7, 1.0):
        fit = r_squared(rng.normal(size=200), np.full(200, score), rng.uniform(0.1, 1, 200))
        assert fit.r_squared == 0.0
