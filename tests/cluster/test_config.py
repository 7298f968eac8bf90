from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from cluster.config import RunConfig
from cluster.errors import ConfigError
from cluster.recipe import load_recipe
from cluster.stage_config import PPOStage

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def write(folder: Path, **changes) -> Path:
    recipe = yaml.safe_load((ROOT / "recipes" / "quickstart.yaml").read_text()) | changes
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_parses_and_resolves_to_itself(path: Path) -> None:
    config = load_recipe(path)
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config


def test_there_are_recipes() -> None:
    assert {path.name for path in RECIPES} >= {"quickstart.yaml", "quickstart_group.yaml"}


def test_an_unknown_field_is_named_with_its_way(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"recipe.yaml: generators\.cuont: no such field"):
        load_recipe(write(tmp_path, generators={"cuont": 2}))


def test_an_ill_typed_field_is_named_with_its_value(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"generators\.count: .*integer.* \(is 'two'\)"):
        load_recipe(write(tmp_path, generators={"count": "two"}))


def test_a_stage_may_only_name_earlier_stages(tmp_path: Path) -> None:
    stages = [{"kind": "evaluate", "name": "e", "model": "stage:later", "problems": [{"spec": "humaneval:x"}]}]
    with pytest.raises(ConfigError, match=r"stages\.e\.model: 'later' is no earlier stage of kind dpo or ppo or sft"):
        load_recipe(write(tmp_path, stages=stages))


def test_two_temperatures_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    with pytest.raises(ConfigError, match="the ratio would compare two distributions"):
        load_recipe(path, ["stages.ppo.sampling.temperature=0.7"])


def test_overrides_reach_stages_by_name_and_by_position(tmp_path: Path) -> None:
    path = write(tmp_path)
    config = load_recipe(path, ["stages.ppo.learner.num_steps=3", "stages.2.samples_per_prompt=5", "seed=9"])
    stage = config.stages[2]
    assert isinstance(stage, PPOStage)
    assert (stage.learner.num_steps, stage.samples_per_prompt, config.seed) == (3, 5, 9)
    with pytest.raises(ConfigError, match="has no item 'nothing'"):
        load_recipe(path, ["stages.nothing.x=1"])
    with pytest.raises(ConfigError, match="form field=value"):
        load_recipe(path, ["seed"])


