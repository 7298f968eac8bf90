"""Answers are collected, a reward model learns from their pairs, and it chooses among samples: real parts, small."""

import json
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from cluster.answers import read_answers, read_pairs, write_answers, write_pairs
from cluster.errors import ConfigError, RunFolderError
from cluster.journal import JournalEntry
from cluster.rollout import Group
from cluster.run_folder import StageFolder, read_lines
from cluster.stage_config import RewardModelStage
from cluster.stages import pairs as pairs_module
from cluster.stages import reward_model
from cluster.stages.pairs import SplitPairs
from cluster.stages.rerank import LineReading, figures_of, gained_on, outcomes_of, rerank
from learner.checkpoint import weights_fingerprint
from learner.models import load_causal_lm
from learner.preferences import is_held_out, make_pairs
from learner.reward_model import pair_figures
from learner.trajectory import FinishReason, RewardEvent, Trajectory, Turn, VersionSpan
from problems.identity import TrajectoryId, WeightsVersion
from problems.problem import Problem

CRUCIBLE = str(Path(sys.executable).with_name("crucible"))


def entry(sample: int, score: float, *, problem: str = "p", passed: bool | None = None) -> JournalEntry:
    turn = Turn(
        np.array([1, 2], np.int32),
        np.array([3 + sample, 4], np.int32),
        np.ones(2, np.bool_),
        np.full(2, -0.5, np.float32),
        (VersionSpan(WeightsVersion(0, 0), 0, 2),),
        FinishReason.STOP,
    )
    identity = TrajectoryId("run", "collect", 0, problem, sample)
    events = (RewardEvent("test_share", score),) if score else ()
    outcome = score == 1.0 if passed is None else passed
    return JournalEntry(
        Trajectory(identity, 0, (turn,), events, passed=outcome), b"x = 1", "passed" if outcome else "wrong_answer"
    )


def test_answers_and_pairs_come_back_as_they_were_written(tmp_path: Path) -> None:
    faulty = entry(3, 1.0)
    dropped = JournalEntry(Trajectory(faulty.trajectory.id, 0, faulty.trajectory.turns, drop_reason="infrastructure:x"))
    answers = write_answers(tmp_path, [entry(0, 1.0), entry(1, 0.5), entry(2, 0.0), dropped])
    assert [(answer.true_score, answer.passed) for answer in answers] == [(1.0, True), (0.5, False), (0.0, False)]
    assert read_answers(tmp_path) == answers
    pairs = make_pairs(answers, "all")
    write_pairs(tmp_path, pairs)
    assert read_pairs(tmp_path) == pairs


def test_a_pair_of_an_answer_that_is_not_there_or_across_problems_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = write_answers(tmp_path, [entry(0, 1.0), entry(1, 0.0)])
    write_pairs(tmp_path, make_pairs(answers, "all"))
    write_answers(tmp_path, [entry(0, 1.0)])
    with pytest.raises(RunFolderError, match=r"no answer 'run/collect/0/p/1"):
        read_pairs(tmp_path)
    of_another = replace(answers[1], problem_id="q")
    monkeypatch.setattr("cluster.answers.read_answers", lambda _: [answers[0], of_another])
    with pytest.raises(RunFolderError, match=r"pairs\.parquet: a pair across problems: 'p' and 'q'; collect anew"):
        read_pairs(tmp_path)
    (tmp_path / "pairs.parquet").write_bytes(b"PAR1")
    with pytest.raises(RunFolderError, match=r"pairs\.parquet cannot be read"):
        read_pairs(tmp_path)


