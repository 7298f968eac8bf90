import math

import pytest

from cluster.statistics import mean_over_problems, paired_difference


def test_interval_of_four_problems_by_hand() -> None:
    # mean 0.5; deviations +-0.5 -> unbiased variance 1/3; half = 1.959964 * sqrt(1/3) / 2
    estimate = mean_over_problems([0.0, 1.0, 1.0, 0.0])
    half = 1.959964 * math.sqrt(1 / 3) / 2
    assert estimate.mean == 0.5
    assert estimate.low == pytest.approx(0.5 - half)
    assert estimate.high == pytest.approx(0.5 + half)


def test_one_problem_has_no_bounded_interval_and_none_is_an_error() -> None:
    assert mean_over_problems([1.0]).high == math.inf
    with pytest.raises(ValueError, match="no problem"):
        mean_over_problems([])


def test_pairing_removes_what_problems_have_in_common() -> None:
    before = {"a": 0.0, "b": 0.5, "c": 1.0}
    difference = paired_difference(before, {key: value + 0.25 for key, value in before.items()})
    assert (difference.mean, difference.low, difference.high) == (0.25, 0.25, 0.25)
    with pytest.raises(ValueError, match="'c' is in one of them only"):
        paired_difference(before, {"a": 0.0, "b": 0.0, "d": 0.0})
