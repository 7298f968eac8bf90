import json
from dataclasses import replace
from pathlib import Path

import pytest

from cluster import inputs
from cluster.errors import ConfigError
from cluster.inputs import check_inputs, check_leakage
from cluster.stage_config import EvaluateStage, PPOStage, ProblemSource

TRAIN = (ProblemSource(spec="synthetic:split=train,count=3,depth=1-2,seed=1"),)
TEST = (ProblemSource(spec="synthetic:split=test,count=3,depth=2,seed=1"),)


def test_the_test_split_may_be_evaluated_and_not_trained_on() -> None:
    check_inputs([EvaluateStage(name="e", model="stage:a", problems=TEST)])
    check_inputs([PPOStage(name="p", policy="stage:a", problems=TRAIN)])
    with pytest.raises(ConfigError, match=r"stages\.p\.problems: .* may not be trained on \(use train, split test\)"):
        check_inputs([PPOStage(name="p", policy="stage:a", problems=TEST)])


def test_what_a_licence_keeps_for_evaluation_may_not_be_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "humaneval-cpp.jsonl"
    row = {"name": "a", "language": "cpp", "prompt": "int f() {", "tests": "}\nint main() {}", "stop_tokens": ["\n}"]}
    path.write_text(json.dumps(row))
    source = (ProblemSource(spec=f"multipl-e:{path}"),)
    check_inputs([EvaluateStage(name="e", model="stage:a", problems=source)])
    with pytest.raises(ConfigError, match=r"'MultiPL-E/cpp/a' may not be trained on \(use evaluate, split test\)"):
        check_inputs([PPOStage(name="p", policy="stage:a", problems=source)])


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


def stages(evaluate: EvaluateStage) -> list:
    return [PPOStage(name="p", policy="stage:a", problems=TRAIN), evaluate]


def test_problems_that_are_learned_from_may_not_be_evaluated_on() -> None:
    split = check_leakage(stages(EvaluateStage(name="e", model="stage:p", problems=TEST)))
    assert (split.num_train, split.num_evaluate) == (3, 3)
    assert split.train_digest != split.evaluate_digest
    with pytest.raises(ConfigError, match=r"stages\.e evaluates on problems that stages\.p learns from"):
        check_leakage(stages(EvaluateStage(name="e", model="stage:p", problems=TRAIN)))
    check_leakage(stages(EvaluateStage(name="e", model="stage:p", problems=TRAIN, may_be_training_problems=True)))


def test_a_prompt_under_another_id_is_a_leak_too(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = {spec: list(inputs.problems_of((ProblemSource(spec=spec),))) for spec in (TRAIN[0].spec, TEST[0].spec)}
    prompt = "\n  ".join(sets[TRAIN[0].spec][1].prompt.split(" "))  # the same words, other blanks
    sets[TEST[0].spec][0] = replace(sets[TEST[0].spec][0], prompt=prompt)
    monkeypatch.setattr(inputs, "problems_of", lambda sources: sets[sources[0].spec])
    with pytest.raises(ConfigError, match=r"1 ids or prompts in both"):
        check_leakage(stages(EvaluateStage(name="e", model="stage:p", problems=TEST)))
