import pytest

from cluster.stream import ProblemStream
from problems.problem import CompletionStyle, FunctionSuite, Problem


def problems(count: int) -> list[Problem]:
    suite = FunctionSuite(("f",), "", ("assert f(1) == 1",))
    return [Problem(f"p{i}", "python", "", CompletionStyle.CONTINUE, {"main": suite}) for i in range(count)]


def test_each_epoch_has_every_problem_once_and_an_order_of_its_own() -> None:
    stream = ProblemStream(problems(20), seed=5)
    first = [stream.at(i).problem.id for i in range(20)]
    second = [stream.at(i).problem.id for i in range(20, 40)]
    assert sorted(first) == sorted(second) == sorted(p.id for p in problems(20))
    assert first != second
    assert [stream.at(i).epoch for i in (0, 19, 20, 39, 40)] == [0, 0, 1, 1, 2]


def test_the_order_depends_on_seed_and_ids_alone() -> None:
    forwards, backwards = ProblemStream(problems(20), seed=5), ProblemStream(problems(20)[::-1], seed=5)
    assert [forwards.at(i).problem.id for i in range(50)] == [backwards.at(i).problem.id for i in range(50)]
    other = ProblemStream(problems(20), seed=6)
    assert [forwards.at(i).problem.id for i in range(20)] != [other.at(i).problem.id for i in range(20)]


def test_a_place_can_be_asked_for_again_after_later_epochs() -> None:
    stream = ProblemStream(problems(7), seed=1)
    before = [stream.at(i).problem.id for i in range(21)]
    assert [stream.at(i).problem.id for i in range(21)] == before


def test_no_problem_and_one_id_twice_are_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        ProblemStream([], seed=1)
    with pytest.raises(ValueError, match="'p0' occurs twice"):
        ProblemStream([*problems(2), *problems(1)], seed=1)