def test_one_problem_s_pairs_lie_on_one_side_whatever_stage_they_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of forty problems, each with a pair in either source."""
    folders = {name: StageFolder(tmp_path / name) for name in ("answers", "mined")}
    for name, folder in folders.items():
        folder.root.mkdir()
        samples = (0, 1) if name == "answers" else (2, 3)
        found = [entry(at, float(at % 2), problem=f"p{number}") for number in range(40) for at in samples]
        write_pairs(folder.root, make_pairs(write_answers(folder.root, found), "all"))
    monkeypatch.setattr(pairs_module, "_reads_the_same_ids", lambda *_: None)
    context: Any = SimpleNamespace(folder=SimpleNamespace(stage=folders.__getitem__))
    stage = RewardModelStage(name="r", base="m", pairs=("stage:answers", "stage:mined"), held_out_share=0.3)
    split = pairs_module.split_pairs(context, stage, "m")
    learned = {pair.chosen.problem_id for pair in split.train}
    judged = {name: {pair.chosen.problem_id for pair in pairs} for name, pairs in split.held_out.items()}
    assert judged["answers"] == judged["mined"] == {f"p{n}" for n in range(40)} - learned
    assert 4 <= len(judged["mined"]) <= 20
    assert (len(split.train), len(split.judged)) == (2 * len(learned), 2 * len(judged["mined"]))
    none = stage.model_copy(update={"held_out_share": 0.0})
    with pytest.raises(ConfigError, match=r"stages\.r: 80 pairs to learn from and 0 to judge"):
        pairs_module.split_pairs(context, none, "m")


async def test_each_source_is_judged_by_the_new_model_and_by_the_earlier_one() -> None:
    """The figures are those of the model's own pairs: .75 by the new one, .25 by the one before it."""
    accuracy = {"new": 0.75, "earlier": 0.25}
    asked: list[tuple[str, int]] = []

    async def call(method: str, *arguments: Any, **_: str) -> object:
        if method == "train":
            return SimpleNamespace(step=7)
        model, pairs = arguments
        asked.append((model, len(pairs)))
        return SimpleNamespace(accuracy=accuracy[model])

    pair: Any = object()
    pairs = SplitPairs([pair], {"answers": [pair] * 2, "mined": [pair] * 3, "empty": []})
    context: Any = SimpleNamespace(model_path=lambda reference: reference.removeprefix("stage:"))
    stage = RewardModelStage(name="r", base="m", pairs=("stage:answers",), earlier="stage:earlier")
    folder: Any = SimpleNamespace(model="new")
    trainer: Any = SimpleNamespace(call=call, saving=None)
    _, figures, sources = await reward_model._train(context, stage, folder, pairs, trainer)
    assert figures.accuracy == 0.75
    assert sources == {
        name: {"num_pairs": count, "accuracy": 0.75, "accuracy_before": 0.25}
        for name, count in (("answers", 2), ("mined", 3))
    }
    assert sorted(asked) == [("earlier", 2), ("earlier", 3), ("new", 2), ("new", 3), ("new", 5)]


@pytest.mark.parametrize(("chosen", "is_refused"), [([1.5, -2.0], True), ([1.5, -1.9], False)])
async def test_a_reward_model_that_scores_both_answers_of_every_pair_alike_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: list[float], is_refused: bool
) -> None:
    figures = pair_figures(
        chosen_scores=np.array(chosen), rejected_scores=np.array([1.5, -2.0]), length_differences=np.zeros(2)
    )
    answers = write_answers(tmp_path, [entry(0, 1.0), entry(1, 0.0)])

    async def trained(*_: object, **__: object) -> object:
        return SimpleNamespace(step=7), figures, {}

    pairs = SimpleNamespace(train=make_pairs(answers, "all"), judged=make_pairs(answers, "all"))
    monkeypatch.setattr(reward_model, "split_pairs", lambda *_: pairs)
    monkeypatch.setattr(reward_model, "with_trainer", trained)
    stage = RewardModelStage(name="reward", base="m", pairs=("stage:answers",))
    context: Any = SimpleNamespace(metrics=SimpleNamespace(log=lambda *_: None))
    said = r"stages\.reward: the model gives both answers of every held-out pair one score, after 7 steps"
    with pytest.raises(ConfigError, match=said) if is_refused else nullcontext():
        await reward_model.fit_reward_model(context, stage, StageFolder(tmp_path))


def test_the_choice_by_hand() -> None:
    entries = [entry(0, 0.0), entry(1, 1.0), entry(2, 1.0), entry(3, 0.0)]
    for scores, chosen in (([0.1, 0.7, 0.2, 0.3], 1.0), ([0.9, 0.7, 0.2, 0.3], 0.0)):
        pass_at_1, _, reranked, oracle = outcomes_of(entries, scores)
        assert (pass_at_1, reranked, oracle) == (0.5, chosen, 1.0)
    assert outcomes_of(entries[:1], [float("-inf")])[2:] == (0.0, 0.0)


def test_equal_scores_choose_at_random_and_not_the_first() -> None:
    chosen = [
        outcomes_of([entry(i, float(i == 0), problem=f"p{n}") for i in range(4)], [0.0] * 4)[2] for n in range(400)
    ]
    assert sum(chosen) / 400 == pytest.approx(0.25, abs=0.08)


def test_figures_over_problems_by_hand() -> None:
    # (pass@1, random, reranked, oracle) of four problems
    figures = figures_of([(0.5, 1.0, 1.0, 1.0), (0.5, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0, 0.0), (0.25, 0.0, 1.0, 1.0)])
    assert figures["pass_at_1"]["mean"] == pytest.approx(0.3125)
    assert figures["reranked"]["mean"] == pytest.approx(0.5)
    assert figures["oracle"]["mean"] == pytest.approx(0.75)
    assert figures["gap_closed"] == pytest.approx((0.5 - 0.3125) / (0.75 - 0.3125))


