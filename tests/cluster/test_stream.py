import dataclasses

import pytest

from cluster.stream import MixedStream, ProblemStream, stream_of
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


def named(prefix: str, count: int) -> list[Problem]:
    return [dataclasses.replace(problem, id=f"{prefix}{problem.id}") for problem in problems(count)]


def test_a_mixture_draws_by_weight_whatever_the_sets_sizes() -> None:
    stream = MixedStream([(named("small-", 5), 3.0), (named("large-", 1000), 1.0)], seed=4)
    count = 20_000
    draws = [stream.at(i) for i in range(count)]
    small = sum(draw.problem.id.startswith("small-") for draw in draws)
    assert abs(small / count - 0.75) < 4 * (0.75 * 0.25 / count) ** 0.5
    assert len({(draw.epoch, draw.problem.id) for draw in draws}) == count  # no identity twice
    first = [draw.problem.id for draw in draws if draw.problem.id.startswith("large-")][:1000]
    assert len(set(first)) == 1000  # every problem of a set once before any comes again


def test_a_place_of_a_mixture_is_a_function_of_its_number_alone() -> None:
    sets = [(named("a-", 7), 1.0), (named("b-", 3), 2.5)]
    stream = MixedStream(sets, seed=9)
    forwards = [stream.at(i) for i in range(9000)]
    resumed = MixedStream(sets, seed=9)
    assert [resumed.at(i) for i in reversed(range(8000, 9000))] == forwards[:7999:-1]
    other = stream.reseeded(10)
    assert [other.at(i).problem.id for i in range(50)] != [draw.problem.id for draw in forwards[:50]]
    assert [draw.id for draw in stream.problems] == sorted(problem.id for problems, _ in sets for problem in problems)


def test_without_weights_all_sets_are_one() -> None:
    stream = stream_of([(named("a-", 3), None), (named("b-", 2), None)], seed=1)
    assert sorted(stream.at(i).problem.id for i in range(5)) == ["a-p0", "a-p1", "a-p2", "b-p0", "b-p1"]
    with pytest.raises(ValueError, match="'a-p0' occurs twice"):
        stream_of([(named("a-", 3), 1.0), (named("a-", 1), 1.0)], seed=1)
