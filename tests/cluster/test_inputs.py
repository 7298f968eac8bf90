from pathlib import Path

import pytest

from cluster.config import EvaluateStage, PPOStage, ProblemSource
from cluster.errors import ConfigError
from cluster.inputs import check_inputs

TRAIN = (ProblemSource(spec="synthetic:split=train,count=3,depth=1-2,seed=1"),)
TEST = (ProblemSource(spec="synthetic:split=test,count=3,depth=2,seed=1"),)


def test_the_test_split_may_be_evaluated_and_not_trained_on() -> None:
    check_inputs([EvaluateStage(name="e", model="stage:a", problems=TEST)])
    check_inputs([PPOStage(name="p", policy="stage:a", problems=TRAIN)])
    with pytest.raises(ConfigError, match=r"stages\.p\.problems: .* may not be trained on \(use train, split test\)"):
        check_inputs([PPOStage(name="p", policy="stage:a", problems=TEST)])


def test_a_malformed_row_is_named_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "humaneval.jsonl"
    path.write_text('{"task_id": "HumanEval/0"}\n')
    with pytest.raises(ConfigError, match=r"humaneval\.jsonl, line 1: field prompt"):
        check_inputs([EvaluateStage(name="e", model="stage:a", problems=(ProblemSource(spec=f"humaneval:{path}"),))])


def test_a_missing_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match="neither a folder nor a model that the hub gave"):
        check_inputs([EvaluateStage(name="e", model=str(tmp_path / "absent"), problems=TEST)])
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        check_inputs([EvaluateStage(name="e", model=str(tmp_path), problems=TEST)])