def test_the_choice_lies_between_chance_and_the_oracle_whose_share_it_has_if_it_knows() -> None:
    rng = np.random.default_rng(1)
    problems = [[entry(i, float(rng.random() < 0.3), problem=f"p{n}") for i in range(8)] for n in range(300)]
    truth = [[float(bool(one.trajectory.passed)) for one in entries] for entries in problems]
    noise = rng.normal(size=(300, 8))
    by_noise = []
    for scale in (0.0, 1.0, 1e9):
        rows = [outcomes_of(e, list(np.array(t) + scale * n)) for e, t, n in zip(problems, truth, noise, strict=True)]
        figures = figures_of(rows)
        assert all(max(row[1], row[2]) <= row[3] for row in rows)  # of each problem, too
        assert figures["pass_at_1"]["mean"] - 0.06 <= figures["reranked"]["mean"] <= figures["oracle"]["mean"]
        by_noise.append(figures["gap_closed"])
    assert by_noise[0] == pytest.approx(1.0)
    assert 0.3 < by_noise[1] < 0.9
    assert abs(by_noise[2]) < 0.1


def of_problem(name: str, language: str, passed: list[int]) -> Group:
    problem = SimpleNamespace(id=name, language=language)
    entries = tuple(entry(i, float(one), problem=name) for i, one in enumerate(passed))
    return Group(0, problem, entries)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("java_scores", "java", "everywhere"),
    [([0.2, 0.8], (0.5, 1.0, 1.0), (1 / 3, 2 / 3, 2 / 3)), ([0.8, 0.2], (0.5, 0.0, 1.0), (1 / 3, 1 / 3, 2 / 3))],
)
async def test_each_language_has_its_figures_by_hand(
    monkeypatch: pytest.MonkeyPatch,
    java_scores: list[float],
    java: tuple[float, ...],
    everywhere: tuple[float, ...],
) -> None:
    """pass@1, reranked, oracle; a reranker that is worse than chance is shown to be."""
    groups = [of_problem("p1", "python", [1, 0]), of_problem("p2", "python", [0, 0]), of_problem("j1", "java", [0, 1])]
    scores = {"p1": [0.9, 0.1], "p2": [0.5, 0.6], "j1": java_scores}

    async def score(_pool: object, problem: Problem, one: JournalEntry, _reading: object) -> float:
        return scores[problem.id][one.trajectory.id.sample_index]

    async def stop() -> None: ...

    pool = SimpleNamespace(start=lambda: None, stop=stop)
    monkeypatch.setattr("cluster.stages.rerank.ScorerPool", lambda *_: pool)
    monkeypatch.setattr("cluster.stages.rerank.reads_of", lambda _folder: "last_token")
    monkeypatch.setattr("cluster.stages.rerank._score", score)
    context = SimpleNamespace(config=SimpleNamespace(scorers=None, supervision=None), report=None)
    reading = LineReading(None, "last")  # type: ignore[arg-type]
    figures, choices = await rerank(
        context,
        Path(),
        groups,
        reading,
        {"python": 8.0, "java": 2.0},  # type: ignore[arg-type]
    )
    expected = {"python": (0.25, 0.5, 0.5), "java": java, "all": everywhere}
    for language, wanted in expected.items():
        got = [figures[language][name]["mean"] for name in ("pass_at_1", "reranked", "oracle")]
        assert got == pytest.approx(wanted), language
    assert {name: figures[name]["seconds"]["samples"] for name in expected} == {"python": 8.0, "java": 2.0, "all": 10.0}
    assert choices == {"python": {"p1": 1.0, "p2": 0.0}, "java": {"j1": java[1]}}
    for useless, said in ((0.3, "gives all 4 answers the score 0.3"), (float("nan"), "gives 4 of 4 answers")):
        scores |= {"p1": [useless] * 2, "p2": [useless] * 2}
        with pytest.raises(ConfigError, match=said):
            await rerank(context, Path("ranker"), groups[:2], reading, {"python": 8.0})  # type: ignore[arg-type]


def test_two_rerankers_are_compared_over_the_same_problems_in_each_language() -> None:
    earlier = {"python": {"a": 1.0, "b": 0.0}, "java": {"c": 0.0}}
    later = {"python": {"a": 1.0, "b": 1.0}, "java": {"c": 1.0}}
    gained = gained_on(earlier, later)
    assert {language: estimate.mean for language, estimate in gained.items()} == pytest.approx(
        {"all": 2 / 3, "python": 0.5, "java": 1.0}
    )


