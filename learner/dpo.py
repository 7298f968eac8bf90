# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Direct preference optimisation of a policy on pairs of answers: PF-PPO's baseline without a reward model.

    pairs  --reference pass-->  log pi_ref of each answer  --learner.scalar_training-->  a policy that prefers the good

Both answers of a pair stand in one row. The reference is the policy as it was: passed once, before the first step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from learner.packing import PackedRow, TokenSequence
from learner.parallel import SINGLE, Ranks
from learner.placement import compute_device, settle
from learner.policy import Policy, check_packed_path
from learner.preference_loss import dpo_loss
from learner.preferences import PreferencePair
from learner.ragged import sum_by_trajectory
from learner.reward_model import answer_example
from learner.scalar_config import DPOConfig
from learner.scalar_training import Saving, ScalarProgress, ScalarTrainer
from learner.signals import logprobs_of


class DPOFigures(NamedTuple):
    """A policy on pairs, seen or unseen.

    Attributes:
        accuracy: share where the policy's own reward (learner.preference_loss) prefers the better answer; ties half.
        loss: mean DPO loss, nats; ln 2 is the reference's.
        chosen_drift: mean log pi - log pi_ref of the better answers, nats an answer. Below 0 the policy forgets them
            too, only the worse ones faster, as DPO is known to do.
        rejected_drift: likewise of the worse.
        num_pairs: how many.
    """

    accuracy: float
    loss: float
    chosen_drift: float
    rejected_drift: float
    num_pairs: int


class _Logprobs(nn.Module):
    """A policy as ``ScalarTrainer`` wants it: one number for each trained token of a row."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, row: PackedRow) -> Float[Tensor, " C"]:
        return self.policy(row).logprobs


def train_dpo(
    model: PreTrainedModel,
    config: DPOConfig,
    pairs: Sequence[PreferencePair],
    *,
    progress: Callable[[ScalarProgress], None] | None = None,
    ranks: Ranks = SINGLE,
    saving: Saving | None = None,
) -> ScalarProgress:
    """Trains a causal LM in place. Raises ValueError (no pairs), TooLongError, NonFiniteGradientError."""
    settle(model, compute_device(config.compute.device))
    policy = Policy(model, temperature=config.temperature, compute=config.compute)
    check_packed_path(policy)
    reference = pair_logprobs(policy, pairs, row_tokens=config.row_tokens, ranks=ranks)

    def objective(logprobs: Tensor, row: PackedRow, members: Sequence[int]) -> Tensor:
        chosen, rejected = sum_by_trajectory(logprobs, row.trained_lengths).reshape(len(members), 2).unbind(1)
        before = reference[list(members)]
        return dpo_loss(
            chosen_logprobs=chosen,
            rejected_logprobs=rejected,
            chosen_reference_logprobs=before[:, 0],
            rejected_reference_logprobs=before[:, 1],
            beta=config.beta,
        ).sum()

    examples = [answer_example(pair.chosen) + answer_example(pair.rejected) for pair in pairs]
    return ScalarTrainer(_Logprobs(policy), config, examples, objective, ranks, saving).train(progress)


def pair_logprobs(
    policy: Policy, pairs: Sequence[PreferencePair], *, row_tokens: int, ranks: Ranks = SINGLE
) -> Float[Tensor, "P 2"]:
    """Log-probability of each pair's better and worse answer as a whole, nats."""
    sequences: list[TokenSequence] = [
        answer_example(answer)[0] for pair in pairs for answer in (pair.chosen, pair.rejected)
    ]
    lengths = torch.tensor([sequence.num_trained for sequence in sequences], dtype=torch.int64)
    return sum_by_trajectory(logprobs_of(policy, sequences, row_tokens, ranks), lengths).reshape(-1, 2)


def judge_dpo(
    policy: PreTrainedModel, reference: PreTrainedModel, config: DPOConfig, pairs: Sequence[PreferencePair]
) -> DPOFigures:
    """Figures of a trained policy against the one that it began as. Raises ValueError without pairs."""
    if not pairs:
        raise ValueError("no pairs to judge a policy by")
    for model in (policy, reference):
        settle(model, compute_device(config.compute.device))
    now, before = (
        pair_logprobs(
            Policy(model, temperature=config.temperature, compute=config.compute), pairs, row_tokens=config.row_tokens
        )
        for model in (policy, reference)
    )
    drift = now - before
    difference = drift[:, 0] - drift[:, 1]
    losses = dpo_loss(
        chosen_logprobs=now[:, 0], rejected_logprobs=now[:, 1], chosen_reference_logprobs=before[:, 0],
        rejected_reference_logprobs=before[:, 1], beta=config.beta,
    )  # fmt: skip
    right = (difference > 0).double() + 0.5 * (difference == 0).double()
    return DPOFigures(
        accuracy=float(right.mean()),
        loss=float(losses.mean()),
        chosen_drift=float(drift[:, 0].mean()),
        rejected_drift=float(drift[:, 1].mean()),
        num_pairs=len(pairs),
    )
