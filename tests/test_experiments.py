"""What the experiments share, and that the recipes which they put together are recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import experiment, pf_ppo, reranker, rlcf
from cluster.recipe import load_recipe
from cluster.stage_config import PPOStage


@pytest.fixture(autouse=True)
def _aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (experiment, rlcf):
        monkeypatch.setattr(module, "RUNS", tmp_path)


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


def test_the_arms_of_rlcf_differ_in_their_rewards_alone() -> None:
    def stage(method: str) -> PPOStage:
        (ppo, after) = load_recipe(experiment.recipe_file(rlcf.arm_recipe(method, 1, Path("shared")), method)).stages
        assert isinstance(ppo, PPOStage)
        assert after.kind == "evaluate"
        return ppo

    stages = {method: stage(method) for method in rlcf.METHODS if method != "sft"}
    kinds = {method: [term.kind for term in one.rewards] for method, one in stages.items()}
    assert kinds == {
        "both": ["compiler", "comparison", "length_cut"],
        "compiler": ["compiler", "length_cut"],
        "comparison": ["comparison", "length_cut"],
        "terminal": ["compiler", "comparison", "length_cut"],
    }
    assert (stages["both"].rewards[0].localise, stages["terminal"].rewards[0].localise) == (True, False)
    assert (stages["both"].rewards[1].compiling_only, stages["comparison"].rewards[0].compiling_only) == (True, False)
    assert len({one.model_copy(update={"rewards": ()}).model_dump_json() for one in stages.values()}) == 1


def test_the_baseline_of_rlcf_is_given_the_seconds_of_discriminator_and_ppo(tmp_path: Path) -> None:
    for run, stage, seconds in (("shared", "discriminator", 40.0), ("rlcf-both-1", "ppo", 60.0)):
        folder = tmp_path / run / "stages" / stage
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps({"seconds": seconds}))
    recipe = rlcf.arm_recipe("sft", 1, tmp_path / "shared")
    trained = load_recipe(experiment.recipe_file(recipe, "sft")).stages[0]
    assert (trained.train.max_seconds, trained.base) == (100.0, str(tmp_path / "shared/stages/base/model"))
    with pytest.raises(SystemExit, match="rlcf-both-2 has to be run first"):
        rlcf.arm_recipe("sft", 2, tmp_path / "shared")
