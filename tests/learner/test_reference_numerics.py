"""Values and gradients against numbers that another library printed (float64, ragged mask, 8 sequences x 12 tokens).

Where our convention differs the relation is spelled out: their masked means divide by count + 1e-8 (1e-10 relative),
ours by the count; their GAE is not zero at padding, ours has no padding; their k3 is capped at 10, ours is not.
"""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, tensor

from learner.advantages import generalised_advantages, group_advantages, spread_with_penalty
from learner.aggregate import token_weights, weighted_sum
from learner.config import AdaptiveKLConfig, KLConfig
from learner.kl import kl_estimate
from learner.kl_control import next_coefficient
from learner.logprobs import token_logprobs
from learner.losses import clipped_policy_loss, clipped_value_loss
from learner.rewards import with_penalty
from learner.whitening import whiten

FILE = Path(__file__).parents[3] / "shared" / "data" / "reference_numerics" / "verl_reference.json"
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not FILE.is_file(), reason="the reference file is not beside the checkout"),
]

CLOSE = {"rtol": 1e-6, "atol": 1e-9}
AGGREGATIONS = {
    "token-mean": "token_mean",
    "seq-mean-token-sum": "sequence_mean_token_sum",
    "seq-mean-token-mean": "sequence_mean_token_mean",
    "seq-mean-token-sum-norm": "constant_length",
}


class Reference:
    """The file as float64 tensors; ``flat`` brings [8, 12] into our layout."""

    def __init__(self) -> None:
        data = json.loads(FILE.read_text())
        self.scalars = data["scalars"]
        self.inputs, self.outputs = (
            {name: tensor(value, dtype=torch.float64) for name, value in data[part].items()}
            for part in ("inputs", "outputs")
        )
        self.mask = self.inputs["mask"].bool()
        self.lengths = self.mask.sum(1)

    def flat(self, name: str) -> Tensor:
        table = self.inputs.get(name, self.outputs.get(name))
        assert table is not None
        return table[self.mask]

    def weights(self, theirs: str) -> Tensor:
        return token_weights(AGGREGATIONS[theirs], lengths=self.lengths, constant_length=12, dtype=torch.float64)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


@pytest.mark.parametrize(
    ("name", "gamma", "lam"), [("g1_l095", 1.0, 0.95), ("g099_l09", 0.99, 0.9), ("g1_l1", 1.0, 1.0)]
)
def test_advantages_and_returns(reference, name, gamma, lam):
    result = generalised_advantages(
        rewards=reference.flat("token_level_rewards_kl"),
        values=reference.flat("values"),
        lengths=reference.lengths,
        gamma=gamma,
        lam=lam,
    )
    torch.testing.assert_close(result.advantages, reference.flat(f"gae_{name}_adv_raw"), **CLOSE)
    torch.testing.assert_close(result.returns, reference.flat(f"gae_{name}_returns"), **CLOSE)
    torch.testing.assert_close(whiten(result.advantages), reference.flat(f"gae_{name}_adv_whitened"), **CLOSE)


@pytest.mark.parametrize("theirs", AGGREGATIONS)
def test_aggregation_of_losses(reference, theirs):
    """Their ``agg_loss`` figures are of the log-probabilities; ``token-sum`` is the token mean times 60 tokens."""
    value = weighted_sum(reference.flat("logprob"), reference.weights(theirs))
    assert float(value) == pytest.approx(reference.scalars[f"agg_loss/{theirs}"], rel=1e-6)


@pytest.mark.parametrize("theirs", AGGREGATIONS)
@pytest.mark.parametrize(("name", "dual_clip"), [("clip0.2_c1e9", None), ("clip0.2_dual3", 3.0)])
def test_policy_loss_and_gradient(reference, theirs, name, dual_clip):
    current = reference.flat("logprob").requires_grad_()
    result = clipped_policy_loss(
        current_logprobs=current,
        proximal_logprobs=reference.flat("old_logprob"),
        advantages=reference.flat("gae_g1_l095_adv_whitened"),
        weights=reference.weights(theirs),
        clip_low=0.2,
        clip_high=0.2,
        dual_clip=dual_clip,
    )
    (gradient,) = torch.autograd.grad(result.loss, current)
    figures = reference.scalars[f"policy_loss/{name}/{theirs}"]
    assert float(result.loss.detach()) == pytest.approx(figures["loss"], rel=1e-6)
    assert float(result.clip_fraction) == pytest.approx(figures["clipfrac"], rel=1e-6)
    assert float(result.dual_clip_fraction) == pytest.approx(figures["clipfrac_lower"], rel=1e-6)
    torch.testing.assert_close(gradient, reference.flat(f"grad_policy_loss__{name}__{theirs}"), **CLOSE)
    backwards = kl_estimate(
        "k1", current_logprobs=reference.flat("old_logprob"), reference_logprobs=reference.flat("logprob")
    )
    assert float(backwards.mean()) == pytest.approx(figures["approx_kl_k1"], rel=1e-6)


