import pytest
import torch
from torch import tensor

from learner.advantages import generalised_advantages, group_advantages, returns_to_go, spread_with_penalty
from learner.ragged import to_go
from learner.whitening import whiten

F64 = torch.float64


def gae(rewards, values, lengths, gamma=1.0, lam=1.0):
    return generalised_advantages(
        rewards=tensor(rewards, dtype=F64),
        values=tensor(values, dtype=F64),
        lengths=tensor(lengths, dtype=torch.int64),
        gamma=gamma,
        lam=lam,
    )


def test_three_tokens_by_hand():
    # delta = [0 + .9*.5 - .4, 0 + .9*.6 - .5, 1 - .6] = [.05, .04, .4];  gamma lam = .45
    result = gae([0, 0, 1], [0.4, 0.5, 0.6], [3], gamma=0.9, lam=0.5)
    assert result.advantages.tolist() == pytest.approx([0.05 + 0.45 * (0.04 + 0.45 * 0.4), 0.04 + 0.45 * 0.4, 0.4])
    assert result.returns.tolist() == pytest.approx((result.advantages + tensor([0.4, 0.5, 0.6])).tolist())


def test_lambda_one_reduces_to_reward_to_go_minus_value():
    rewards, values, lengths = [0.1, 0.2, 0.7, -0.4, 1.0], [0.3, 0.1, 0.2, 0.5, 0.9], [3, 2]
    result = gae(rewards, values, lengths)
    expected = to_go(tensor(rewards, dtype=F64), tensor(lengths)) - tensor(values, dtype=F64)
    torch.testing.assert_close(result.advantages, expected)


def test_lambda_zero_reduces_to_the_one_step_error():
    result = gae([1.0, 2.0], [0.5, 0.25], [2], gamma=0.5, lam=0.0)
    assert result.advantages.tolist() == [1.0 + 0.5 * 0.25 - 0.5, 2.0 - 0.25]


def test_nothing_flows_between_trajectories():
    together = gae([1.0, 0.0, 5.0], [0.1, 0.2, 0.3], [2, 1], lam=0.9).advantages
    alone = gae([1.0, 0.0], [0.1, 0.2], [2], lam=0.9).advantages
    assert together[:2].tolist() == alone.tolist()
    ruined = gae([1.0, 0.0, float("nan")], [0.1, 0.2, float("nan")], [2, 1], lam=0.9).advantages
    assert ruined[:2].tolist() == alone.tolist()


def test_perfect_values_leave_no_advantage():
    rewards, lengths = torch.randn(9, dtype=F64), tensor([4, 5])
    values = to_go(rewards, lengths)
    result = generalised_advantages(rewards=rewards, values=values, lengths=lengths, gamma=1.0, lam=0.7)
    torch.testing.assert_close(result.advantages, torch.zeros_like(rewards))


def test_returns_are_discounted_by_hand():
    rewards, lengths = tensor([1.0, 2.0, 4.0, 3.0], dtype=F64), tensor([3, 1])

    def returns(gamma):
        return returns_to_go(rewards=rewards, lengths=lengths, gamma=gamma).tolist()

    assert returns(0.5) == [1 + 0.5 * (2 + 0.5 * 4), 2 + 0.5 * 4, 4.0, 3.0]
    assert returns(1.0) == to_go(rewards, lengths).tolist()
    assert returns(0.0) == rewards.tolist()


def test_a_trajectory_of_one_token_knows_neither_gamma_nor_lambda():
    assert gae([0.7], [0.2], [1], gamma=0.3, lam=0.4).advantages.tolist() == pytest.approx([0.5])
    empty = gae([], [], [])
    assert empty.advantages.shape == empty.returns.shape == (0,)


def compare(baseline, rewards, groups, members=None, member_groups=None):
    return group_advantages(
        baseline,
        rewards=tensor(rewards, dtype=F64),
        groups=tensor(groups),
        members=tensor(members or rewards, dtype=F64),
        member_groups=tensor(member_groups or groups),
    ).tolist()


