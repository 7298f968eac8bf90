import numpy as np
import pytest

from learner.filter_config import BestOfN, BestRandom, BestWorst, KeepAll, PowerK, RandomK, Threshold
from learner.selection import identity_keys, power_weights, rank, select
from problems.identity import TrajectoryId

FILTERS = [KeepAll(), BestOfN(), BestRandom(), BestWorst(), RandomK(k=2)]


def group_ids(problem, size):
    return [TrajectoryId("run", "ppo", 0, problem, index) for index in range(size)]


def kept(rule, rewards, problem="p0", seed=0):
    ids = group_ids(problem, len(rewards))
    return select(
        rule,
        rewards=np.array(rewards, dtype=np.float64),
        tie_keys=identity_keys("tie", seed, ids),
        draw_keys=identity_keys("draw", seed, ids),
    )


def inclusion(rule, size, draws, ties=False):
    """Share of the draws in which each rank is kept; rank 0 is the best."""
    rng = np.random.default_rng(0)
    counts = np.zeros(size)
    rewards = np.zeros(size) if ties else -np.arange(size, dtype=np.float64)
    for tie_keys, draw_keys in rng.integers(0, 2**63, (draws, 2, size), dtype=np.uint64):
        counts[select(rule, rewards=rewards, tie_keys=tie_keys, draw_keys=draw_keys)] += 1
    return counts / draws


def test_each_filter_by_hand():
    rewards = [0.1, 0.9, -0.2, 0.5, 0.3]
    assert kept(KeepAll(), rewards) == [0, 1, 2, 3, 4]
    assert kept(BestOfN(), rewards) == [1]
    assert kept(BestWorst(), rewards) == [1, 2]
    assert 1 in kept(BestRandom(), rewards)
    for rule in (BestRandom(), BestWorst(), RandomK(k=2)):
        assert len(kept(rule, rewards)) == 2  # 2 of 5: the saving


@pytest.mark.parametrize("size", [5, 8])
def test_inclusion_is_twice_the_paper_s_weights(size):
    draws = 100_000
    three_sigma = 3 * 0.5 / draws**0.5
    assert inclusion(BestWorst(), size, 100).tolist() == [1.0, *[0.0] * (size - 2), 1.0]
    assert inclusion(BestOfN(), size, 100).tolist() == [1.0, *[0.0] * (size - 1)]
    best_random = inclusion(BestRandom(), size, draws)
    assert best_random[0] == 1.0
    assert best_random[1:] == pytest.approx([2 / (2 * (size - 1))] * (size - 1), abs=three_sigma)
    few = 10_000
    assert inclusion(RandomK(k=2), size, few) == pytest.approx([2 / size] * size, abs=1.5 / few**0.5)


def test_among_equal_rewards_every_member_is_kept_equally_often():
    draws = 5_000
    for rule, mean in ((BestOfN(), 0.2), (BestRandom(), 0.4), (BestWorst(), 0.4)):
        assert inclusion(rule, 5, draws, ties=True) == pytest.approx([mean] * 5, abs=1.5 / draws**0.5)


@pytest.mark.parametrize("rule", FILTERS)
def test_only_the_order_of_rewards_counts(rule):
    rewards = np.array([0.3, -0.2, 0.9, 0.3, 0.0])
    for monotone in (lambda r: 7 * r - 100, np.exp, lambda r: r**3):
        assert kept(rule, monotone(rewards)) == kept(rule, rewards)


def test_prompts_with_disjoint_rewards_both_survive_best_worst():
    assert len(kept(BestWorst(), [10.0, 11.0, 12.0])) == 2
    assert len(kept(BestWorst(), [-12.0, -11.0, -10.0])) == 2


