"""Mining: which answers count as overrated, and which of those are kept when they are executed again."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from actors.executor import Executed
from cluster.errors import ConfigError
from cluster.rollout import Group
from cluster.stage_config import MineStage, ProblemSource
from cluster.stages.mine import _executed_again, overrated_of
from problems.problem import CompletionStyle, FunctionSuite, Problem
from sandbox.verdict import Outcome, Verdict
from tests.cluster.test_reranker import entry


def stage(**fields) -> MineStage:
    problems = (ProblemSource(spec="synthetic:split=train,count=3"),)
    return MineStage(name="m", model="stage:p", reward_model="stage:rm", problems=problems, **fields)


def test_only_failing_answers_over_the_threshold_are_overrated() -> None:
    entries = [entry(0, 1.0), entry(1, 0.0), entry(2, 0.5), entry(3, 0.0), entry(4, 0.9)]
    scores = [9.0, 0.7, 0.8, 0.6, 0.69]  # the highest of all passes
    assert overrated_of(stage(threshold=0.7), entries, scores) == ([entries[1], entries[2]], 0.7)


def test_a_share_takes_the_best_scored_failures() -> None:
    entries = [entry(score, 0.0) for score in range(101)] + [entry(200 + sample, 1.0) for sample in range(50)]
    scores = [float(score) for score in range(101)] + [1000.0] * 50  # what passes moves no threshold
    overrated, threshold = overrated_of(stage(top_share=0.25), entries, scores)
    assert threshold == pytest.approx(75.0)
    assert overrated == entries[75:101]
    assert overrated_of(stage(top_share=1.0), entries, scores)[0] == entries[:101]


def test_what_can_be_no_negative_moves_no_threshold() -> None:
    """Cut and slow answers are in no share, however well they score: of four failures that count, one is a quarter."""
    certain = [entry(sample, 0.0) for sample in range(4)]
    others = [replace(entry(4 + at, 0.0), outcome=how) for at, how in enumerate(("cut", "time_limit", "memory_limit"))]
    scores = [1.0, 2.0, 3.0, 4.0, 9.0, 9.0, 9.0]
    overrated, threshold = overrated_of(stage(top_share=0.25), [*certain, *others], scores)
    assert (overrated, threshold) == ([certain[3]], pytest.approx(3.25))
    assert overrated_of(stage(threshold=4.0), [*certain, *others], scores)[0] == [certain[3]]


def test_a_score_that_is_no_number_is_named() -> None:
    with pytest.raises(ConfigError, match=r"stages\.m: 'stage:rm' gives 1 of 2 answers the score nan"):
        overrated_of(stage(), [entry(0, 0.0), entry(1, 0.0)], [float("nan"), 1.0])


def test_without_failures_nothing_is_overrated() -> None:
    assert overrated_of(stage(), [entry(0, 1.0)], [1.0]) == ([], float("inf"))


def test_equal_scores_everywhere_are_named() -> None:
    with pytest.raises(ConfigError, match=r"stages\.m: 'stage:rm' gives all 3 answers the score 0\.5"):
        overrated_of(stage(), [entry(0, 1.0), entry(1, 0.0), entry(2, 0.0)], [0.5] * 3)


def test_what_does_not_fail_again_for_certain_is_no_negative_to_learn_from() -> None:
    """Each answer's first outcome, and that of its second execution."""
    histories = [
        ("wrong_answer", Outcome.WRONG_ANSWER),
        ("wrong_answer", Outcome.PASSED),  # flaky
        ("time_limit", Outcome.TIME_LIMIT),  # slow, and perhaps right
        ("time_limit", Outcome.WRONG_ANSWER),
        ("wrong_answer", Outcome.INFRASTRUCTURE_ERROR),
        ("cut", Outcome.WRONG_ANSWER),  # was never executed
        ("compile_error", Outcome.COMPILE_ERROR),
    ]
    entries = [
        replace(entry(index, 0.0), outcome=first, program=str(index).encode())
        for index, (first, _) in enumerate(histories)
    ]
    problem = Problem("p", "python", "", CompletionStyle.CONTINUE, {"main": FunctionSuite(("f",), "", ("assert f()",))})

    async def run(work, *, anew):
        assert anew  # no verdict of a cache
        assert work.problem_id == "p"  # so that programs which end executors are set aside by their own problem
        return Executed(Verdict(histories[int(work.program.source)][1], 1), 0.0, 0.0)

    context = SimpleNamespace(executors=SimpleNamespace(run=run))
    overrated, _ = overrated_of(stage(threshold=0.0), entries, [float(index) for index in range(len(entries))])
    kept = asyncio.run(_executed_again(cast("Any", context), [Group(0, problem, tuple(entries))], overrated))
    assert kept == [entries[0], entries[6]]
