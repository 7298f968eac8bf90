import copy

import pytest
import torch

from learner.checkpoint import load_checkpoint
from learner.config import GAE, CriticConfig, GroupBaseline, KLConfig, PPOConfig, SFTConfig
from learner.errors import CheckpointError, ModelRefusedError
from learner.lora import AdapterOff, adapted_layers, adapter_off, add_adapter, is_adapter, plain_weights
from learner.model_config import LoRAConfig, OptimizerConfig
from learner.models import for_packed_rows, load_causal_lm
from learner.packing import as_sequence, pack
from learner.policy import Policy
from learner.ppo import PPOLearner
from learner.sft import SFTTrainer, sft_example
from learner.signals import logprobs_of
from tests.learner.test_packing import FAMILIES, sequences

LORA = LoRAConfig(rank=4, alpha=8.0)
SMALL = {"row_tokens": 64, "max_trajectory_tokens": 32, "minibatch_trajectories": 4, "num_steps": 4, "lora": LORA}


def adapted(family="llama", seed=0):
    """A small model with an adapter that does something."""
    torch.manual_seed(seed)
    model = for_packed_rows(FAMILIES[family]())
    add_adapter(model, LORA, seed=1)
    with torch.no_grad():
        for layer in adapted_layers(model).values():
            layer.lora_B["default"].weight.normal_(0, 0.5)
    return model


def batch(make_trajectory, first=0):
    torch.manual_seed(first)
    return [
        [
            make_trajectory(g, i, reward=float(torch.rand(())), completion=(*torch.randint(2, 40, (5,)).tolist(), 1))
            for i in range(3)
        ]
        for g in range(first, first + 3)
    ]


def test_at_first_the_adapter_changes_nothing_and_depends_on_its_seed_alone():
    torch.manual_seed(0)
    model = for_packed_rows(FAMILIES["qwen2"]())
    plain, state = copy.deepcopy(model), torch.get_rng_state()
    add_adapter(model, LORA, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    rows = pack(sequences(), 40)
    for row in rows:
        assert torch.equal(Policy(model)(row).logprobs, Policy(plain)(row).logprobs)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if is_adapter(name)}
    assert len(trained) == 2 * 7 * 2  # A and B of seven linear layers in two blocks; the output layer has none


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_weights_are_bit_for_bit_what_peft_merges_and_compute_the_same(family):
    model = adapted(family)
    pushed = dict(plain_weights(model))
    plain = for_packed_rows(FAMILIES[family]())
    assert set(pushed) == {name for name, _ in plain.named_parameters()}
    plain.load_state_dict(pushed, strict=False)

    merged = copy.deepcopy(model)
    for layer in adapted_layers(merged).values():
        layer.merge()
    for name, parameter in merged.named_parameters():
        if not is_adapter(name):
            assert torch.equal(pushed[name.replace(".base_layer", "")], parameter), name
    (row,) = pack(sequences(), 100)
    assert torch.equal(Policy(plain)(row).logprobs, Policy(merged)(row).logprobs)
    torch.testing.assert_close(Policy(plain)(row).logprobs, Policy(model)(row).logprobs, rtol=1e-4, atol=1e-5)


def test_with_the_adapter_off_it_is_the_plain_model_again():
    model = adapted()
    (row,) = pack(sequences(), 100)
    torch.manual_seed(0)
    plain = Policy(for_packed_rows(FAMILIES["llama"]()))
    before = Policy(model)(row).logprobs
    with adapter_off(model):
        assert torch.equal(Policy(model)(row).logprobs, plain(row).logprobs)
    assert torch.equal(Policy(model)(row).logprobs, before)
    assert not torch.equal(before, plain(row).logprobs)
    assert all(p.requires_grad == is_adapter(name) for name, p in model.named_parameters())


