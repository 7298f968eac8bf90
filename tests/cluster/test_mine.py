"""Mining: which failing answers count as overrated."""

import pytest

from cluster.stage_config import MineStage, ProblemSource
from cluster.stages.mine import _threshold


def stage(**fields) -> MineStage:
    problems = (ProblemSource(spec="synthetic:split=train,count=3"),)
    return MineStage(name="m", model="stage:p", reward_model="stage:rm", problems=problems, **fields)


def test_a_threshold_is_taken_as_it_is() -> None:
    assert _threshold(stage(threshold=0.7), [0.1, 0.9]) == 0.7


def test_a_share_takes_the_best_scored_failures() -> None:
    scores = [float(score) for score in range(101)]
    threshold = _threshold(stage(top_share=0.25), scores)
    assert threshold == pytest.approx(75.0)
    assert sum(score >= threshold for score in scores) == 26
    assert _threshold(stage(top_share=1.0), scores) == 0.0


def test_without_failures_nothing_is_overrated() -> None:
    assert _threshold(stage(), []) == float("inf")