@pytest.mark.parametrize(("name", "clip"), [("clip0.2", 0.2), ("clip1e+09", None)])
def test_value_loss_and_gradient(reference, name, clip):
    values = reference.flat("vpreds").requires_grad_()
    result = clipped_value_loss(
        values=values,
        old_values=reference.flat("values"),
        returns=reference.flat("gae_g1_l095_returns"),
        weights=reference.weights("token-mean"),
        clip=clip,
    )
    (gradient,) = torch.autograd.grad(result.loss, values)
    figures = reference.scalars[f"value_loss/{name}/token-mean"]
    assert float(result.loss.detach()) == pytest.approx(figures["loss"], rel=1e-6)
    assert float(result.clip_fraction) == pytest.approx(figures["clipfrac"], rel=1e-6)
    torch.testing.assert_close(gradient, reference.flat(f"grad_value_loss__{name}"), **CLOSE)


@pytest.mark.parametrize("name", ["k1", "k2", "k3"])
def test_divergences(reference, name):
    current = reference.flat("logprob").requires_grad_()
    ours = kl_estimate(name, current_logprobs=current, reference_logprobs=reference.flat("ref_logprob"))
    theirs = reference.flat(f"kl_{name}_token")
    torch.testing.assert_close(ours.detach().clamp(max=10.0) if name == "k3" else ours.detach(), theirs, **CLOSE)
    assert float(ours.detach().mean()) == pytest.approx(reference.scalars[f"kl/{name}/masked_mean"], rel=1e-6)
    if name == "k3":
        (gradient,) = torch.autograd.grad(ours.mean(), current)
        torch.testing.assert_close(gradient, reference.flat("grad_kl_k3_masked_mean"), **CLOSE)


def test_rewards_with_the_kl_penalty(reference):
    divergence = kl_estimate(
        "k1", current_logprobs=reference.flat("old_logprob"), reference_logprobs=reference.flat("ref_logprob")
    )
    ours = with_penalty(reference.flat("token_level_rewards"), divergence=divergence, coefficient=0.05)
    torch.testing.assert_close(ours, reference.flat("compute_rewards_kl"), **CLOSE)


@pytest.mark.parametrize(
    ("theirs", "baseline"), [("grpo_adv_std", "grpo"), ("grpo_adv_nostd", "mean"), ("rloo_adv", "leave_one_out")]
)
def test_group_baselines(reference, theirs, baseline):
    rewards, groups = reference.inputs["outcome_scores"], reference.inputs["group_index"].long()
    advantages = group_advantages(baseline, rewards=rewards, groups=groups, members=rewards, member_groups=groups)
    spread = spread_with_penalty(
        advantages=advantages,
        penalties=torch.zeros(int(reference.lengths.sum()), dtype=torch.float64),
        lengths=reference.lengths,
    )
    torch.testing.assert_close(spread, reference.flat(theirs), **CLOSE)


def test_entropy(reference):
    logits = reference.inputs["logits"][reference.mask]
    identity = torch.eye(logits.shape[-1], dtype=torch.float64)
    ours = token_logprobs(logits, identity, torch.zeros(len(logits), dtype=torch.int64)).entropy
    torch.testing.assert_close(ours, reference.flat("entropy_token"), **CLOSE)
    assert float(ours.mean()) == pytest.approx(reference.scalars["entropy_loss/token-mean"], rel=1e-6)


def test_adaptive_coefficient(reference):
    figures = reference.scalars["adaptive_kl_controller"]
    adaptive = AdaptiveKLConfig(target=figures["target"], horizon=figures["horizon"])
    config = KLConfig(coefficient=figures["init"], adaptive=adaptive)
    beta = figures["init"]
    for divergence, expected in zip(figures["kls"], figures["values"], strict=True):
        beta = next_coefficient(config, beta, float(divergence), num_samples=figures["n_steps"])
        assert beta == pytest.approx(expected, rel=1e-12)