def test_what_is_no_recipe_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_recipe(tmp_path / "absent.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="not a mapping"):
        load_recipe(tmp_path / "list.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1\n")
    with pytest.raises(ConfigError, match="is not YAML"):
        load_recipe(tmp_path / "bad.yaml")


def test_weights_are_given_to_all_sets_of_a_ppo_stage_or_to_none(tmp_path: Path) -> None:
    path = write(tmp_path)
    two = "stages.ppo.problems=[{spec: 'synthetic:seed=1', weight: 2}, {spec: 'synthetic:seed=2'%s}]"
    assert load_recipe(path, [two % ", weight: 0.5"]).stages[2].problems[1].weight == 0.5
    with pytest.raises(ConfigError, match=r"stages\.ppo\.problems: give every set a weight, or none"):
        load_recipe(path, [two % ""])
    with pytest.raises(ConfigError, match=r"stages\.before\.problems: weight is for stages of kind ppo"):
        load_recipe(path, ["stages.before.problems.0.weight=1"])
    with pytest.raises(ConfigError, match="greater than 0"):
        load_recipe(path, [two % ", weight: 0"])


@pytest.mark.parametrize(
    ("placement", "transport", "said"),
    [
        ("colocated", "ipc", ""),
        ("colocated", "per_node", ""),
        ("separated", "ipc", "weight_transport ipc needs placement colocated"),
        ("colocated", "nccl", "placement colocated has one: use ipc"),
    ],
)
def test_a_transport_that_the_placement_does_not_bear_is_refused(placement: str, transport: str, said: str) -> None:
    ppo = {"kind": "ppo", "name": "p", "policy": "m", "problems": [{"spec": "s"}], "gpus_per_rank": 1}
    recipe = {
        "name": "run",
        "placement": {"kind": placement},
        "generators": {"count": 1, "engine": {"device": "cuda", "weight_transport": transport}},
        "stages": [ppo],
    }
    with pytest.raises(ValidationError, match=said) if said else nullcontext():
        RunConfig.model_validate(recipe)


@pytest.mark.parametrize("fields", [{"ranks": 2}, {"gpus_per_rank": 0}])
def test_a_shared_gpu_has_one_rank_on_it(fields: dict[str, int]) -> None:
    ppo = {"kind": "ppo", "name": "p", "policy": "m", "problems": [{"spec": "s"}], "gpus_per_rank": 1} | fields
    generators = {"count": 1, "engine": {"device": "cuda"}}
    recipe = {"name": "run", "placement": {"kind": "colocated"}, "generators": generators, "stages": [ppo]}
    with pytest.raises(ValidationError, match=r"stages\.p needs ranks 1, gpus_per_rank 1"):
        RunConfig.model_validate(recipe)


def line_stages(**baseline) -> list[dict]:
    problems = [{"spec": "synthetic:split=train,count=3"}]
    return [
        {"kind": "sft", "name": "base"},
        {"kind": "ppo", "name": "baseline", "policy": "stage:base", "problems": problems, **baseline},
        {"kind": "line_labels", "name": "labels", "policies": ["stage:baseline@5"], "problems": problems},
        {"kind": "process_reward_model", "name": "prm", "base": "stage:base", "labels": ["stage:labels"]},
    ]


@pytest.mark.parametrize("field", ["base", "earlier"])
@pytest.mark.parametrize(
    ("share", "seed", "is_sound"), [(0.2, 3, True), (0.1, 3, True), (0.3, 3, False), (0.2, 4, False)]
)
def test_a_reward_model_is_judged_by_problems_that_its_forerunner_held_out_too(
    tmp_path: Path, field: str, share: float, seed: int, is_sound: bool
) -> None:
    problems = [{"spec": "synthetic:split=train,count=3"}]
    first = {"kind": "reward_model", "name": "first", "base": "stage:base", "pairs": ["stage:answers"]}
    held_out = {"held_out_share": share, "held_out_seed": seed}
    stages = [
        {"kind": "sft", "name": "base"},
        {"kind": "collect", "name": "answers", "model": "stage:base", "problems": problems},
        first | {"held_out_share": 0.2, "held_out_seed": 3},
        first | {"name": "second", field: "stage:first"} | held_out,
    ]
    said = rf"stages\.second\.held_out_share and held_out_seed hold out problems that 'first', its {field}, has learned"
    with nullcontext() if is_sound else pytest.raises(ConfigError, match=said):
        load_recipe(write(tmp_path, stages=stages))


def test_a_model_from_the_middle_of_a_stage_must_be_exported(tmp_path: Path) -> None:
    load_recipe(write(tmp_path, stages=line_stages(export_steps=[5])))
    with pytest.raises(ConfigError, match=r"stages\.labels\.policies: stage 'baseline' exports no model at step '5'"):
        load_recipe(write(tmp_path, stages=line_stages(export_steps=[6])))
    with pytest.raises(ConfigError, match="export_steps names step 41; the stage makes 1 to 40"):
        load_recipe(write(tmp_path, stages=line_stages(export_steps=[5, 41])))


def test_only_a_critic_begins_as_another_model(tmp_path: Path) -> None:
    supervised = line_stages()[1] | {"name": "supervised", "critic_from": "stage:prm"}
    stages = [*line_stages(export_steps=[5]), supervised]
    load_recipe(write(tmp_path, stages=stages))
    with pytest.raises(ConfigError, match="critic_from needs a critic"):
        load_recipe(write(tmp_path, stages=[*stages[:-1], supervised | {"learner": {"advantage": {"kind": "group"}}}]))
    with pytest.raises(ConfigError, match=r"critic_from: 'base' is no earlier stage of kind process_reward_model or"):
        load_recipe(write(tmp_path, stages=[*stages[:-1], supervised | {"critic_from": "stage:base"}]))


def test_a_process_term_names_a_process_reward_model_and_needs_every_verdict(tmp_path: Path) -> None:
    paid = {"name": "supervised", "rewards": [{"kind": "process", "model": "stage:prm"}]}
    stages = line_stages(export_steps=[5])
    load_recipe(write(tmp_path, stages=[*stages, line_stages()[1] | paid]))
    with pytest.raises(ConfigError, match="the reward term process needs every verdict"):
        load_recipe(write(tmp_path, stages=[*stages, line_stages()[1] | paid | {"execute_share": 0.5}]))
    wrong = paid | {"rewards": [{"kind": "process", "model": "stage:labels"}]}
    with pytest.raises(ConfigError, match="'labels' is no earlier stage of kind process_reward_model"):
        load_recipe(write(tmp_path, stages=[*stages, line_stages()[1] | wrong]))