def test_a_step_trains_the_adapter_alone_against_the_policy_without_it(tiny_model, make_trajectory):
    base = {name: tensor.clone() for name, tensor in tiny_model.named_parameters()}
    learner = PPOLearner(tiny_model, PPOConfig(advantage=GroupBaseline(), kl=KLConfig(coefficient=0.1), **SMALL))
    assert isinstance(learner.reference, AdapterOff)
    groups = batch(make_trajectory)
    sequence = [as_sequence(t) for group in groups for t in group]
    reference = logprobs_of(learner.reference, sequence, 64)
    for _ in range(3):
        learner.step(groups)
    for name, parameter in learner.policy.model.named_parameters():
        if not is_adapter(name):
            assert torch.equal(parameter, base[name.replace(".base_layer", "")]), name
            assert parameter.grad is None
    assert torch.equal(logprobs_of(learner.reference, sequence, 64), reference)
    assert not torch.equal(logprobs_of(learner.policy, sequence, 64), reference)


def test_the_critic_has_a_backbone_without_adapter(tiny_model, make_trajectory):
    critic = CriticConfig(warmup_steps=0)
    learner = PPOLearner(tiny_model, PPOConfig(advantage=GAE(critic=critic), **SMALL))
    assert not adapted_layers(learner.critic)
    before = learner.critic.score.weight.clone()
    learner.step(batch(make_trajectory))
    assert not torch.equal(learner.critic.score.weight, before)


def test_a_checkpoint_holds_the_adapter_and_goes_on_bit_for_bit(tiny_model, make_trajectory, tmp_path):
    settings = PPOConfig(advantage=GroupBaseline(), **SMALL)
    straight, broken, resumed = (PPOLearner(copy.deepcopy(tiny_model), settings) for _ in range(3))
    for first in (0, 10):
        straight.step(batch(make_trajectory, first))
    broken.step(batch(make_trajectory))
    broken.save(tmp_path / "c")
    assert all(is_adapter(name) for name in broken._state()["policy"])
    resumed.load(tmp_path / "c")
    resumed.step(batch(make_trajectory, 10))
    for (name, ours), theirs in zip(resumed.policy.named_parameters(), straight.policy.parameters(), strict=True):
        assert torch.equal(ours, theirs), name

    with torch.no_grad():
        next(tiny_model.parameters()).add_(0.1)
    with pytest.raises(CheckpointError, match=r"another (reference policy|base of the adapter)"):
        PPOLearner(tiny_model, settings).load(tmp_path / "c")
    whole = settings.model_copy(update={"lora": None})
    with pytest.raises(CheckpointError, match=r"another config: lora"):
        load_checkpoint(tmp_path / "c", kind="ppo", settings=whole, state={})


def test_the_export_is_the_merged_model(tiny_model, make_trajectory, tmp_path):
    learner = PPOLearner(tiny_model, PPOConfig(advantage=GroupBaseline(), **SMALL))
    learner.step(batch(make_trajectory))
    learner.export(tmp_path / "model")
    loaded = dict(load_causal_lm(tmp_path / "model").named_parameters())
    pushed = {name: tensor for bucket in learner.weights() for name, tensor in bucket}
    assert loaded.keys() == pushed.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in pushed.items())


def test_fine_tuning_an_adapter_learns_and_resumes(tiny_model, tmp_path):
    examples = [sft_example(str(n), [2, 3], [5 + n, 6 + n, 1]) for n in range(4)]
    settings = SFTConfig(max_steps=30, batch_examples=4, row_tokens=64, max_example_tokens=32, lora=LORA,
                         optimizer=OptimizerConfig(learning_rate=2e-2))  # fmt: skip
    losses = []
    trainer = SFTTrainer(copy.deepcopy(tiny_model), settings, examples)
    trainer.train(progress=lambda progress: losses.append(progress.loss), stop=lambda: trainer.num_steps == 15)
    trainer.save(tmp_path / "c")
    final = trainer.train(progress=lambda progress: losses.append(progress.loss))
    assert losses[-1] < 0.9 * losses[0]
    resumed = SFTTrainer(copy.deepcopy(tiny_model), settings, examples)
    resumed.load(tmp_path / "c")
    assert resumed.train().loss == final.loss


def test_layers_that_are_not_there_are_refused(tiny_model):
    with pytest.raises(ModelRefusedError, match=r"lora.targets \('nowhere',\)"):
        add_adapter(tiny_model, LoRAConfig(targets=("nowhere",)), seed=0)
