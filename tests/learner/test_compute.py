import copy

import numpy as np
import pytest
import torch

from learner.config import SFTConfig
from learner.model_config import ComputeConfig
from learner.packing import TokenSequence, pack
from learner.policy import Policy
from learner.scalar_head import ScalarHeadModel
from learner.sft import SFTTrainer


def row(length=24):
    rng = np.random.default_rng(0)
    ids = rng.integers(2, 40, length)
    return pack([TokenSequence(str(i), ids, np.arange(length) > 5) for i in range(3)], 3 * length)[0]


def loss_and_gradients(model, **compute):
    policy = Policy(copy.deepcopy(model), compute=ComputeConfig(**compute))
    logprobs = policy(row()).logprobs
    logprobs.mean().backward()
    return logprobs.detach(), [parameter.grad for parameter in policy.parameters() if parameter.grad is not None]


def test_checkpointed_activations_change_no_digit(tiny_model):
    plain, plain_gradients = loss_and_gradients(tiny_model)
    again, gradients = loss_and_gradients(tiny_model, activation_checkpointing=True)
    assert torch.equal(plain, again)
    assert len(gradients) == len(plain_gradients)
    assert all(torch.equal(one, other) for one, other in zip(gradients, plain_gradients, strict=True))


def test_activations_really_are_computed_again(tiny_model):
    policy = Policy(tiny_model, compute=ComputeConfig(activation_checkpointing=True))
    calls = []
    policy.model.base_model.layers[0].input_layernorm.register_forward_hook(lambda *_: calls.append(1))
    policy(row()).logprobs.sum().backward()
    assert len(calls) == 2


@pytest.mark.parametrize("float32_head", [True, False])
def test_half_precision_computes_close_by_and_keeps_float32_weights_and_gradients(tiny_model, float32_head):
    plain, plain_gradients = loss_and_gradients(tiny_model)
    half, gradients = loss_and_gradients(tiny_model, precision="bfloat16", float32_head=float32_head)
    assert half.dtype == torch.float32
    assert not torch.equal(half, plain)
    torch.testing.assert_close(half, plain, rtol=0.05, atol=0.05)
    for one, other in zip(gradients, plain_gradients, strict=True):
        assert one.dtype == torch.float32
        assert float((one - other).norm()) < 0.1 * float(other.norm()) + 1e-3


def test_a_critic_computes_in_half_precision_too(tiny_model):
    critic = ScalarHeadModel.from_causal_lm(tiny_model, bias=0.3).compute_as(ComputeConfig(precision="bfloat16"))
    assert critic(row()).dtype == torch.float32
    assert critic(row()).tolist() == pytest.approx([0.3] * 72)


def test_training_in_half_precision_learns(tiny_model):
    config = SFTConfig(max_steps=40, batch_examples=3, row_tokens=128, max_example_tokens=32)
    config = config.model_copy(update={"compute": ComputeConfig(precision="bfloat16", activation_checkpointing=True)})
    examples = [
        TokenSequence(str(i), np.array([2, 3, 4 + i, 1]), np.array([False, True, True, True])) for i in range(3)
    ]
    seen = []
    SFTTrainer(tiny_model, config, examples).train(progress=seen.append)
    assert seen[-1].loss < 0.7 * seen[0].loss
