"""The term ``process``: what is paid for which line, by the verdict; and the watch over it."""

import numpy as np
import pytest

from actors.rewards import AllPassedConfig, ProcessTermConfig, TermSources, build_terms
from actors.terms import Attempt, Failed
from cluster.journal import JournalEntry
from cluster.rollout import Group
from cluster.stages.process_watch import ProcessWatch
from learner.trajectory import FinishReason, RewardEvent
from problems.bytemap import ByteMap
from problems.extraction import extract_program
from sandbox.verdict import Outcome, Verdict
from tests.cluster.test_rollout import PROBLEM, PROMPT, token_bytes, verdict
from tests.learner.conftest import trajectory

RIGHT, WRONG = verdict(Outcome.PASSED, Outcome.PASSED), verdict(Outcome.WRONG_ANSWER)
TERM = ProcessTermConfig(model="stage:prm")


def attempt(body: str, outcome: Verdict | None = WRONG, reason: FinishReason = FinishReason.STOP) -> Attempt:
    ids = tuple(body.encode())
    pieces = token_bytes().pieces(ids)
    extraction = extract_program(PROBLEM, b"".join(pieces))
    made = trajectory(completion=ids, finish_reason=reason, events=())
    return Attempt(PROBLEM, made, extraction, ByteMap.build(pieces, extraction), outcome)


async def pay(score, body: str, *rest, config: ProcessTermConfig = TERM):
    """``score``: of a line, from 0, among those that are asked for."""

    async def read(_prompt_ids, _completion_ids, tokens):
        return np.array([score(line) for line in range(len(tokens))], np.float64)

    terms = build_terms([AllPassedConfig(weight=1.0), config], TermSources(read=read))
    paid = []
    for term in terms:
        (scored,) = await term.score([attempt(body, *rest)])
        if isinstance(scored, Failed):
            return scored
        paid += scored
    return paid


def total(events) -> float:
    return sum(event.value for event in events)


BODY = "    y = x\n    # why\n    y += 1\n\n    return y\n"


async def test_a_model_that_says_1_everywhere_pays_a_quarter_for_a_failure_and_1_025_for_a_pass() -> None:
    assert total(await pay(lambda _: 1.0, BODY)) == pytest.approx(0.25)
    assert total(await pay(lambda _: 1.0, BODY, RIGHT)) == pytest.approx(1.025)


async def test_each_line_that_counts_is_paid_on_the_token_that_ends_it() -> None:
    events = await pay(lambda line: [1.0, -0.5, 3.0][line], BODY)
    ends = [index for index, byte in enumerate(BODY) if byte == "\n"]
    assert events == [
        RewardEvent("process", pytest.approx(0.25 / 3), ends[0]),
        RewardEvent("process", pytest.approx(-0.125 / 3), ends[2]),
        RewardEvent("process", pytest.approx(0.25 / 3), ends[4]),  # cut to the labels' range
    ]


async def test_neither_more_lines_nor_comments_raise_a_total() -> None:
    doubled = "".join(2 * (line + "\n") for line in BODY.splitlines())
    padded = "    # a\n" * 20 + BODY + "    # b\n    'c'\n\n" * 20
    for body in (doubled, padded):
        assert total(await pay(lambda _: 1.0, body)) == pytest.approx(0.25)


async def test_an_answer_without_a_line_that_counts_is_paid_as_one_whose_lines_are_all_bad() -> None:
    text = "    # nothing\n"
    (event,) = await pay(lambda _: 1.0, text)
    assert (event.term, event.value) == ("process", pytest.approx(-0.25))
    assert event.token == len(text) - 1  # the last one
    assert total(await pay(lambda _: -1.0, BODY)) == pytest.approx(-0.25)


async def test_a_cut_completion_counts_as_failing_and_its_unfinished_line_is_not_paid() -> None:
    events = await pay(lambda _: 1.0, "    y = x\n    half", None, FinishReason.LENGTH)
    assert [(event.term, event.value) for event in events] == [("process", 0.25)]


async def test_what_is_not_known_is_no_reward() -> None:
    broken = Verdict(Outcome.INFRASTRUCTURE_ERROR, num_cases=2, detail="the engine died")
    assert await pay(lambda _: 1.0, BODY, broken) == Failed("sandbox: the engine died")
    assert await pay(lambda _: 1.0, BODY, None) == Failed("the program was not executed")

    async def dead(*_):
        return Failed("scorer-0 died")

    (term,) = build_terms([TERM], TermSources(read=dead))
    assert await term.score([attempt(BODY)]) == [Failed("scorer-0 died")]


async def test_with_lambda_0_nothing_is_earned() -> None:
    off = ProcessTermConfig(model="m", weight_failing=0.0, weight_passing=0.0)
    assert [event.value for event in await pay(lambda _: 1.0, BODY, config=off)] == [0.0, 0.0, 0.0]


def step(score: float, rate: float, body: str = BODY) -> list[Group]:
    """A hundred answers of one line reward each."""
    entries = []
    for index in range(100):
        passed = index < round(100 * rate)
        weight = 0.025 if passed else 0.25
        events = (RewardEvent("process", weight * (score + 0.001 * (index % 7)), 0),)
        made = trajectory(0, index, events=events)
        made = type(made)(made.id, 0, made.turns, events, passed=passed)
        entries.append(JournalEntry(made, (PROMPT + body).encode(), "x"))
    return [Group(0, PROBLEM, tuple(entries))]


def test_the_watch_says_what_programs_look_like() -> None:
    figures = ProcessWatch([TERM]).step(step(0.5, 0.3))
    assert figures["process/code_lines"] == 3.0
    assert figures["process/comment_share"] == pytest.approx(1 / 4)
    assert figures["process/try_share"] == figures["process/dead_share"] == 0.0
    assert figures["process/score"] == pytest.approx(0.503, abs=1e-3)
    hacked = ProcessWatch([TERM]).step(step(0.5, 0.3, "    try:\n        x\n        pass\n    except E: x\n"))
    assert hacked["process/try_share"] == 1.0
    assert hacked["process/dead_share"] == pytest.approx(2 / 4)


def test_a_cut_program_counts_as_a_failing_one_and_a_lambda_of_0_leaves_nothing_to_read() -> None:
    cut = JournalEntry(trajectory(0, 0, events=(RewardEvent("process", 0.25 * 0.8, 0),)), b"", "cut")
    assert ProcessWatch([TERM]).score(cut) == pytest.approx(0.8)
    assert ProcessWatch([ProcessTermConfig(model="stage:prm", weight_passing=0.0)]).score(cut) is None


def test_the_alarm_sounds_when_the_score_rises_and_the_tests_fail() -> None:
    def alarms(*steps):
        watch = ProcessWatch([TERM], window=2)
        return [watch.step(step(*each)).get("alarm/process_hacking") for each in steps]

    assert alarms((0.1, 0.4), (0.1, 0.4), (0.5, 0.25), (0.9, 0.1)) == [None, 0.0, 0.0, 1.0]
    assert alarms((0.1, 0.4), (0.1, 0.4), (0.0, 0.2), (-0.5, 0.1))[-1] == 0.0
    assert alarms((0.1, 0.4), (0.1, 0.4), (0.5, 0.5), (0.9, 0.6))[-1] == 0.0
