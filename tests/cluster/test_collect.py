"""What the stages that write pairs make of answers, and what they say where there is no pair in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors.executor import Executed
from cluster.answers import read_pairs, write_answers
from cluster.errors import ConfigError
from cluster.journal import JournalEntry
from cluster.rollout import Group
from cluster.run_folder import StageFolder
from cluster.stage_config import CollectStage, MineStage, ProblemSource
from cluster.stages import collect as collecting
from cluster.stages import mine as mining
from cluster.stages.sampled import SampledAnswers
from problems.problem import CompletionStyle, FunctionSuite, Problem
from sandbox.verdict import Outcome, Verdict
from tests.cluster.test_reranker import entry

PROBLEMS = (ProblemSource(spec="synthetic:split=train,count=3"),)


def sampled(entries: Sequence[JournalEntry]) -> Any:
    """As if these were what was sampled."""
    names = dict.fromkeys(one.trajectory.id.problem_id for one in entries)
    suites = {"main": FunctionSuite(("f",), "", ("assert f()",))}
    problems = [Problem(name, "python", "", CompletionStyle.CONTINUE, suites) for name in names]
    groups = [
        Group(0, problem, tuple(one for one in entries if one.trajectory.id.problem_id == problem.id))
        for problem in problems
    ]

    async def sample_and_execute(*_: object, **__: object) -> SampledAnswers:
        return SampledAnswers(groups, 0)

    return sample_and_execute


def named(pairs: Sequence[Any]) -> set[tuple[str, str, str]]:
    """(problem, sample of the better answer, sample of the worse)"""
    samples = [[answer.name.split("/")[4] for answer in (pair.chosen, pair.rejected)] for pair in pairs]
    return {(pair.chosen.problem_id, better, worse) for pair, (better, worse) in zip(pairs, samples, strict=True)}


async def test_collecting_pairs_right_with_wrong_and_counts_problems_that_have_one_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed = [entry(0, 1.0), entry(1, 0.0), entry(2, 0.0)]
    all_right = [entry(sample, 1.0, problem="q") for sample in range(2)]
    all_wrong = [entry(sample, 0.0, problem="r") for sample in range(2)]
    monkeypatch.setattr(collecting, "sample_and_execute", sampled([*mixed, *all_right, *all_wrong]))
    stage = CollectStage(
        name="answers", model="m", problems=PROBLEMS, pairs={"rule": "right_wrong", "per_problem": None}
    )
    context: Any = SimpleNamespace(config=SimpleNamespace(seed=1))
    figures = await collecting.collect(context, stage, StageFolder(tmp_path), 0)
    assert named(read_pairs(tmp_path)) == {("p", "0", "1"), ("p", "0", "2")}
    assert (figures["num_pairs"], figures["num_problems_with_pairs"]) == (2, 1)
    assert (figures["num_problems_without_right"], figures["num_problems_without_wrong"]) == (1, 1)
    assert figures["pass_rate"] == pytest.approx(3 / 7)


@pytest.mark.parametrize(("score", "said"), [(1.0, (0, 2)), (0.0, (2, 0))])
async def test_answers_that_are_all_right_or_all_wrong_are_no_pairs_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: float, said: tuple[int, int]
) -> None:
    entries = [entry(sample, score, problem=problem) for problem in "pq" for sample in range(3)]
    monkeypatch.setattr(collecting, "sample_and_execute", sampled(entries))
    stage = CollectStage(name="answers", model="m", problems=PROBLEMS)
    context: Any = SimpleNamespace(config=SimpleNamespace(seed=1))
    expected = rf"stages\.answers: no pair of answers \({said[0]} problems without a right answer, {said[1]} without"
    with pytest.raises(ConfigError, match=expected):
        await collecting.collect(context, stage, StageFolder(tmp_path), 0)
    assert not (tmp_path / "pairs.parquet").exists()


class Scorers:
    """The higher the sample's number, the better it is thought of."""

    def __init__(self, *_: object) -> None: ...

    def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def score(self, _prompt: object, completion: Sequence[int]) -> float:
        return float(completion[0])


def mining_context(folder: Path, monkeypatch: pytest.MonkeyPatch, entries: Sequence[JournalEntry]) -> Any:
    async def run(_work: object, *, anew: bool) -> Executed:
        assert anew
        return Executed(Verdict(Outcome.WRONG_ANSWER, 1), 0.0, 0.0)

    monkeypatch.setattr(mining, "sample_and_execute", sampled(entries))
    monkeypatch.setattr(mining, "check_reranker", lambda *_, **__: folder)
    monkeypatch.setattr(mining, "ScorerPool", Scorers)
    return SimpleNamespace(
        config=SimpleNamespace(seed=1, scorers=None, supervision=None),
        report=None,
        model_path=lambda _: folder,
        executors=SimpleNamespace(run=run),
        folder=SimpleNamespace(stage=lambda name: StageFolder(folder / name)),
    )


async def test_hard_negatives_are_set_against_the_positives_that_a_stage_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four failures and a pass: the two best-scored failures, each against the one pass that was collected."""
    wrong = [replace(entry(sample, 0.0), outcome="wrong_answer") for sample in range(4)]
    context = mining_context(tmp_path, monkeypatch, [*wrong, entry(7, 1.0)])
    write_answers(tmp_path / "answers", [entry(5, 1.0), entry(6, 0.0)])
    fields = {"name": "m", "model": "stage:p", "reward_model": "stage:rm", "problems": PROBLEMS, "top_share": 0.5}
    stage = MineStage(**fields, positives="stage:answers")
    figures = await mining.mine(context, stage, StageFolder(tmp_path / "m"), 0)
    assert named(read_pairs(tmp_path / "m")) == {("p", "5", "2"), ("p", "5", "3")}
    assert (figures["num_failing"], figures["num_hard_negatives"], figures["num_pairs"]) == (4, 2, 2)
    await mining.mine(context, MineStage(**fields), StageFolder(tmp_path / "self"), 0)
    assert named(read_pairs(tmp_path / "self")) == {("p", "7", "2"), ("p", "7", "3")}  # its own pass


async def test_hard_negatives_without_a_passing_answer_to_their_problems_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = [replace(entry(sample, 0.0), outcome="wrong_answer") for sample in range(4)]
    context = mining_context(tmp_path, monkeypatch, [*wrong, entry(7, 1.0, problem="q")])
    stage = MineStage(name="m", model="stage:p", reward_model="stage:rm", problems=PROBLEMS, top_share=0.5)
    with pytest.raises(ConfigError, match=r"stages\.m: 2 hard negatives and no passing answer to the same problems"):
        await mining.mine(context, stage, StageFolder(tmp_path / "m"), 0)