def test_group_baselines_by_hand():
    rewards, groups = [1.0, 0.0, 0.5, 3.0, 1.0], [7, 7, 7, 2, 2]
    assert compare("mean", rewards, groups) == pytest.approx([0.5, -0.5, 0.0, 1.0, -1.0])
    # leave one out: 1 - (0 + .5)/2, ...
    assert compare("leave_one_out", rewards, groups) == pytest.approx([0.75, -0.75, 0.0, 2.0, -2.0])
    # unbiased std of the first group .5, of the second sqrt(2)
    assert compare("grpo", rewards, groups) == pytest.approx([1.0, -1.0, 0.0, 0.5**0.5, -(0.5**0.5)], abs=1e-5)


def test_the_baseline_may_be_over_more_members_than_are_trained():
    # best and worst of (1, 0, 0, 0): the mean of all is 1/4, that of the two is 1/2
    kept = {"rewards": [1.0, 0.0], "groups": [0, 0]}
    assert compare("mean", **kept, members=[1.0, 0.0, 0.0, 0.0], member_groups=[0] * 4) == [0.75, -0.25]
    assert compare("mean", **kept) == [0.5, -0.5]


def test_equal_rewards_give_zeros():
    for baseline in ("mean", "leave_one_out", "grpo"):
        assert compare(baseline, [0.3, 0.3, 0.3], [1, 1, 1]) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("baseline", ["mean", "leave_one_out", "grpo"])
def test_equal_rewards_give_zeros_in_single_precision_too(baseline):
    """A mean that is off in its last digit, over a spread of nothing, would be an advantage of 0.06."""
    for value in (0.1, 0.7, -0.3, 1 / 3):
        for size in range(2, 40):
            rewards, groups = torch.full((size,), value), torch.zeros(size, dtype=torch.int64)
            advantages = group_advantages(
                baseline, rewards=rewards, groups=groups, members=rewards, member_groups=groups
            )
            assert advantages.dtype == torch.float32
            assert not advantages.any(), (value, size)


def test_a_group_of_equal_rewards_has_no_advantage_in_double_precision_either():
    """The mean of three times 0.7 is not 0.7, and GRPO divides that digit by a spread of nothing."""
    for value in (0.7, 0.1, -1e6 / 3):
        for size in (2, 3, 7, 11):
            for baseline in ("mean", "leave_one_out", "grpo"):
                assert compare(baseline, [value] * size, [5] * size) == [0.0] * size


@pytest.mark.parametrize("close", [0.0, 1e-7, 1e-4])
def test_the_penalty_is_the_same_in_every_group_however_little_its_rewards_differ(close):
    rewards, groups = tensor([0.5, 0.5 + close, 1.0, 0.0]), tensor([0, 0, 1, 1])
    for baseline in ("mean", "leave_one_out", "grpo"):
        advantages = group_advantages(baseline, rewards=rewards, groups=groups, members=rewards, member_groups=groups)
        penalties = tensor([-0.1, -0.12, -0.02, -0.3])
        spread = spread_with_penalty(advantages=advantages, penalties=penalties, lengths=torch.ones_like(groups))
        assert (spread - advantages).tolist() == pytest.approx(penalties.tolist())
        assert advantages.abs().max() <= 1.0  # of two, none is further than (K - 1) / sqrt(K), or than its reward


def test_the_expected_gradient_of_leave_one_out_is_that_of_the_reward_less_beta_times_the_divergence():
    """A policy of two actions, samples in pairs, all four pairs weighed by their chances."""
    logit = torch.tensor(0.3, dtype=F64, requires_grad=True)
    chance = torch.stack([torch.sigmoid(logit), 1 - torch.sigmoid(logit)])
    reward, penalty = tensor([1.0, 0.2], dtype=F64), tensor([-0.1, -0.5], dtype=F64)
    (wanted,) = torch.autograd.grad((chance * (reward + penalty)).sum(), logit, retain_graph=True)
    got = torch.zeros((), dtype=F64)
    for first, second in ((0, 0), (0, 1), (1, 0), (1, 1)):
        taken, groups = tensor([first, second]), tensor([0, 0])
        advantages = group_advantages(
            "leave_one_out", rewards=reward[taken], groups=groups, members=reward[taken], member_groups=groups
        )
        spread = spread_with_penalty(advantages=advantages, penalties=penalty[taken], lengths=tensor([1, 1]))
        loss = (spread * chance[taken].log()).mean()
        (gradient,) = torch.autograd.grad(loss, logit, retain_graph=True)
        got = got + (chance[first] * chance[second]).detach() * gradient
    assert float(got) == pytest.approx(float(wanted), rel=1e-12)