@pytest.mark.parametrize("rule", FILTERS)
def test_the_draw_depends_on_identity_and_not_on_order(rule):
    rewards, ids = np.array([0.5, 0.5, 0.1, 0.5, 0.1]), group_ids("p3", 5)
    order = [3, 0, 4, 2, 1]

    def names(index):
        chosen = select(
            rule,
            rewards=rewards[index],
            tie_keys=identity_keys("tie", 5, [ids[i] for i in index]),
            draw_keys=identity_keys("draw", 5, [ids[i] for i in index]),
        )
        return sorted(ids[index[i]] for i in chosen)

    assert names(list(range(5))) == names(order)


def test_seed_and_problem_change_the_draw():
    rewards = [0.5] * 8
    assert len({tuple(kept(RandomK(k=2), rewards, seed=seed)) for seed in range(30)}) > 5
    assert len({tuple(kept(RandomK(k=2), rewards, problem=f"p{i}")) for i in range(30)}) > 5


def test_equal_rewards_are_ranked_by_their_keys():
    assert rank(np.array([1.0, 2.0, 1.0]), np.array([9, 5, 3], dtype=np.uint64)).tolist() == [1, 2, 0]


def test_groups_that_are_too_small_are_refused():
    for rule in (BestRandom(), BestWorst()):
        with pytest.raises(ValueError, match="at least two"):
            kept(rule, [1.0])
    with pytest.raises(ValueError, match="empty group"):
        kept(KeepAll(), [])
    assert kept(RandomK(k=4), [1.0, 2.0]) == [0, 1]


def test_pow_k_draws_without_replacement_in_proportion_to_its_weights():
    rewards, draws, counts = np.array([1.0, -0.5, 0.0, 0.5]), 20_000, np.zeros(4)
    for keys in np.random.default_rng(0).integers(0, 2**63, (draws, 4), dtype=np.uint64):
        kept = select(PowerK(power=1.0, count=1), rewards=rewards, tie_keys=keys, draw_keys=keys)
        counts[kept] += 1
    assert counts / draws == pytest.approx([0.5, 0.25, 0.0, 0.25], abs=1.5 / draws**0.5)


def test_pow_k_drops_no_failure_for_want_of_successes():
    assert len(kept(PowerK(count=2), [0.0, 0.0, 0.0])) == 2  # all weights 0: uniform
    assert 1 in kept(PowerK(count=2), [0.0, 1.0, 0.0])


def test_pow_k_of_rewards_of_0_and_1_weighs_failures_as_successes_where_it_is_told_their_range():
    rewards, counts = np.array([1.0, 1.0, 0.0, 0.0, 0.5]), np.zeros(5)
    for keys in np.random.default_rng(0).integers(0, 2**63, (4_000, 5), dtype=np.uint64):
        counts[select(PowerK(count=1, low=0.0), rewards=rewards, tie_keys=keys, draw_keys=keys)] += 1
    assert counts / 4_000 == pytest.approx([0.25, 0.25, 0.25, 0.25, 0.0], abs=0.025)
    # 10 counts as 1, and -4 as -1
    weights = power_weights(PowerK(power=2.0), np.array([10.0, 0.5, -4.0]))
    assert weights.tolist() == [1.0, 0.25, 1.0]


def test_pow_k_depends_on_the_scale_as_no_other_does():
    rewards = np.array([0.9, 0.1, -0.2, 0.3, 0.5])
    problems = [f"p{i}" for i in range(50)]
    shifted = [kept(PowerK(), rewards + 5, problem=p) for p in problems]
    assert shifted != [kept(PowerK(), rewards, problem=p) for p in problems]


def test_thresholds_by_hand():
    rewards = [0.9, 0.5, 0.2, -0.1]
    assert kept(Threshold(high=0.5, rest="drop"), rewards) == [0, 1]
    assert kept(Threshold(high=0.5, rest="bottom", low=0.0), rewards) == [0, 1, 3]
    assert kept(Threshold(high=2.0, rest="drop"), rewards) == []
    halves = [kept(Threshold(high=0.5, rest="half"), rewards, problem=f"p{i}") for i in range(400)]
    assert all({0, 1} <= set(members) for members in halves)
    assert sum(2 in members for members in halves) == pytest.approx(200, abs=3 * 10)
