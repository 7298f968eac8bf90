import numpy as np
import pytest

from learner.line_rewards import line_rewards

FAIL, PASS = 0.25, 0.025


def test_a_model_that_says_1_everywhere_pays_lambda_in_all():
    code = [False] * 5
    assert line_rewards(np.ones(5), is_neutral=code, weight=FAIL).sum() == pytest.approx(0.25)
    # with the outcome of 1 on the last token: 1.025 for a program that passes
    assert 1 + line_rewards(np.ones(5), is_neutral=code, weight=PASS).sum() == pytest.approx(1.025)


def test_rewards_by_hand():
    # T = 3: 0.25 / 3 times 1, -0.5 and 1 (cut from 2); the comment earns nothing, whatever is said of it
    rewards = line_rewards(np.array([1.0, 0.9, -0.5, 2.0]), is_neutral=[False, True, False, False], weight=FAIL)
    assert rewards.tolist() == pytest.approx([0.25 / 3, 0.0, -0.125 / 3, 0.25 / 3])
    uncut = line_rewards(np.array([2.0]), is_neutral=[False], weight=FAIL, bound=None)
    assert uncut.tolist() == pytest.approx([0.5])


def test_doubling_every_line_leaves_the_total():
    scores = np.array([0.9, 0.3, -0.8])
    once = line_rewards(scores, is_neutral=[False] * 3, weight=FAIL).sum()
    twice = line_rewards(np.repeat(scores, 2), is_neutral=[False] * 6, weight=FAIL).sum()
    assert twice == pytest.approx(once)


@pytest.mark.parametrize("comments", [1, 3, 50])
def test_adding_comments_never_changes_a_total(comments):
    scores, neutral = np.array([0.9, 0.3, -0.8]), [False] * 3
    padded = np.insert(scores, 1, [0.7] * comments)
    with_comments = line_rewards(padded, is_neutral=[False, *[True] * comments, False, False], weight=FAIL)
    assert with_comments.sum() == pytest.approx(line_rewards(scores, is_neutral=neutral, weight=FAIL).sum())
    assert with_comments[1 : 1 + comments].tolist() == [0.0] * comments


def test_what_is_said_of_a_neutral_line_is_not_looked_at():
    rewards = line_rewards(np.array([0.5, np.nan]), is_neutral=[False, True], weight=FAIL)
    assert rewards.tolist() == [0.125, 0.0]


def test_an_answer_of_comments_alone_earns_nothing():
    assert line_rewards(np.ones(2), is_neutral=[True, True], weight=FAIL).tolist() == [0.0, 0.0]
    assert line_rewards(np.ones(0), is_neutral=[], weight=FAIL).tolist() == []