@pytest.mark.soak
@pytest.mark.vllm
@pytest.mark.timeout(1200)
def test_collect_learn_mine_and_rerank(tmp_path: Path) -> None:
    """The whole loop, two rounds of it, and DPO on the same pairs."""
    recipe = {
        "name": "rank",
        "folder": str(tmp_path),
        "generators": {"count": 1, "engine": {"dtype": "float32", "max_model_len": 256, "max_num_seqs": 64}},
        "stages": [
            {"kind": "sft", "name": "base", "corpus": {"count": 3000}, "train": {"max_steps": 150}},
            {
                "kind": "collect", "name": "answers", "model": "stage:base", "samples": 6,
                "problems": [{"spec": "synthetic:split=train,count=40,depth=1,seed=21"}],
            },
            {"kind": "dpo", "name": "preferring", "policy": "stage:base", "pairs": ["stage:answers"]},
            {
                "kind": "reward_model", "name": "rm", "base": "stage:base", "pairs": ["stage:answers"],
                "held_out_share": 0.2,
            },
            {
                "kind": "repeat", "name": "rounds", "rounds": 2,
                "stages": [
                    {
                        "kind": "ppo", "name": "policy", "policy": "stage:base",
                        "problems": [{"spec": "synthetic:split=train,count=60,depth=1,seed=11"}],
                        "prompts_per_step": 8, "samples_per_prompt": 4, "execute_share": 0.5,
                        "rewards": [{"kind": "reward_model", "model": "stage:rm"}],
                        "learner": {"num_steps": 2, "advantage": {"kind": "group"}},
                    },
                    {
                        "kind": "mine", "name": "mined", "model": "stage:policy", "reward_model": "stage:rm",
                        "problems": [{"spec": "synthetic:split=train,count=30,depth=1,seed=22"}],
                        "samples": 6, "top_share": 0.6,
                    },
                    {
                        "kind": "reward_model", "name": "rm", "base": "stage:base", "earlier": "stage:rm",
                        "pairs": ["stage:answers", "stage:mined@rounds"], "held_out_share": 0.2,
                    },
                ],
            },
            {
                "kind": "evaluate", "name": "after", "model": "stage:base", "samples": 4, "greedy": False,
                "problems": [{"spec": "synthetic:split=test,count=15,depth=2,seed=12"}],
                "rerank": "stage:rm", "rerank_earlier": "stage:rm.0",
            },
        ],
    }  # fmt: skip
    path = tmp_path / "rank.yaml"
    path.write_text(yaml.safe_dump(recipe))
    done = subprocess.run([CRUCIBLE, "run", str(path)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    stages = tmp_path / "rank" / "stages"
    manifests = {path.parent.name: json.loads(path.read_text()) for path in stages.glob("*/manifest.json")}
    figures = {name: manifest["figures"] for name, manifest in manifests.items()}

    answers = read_answers(stages / "answers")
    assert len(answers) == figures["answers"]["num_answers"] == 240 - figures["answers"]["num_dropped"]
    pairs = read_pairs(stages / "answers")
    assert all(pair.chosen.passed and not pair.rejected.passed for pair in pairs)
    for learned in ("rm", "preferring"):
        assert figures[learned]["num_pairs"] + figures[learned]["num_held_out_pairs"] == len(pairs)
    assert (stages / "rm" / "model" / "scalar_head.json").is_file()
    assert manifests["preferring"]["weights"] != manifests["base"]["weights"]

    # Each round's policy begins with the supervised model's weights, and ends with others.
    for policy in ("policy.1", "policy.2"):
        (start,) = (line for line in read_lines(stages / policy / "ledger.jsonl") if line["kind"] == "start")
        assert start["initial_weights"] == weights_fingerprint(load_causal_lm(stages / "base" / "model"))
        assert manifests[policy]["weights"] != manifests["base"]["weights"]
    # What was mined fails, and both rankers were judged on mined pairs of problems that neither has learned from.
    for number in (1, 2):
        mined = read_pairs(stages / f"mined.{number}")
        assert all(pair.chosen.passed and not pair.rejected.passed for pair in mined)
        for source, judged in figures[f"rm.{number}"]["sources"].items():
            held_out = [p for p in read_pairs(stages / source) if is_held_out(p.chosen.problem_id, 0.2, 0)]
            assert judged["num_pairs"] == len(held_out)
            assert {"accuracy", "accuracy_before"} <= judged.keys()
        assert "answers" in figures[f"rm.{number}"]["sources"]

    ranked, earlier = (figures["after"][field]["all"] for field in ("rerank", "rerank_earlier"))
    assert ranked["pass_at_1"]["mean"] == pytest.approx(figures["after"]["sampled_pass_at_1"]["mean"])
    assert ranked["oracle"] == earlier["oracle"]  # of the same samples
    for choice in (ranked, earlier):
        assert choice["reranked"]["mean"] <= choice["oracle"]["mean"]
        assert choice["random"]["mean"] <= choice["oracle"]["mean"]
    gained = ranked["reranked"]["mean"] - earlier["reranked"]["mean"]
    assert ranked["reranked_minus_earlier"]["mean"] == pytest.approx(gained)
    assert figures["after"]["rerank"]["python"] == ranked  # one language: its figures are those of all
