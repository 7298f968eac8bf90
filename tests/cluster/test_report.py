"""The page that a run leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import RunFolderError
from cluster.journal import JournalEntry, write_journal
from cluster.report import write_report
from cluster.report.trajectories import coloured_lines, outcomes
from cluster.run_folder import RunFolder
from learner.trajectory import FinishReason, RewardEvent, Trajectory, Turn, VersionSpan
from problems.identity import TrajectoryId, WeightsVersion


def entry(sample: int, outcome: str, events: tuple[RewardEvent, ...] = ()) -> JournalEntry:
    turn = Turn(
        np.array([1], np.int32), np.array([2, 3], np.int32), np.ones(2, np.bool_), np.zeros(2, np.float32),
        (VersionSpan(WeightsVersion(0, 0), 0, 2),), FinishReason.STOP,
    )  # fmt: skip
    trajectory = Trajectory(TrajectoryId("r", "ppo", 0, "p<1>", sample), 0, (turn,), events, passed=outcome == "passed")
    return JournalEntry(trajectory, b"return 1 < 2", outcome)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    (tmp_path / "config.yaml").write_text("name: r\n")
    folder = RunFolder(tmp_path)
    stage = folder.stage("ppo")
    write_journal(stage.trajectories, WeightsVersion(0, 0), [entry(0, "passed"), entry(1, "wrong_answer")])
    write_journal(stage.trajectories, WeightsVersion(0, 1), [entry(0, "compile_error"), entry(1, "compile_error")])
    # The same step again, after a rollback: this is the one that counts.
    write_journal(stage.trajectories, WeightsVersion(1, 1), [entry(0, "time_limit"), entry(1, "passed")])
    return folder


def test_a_line_is_coloured_by_the_sum_of_what_its_tokens_earn() -> None:
    pieces = [b"a = ", b"1\n", b"b", b" < 2\n", b"c"]
    events = (RewardEvent("x", 0.5, 1), RewardEvent("y", -0.25, 0), RewardEvent("x", -0.5, 3), RewardEvent("all", 9.0))
    first, second, third, *rest = coloured_lines(pieces, events).split("\n")
    assert 'title="+0.2500">a = 1</span>' in first  # 0.5 - 0.25; depth 0.15 + 0.5 * 0.25 / 0.5
    assert "rgba(40,160,70,0.40)" in first
    assert 'title="-0.5000">b &lt; 2</span>' in second
    assert "rgba(210,60,50,0.65)" in second
    assert (third, rest) == ("c", [])


def test_a_step_that_was_made_twice_is_shown_as_the_later_lineage_made_it(run: RunFolder) -> None:
    (plot,) = outcomes(run.stage("ppo"))
    assert "time_limit" in plot
    assert "compile_error" not in plot


def test_the_page_shows_programs_and_what_became_of_them_with_hostile_text_as_text(run: RunFolder) -> None:
    page = write_report(run.root).read_text()
    assert "p&lt;1&gt; #1: wrong_answer, reward +0.000" in page
    assert "return 1 &lt; 2" in page
    assert "p<1>" not in page


def test_the_page_shows_how_the_filter_was_chosen_and_how_certain_a_reward_model_may_be(run: RunFolder) -> None:
    fit = {
        "r_squared": 0.913,
        "r_squared_equal": 0.4,
        "rewards": [0.0, 1.0],
        "scores": [0.1, 0.8],
        "masses": [0.5, 0.5],
    }
    (run.stage("ppo").root / "filter.json").write_text(json.dumps({"chosen": "bw", "fits": {"bw": fit}}))
    names = ("accuracy", "accuracy_longer", "accuracy_shorter")
    figures = {f"reward_model/held_out_{name}": 0.75 for name in names}
    figures |= {"reward_model/length_correlation": 0.125, "reward_model/calibration_error": 0.0625}
    bins = {"confidence": [0.6, 0.9], "accuracy": [0.55, 0.95], "counts": [10, 30]}
    (run.stage("rm").root / "held_out.json").write_text(json.dumps(figures | {"calibration": bins}))
    page = write_report(run.root).read_text()
    assert "R^2 0.913" in page
    assert "Filter by R^2: <b>bw</b>" in page
    assert "error 0.062" in page
    assert "<td>correlation of score differences with length differences<td>0.125" in page


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"no run folder: it has no config\.yaml"):
        write_report(tmp_path)
