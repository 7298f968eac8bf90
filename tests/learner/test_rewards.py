import pickle

import numpy as np
import pytest
import torch
from torch import tensor

from learner.errors import NonFiniteRewardError
from learner.rewards import event_rewards, finite_events, overlong_penalty, raw_reward, with_penalty
from learner.trajectory import FinishReason, RewardEvent


def paid(trajectory):
    return event_rewards(trajectory, trajectory.events).tolist()


def test_an_event_without_a_token_is_paid_at_the_last_one(make_trajectory):
    assert paid(make_trajectory(reward=0.7)) == [0.0, 0.0, 0.7]


def test_events_add_up_where_they_fall(make_trajectory):
    events = (RewardEvent("line", 0.25, 0), RewardEvent("line", 0.5, 2), RewardEvent("tests", 1.0))
    trajectory = make_trajectory(events=events)
    assert paid(trajectory) == [0.25, 0.0, 1.5]
    assert sum(paid(trajectory)) == raw_reward(events)


def test_a_reward_at_an_untrained_token_is_moved_and_never_lost(make_trajectory):
    mask = (False, True, False, True, False)
    at = [(RewardEvent("line", 1.0, token),) for token in range(5)]
    placed = [paid(make_trajectory(completion=(5, 6, 7, 8, 1), loss_mask=mask, events=events)) for events in at]
    # trained tokens are 1 and 3; before the first of them a reward goes to the last
    assert placed == [[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]


def test_an_event_beyond_the_completion_is_an_error(make_trajectory):
    trajectory = make_trajectory(events=(RewardEvent("line", 1.0, 3),))
    with pytest.raises(ValueError, match="'line' at token 3 of a completion of 3"):
        paid(trajectory)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_reward_that_is_not_finite_names_trajectory_and_term(make_trajectory, value):
    with pytest.raises(NonFiniteRewardError, match="run/ppo/0/p0/0/0: term 'tests'") as caught:
        finite_events(make_trajectory(reward=value))
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (NonFiniteRewardError, str(caught.value))


def test_a_cut_completion_is_worth_what_its_events_say(make_trajectory):
    cut = make_trajectory(reward=-0.2, finish_reason=FinishReason.LENGTH)
    assert raw_reward(finite_events(cut)) == -0.2


def test_the_penalty_by_hand():
    rewards = with_penalty(tensor([0.0, 1.0]), divergence=tensor([0.5, -0.25]), coefficient=0.1)
    assert rewards.tolist() == pytest.approx([-0.05, 1.025])
    assert torch.equal(with_penalty(tensor([0.3]), divergence=tensor([9.0]), coefficient=0.0), tensor([0.3]))


def test_the_kinds_of_numbers_survive(make_trajectory):
    assert event_rewards(make_trajectory(), ()).dtype == np.float64


def test_the_soft_overlong_penalty_grows_over_the_buffer():
    limits = {"max_tokens": 20, "buffer_tokens": 8}
    assert [overlong_penalty(n, **limits) for n in (1, 12, 14, 16, 20, 21)] == [0.0, 0.0, -0.25, -0.5, -1.0, -1.0]
    assert overlong_penalty(14, **limits, scale=2.0) == -0.5
