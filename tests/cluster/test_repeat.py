from pathlib import Path

import pytest

from cluster.recipe import load_recipe
from cluster.repeat import written_out

LOOP = [
    {"kind": "sft", "name": "base"},
    {"kind": "reward_model", "name": "rm", "base": "stage:base", "pairs": ["stage:answers"]},
    {
        "kind": "repeat",
        "rounds": 2,
        "stages": [
            {"kind": "ppo", "name": "policy", "policy": "stage:base", "rewards": [{"model": "stage:rm"}]},
            {"kind": "mine", "name": "mined", "model": "stage:policy", "reward_model": "stage:rm"},
            {"kind": "reward_model", "name": "rm", "pairs": ["stage:answers", "stage:mined@rounds"]},
        ],
    },
    {"kind": "evaluate", "name": "after", "model": "stage:base", "rerank": "stage:rm", "compare_with": "policy"},
]


def test_a_repeat_is_written_out_round_by_round():
    names = [stage["name"] for stage in written_out(LOOP)]
    assert names == ["base", "rm", "policy.1", "mined.1", "rm.1", "policy.2", "mined.2", "rm.2", "after"]
    assert [stage.get("round") for stage in written_out(LOOP)] == [None, None, 1, 1, 1, 2, 2, 2, None]


def test_a_name_means_this_round_or_the_one_before_or_what_stood_before_the_repeat():
    by_name = {stage["name"]: stage for stage in written_out(LOOP)}
    assert by_name["policy.1"]["rewards"] == [{"model": "stage:rm"}]
    assert by_name["policy.2"]["rewards"] == [{"model": "stage:rm.1"}]
    assert by_name["policy.2"]["policy"] == "stage:base"  # restarted, not continued
    assert by_name["mined.2"]["model"] == "stage:policy.2"


def test_all_rounds_so_far_can_be_named_in_a_list():
    by_name = {stage["name"]: stage for stage in written_out(LOOP)}
    assert by_name["rm.1"]["pairs"] == ["stage:answers", "stage:mined.1"]
    assert by_name["rm.2"]["pairs"] == ["stage:answers", "stage:mined.1", "stage:mined.2"]


def test_after_the_repeat_a_name_means_the_last_round():
    after = written_out(LOOP)[-1]
    assert after["rerank"] == "stage:rm.2"
    assert after["compare_with"] == "policy.2"
    before = {"kind": "evaluate", "name": "first", "rerank": "stage:rm.0"}
    assert written_out([*LOOP, before])[-1]["rerank"] == "stage:rm"


def test_a_recipe_without_repeat_is_left_as_it_is():
    assert written_out(LOOP[:2]) == LOOP[:2]
    assert written_out(None) is None


@pytest.mark.parametrize(
    ("repeat", "message"),
    [
        ({"rounds": 0, "stages": [{"name": "a"}]}, "rounds must be a number of at least 1"),
        ({"rounds": 1, "stages": []}, "must be a list of stages"),
        ({"rounds": 1, "stages": [{"kind": "sft"}]}, "each needs a name"),
        ({"rounds": 1, "stages": [{"name": "a", "kind": "repeat"}]}, "a repeat in a repeat"),
        ({"rounds": 1, "stages": [{"name": "a"}], "until": 3}, "until: no such field"),
    ],
)
def test_what_is_no_repeat_is_named(repeat, message):
    with pytest.raises(ValueError, match=message):
        written_out([{"kind": "repeat", **repeat}])


def test_a_model_from_the_middle_of_a_stage_is_that_round_s():
    labels = {"kind": "line_labels", "name": "labels", "policies": ["stage:policy@5", "stage:policy"]}
    loop = [*LOOP[:2], LOOP[2] | {"stages": [LOOP[2]["stages"][0], labels]}]
    by_name = {stage["name"]: stage for stage in written_out(loop)}
    assert by_name["labels.2"]["policies"] == ["stage:policy.2@5", "stage:policy.2"]


def test_each_round_of_the_reranker_s_recipe_begins_with_the_supervised_model_again():
    recipe = Path(__file__).resolve().parents[2] / "recipes" / "reranker_13b.yaml"
    stages = {stage.name: stage for stage in load_recipe(recipe).stages}
    generator = stages["answers"].model
    for number, earlier in ((1, "stage:ranker"), (2, "stage:ranker.1")):
        policy, mined, ranker = (stages[f"{name}.{number}"] for name in ("policy", "mined", "ranker"))
        assert policy.policy == ranker.base == generator
        assert {term.model for term in policy.rewards if term.kind == "reward_model"} == {earlier}
        assert (mined.model, mined.reward_model) == (f"stage:policy.{number}", earlier)
        assert ranker.earlier == earlier
    assert stages["ranker.2"].pairs == ("stage:answers", "stage:mined.1", "stage:mined.2")
    assert len({stages[name].held_out_share for name in ("ranker", "ranker.1", "ranker.2")}) == 1
