"""Settings of what learns from examples of one or several answers: models with a scalar head, and DPO.

No torch here, as in ``learner.config``.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from learner.model_config import ComputeConfig, NonNegativeFloat, OptimizerConfig, PositiveFloat, Settings


class ScalarTrainingConfig(Settings):
    """How a scalar-head model is trained."""

    seed: int = Field(default=0, ge=0)
    """Order of the examples."""
    epochs: int = Field(default=1, ge=1)
    """Passes over the examples. PF-PPO trains its reward model for one."""
    batch_examples: int = Field(default=32, ge=1)
    """Examples (pairs, for a reward model) in an optimizer step."""
    optimizer: OptimizerConfig = OptimizerConfig(
        learning_rate=1e-3, head_factor=5.0, weight_decay=0.01, warmup_steps=10
    )
    """AdamW. PF-PPO at 6.7B: 1e-5."""
    compute: ComputeConfig = ComputeConfig()
    """Precision and memory."""
    row_tokens: int = Field(default=4096, ge=16)
    """Most tokens in one packed row; both members of a pair stand in the same row."""


class RewardModelConfig(ScalarTrainingConfig):
    """A Bradley-Terry reward model on pairs of answers to one prompt."""

    margin: NonNegativeFloat = 0.0
    """The better answer must score higher by this much (Llama 2, arXiv 2307.09288); 0: plain Bradley-Terry."""
    centring: NonNegativeFloat = 0.0
    """Weight of (score sum of a pair)^2, which keeps scores near zero (arXiv 2312.09244); 0: scores float freely."""


class DPOConfig(ScalarTrainingConfig):
    """Direct preference optimisation of a policy on pairs of answers; see learner.dpo."""

    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-4, warmup_steps=10)
    """AdamW for the whole policy. DPO's authors at 6B: RMSprop, 1e-6."""
    beta: PositiveFloat = 0.1
    """The larger, the nearer the policy stays to the one that it began as. DPO: 0.1."""
    temperature: PositiveFloat = 1.0
    """That the answers were sampled with: it divides the logits, of policy and reference."""


class DiscriminatorConfig(ScalarTrainingConfig):
    """RLCF's comparison model g(x, y0, y1) = tanh(s(x, y0) - s(x, y1)) on pairs of a generated program and a reference.

    What is not marked otherwise is ours: the paper gives the form of g and no more.
    """

    epochs: int = Field(default=2, ge=1)
    """Passes over the pairs."""
    loss: Literal["logistic", "squared"] = "logistic"
    """See learner.comparison_loss."""
    hidden_layer: bool = True
    """The head is an MLP of one hidden layer of the backbone's width (RLCF's), or False: a linear layer."""
    max_tokens: int = Field(default=512, ge=16)
    """Most tokens of prompt and program that are read at once; at most what the model has positions for (CodeBERT:
    512)."""
    long_programs: Literal["refuse", "window"] = "refuse"
    """A longer program is not compared, and counted; or read in windows of ``max_tokens``, each with the prompt before
    it, and its score is the mean over them. Nothing is ever cut."""