def test_a_large_offset_of_all_rewards_costs_no_digits():
    rewards, groups = [0.25, 0.0, 0.5, 3.0, 1.0], [7, 7, 7, 2, 2]
    far = [reward + 2.0**30 for reward in rewards]
    for baseline in ("mean", "leave_one_out", "grpo"):
        assert compare(baseline, far, groups) == compare(baseline, rewards, groups)


def test_of_two_the_one_is_the_others_baseline():
    assert compare("leave_one_out", [1.0, 0.25], [0, 0]) == pytest.approx([0.75, -0.75])
    assert compare("mean", [1.0, 0.25], [0, 0]) == pytest.approx([0.375, -0.375])


def test_grpo_knows_no_unit_of_reward():
    rewards, groups = [1.0, 0.0, 0.5, 3.0, 1.0], [7, 7, 7, 2, 2]
    changed = [5 * reward - 3 for reward in rewards]
    assert compare("grpo", changed, groups) == pytest.approx(compare("grpo", rewards, groups), rel=1e-5)


def test_a_group_of_one_is_refused():
    with pytest.raises(ValueError, match="group 4 has fewer than two members"):
        compare("mean", [0.0, 1.0, 1.0], [3, 3, 4])


def test_advantages_do_not_depend_on_the_order():
    rewards, groups = [1.0, 0.0, 0.5, 3.0, 1.0], [7, 7, 7, 2, 2]
    mixed = [3, 0, 4, 2, 1]
    direct = compare("grpo", rewards, groups)
    shuffled = compare("grpo", [rewards[i] for i in mixed], [groups[i] for i in mixed])
    assert shuffled == pytest.approx([direct[i] for i in mixed])


def test_without_penalty_every_token_has_its_trajectory_s_advantage():
    spread = spread_with_penalty(advantages=tensor([0.5, -0.5]), penalties=torch.zeros(3), lengths=tensor([1, 2]))
    assert spread.tolist() == [0.5, -0.5, -0.5]


def test_a_token_carries_the_penalty_that_is_still_to_come():
    spread = spread_with_penalty(advantages=tensor([0.5]), penalties=tensor([-0.1, -0.2, -0.4]), lengths=tensor([3]))
    assert spread.tolist() == pytest.approx([0.5 - 0.7, 0.5 - 0.6, 0.5 - 0.4])


def test_without_a_baseline_the_reward_is_the_advantage_and_a_group_of_one_will_do():
    assert compare("none", [1.0, -0.5, 0.25], [0, 0, 9]) == [1.0, -0.5, 0.25]


def test_reinforce_plus_plus_is_the_reward_to_go_whitened_over_the_batch():
    # returns to go with penalties (0.1, 0.2 | 0.3): 1 - 0.3, 1 - 0.2, 0 - 0.3
    advantages = group_advantages(
        "none", rewards=tensor([1.0, 0.0]), groups=tensor([0, 1]), members=tensor([1.0, 0.0]),
        member_groups=tensor([0, 1]),
    )  # fmt: skip
    spread = spread_with_penalty(advantages=advantages, penalties=tensor([-0.1, -0.2, -0.3]), lengths=tensor([2, 1]))
    assert spread.tolist() == pytest.approx([0.7, 0.8, -0.3])
    mean, std = 0.4, (((0.3**2) + (0.4**2) + (0.7**2)) / 2) ** 0.5
    assert whiten(spread).tolist() == pytest.approx([0.3 / std, 0.4 / std, -0.7 / std])
    assert mean == pytest.approx(float(spread.mean()))
