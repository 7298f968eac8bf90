"""``crucible evaluate``: what it refuses, and its table by hand. The evaluation itself is the stage's."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from cluster import evaluation
from cluster.cli import app
from cluster.evaluation import choices_table, evaluation_of
from cluster.inputs import problems_of
from cluster.stage_config import ProblemSource
from cluster.stages.rerank import LineReading, _seconds
from problems.prompting import TokenBytes

PROBLEMS = ["--problems", "synthetic:split=test,count=2,depth=2"]


def evaluate(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["evaluate", *arguments])
    return done.exit_code, " ".join(done.output.split())


def test_a_choice_among_one_sample_is_none(tmp_path: Path) -> None:
    code, said = evaluate(str(tmp_path), *PROBLEMS, "--samples", "1", "--rerank", "x")
    assert code == 2
    assert "rerank chooses among samples, and samples is 1: at least 2 are needed" in said


def test_an_unknown_way_to_read_lines_is_named(tmp_path: Path) -> None:
    code, said = evaluate(str(tmp_path), *PROBLEMS, "--rerank", "x", "--line-score", "sum")
    assert code == 2
    assert "line_score: Input should be 'last', 'min' or 'mean' (is 'sum')" in said


def test_a_folder_without_a_model_is_named_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, said = evaluate(str(tmp_path / "empty"), *PROBLEMS, "--folder", str(tmp_path / "runs"))
    assert code == 2
    assert "has no config.json" in said


@pytest.mark.parametrize("stop", [(), ("\n}",)])
def test_engines_look_for_the_strings_that_a_problem_s_answers_end_at(
    monkeypatch: pytest.MonkeyPatch, stop: tuple[str, ...]
) -> None:
    plain, other = problems_of([ProblemSource(spec=PROBLEMS[1])])
    monkeypatch.setattr(evaluation, "problems_of", lambda _: [plain, replace(other, stop_strings=stop)])
    sampling = {"max_new_tokens": 64, "max_prompt_tokens": 32}
    config = evaluation_of({"model": "m", "problems": [{"spec": PROBLEMS[1]}], "sampling": sampling}, [])
    assert config.generators.engine.stop_strings == bool(stop)
    assert config.generators.engine.max_model_len == 96


def test_lines_make_one_score_by_hand() -> None:
    nothing, numbers = TokenBytes({}, []), np.array([0.75, -0.5, 0.25])
    scores = [LineReading(nothing, how).of(numbers) for how in ("last", "min", "mean")]
    assert scores == pytest.approx([0.25, -0.5, 1 / 6])


def test_the_table_says_for_each_language_what_a_choice_is_worth_and_takes() -> None:
    estimate = {"mean": 0.5, "low": 0.4, "high": 0.6, "num_problems": 20}
    row = dict.fromkeys(("pass_at_1", "random", "oracle"), estimate) | {"reranked": estimate | {"mean": 0.625}}
    java = row | {"seconds": _seconds(16.0, 2.0, 8)}
    figures = {"seconds": 4.0, "all": row | {"seconds": _seconds(32.0, 4.0, 8)}, "java": java, "python": java}
    table = choices_table(figures, 8)
    console = Console(width=120, record=True)
    console.print(table)
    shown = console.export_text()
    assert "k = 8" in shown
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "java pass@1 0.500 [0.400, 0.600] 2.0" in lines
    assert "java reranked@k 0.625 [0.400, 0.600] 18.0" in lines
    assert "all oracle pass@k 0.500 [0.400, 0.600] 32.0" in lines
    one = choices_table({"seconds": 2.0, "all": java, "java": java}, 8)
    assert one.row_count == 4  # of one language "all" says nothing new
