import pytest

from learner.preferences import PreferencePair, ScoredAnswer, is_held_out, make_pairs, one_sided, part_held_out


def answer(problem, name, score, completion=None):
    return ScoredAnswer(problem, name, (2, 3), tuple(completion or map(ord, name)), score, score == 1.0)


FOUR = [answer("p", "a", 1.0), answer("p", "b", 0.5), answer("p", "c", 0.0), answer("p", "d", 1.0)]


def names(pairs):
    return {(pair.chosen.name, pair.rejected.name) for pair in pairs}


def test_right_wrong_pairs_each_passing_answer_with_each_failing_one():
    assert names(make_pairs(FOUR, "right_wrong")) == {("a", "b"), ("a", "c"), ("d", "b"), ("d", "c")}


def test_all_also_pairs_failures_that_differ():
    assert names(make_pairs(FOUR, "all")) == names(make_pairs(FOUR, "right_wrong")) | {("b", "c")}


def test_most_different_is_one_pair_of_the_largest_difference():
    (pair,) = make_pairs(FOUR, "most_different")
    assert pair.rejected.name == "c"
    assert pair.chosen.name in {"a", "d"}


def test_no_pair_crosses_problems():
    answers = [answer("p", "a", 1.0), answer("q", "b", 0.0), answer("q", "c", 0.0)]
    for rule in ("right_wrong", "most_different", "all"):
        assert make_pairs(answers, rule) == []
    with pytest.raises(ValueError, match="across problems"):
        PreferencePair(answers[0], answers[1])


def test_equal_answers_count_once_and_never_make_a_pair():
    same = [answer("p", "a", 1.0, [7]), answer("p", "b", 1.0, [7]), answer("p", "c", 0.0)]
    assert names(make_pairs(same, "all")) == {("a", "c")}
    with pytest.raises(ValueError, match="equal answers"):
        PreferencePair(same[0], same[1])


def test_a_bound_draws_by_name_and_seed_whatever_the_order():
    drawn = names(make_pairs(FOUR, "all", per_problem=2, seed=3))
    assert len(drawn) == 2
    assert drawn == names(make_pairs(FOUR[::-1], "all", per_problem=2, seed=3))
    seen = {frozenset(names(make_pairs(FOUR, "all", per_problem=2, seed=seed))) for seed in range(50)}
    assert len(seen) == 10  # each of the 5 choose 2 draws comes


def test_what_is_held_out_depends_on_id_and_seed_alone():
    ids = [f"p{index}" for index in range(4000)]
    held = {name for name in ids if is_held_out(name, 0.25, 1)}
    assert len(held) / 4000 == pytest.approx(0.25, abs=0.03)
    assert held != {name for name in ids if is_held_out(name, 0.25, 2)}
    assert held >= {name for name in ids if is_held_out(name, 0.1, 1)}


def test_a_problem_s_pairs_lie_all_on_one_side():
    pairs = [(f"p{index % 200}", index) for index in range(600)]
    train, judged = part_held_out(pairs, lambda pair: pair[0], 0.25, 1)
    assert sorted(train + judged) == sorted(pairs)
    assert {name for name, _ in judged} == {name for name, _ in pairs if is_held_out(name, 0.25, 1)}
    assert not {name for name, _ in judged} & {name for name, _ in train}
    assert 60 < len(judged) < 240
    assert part_held_out(pairs, lambda pair: pair[0], 0.0, 1) == (pairs, [])


def test_problems_without_a_right_or_without_a_wrong_answer_are_counted():
    answers = [*FOUR, answer("q", "a", 1.0), answer("r", "a", 0.5), answer("r", "b", 0.0)]
    assert one_sided(answers) == (1, 1)
