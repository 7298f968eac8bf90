"""A learned reward in PPO: what the choice of the filter and the watch over it make of scores and verdicts."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from actors.rewards import (
    AllPassedConfig,
    LengthCutConfig,
    RewardModelTerm,
    RewardModelTermConfig,
    TermSources,
    build_terms,
    normalised_within_prompt,
)
from actors.terms import Attempt, Failed
from cluster.errors import ConfigError
from cluster.journal import JournalEntry, journal_path, read_journal, write_journal
from cluster.ledger import Ledger, steps_file
from cluster.rollout import Ask, Group
from cluster.run_folder import StageFolder
from cluster.stage_config import FilterChoiceConfig, PPOStage, ProblemSource
from cluster.stages.learned_reward import (
    Judged,
    RewardWatch,
    choose_filter,
    chosen_filter,
    fits_of,
    scores_and_truth,
)
from cluster.stages.ppo import _Job, _with_chosen_filter, as_trained
from cluster.stages.watches import look_back, watches_of
from cluster.stream import ProblemStream
from learner.config import PPOConfig
from learner.filter_config import BestOfN, BestWorst, KeepAll, RandomK, Threshold
from learner.trajectory import FinishReason, RewardEvent, Trajectory, Turn, VersionSpan
from problems.identity import TrajectoryId, WeightsVersion
from problems.problem import CompletionStyle, Problem

PROBLEM = Problem("p", "python", "def f():\n", CompletionStyle.CONTINUE, {})


def trajectory(score: float | None, passed: bool | None, sample: int = 0, problem: str = "p") -> Trajectory:
    turn = Turn(
        np.array([1, 2], np.int32),
        np.array([3, 4 + sample], np.int32),
        np.ones(2, np.bool_),
        np.full(2, -0.5, np.float32),
        (VersionSpan(WeightsVersion(0, 0), 0, 2),),
        FinishReason.STOP,
    )
    events = () if score is None else (RewardEvent("reward_model", score), RewardEvent("length_cut", -5.0))
    return Trajectory(TrajectoryId("r", "s", 0, problem, sample), 0, (turn,), events, passed=passed)


def group(*members: tuple[float | None, bool | None], problem: str = "p") -> Group:
    made = (trajectory(score, passed, index, problem) for index, (score, passed) in enumerate(members))
    return Group(0, replace(PROBLEM, id=problem), tuple(JournalEntry(t, outcome="x") for t in made))


def noisy_middle(count: int = 400) -> list[Group]:
    """Scores that say the truth at both ends and nothing in between."""
    rng = np.random.default_rng(0)
    groups = []
    for index in range(count):
        scores = np.sort(rng.uniform(-1, 1, 5))
        chances = np.where(np.abs(scores) > 0.6, (scores > 0) * 1.0, 0.5)
        members = [(float(score), bool(rng.random() < chance)) for score, chance in zip(scores, chances, strict=True)]
        groups.append(group(*members, problem=f"p{index}"))
    return groups


def test_only_what_was_executed_and_scored_is_compared_by_the_models_score_alone() -> None:
    seen = scores_and_truth(
        [one.entries for one in (group((0.5, True), (0.1, False), (0.9, None), (None, True)), group((0.3, True)))]
    )
    assert [(of.scores.tolist(), of.passed.tolist()) for of in seen] == [([0.5, 0.1], [1.0, 0.0]), ([0.3], [1.0])]
    assert seen[0].rewards.tolist() == [0.5 - 5.0, 0.1 - 5.0]


def test_filters_rank_by_all_that_is_paid_and_are_measured_by_the_learned_part() -> None:
    """The best answer by its score was cut, and earns least: best-of-n trains another one."""
    scores, passed, rewards = np.array([0.9, 0.5, 0.1]), np.array([0.0, 1.0, 0.0]), np.array([-0.1, 0.5, 0.1])
    spread = [Judged(scores + shift, passed, rewards) for shift in (0.0, 0.1, 0.2)]
    fit = fits_of([BestOfN()], spread, num_bins=20, binning="equal_width")["bon"]
    assert fit.rewards == pytest.approx([0.5, 0.6, 0.7])
    assert fit.scores.tolist() == [1.0, 1.0, 1.0]


def test_a_completion_that_was_cut_fails_for_the_filters_and_for_the_alarm() -> None:
    cut = JournalEntry(trajectory(0.9, None), outcome="cut")
    whole = JournalEntry(trajectory(0.1, True, 1), outcome="passed")
    ((scores, passed, _),) = scores_and_truth([(cut, whole)])
    assert (scores.tolist(), passed.tolist()) == ([0.9, 0.1], [0.0, 1.0])
    # A policy that runs on until it is cut, and pleases the reward model so: every answer that ends still passes.
    watch = RewardWatch(FilterChoiceConfig(), window=1)
    alarms = []
    for num_cut in (0, 80):
        entries = [
            JournalEntry(trajectory(index / 100, True, index), outcome="passed") for index in range(100 - num_cut)
        ]
        entries += [JournalEntry(trajectory(2.0, None, index), outcome="cut") for index in range(num_cut)]
        alarms.append(watch.step([Group(0, PROBLEM, tuple(entries))])["alarm/reward_hacking"])
    assert alarms == [0.0, 1.0]


def scored_alone(of: Group) -> Group:
    """Without what is paid beside the learned score: thresholds are of the whole reward."""
    entries = [replace(e, trajectory=replace(e.trajectory, events=e.trajectory.events[:1])) for e in of.entries]
    return replace(of, entries=tuple(entries))


def test_two_candidates_of_one_kind_are_told_apart(tmp_path) -> None:
    top, both_ends = Threshold(high=0.6, rest="drop"), Threshold(high=0.6, rest="bottom", low=-0.6)
    folder = StageFolder(tmp_path)
    choice = FilterChoiceConfig(candidates=(top, KeepAll(), both_ends), binning="equal_width")
    rule, record = choose_filter(folder, choice, [scored_alone(one) for one in noisy_middle()])
    assert record["fits"].keys() == {"threshold_high_0.6_rest_drop", "none", "threshold_high_0.6_rest_bottom_low_-0.6"}
    assert rule == chosen_filter(folder, choice) == both_ends  # its ends say the truth; in the top there is no failure


def test_noise_in_the_middle_chooses_best_and_worst_and_the_choice_is_kept(tmp_path) -> None:
    choice, folder = FilterChoiceConfig(prompts=400), StageFolder(tmp_path)
    assert chosen_filter(folder, choice) is None
    rule, record = choose_filter(folder, choice, noisy_middle())
    assert isinstance(rule, BestWorst)
    assert record["fits"].keys() == {"none", "bon", "br", "bw"}
    assert max(record["fits"], key=lambda kind: record["fits"][kind]["r_squared"]) == "bw"
    assert chosen_filter(folder, choice) == rule


async def test_a_stage_samples_and_executes_before_training_and_keeps_what_it_chose(tmp_path) -> None:
    asked: list[list[Ask]] = []

    async def groups(asks: list[Ask], _done: object) -> list[Group]:
        asked.append(asks)
        return noisy_middle(len(asks))

    async def serve(_model: Path, version: WeightsVersion) -> None:
        served.append(version)

    served: list[WeightsVersion] = []
    context = SimpleNamespace(
        config=SimpleNamespace(name="r"),
        serve=serve,
        metrics=SimpleNamespace(log=lambda *logged: figures.append(logged)),
        panel=SimpleNamespace(say=lambda _: None),
    )
    figures: list[tuple] = []
    problems = [replace(PROBLEM, id=f"p{index}") for index in range(500)]
    parts = SimpleNamespace(
        model=tmp_path, rollout=SimpleNamespace(groups=groups), stream=ProblemStream(problems, seed=3)
    )
    stage = PPOStage(
        name="s",
        policy="stage:base",
        problems=(ProblemSource(spec="synthetic:split=train"),),
        rewards=(RewardModelTermConfig(model="stage:rm"),),
        choose_filter=FilterChoiceConfig(prompts=400, samples=10),
        execute_share=0.05,
    )
    folder = StageFolder(tmp_path / "s")
    chosen = await _with_chosen_filter(context, stage, folder, parts, 2)  # type: ignore[arg-type]
    assert chosen.learner.filter == BestWorst()
    assert chosen.model_copy(update={"learner": stage.learner}) == stage
    assert served == [WeightsVersion(2, 0)]  # of the supervised model, before any step
    (asks,) = asked
    assert len({ask.problem.id for ask in asks}) == len(asks) == 400
    assert {(ask.num_samples, ask.execute, ask.stage) for ask in asks} == {(10, True, "s.filter")}
    written = read_journal(journal_path(folder.trajectories / "filter_choice", WeightsVersion(2, 0)))
    assert len(written) == 5 * 400
    ((name, step, fits),) = figures
    assert (name, step) == ("s.filter", 0)
    assert max(fits, key=fits.__getitem__) == "reward_model/r_squared_bw"
    again = await _with_chosen_filter(context, stage, folder, parts, 3)  # type: ignore[arg-type]
    assert (again, len(asked)) == (chosen, 1)  # a start after a kill asks for nothing


def test_scores_that_are_all_alike_choose_no_filter(tmp_path) -> None:
    with pytest.raises(ConfigError, match="take more prompts"):
        choose_filter(StageFolder(tmp_path), FilterChoiceConfig(), [group((0.5, True), (0.5, False))])


def test_answers_that_all_pass_or_all_fail_choose_no_filter(tmp_path) -> None:
    for right in (True, False):
        groups = [group((0.1 * index, right), (0.2 * index, right), problem=f"p{index}") for index in range(40)]
        with pytest.raises(ConfigError, match="of 80 answers all pass, or none does"):
            choose_filter(StageFolder(tmp_path), FilterChoiceConfig(), groups)


def test_the_alarm_hears_of_single_answers_and_is_not_rung_by_one_bad_prompt() -> None:
    """With one answer a prompt there is no filter to compare, and the score may part from the tests all the same."""
    watch, alarms = RewardWatch(FilterChoiceConfig(), window=1), []
    for score, rate in ((0.0, 0.4), (1.0, 0.1)):
        groups = [group((score, index < 100 * rate), problem=f"p{index}") for index in range(100)]
        figures = watch.step(groups)
        alarms.append(figures["alarm/reward_hacking"])
        assert not [name for name in figures if "r_squared" in name]
    assert alarms == [0.0, 1.0]
    # As many answers and the same rates; but they are those of four prompts, of each of which all pass or none does.
    watch, alarms = RewardWatch(FilterChoiceConfig(), window=1), []
    for score, solved in ((0.0, 2), (1.0, 1)):
        groups = [group(*[(score, index < solved)] * 25, problem=f"p{index}") for index in range(4)]
        alarms.append(watch.step(groups)["alarm/reward_hacking"])
    assert alarms == [0.0, 0.0]


def watched(*steps: tuple[float, float]) -> list[dict[str, float]]:
    """Steps of 100 answers with a mean score and a pass rate."""
    watch, figures = RewardWatch(FilterChoiceConfig(candidates=(KeepAll(), BestOfN())), window=2), []
    for score, rate in steps:
        passing = round(rate * 100)
        members = [(score + 0.01 * (index % 10), index < passing) for index in range(100)]
        figures.append(watch.step([group(*members)]))
    return figures


def test_a_score_that_rises_while_the_tests_fail_is_an_alarm() -> None:
    assert watched((0, 0.4), (0, 0.4))[0] == {}
    alarms = [f.get("alarm/reward_hacking") for f in watched((0, 0.4), (0, 0.4), (1, 0.25), (2, 0.1))]
    assert alarms == [None, 0.0, 0.0, 1.0]


def test_falling_together_or_rising_together_is_no_alarm() -> None:
    assert watched((0, 0.4), (0, 0.4), (-1, 0.2), (-2, 0.1))[-1]["alarm/reward_hacking"] == 0.0
    assert watched((0, 0.4), (0, 0.4), (1, 0.5), (2, 0.6))[-1]["alarm/reward_hacking"] == 0.0
    figures = watched((0, 0.4), (1, 0.6))[-1]
    assert figures["reward_model/window_pass_rate"] == pytest.approx(0.5)
    assert figures["reward_model/window_score"] == pytest.approx(0.545)
    assert figures["reward_model/r_squared_none"] <= 1.0


def test_a_resumed_watch_knows_the_steps_that_survive_and_no_others(tmp_path: Path) -> None:
    """Killed in step 4, with a checkpoint after step 2: the best window is of steps 1 and 2, and not of 3."""
    folder, ledger = StageFolder(tmp_path), Ledger(tmp_path / "ledger.jsonl")
    ledger.start(0, None, "weights")
    rates = (0.4, 0.5, 0.9)
    steps = [
        [group(*((0.01 * index, index < 20 * rate) for index in range(20)), problem=f"p{number}")]
        for number, rate in enumerate(rates)
    ]
    steps_file(folder.ledger, 0).parent.mkdir()
    with steps_file(folder.ledger, 0).open("w") as lines:
        for number, (one,) in enumerate(steps):
            replaced = group((5.0, False), (5.0, False), problem="replaced").discarded()
            write_journal(folder.trajectories, WeightsVersion(0, number), [*replaced.entries, *one.entries])
            record = {"version": str(WeightsVersion(0, number + 1)), "trained": [], "dropped": {}}
            lines.write(json.dumps(record) + "\n")
    ledger.start(1, WeightsVersion(0, 2), "weights")

    def watch() -> RewardWatch:
        return RewardWatch(FilterChoiceConfig(), window=2)

    resumed, uninterrupted, ignorant = watch(), watch(), watch()
    look_back(folder, [resumed])
    for step in steps[:2]:
        uninterrupted.step(step)
    bad = [group(*((2.0 + 0.01 * index, index < 1) for index in range(20)))]
    for step in (bad, bad):
        figures, expected, without = (each.step(step) for each in (resumed, uninterrupted, ignorant))
        assert figures == expected
    assert figures["alarm/reward_hacking"] == 1.0
    assert without["alarm/reward_hacking"] == 0.0  # it takes the first window that it sees for the best


def test_normalised_scores_have_mean_0_and_deviation_1_within_the_prompt() -> None:
    moved = normalised_within_prompt([trajectory(1.0, True), trajectory(3.0, False, 1)], "reward_model")
    assert [t.events[0].value for t in moved] == pytest.approx([-1.0, 1.0], abs=1e-5)
    assert [t.events[1].value for t in moved] == [-5.0, -5.0]  # other terms are left alone
    alike = normalised_within_prompt([trajectory(2.0, True), trajectory(2.0, True, 1)], "reward_model")
    assert [t.events[0].value for t in alike] == [0.0, 0.0]
    assert normalised_within_prompt([trajectory(None, True)], "reward_model")[0].events == ()


def test_the_weight_of_normalised_scores_is_their_deviation_and_keeps_its_sign() -> None:
    # Scores 1 and 3, weight -0.5: the events hold -0.5 and -1.5.
    weighted = [trajectory(-0.5, True), trajectory(-1.5, False, 1)]
    moved = normalised_within_prompt(weighted, "reward_model", -0.5)
    assert [t.events[0].value for t in moved] == pytest.approx([0.5, -0.5], abs=1e-5)
    zero = normalised_within_prompt([trajectory(0.0, True), trajectory(0.0, False, 1)], "reward_model", 0.0)
    assert [t.events[0].value for t in zero] == [0.0, 0.0]


def test_the_term_pays_weight_times_the_score_and_a_fault_is_no_reward() -> None:
    async def ask(prompt_ids, completion_ids):
        return Failed("scorer-0 died") if completion_ids[1] == 5 else float(prompt_ids[1] + completion_ids[0])

    (term,) = build_terms([RewardModelTermConfig(model="stage:rm", weight=2.0)], TermSources(ask))
    assert isinstance(term, RewardModelTerm)
    attempts = [Attempt(PROBLEM, trajectory(None, None, sample), None, None, None) for sample in (0, 1)]
    paid, failed = asyncio.run(term.score(attempts))
    assert paid == (RewardEvent("reward_model", 10.0),)
    assert failed == Failed("scorer-0 died")


def test_an_answer_that_was_not_executed_is_dropped_only_where_a_term_needs_the_verdict() -> None:
    attempt = Attempt(PROBLEM, trajectory(None, None), None, None, None)
    uncut, needy = build_terms([LengthCutConfig(), AllPassedConfig()])
    assert asyncio.run(uncut.score([attempt])) == [()]
    assert asyncio.run(needy.score([attempt])) == [Failed("the program was not executed")]


def stage(**fields):
    return PPOStage(
        name="p", policy="stage:a", problems=(ProblemSource(spec="synthetic:split=train,count=3"),), **fields
    )


def test_what_is_paid_by_tests_is_executed_always() -> None:
    learned = (RewardModelTermConfig(model="stage:rm"),)
    assert stage(rewards=learned, execute_share=0.1).execute_share == 0.1
    with pytest.raises(ValueError, match="the reward term test_share needs every verdict"):
        stage(execute_share=0.1)
    with pytest.raises(ValueError, match="rewards names no reward_model"):
        stage(choose_filter=FilterChoiceConfig())


def test_the_learner_gets_normalised_scores_and_everyone_else_the_scores_themselves() -> None:
    term = RewardModelTermConfig(model="stage:rm", normalise="within_prompt", weight=0.5)
    normalising = stage(rewards=(term,), samples_per_prompt=3, warmup_samples_per_prompt=3)
    scored = group((1.0, True), (2.0, False), (6.0, False))
    # Mean 3, deviation sqrt(14 / 3) = 2.16025: 0.5 * (-2, -1, 3) / 2.16025.
    values = [t.events[0].value for t in as_trained(normalising, scored)]
    assert values == pytest.approx([-0.462910, -0.231455, 0.694365], abs=1e-5)
    assert [entry.trajectory.events[0].value for entry in scored.entries] == [1.0, 2.0, 6.0]
    (seen,) = scores_and_truth([scored.entries])
    assert seen[0].tolist() == [1.0, 2.0, 6.0]


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"samples_per_prompt": 1, "warmup_samples_per_prompt": 1}, "samples_per_prompt is 1"),
        ({"samples_per_prompt": 5, "warmup_samples_per_prompt": 1}, "set it to samples_per_prompt"),
    ],
)
def test_one_answer_has_nothing_to_be_normalised_by(sizes, says) -> None:
    term = RewardModelTermConfig(model="stage:rm", normalise="within_prompt")
    with pytest.raises(ValueError, match=says):
        stage(rewards=(term,), **sizes)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"samples_per_prompt": 1, "learner": PPOConfig(filter=BestWorst())}, "is 1, and filter 'bw'"),
        ({"samples_per_prompt": 4, "learner": PPOConfig(filter=RandomK(k=5))}, "from at least 5"),
        ({"samples_per_prompt": 1, "choose_filter": FilterChoiceConfig()}, "is 1, and filter 'bon'"),
    ],
)  # fmt: skip
def test_a_group_that_is_too_small_for_its_filter_is_refused_with_the_recipe(fields, says) -> None:
    with pytest.raises(ValueError, match=says):
        stage(rewards=(RewardModelTermConfig(model="stage:rm"),), **fields)


def test_every_filter_is_measured_during_training_whether_or_not_one_was_chosen() -> None:
    learned = stage(rewards=(RewardModelTermConfig(model="stage:rm"),), execute_share=0.2)
    (watch,) = watches_of(learned)
    rng = np.random.default_rng(0)
    for _ in range(10):
        figures = watch.step([group(*((float(x), bool(x > 0)) for x in rng.normal(size=5))) for _ in range(20)])
    assert {f"reward_model/r_squared_{kind}" for kind in ("none", "bon", "br", "bw")} <= figures.keys()


def test_a_share_of_the_places_is_executed_the_same_ones_each_time() -> None:
    """Of 10,000 places 1,000, with a standard deviation of 30."""

    def executed(seed: int, share: float = 0.1) -> list[bool]:
        job: Any = SimpleNamespace(
            context=SimpleNamespace(config=SimpleNamespace(seed=seed)),
            stage=SimpleNamespace(name="ppo", execute_share=share),
        )
        return [_Job._is_executed(job, position) for position in range(10_000)]

    assert abs(sum(executed(1)) - 1000) < 90
    assert executed(1) == executed(1) != executed(2)
    assert (sum(executed(1, 0.0)), sum(executed(1, 1.0))) == (0, 10_000)
