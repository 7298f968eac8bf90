import copy

import numpy as np
import pytest
import torch

from learner.config import SFTConfig
from learner.errors import (
    CheckpointError,
    EmptyCompletionError,
    NonFiniteGradientError,
    TokenOutsideVocabularyError,
    TooLongError,
)
from learner.model_config import OptimizerConfig
from learner.packing import pack
from learner.sft import SFTTrainer, sft_example

FAST = OptimizerConfig(learning_rate=1e-2, warmup_steps=2)


def examples(count=24):
    rng = np.random.default_rng(0)
    made = []
    for index in range(count):
        prompt, completion = (rng.integers(2, 40, rng.integers(1, 9)).tolist() for _ in range(2))
        made.append(sft_example(f"e{index}", prompt, [*completion, 1]))
    return made


def trainer(model, **settings):
    config = SFTConfig(**{"max_steps": 12, "batch_examples": 5, "row_tokens": 32, "max_example_tokens": 32} | settings)
    return SFTTrainer(model, config, examples())


def fresh(tiny_model):
    return copy.deepcopy(tiny_model)


def test_the_completion_is_trained_with_its_end_and_the_prompt_is_not():
    example = sft_example("e", [5, 6], [7, 8, 1])
    assert example.ids.tolist() == [5, 6, 7, 8, 1]
    assert example.trained.tolist() == [False, False, True, True, True]


def test_the_loss_is_the_mean_over_completion_tokens(tiny_model):
    training = trainer(tiny_model, batch_examples=24)
    nats = [-training.policy(row).logprobs.detach() for example in training.examples for row in pack([example], 32)]
    first = training.train(stop=lambda: training.num_steps == 1)
    assert first.loss == pytest.approx(float(torch.cat(nats).mean()), rel=1e-5)


def test_it_learns(tiny_model):
    seen = []
    final = trainer(tiny_model, max_steps=60, optimizer=FAST).train(progress=seen.append)
    assert [progress.step for progress in seen] == list(range(1, 61))
    assert final.fraction == 1.0
    assert final.loss < 0.7 * seen[0].loss


def test_the_seed_decides_everything(tiny_model):
    def weights(seed):
        model = fresh(tiny_model)
        trainer(model, seed=seed).train()
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_resumed_in_the_middle_of_a_pass_it_goes_on_bit_for_bit(tiny_model, tmp_path):
    straight, broken, resumed = (trainer(fresh(tiny_model)) for _ in range(3))
    final = straight.train()
    broken.train(stop=lambda: broken.num_steps == 7)  # a pass has 5 steps
    broken.save(tmp_path / "checkpoint")
    resumed.load(tmp_path / "checkpoint")
    assert resumed.num_steps == 7
    assert resumed.train().loss == final.loss
    for one, other in zip(straight.policy.parameters(), resumed.policy.parameters(), strict=True):
        assert torch.equal(one, other)


def test_checkpoints_are_written_while_it_trains_and_another_set_of_examples_is_refused(tiny_model, tmp_path):
    straight, broken, resumed = (trainer(fresh(tiny_model)) for _ in range(3))
    final = straight.train()
    broken.train(stop=lambda: broken.num_steps == 7, checkpoint=tmp_path / "newest", checkpoint_every_s=0.0)
    resumed.load(tmp_path / "newest")
    assert resumed.num_steps == 7
    assert resumed.train().loss == final.loss
    other = SFTTrainer(fresh(tiny_model), straight.config, straight.examples[1:])
    with pytest.raises(CheckpointError, match="another set of examples"):
        other.load(tmp_path / "newest")


def test_a_budget_of_seconds_ends_it(tiny_model):
    final = trainer(tiny_model, max_steps=None, max_seconds=0.05).train()
    assert final.fraction == 1.0
    assert final.seconds >= 0.05


def test_bad_examples_are_named(tiny_model):
    with pytest.raises(EmptyCompletionError, match="e7"):
        sft_example("e7", [2], [])
    with pytest.raises(ValueError, match="e8: empty prompt"):
        sft_example("e8", [], [2])
    with pytest.raises(TooLongError, match="e9: 40 tokens, limit 32"):
        SFTTrainer(tiny_model, SFTConfig(max_steps=1, max_example_tokens=32), [sft_example("e9", [2] * 20, [3] * 20)])
    with pytest.raises(TokenOutsideVocabularyError, match="e10: token id 40 outside the vocabulary of 40"):
        SFTTrainer(tiny_model, SFTConfig(max_steps=1), [sft_example("e10", [2], [40])])
    with pytest.raises(ValueError, match="no examples"):
        SFTTrainer(tiny_model, SFTConfig(max_steps=1), [])


def test_a_checkpoint_of_another_config_names_the_field(tiny_model, tmp_path):
    trainer(tiny_model).save(tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match=r"batch_examples: 5 there, 6 here"):
        trainer(tiny_model, batch_examples=6).load(tmp_path / "checkpoint")


def test_a_gradient_that_is_not_finite_stops_it_and_keeps_the_weights(tiny_model):
    training = trainer(tiny_model)
    before = {name: tensor.clone() for name, tensor in training.policy.state_dict().items()}
    plain = training._row_loss

    def poisoned(row, flat, weights):
        loss, figures = plain(row, flat, weights)
        return loss * float("nan"), figures

    training._row_loss = poisoned
    with pytest.raises(NonFiniteGradientError, match="policy: gradient is not finite"):
        training.train()
    assert all(torch.equal(training.policy.state_dict()[name], tensor) for name, tensor in before.items())
