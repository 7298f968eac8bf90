"""What the experiments share, and that the recipes which they put together are recipes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import experiment, pf_ppo, reranker
from cluster.recipe import load_recipe
from cluster.stage_config import PPOStage


@pytest.fixture(autouse=True)
def _aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "RUNS", tmp_path)


def test_the_peak_is_that_of_five_steps_in_a_row() -> None:
    assert experiment.peak([0.0, 1.0, 0.0, 0.0, 0.0, 0.5, 0.5]) == pytest.approx(0.3)  # steps 2 to 6
    assert experiment.peak([0.2, 0.4]) == pytest.approx(0.3)


@pytest.mark.parametrize("method", [method for method in pf_ppo.METHODS if method != "sft"])
def test_every_arm_of_pf_ppo_takes_as_many_optimizer_steps(method: str) -> None:
    recipe = pf_ppo.arm_recipe(method, 1, Path("shared"))
    stage = load_recipe(experiment.recipe_file(recipe, method)).stages[0]
    assert isinstance(stage, PPOStage)
    kept = {"ppo_m": 5, "br": 2, "bw": 2, "random_2": 2}.get(method, 1)
    assert stage.prompts_per_step * kept == 2 * stage.learner.minibatch_trajectories
    generated = stage.prompts_per_step * stage.samples_per_prompt
    assert generated == (48 if method == "ppo_s_steps" else 240)


def test_both_ways_to_retrain_a_reranker_begin_as_the_first_did() -> None:
    recipe, _ = reranker.recipes(2)
    stages = {stage.name: stage for stage in load_recipe(experiment.recipe_file(recipe, "reranker")).stages}
    assert {stages[name].base for name in reranker.SETTINGS.values()} == {"stage:base"}
    assert stages["mined-hard"].positives == "stage:answers"
    assert stages["mined-self"].positives is None
