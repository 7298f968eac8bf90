"""Answers are collected, a reward model learns from their pairs, and it chooses among samples: real parts, small."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from cluster.answers import read_answers, read_pairs, write_answers, write_pairs
from cluster.errors import RunFolderError
from cluster.journal import JournalEntry
from cluster.stages.rerank import _figures, _outcomes
from learner.preferences import make_pairs
from learner.trajectory import FinishReason, RewardEvent, Trajectory, Turn, VersionSpan
from problems.identity import TrajectoryId, WeightsVersion

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
        Trajectory(identity, 0, (turn,), events, passed=outcome), b"x = 1", "passed" if outcome else "x"
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


def test_a_pair_of_an_answer_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    answers = write_answers(tmp_path, [entry(0, 1.0), entry(1, 0.0)])
    write_pairs(tmp_path, make_pairs(answers, "all"))
    write_answers(tmp_path, [entry(0, 1.0)])
    with pytest.raises(RunFolderError, match=r"no answer 'run/collect/0/p/1"):
        read_pairs(tmp_path)
    (tmp_path / "pairs.parquet").write_bytes(b"PAR1")
    with pytest.raises(RunFolderError, match=r"pairs\.parquet cannot be read"):
        read_pairs(tmp_path)


def test_the_choice_by_hand() -> None:
    entries = [entry(0, 0.0), entry(1, 1.0), entry(2, 1.0), entry(3, 0.0)]
    for scores, chosen in (([0.1, 0.7, 0.2, 0.3], 1.0), ([0.9, 0.7, 0.2, 0.3], 0.0)):
        pass_at_1, _, reranked, oracle = _outcomes(entries, scores)
        assert (pass_at_1, reranked, oracle) == (0.5, chosen, 1.0)
    assert _outcomes(entries[:1], [float("-inf")])[2:] == (0.0, 0.0)


def test_equal_scores_choose_at_random_and_not_the_first() -> None:
    chosen = [_outcomes([entry(i, float(i == 0), problem=f"p{n}") for i in range(4)], [0.0] * 4)[2] for n in range(400)]
    assert sum(chosen) / 400 == pytest.approx(0.25, abs=0.08)


def test_figures_over_problems_by_hand() -> None:
    # (pass@1, random, reranked, oracle) of four problems
    figures = _figures([(0.5, 1.0, 1.0, 1.0), (0.5, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0, 0.0), (0.25, 0.0, 1.0, 1.0)])
    assert figures["pass_at_1"]["mean"] == pytest.approx(0.3125)
    assert figures["reranked"]["mean"] == pytest.approx(0.5)
    assert figures["oracle"]["mean"] == pytest.approx(0.75)
    assert figures["gap_closed"] == pytest.approx((0.5 - 0.3125) / (0.75 - 0.3125))


@pytest.mark.vllm
@pytest.mark.timeout(900)
def test_collect_learn_and_rerank(tmp_path: Path) -> None:
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
            {"kind": "reward_model", "name": "rm", "base": "stage:base", "pairs": ["stage:answers"]},
            {
                "kind": "evaluate", "name": "after", "model": "stage:base", "samples": 4, "greedy": False,
                "problems": [{"spec": "synthetic:split=test,count=15,depth=2,seed=12"}], "rerank": "stage:rm",
            },
        ],
    }  # fmt: skip
    path = tmp_path / "rank.yaml"
    path.write_text(yaml.safe_dump(recipe))
    done = subprocess.run([CRUCIBLE, "run", str(path)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    stages = tmp_path / "rank" / "stages"
    figures = {
        name: json.loads((stages / name / "manifest.json").read_text())["figures"]
        for name in ("answers", "rm", "after")
    }

    answers = read_answers(stages / "answers")
    assert len(answers) == figures["answers"]["num_answers"] == 240 - figures["answers"]["num_dropped"]
    pairs = read_pairs(stages / "answers")
    assert all(pair.chosen.passed and not pair.rejected.passed for pair in pairs)
    assert figures["rm"]["num_pairs"] + figures["rm"]["num_held_out_pairs"] == len(pairs)
    assert (stages / "rm" / "model" / "scalar_head.json").is_file()

    ranked = figures["after"]["rerank"]["all"]
    assert ranked["pass_at_1"]["mean"] == pytest.approx(figures["after"]["sampled_pass_at_1"]["mean"])
    assert ranked["reranked"]["mean"] <= ranked["oracle"]["mean"]
    assert ranked["random"]["mean"] <= ranked["oracle"]["mean"]
    assert figures["after"]["rerank"]["python"] == ranked  # one language: its figures are those of all
