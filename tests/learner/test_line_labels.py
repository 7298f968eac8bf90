import math

import pytest

from learner.line_labels import LabelledAnswer, LineSearch, labels_of, select_answers


def search(num_lines, first_bad):
    """(num_good, probes) with an oracle whose first bad line is ``first_bad`` (from 1; above ``num_lines``: none)."""
    running, asked = LineSearch(num_lines), []
    while (probe := running.probe) is not None:
        asked.append(probe)
        running.answer(probe < first_bad)
    assert running.num_probes == len(asked)
    return running.num_good, asked


@pytest.mark.parametrize("num_lines", [1, 2, 3, 7, 8, 20, 1000])
def test_an_oracle_s_first_bad_line_is_found_in_at_most_log_probes(num_lines):
    for first_bad in {1, 2, 3, num_lines // 2, num_lines - 1, num_lines, num_lines + 1} - {0, -1}:
        if first_bad > num_lines + 1:
            continue
        num_good, asked = search(num_lines, first_bad)
        assert num_good == first_bad - 1
        assert len(asked) <= math.ceil(math.log2(num_lines + 1)) == LineSearch(num_lines).most_probes
        assert all(1 <= probe <= num_lines for probe in asked)
        assert len(set(asked)) == len(asked)


def test_a_search_by_hand():
    # seven lines, the fifth is the first bad one: 4 is good, 6 is bad, 5 is bad
    assert search(7, 5) == (4, [4, 6, 5])
    assert search(7, 8) == (7, [4, 6, 7])  # every prefix can be completed, only the end was wrong
    assert search(7, 1) == (0, [4, 2, 1])  # nothing was found anywhere
    assert search(0, 1) == (0, [])


def test_labels_are_good_below_the_first_bad_line_bad_from_it_on_and_neutral_where_nothing_is_said():
    # code, comment, code, blank, code, code; the first bad line is the third that counts
    neutral = [False, True, False, True, False, False]
    assert labels_of(neutral, 2) == [1, 0, 1, 0, -1, -1]
    assert labels_of(neutral, 4) == [1, 0, 1, 0, 1, 1]
    assert labels_of(neutral, 0) == [-1, 0, -1, 0, -1, -1]
    assert labels_of([True, True], 0) == [0, 0]


def answer(name, labels, *, passed=False, problem="p"):
    lines = tuple(range(1, 2 * len(labels), 2))
    return LabelledAnswer(problem, name, "m", (1,), tuple(range(2 * len(labels) + 1)), passed, lines, tuple(labels))


def test_selections_by_hand():
    answers = [
        answer("passes", [1, 1], passed=True, problem="medium"),
        answer("revised", [1, -1], problem="medium"),
        answer("lost", [-1, -1], problem="medium"),
        answer("hard", [1, 0, -1], problem="hard"),
        answer("easy", [1], passed=True, problem="easy"),
        answer("comments", [0, 0], problem="medium"),  # nothing to learn from, and never selected
    ]

    def names(selection):
        return [chosen.name for chosen in select_answers(answers, selection)]

    assert names("full") == ["passes", "revised", "lost", "hard", "easy"]
    assert names("remove_hard") == ["passes", "revised", "lost", "easy"]
    assert names("medium_only") == ["passes", "revised", "lost"]
    assert names("revised_only") == ["revised", "hard"]


def test_counted_lines_are_those_that_are_not_neutral():
    assert answer("a", [1, 0, 1, -1]).counted == [1, 1, -1]
    assert answer("a", [1, 0, 1, -1]).num_good == 2


@pytest.mark.parametrize(
    ("lines", "labels", "message"),
    [
        ((0, 1), (1,), "2 line_tokens and 1 labels"),
        ((0, 1), (1, 2), "labels are 1, 0 and -1"),
        ((1, 1), (1, 1), "do not ascend"),
        ((0, 3), (1, 1), "within its completion's tokens"),
    ],
)
def test_an_answer_that_cannot_be_is_refused(lines, labels, message):
    with pytest.raises(ValueError, match=message):
        LabelledAnswer("p", "a", "m", (1,), (2, 3, 4), False, lines, labels)
