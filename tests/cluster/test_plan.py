"""What a plan says: counts by hand, parameters of built models, measured memory, and reasons that name the lack."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from actors.config import GeneratorConfig
from cluster.actor_config import Colocated
from cluster.config import RunConfig
from cluster.errors import ConfigError
from cluster.geometry import geometry_of, warnings_of
from cluster.memory import (
    ModelShape,
    activations,
    generator,
    host_of_ppo_trainer,
    kv_bytes_per_token,
    logits_chunk,
    ppo_trainer,
    size,
)
from cluster.placement import Bundle, Node, bundles_of, place, shortfall
from cluster.plan import make_plan, print_plan
from cluster.recipe import load_recipe
from cluster.stage_config import CollectStage, PPOStage, RewardModelStage, SFTStage
from learner.config import GAE, CriticConfig, GroupBaseline, KLConfig, PPOConfig
from learner.model_config import ComputeConfig, LoRAConfig

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
TINY = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4}


def ppo_stage(**changes) -> PPOStage:
    problems = [{"spec": "synthetic:split=train,count=10"}]
    return PPOStage.model_validate({"name": "ppo", "policy": "here", "problems": problems} | changes)


# --- batch geometry


def test_geometry_by_hand_under_best_worst() -> None:
    stage = ppo_stage(
        prompts_per_step=33,
        samples_per_prompt=12,
        max_staleness=2,
        sampling={"max_prompt_tokens": 100, "max_new_tokens": 100},
        learner={
            "num_steps": 10, "filter": {"kind": "bw"}, "advantage": {"kind": "group"}, "epochs": 3,
            "minibatch_trajectories": 32, "row_tokens": 700,
        },
    )  # fmt: skip
    geometry = geometry_of(stage)
    assert geometry.trajectories == 396
    assert geometry.kept_least == geometry.kept_most == 66
    assert geometry.minibatch == 22  # 66 in ceil(66 / 32) = 3 parts
    assert geometry.optimizer_steps == 9  # 3 mini-batches, 3 epochs
    assert geometry.rows_most == 8  # 3 of 200 tokens fit into 700; 22 / 3
    assert geometry.in_flight == 99
    assert geometry.rollouts == 3960


@pytest.mark.parametrize(
    ("rule", "least", "most"),
    [
        ({"kind": "none"}, 24, 24),
        ({"kind": "bon"}, 4, 4),
        ({"kind": "br"}, 8, 8),
        ({"kind": "random_k", "k": 5}, 20, 20),
        ({"kind": "pow", "count": 3}, 12, 12),
        ({"kind": "threshold"}, 0, 24),
    ],
)
def test_what_each_filter_keeps_of_four_groups_of_six(rule: dict, least: int, most: int) -> None:
    stage = ppo_stage(prompts_per_step=4, samples_per_prompt=6, learner={"filter": rule})
    assert (geometry_of(stage).kept_least, geometry_of(stage).kept_most) == (least, most)


def test_the_critics_warm_up_counts_among_the_rollouts() -> None:
    critic = {"warmup_rollouts": 101, "warmup_steps": 3}
    stage = ppo_stage(
        prompts_per_step=2, samples_per_prompt=2, warmup_samples_per_prompt=2,
        learner={"num_steps": 5, "advantage": {"kind": "gae", "critic": critic}},
    )  # fmt: skip
    assert geometry_of(stage).rollouts == 5 * 4 + 102


def test_a_prompt_that_the_engine_would_refuse_is_warned_of() -> None:
    (warning,) = warnings_of(ppo_stage(sampling={"max_prompt_tokens": 200, "max_new_tokens": 100}), 256)
    assert "prompts of more than 156 tokens" in warning


def test_an_anchor_that_anchors_nothing_is_warned_of() -> None:
    def warned(**kl) -> list[str]:
        return warnings_of(ppo_stage(learner={"kl": {"coefficient": 0.1, "place": "loss"} | kl}), 1 << 20)

    (warning,) = warned(estimator="k1")
    assert "the gradient of k1 as a loss has mean zero" in warning
    assert warned() == warned(estimator="k1", coefficient=0.0) == warned(estimator="k1", place="reward") == []


# --- memory


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**TINY, vocab_size=300, tie_word_embeddings=True),
        LlamaConfig(**TINY, vocab_size=300, num_key_value_heads=2, tie_word_embeddings=False),
        Qwen2Config(**TINY, vocab_size=301, num_key_value_heads=1, tie_word_embeddings=True),
        Qwen3Config(**TINY, vocab_size=302, num_key_value_heads=2, head_dim=32, tie_word_embeddings=False),
    ],
    ids=["tied", "grouped", "biases", "wide-heads"],
)
def test_parameters_are_those_of_the_built_model(config) -> None:
    model = AutoModelForCausalLM.from_config(config)
    shape = ModelShape.of(config)
    assert shape.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert shape.num_backbone == sum(parameter.numel() for parameter in model.base_model.parameters())
    assert shape.query_width == model.base_model.layers[0].self_attn.q_proj.out_features
    assert shape.key_width == model.base_model.layers[0].self_attn.k_proj.out_features


def test_the_keys_and_values_of_a_token_are_those_that_transformers_caches() -> None:
    config = LlamaConfig(**TINY, vocab_size=300, num_key_value_heads=2)
    model = AutoModelForCausalLM.from_config(config)
    cache = model(torch.arange(7)[None], use_cache=True).past_key_values
    cached = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert kv_bytes_per_token(ModelShape.of(config), GeneratorConfig(dtype="float32")) * 7 == cached


def test_the_cache_of_an_engine_on_a_gpu_is_what_utilization_leaves_beside_its_share_of_the_weights() -> None:
    shape = ModelShape.of(LlamaConfig(**TINY, vocab_size=300))
    engine = GeneratorConfig(device="cuda", dtype="bfloat16", tensor_parallel_size=2, gpu_memory_utilization=0.5)
    estimate = generator(shape, engine, gpu_bytes=1 << 30)
    assert estimate.parts["weights"] == shape.num_parameters
    assert estimate.parts["KV cache"] == (1 << 29) - shape.num_parameters


MEASURED = {"hidden_size": 256, "num_layers": 4, "intermediate_size": 1024, "tie_word_embeddings": False}
VOCAB = 8192
_CHILD = """
import json, sys, threading, time
import numpy as np, psutil, torch
from learner.config import GAE, CriticConfig, GroupBaseline, KLConfig, PPOConfig
from learner.model_config import NewModelConfig
from learner.models import new_causal_lm
from learner.ppo import PPOLearner
from learner.trajectory import FinishReason, RewardEvent, Trajectory, Turn, VersionSpan
from problems.identity import TrajectoryId, WeightsVersion
torch.set_num_threads(1)
model, settings, vocab = json.loads(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
rng = np.random.default_rng(0)
def trajectory(group, index):
    turn = Turn(rng.integers(5, vocab, 28, dtype=np.int32), rng.integers(5, vocab, 100, dtype=np.int32),
        np.ones(100, np.bool_), -rng.random(100, dtype=np.float32), (VersionSpan(WeightsVersion(0, 0), 0, 100),),
        FinishReason.STOP)
    identity = TrajectoryId("run", "ppo", 0, f"p{group}", index)
    return Trajectory(identity, group, (turn,), events=(RewardEvent("t", float(rng.random())),))
groups = [[trajectory(g, i) for i in range(2)] for g in range(5)]
def built(model):
    return PPOLearner(new_causal_lm(NewModelConfig(**model), vocab_size=vocab, eos_token_id=0, pad_token_id=1, seed=0),
        PPOConfig(**settings))
small = {**model, "hidden_size": 64, "num_layers": 1, "intermediate_size": 64}
built(small).step(groups[:1])  # what is imported on the way (peft alone is 100 MiB) is the process's, not the model's
before = psutil.Process().memory_info().rss
trainer = built(model)
trainer.step(groups[:1])  # the moments are there after the first
peak = [0]
def watch():
    while True:
        peak[0] = max(peak[0], psutil.Process().memory_info().rss)
        time.sleep(0.002)
threading.Thread(target=watch, daemon=True).start()
import learner.checkpoint_writer, tempfile
may_write, save = threading.Event(), learner.checkpoint_writer.save_checkpoint
learner.checkpoint_writer.save_checkpoint = lambda *a, **k: may_write.wait() and save(*a, **k)
trainer.begin_save(tempfile.mkdtemp() + "/c")  # its copy is held while the next step trains
trainer.step(groups)
print(json.dumps(peak[0] - before), flush=True)
import os
os._exit(0)
"""


@pytest.mark.parametrize(
    "fields",
    [{}, {"compute": {"activation_checkpointing": True}}, {"lora": {"rank": 8}}],
    ids=["whole", "checkpointing", "lora"],
)
def test_the_trainers_estimate_is_within_a_quarter_of_the_measured_peak(fields: dict) -> None:
    settings = {
        "row_tokens": 1280, "max_trajectory_tokens": 256, "minibatch_trajectories": 10, "epochs": 1,
        "optimizer": {"learning_rate": 1e-6}, **fields,
    }  # fmt: skip
    from learner.model_config import NewModelConfig
    from learner.models import llama_config

    arguments = [json.dumps(MEASURED), json.dumps(settings), str(VOCAB)]
    child = subprocess.run(
        [sys.executable, "-c", _CHILD, *arguments], capture_output=True, text=True, check=False, timeout=280
    )
    assert child.returncode == 0, child.stderr
    measured = json.loads(child.stdout)
    shape = ModelShape.of(llama_config(NewModelConfig.model_validate(MEASURED), vocab_size=VOCAB))
    estimate = ppo_trainer(shape, PPOConfig.model_validate(settings))
    estimated = estimate.total - estimate.parts["process"]
    print(size(measured), size(estimated), {name: size(part) for name, part in estimate.parts.items()})
    assert estimated == pytest.approx(measured, rel=0.25)


def test_an_adapter_is_trained_alone_and_is_its_own_reference() -> None:
    shape = ModelShape.of(LlamaConfig(**TINY, vocab_size=300, num_key_value_heads=2))
    # Width 64, of which keys and values have 32; three layers; A and B of rank 4 beside each linear layer.
    by_hand = 3 * 4 * ((64 + 64) + 2 * (64 + 32) + (64 + 64) + 3 * (64 + 160))
    assert shape.num_trained(LoRAConfig(rank=4)) == by_hand
    assert shape.num_trained(LoRAConfig(rank=4, targets=("q_proj",))) == 3 * 4 * 128
    parts = ppo_trainer(shape, PPOConfig(lora=LoRAConfig(rank=4), advantage=GroupBaseline())).parts
    assert parts["policy weights"] == 4 * (shape.num_parameters + by_hand)
    assert parts["policy gradients"] == 4 * by_hand
    assert parts["undo copy"] == 12 * by_hand
    assert "reference weights" not in parts


def test_what_waits_in_host_memory_is_counted_there() -> None:
    shape = ModelShape.of(LlamaConfig(**TINY, vocab_size=300))
    compute = ComputeConfig(optimizer_states="host")
    config = PPOConfig(compute=compute, kl=KLConfig(coefficient=0.1, placement="host"), advantage=GAE())
    device, host = ppo_trainer(shape, config, device="cuda").parts, host_of_ppo_trainer(shape, config).parts
    moved = {"policy moments", "critic moments", "reference weights"}
    assert moved <= set(host)
    assert not moved & set(device)
    assert device["critic weights"] == 4 * shape.num_backbone
    waits = config.model_copy(update={"advantage": GAE(critic=CriticConfig(placement="host"))})
    assert "critic weights" in host_of_ppo_trainer(shape, waits).parts
    on_device = config.model_copy(update={"compute": ComputeConfig()})
    assert ppo_trainer(shape, config).total == ppo_trainer(shape, on_device).total, "on a CPU it is all one memory"


def test_checkpointing_leaves_each_layers_input_and_one_layer() -> None:
    shape = ModelShape.of(LlamaConfig(**TINY, vocab_size=300))
    whole = activations(shape, 100, ComputeConfig())
    light = activations(shape, 100, ComputeConfig(activation_checkpointing=True))
    layer = 100 * 4 * (6 * 64 + 5 * 64 + 4 * 160)
    assert whole == 4 * layer  # three, and one for the gradients on their way
    assert light == 2 * layer + 3 * 100 * 64 * 4


def test_logits_are_bounded_by_the_chunk_and_not_by_the_row() -> None:
    shape = ModelShape.of(LlamaConfig(**TINY, vocab_size=300))
    few, many, more = (logits_chunk(shape, tokens) for tokens in (10, 100_000, 200_000))
    assert few < many == more


# --- bundles


GPU_NODE = Node("gpu-1", {"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0, "GPU": 4.0})


def test_a_split_engine_is_not_spread_over_two_nodes() -> None:
    two = [Node(name, {"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 2.0}) for name in ("a", "b")]
    (placed,) = place([Bundle("generator-0", {"CPU": 1.0, "GPU": 4.0})], two)
    assert placed.node is None
    assert placed.reason == "asks 4 of resource 'GPU' on one node and the largest node has 2"
    assert place([Bundle("generator-0", {"CPU": 1.0, "GPU": 4.0})], [*two, GPU_NODE])[0].node == "gpu-1"


def test_nodes_of_one_name_are_told_apart() -> None:
    """A name is for people: a host and the first letters of an id, which others may begin with too."""
    nodes = [Node("vm (ffffff)", {"CPU": 1.0}, {"CPU": 1.0}) for _ in range(3)]
    places = place([Bundle(f"generator-{i}", {"CPU": 1.0}) for i in range(4)], nodes)
    assert [placed.node is None for placed in places] == [False, False, False, True]
    assert places[3].reason.count("vm (ffffff) has 0 of 1 free (held: this run's other actors 1)") == 3


def test_a_resource_that_no_node_has_is_named() -> None:
    (placed,) = place([Bundle("executor-0", {"sandbox": 1.0})], [GPU_NODE])
    assert shortfall([placed]) == "executor-0 asks 1 of resource 'sandbox' and the cluster has 0"


def test_who_holds_what_is_missing_is_said_this_runs_own_actors_included() -> None:
    users = {"GPU": [("VllmActor of job 02000000", 2.0)]}
    node = Node("gpu-1", {"CPU": 8.0, "GPU": 4.0}, {"CPU": 7.0, "GPU": 1.0}, users)
    bundles = [Bundle(f"generator-{i}", {"CPU": 1.0, "GPU": 1.0}) for i in range(2)]
    first, second = place(bundles, [node])
    assert first.node == "gpu-1"
    assert second.reason == (
        "asks 1 of resource 'GPU'; gpu-1 has 0 of 4 free "
        "(held: VllmActor of job 02000000 2, others 1, this run's other actors 1)"
    )


def test_two_resources_that_lie_on_different_nodes_are_no_place() -> None:
    nodes = [Node("a", {"GPU": 1.0, "CPU": 0.0}, {"GPU": 1.0, "CPU": 0.0}), Node("b", {"CPU": 4.0}, {"CPU": 4.0})]
    (placed,) = place([Bundle("generator-0", {"CPU": 1.0, "GPU": 1.0})], nodes)
    assert placed.reason == "asks CPU 1, GPU 1 on one node: a has CPU 0, GPU 1 free; b has CPU 4, GPU 0 free"


def test_small_bundles_leave_the_gpu_node_to_those_that_need_it() -> None:
    nodes = [GPU_NODE, Node("cpu", {"CPU": 2.0}, {"CPU": 2.0})]
    bundles = [Bundle("trainer", {"CPU": 1.0}), Bundle("generator-0", {"CPU": 8.0, "GPU": 1.0})]
    assert [placed.node for placed in place(bundles, nodes)] == ["cpu", "gpu-1"]


# --- the whole


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no network, the hub's client would try again for 20 s each time."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_can_be_planned(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_plan(load_recipe(path))
    print_plan(plan, Console(width=200))
    text = capsys.readouterr().out
    assert "the config is sound" in text
    assert all(placed.bundle.who in text for placed in plan.places)
    assert {estimate.who for estimate in plan.estimates} >= {"executor"}


def test_recipes_with_problems_that_end_at_strings_have_engines_that_look_for_them() -> None:
    """MultiPL-E's; that set need not be here, so that no check of inputs would see it."""
    recipes = [path for path in RECIPES.glob("*.yaml") if "multipl-e:" in path.read_text()]
    assert recipes
    assert all(load_recipe(path).generators.engine.stop_strings for path in recipes)


def test_a_plan_refuses_what_a_run_would_refuse(capsys: pytest.CaptureFixture[str]) -> None:
    """An evaluation on problems that are learned from is no sound recipe, though each of its fields is one."""
    leak = ["stages.after.problems=[{spec: 'synthetic:split=train,count=1000,depth=2-3,seed=21'}]"]
    with pytest.raises(ConfigError, match=r"stages\.after evaluates on problems that stages\.[a-z]+ learns from"):
        make_plan(load_recipe(RECIPES / "pf_ppo.yaml", leak))
    plan = make_plan(load_recipe(RECIPES / "pf_ppo.yaml"))
    assert plan.split is not None
    print_plan(plan, Console(width=200))
    assert f"problems {plan.split}" in capsys.readouterr().out


def test_a_gpu_recipe_is_sound_here_and_the_missing_gpu_is_named() -> None:
    config = load_recipe(RECIPES / "gpu.yaml", ["ray.address=null"])
    plan = make_plan(config)
    if torch.cuda.device_count() < 5:
        assert any("of resource 'GPU'" in text for text in plan.missing)
    assert any("/shared/data/mbpp.jsonl" in text for text in plan.missing) or Path("/shared/data/mbpp.jsonl").exists()


def test_a_trainer_on_a_gpu_is_estimated_there_and_its_copies_in_host_memory(tmp_path: Path) -> None:
    LlamaConfig(**TINY, vocab_size=300).save_pretrained(tmp_path)
    changes = ["ray.address=null", f"stages.ppo.policy={tmp_path}"]
    found = {estimate.who: estimate for estimate in make_plan(load_recipe(RECIPES / "gpu.yaml", changes)).estimates}
    shape = ModelShape.of(LlamaConfig(**TINY, vocab_size=300))
    trainer, host = found["trainer"], found["trainer in host memory"]
    assert (trainer.device, host.device) == ("cuda", "cpu")
    assert trainer.parts["logits chunk"] == logits_chunk(shape, 8192, "cuda")
    assert not {"undo copy", "process"} & set(trainer.parts)
    assert host.parts["undo copy"] == host.parts["checkpoint's copy"] == 12 * shape.num_parameters  # no critic
    on_cpu = load_recipe(RECIPES / "gpu.yaml", [*changes, "stages.ppo.gpus_per_rank=0"])
    assert {estimate.who: estimate.device for estimate in make_plan(on_cpu).estimates}["trainer"] == "cpu"


def test_each_rank_of_a_trainer_on_gpus_has_its_own() -> None:
    config = load_recipe(RECIPES / "gpu.yaml", ["stages.ppo.ranks=2"])
    held = {bundle.who: bundle.resources for bundle in bundles_of(config)}
    assert held["trainer-0"] == held["trainer-1"] == {"CPU": 1.0, "GPU": 1.0}
    assert held["generator-0"] == {"CPU": 1.0, "GPU": 2.0}
    on_cpu = load_recipe(RECIPES / "gpu.yaml", ["stages.ppo.gpus_per_rank=0"])
    assert {bundle.who: bundle.resources for bundle in bundles_of(on_cpu)}["trainer"] == {"CPU": 1.0}


def test_a_shared_gpu_is_one_bundle_and_synchronous() -> None:
    changes = [
        "placement={kind: colocated}", "generators.count=1", "generators.engine.tensor_parallel_size=1",
        "stages.ppo.max_staleness=0",
    ]  # fmt: skip
    config = load_recipe(RECIPES / "gpu.yaml", changes)
    assert isinstance(config.placement, Colocated)
    assert [bundle.resources.get("GPU") for bundle in bundles_of(config)] == [1.0, *[None] * config.executors.count]
    with pytest.raises(ConfigError, match=r"is synchronous: stages\.ppo\.max_staleness must be 0"):
        load_recipe(RECIPES / "gpu.yaml", [*changes, "stages.ppo.max_staleness=1"])
    with pytest.raises(ConfigError, match="placement colocated is one GPU"):
        load_recipe(RECIPES / "gpu.yaml", [*changes, "generators.count=2"])
    colocated = {
        "name": "r",
        "placement": {"kind": "colocated"},
        "generators": {"count": 1, "engine": {"device": "cuda"}},
        "stages": [
            {"kind": "sft", "name": "base"},
            {"kind": "collect", "name": "c", "model": "stage:base", "problems": [{"spec": "synthetic:split=train"}]},
            {"kind": "reward_model", "name": "rm", "base": "stage:base", "pairs": ["stage:c"]},
        ],
    }
    RunConfig.model_validate(colocated)
    for index in (0, 2):
        stages = copy.deepcopy(colocated["stages"])
        stages[index]["gpus_per_rank"] = 1
        with pytest.raises(ValueError, match=rf"no GPU to spare: stages\.{stages[index]['name']}\.gpus_per_rank"):
            RunConfig.model_validate(colocated | {"stages": stages})


def test_the_planned_config_is_the_one_that_runs() -> None:
    config = load_recipe(RECIPES / "quickstart.yaml")
    assert isinstance(config, RunConfig)
    who = [bundle.who for bundle in bundles_of(config)]
    assert who == ["trainer", "generator-0", "generator-1", "executor-0"]


def test_a_stage_that_scores_with_a_model_reserves_its_scorers() -> None:
    config = load_recipe(RECIPES / "pf_ppo.yaml", ["scorers.count=2"])
    scorers = [bundle for bundle in bundles_of(config) if bundle.who.startswith("scorer")]
    assert [bundle.resources for bundle in scorers] == [{"CPU": 1.0}] * 2
    assert not any(b.who.startswith("scorer") for b in bundles_of(load_recipe(RECIPES / "quickstart.yaml")))


def test_the_paper_s_constants_stand_in_pf_ppo_s_own_recipe() -> None:
    """arXiv 2409.06957, as far as the paper says."""
    stages = {stage.name: stage for stage in load_recipe(RECIPES / "pf_ppo_7b.yaml").stages}
    base, answers, reward, ppo = (stages[name] for name in ("base", "answers", "reward", "ppo"))
    assert isinstance(base, SFTStage)
    assert isinstance(reward, RewardModelStage)
    assert isinstance(ppo, PPOStage)
    assert base.train.optimizer.learning_rate == reward.train.optimizer.learning_rate == 1e-5
    assert isinstance(answers, CollectStage)
    assert (answers.samples, answers.pairs.rule, reward.train.epochs) == (5, "right_wrong", 1)
    learner, critic = ppo.learner, ppo.learner.advantage
    assert isinstance(critic, GAE)
    assert (ppo.samples_per_prompt, ppo.sampling.temperature) == (5, 1.0)
    assert (learner.optimizer.learning_rate, critic.critic.optimizer.learning_rate) == (5e-7, 9e-6)
    assert (learner.clip_low, learner.clip_high, critic.critic.value_clip) == (0.2, 0.2, 0.2)
    assert (critic.gamma, critic.lam, learner.kl.coefficient) == (1.0, 0.95, 0.01)
    assert learner.reward_normalisation != "none"
    assert learner.whiten_advantages
    assert ppo.choose_filter is not None
    assert (ppo.choose_filter.samples, ppo.choose_filter.num_bins) == (10, 20)
    assert [rule.kind for rule in ppo.choose_filter.candidates] == ["none", "bon", "br", "bw"]
    assert critic.critic.train_on == "kept"  # the policy and the critic pass two of five


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("pf_ppo_7b.yaml", "deepseek-ai/deepseek-coder-6.7b-instruct"),
        ("reranker_13b.yaml", "deepseek-ai/deepseek-coder-6.7b-instruct"),
        ("process_7b.yaml", "Qwen/Qwen2.5-Coder-7B-Instruct"),
    ],
)
def test_the_papers_own_recipes_can_be_planned_where_their_models_and_data_are_not(name, model, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    plan = make_plan(load_recipe(RECIPES / name))
    text = " ".join(plan.missing)
    assert model in text
    assert "mbpp" in text
    assert plan.warnings == []
    assert plan.split is None
    assert {"trainer-7", "generator-3", "executor-7", "scorer-0"} <= {placed.bundle.who for placed in plan.places}
    assert all(
        stage.gpus_per_rank == 1 for stage in load_recipe(RECIPES / name).stages if hasattr(stage, "gpus_per_rank")
    )
