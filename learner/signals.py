"""What policies and critic say of a step's tokens before anything is updated, and the advantages that follow.

B trajectories, C trained tokens in the flat layout. The *studied* trajectories are the trained ones, followed by those
that only the critic sees.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from learner import kl
from learner.advantages import generalised_advantages, group_advantages, spread_with_penalty
from learner.config import GAE, AdvantageEstimator, GroupBaseline, PPOConfig
from learner.critic import values_of
from learner.errors import NonFiniteLogprobError, NonFiniteValueError, TrajectoryError
from learner.experience import Experience, Sample, lay_out
from learner.lora import AdapterOff
from learner.mismatch import matching_trajectories, truncated_importance
from learner.normalise import RunningMoments
from learner.packing import TokenSequence
from learner.parallel import SINGLE, Ranks, reshard
from learner.policy import Policy
from learner.ragged import owner, places
from learner.rewards import with_penalty
from learner.scalar_head import ScalarHeadModel
from learner.whitening import whiten


@dataclass(frozen=True, slots=True)
class Signals:
    """Of the studied tokens, all [C].

    Attributes:
        reference_logprobs: zeros where no reference is held.
        divergence: KL estimate of behaviour from reference.
        values: None without a critic.
        rewards: per token, KL penalty included where it is a reward.
        penalties: the KL part of them.
    """

    reference_logprobs: Float[Tensor, " C"]
    divergence: Float[Tensor, " C"]
    values: Float[Tensor, " C"] | None
    rewards: Float[Tensor, " C"]
    penalties: Float[Tensor, " C"]


@dataclass(frozen=True, slots=True)
class Anchor:
    """Around which policy the trained tokens' ratio is clipped, all [C].

    Attributes:
        logprobs: of the proximal policy: the recorded ones, or the trainer's own under a correction.
        importance: proximal over behaviour probability, truncated; None without a correction.
    """

    logprobs: Float[Tensor, " C"]
    importance: Float[Tensor, " C"] | None


@torch.no_grad()
def logprobs_of(
    policy: Policy | AdapterOff, sequences: Sequence[TokenSequence], row_tokens: int, ranks: Ranks = SINGLE
) -> Float[Tensor, " C"]:
    """Log-probabilities of all trained tokens, in the flat layout."""
    logprobs = torch.zeros(sum(sequence.num_trained for sequence in sequences))
    for row, counts in ranks.rows(sequences, row_tokens):
        logprobs[row.flat] += policy(row).logprobs.float() * counts
    reshard(policy.policy if isinstance(policy, AdapterOff) else policy)
    return ranks.total(logprobs)


def anchor_of(
    kept: Sequence[Sample], policy: Policy, config: PPOConfig, ranks: Ranks = SINGLE
) -> tuple[list[Sample], list[tuple[Sample, str]], Anchor]:
    """Splits off the samples that another policy wrote.

    Returns:
        (those that are trained, the others with the reason why not, anchor of the trained ones).
    """
    trained, correction = lay_out(kept), config.correction
    if correction is None:
        return list(kept), [], Anchor(trained.behaviour_logprobs, None)
    logprobs = logprobs_of(policy, trained.sequences, config.row_tokens, ranks)
    _check_finite(logprobs, trained, NonFiniteLogprobError, "proximal log-probability")  # NaN would pass for a mismatch
    matching = matching_trajectories(
        proximal_logprobs=logprobs,
        behaviour_logprobs=trained.behaviour_logprobs,
        lengths=trained.lengths,
        low=correction.mask_low,
        high=math.inf if correction.mask_high is None else correction.mask_high,
    )
    importance = truncated_importance(
        correction.level,
        proximal_logprobs=logprobs,
        behaviour_logprobs=trained.behaviour_logprobs,
        lengths=trained.lengths,
        cap=correction.cap,
    )
    reasons = _reasons(trained, matching, config.advantage)
    tokens = places(trained.lengths, torch.tensor([i for i, reason in enumerate(reasons) if reason is None]).long())
    decided = list(zip(kept, reasons, strict=True))
    return (
        [sample for sample, reason in decided if reason is None],
        [(sample, reason) for sample, reason in decided if reason is not None],
        Anchor(logprobs[tokens], importance[tokens]),
    )


def _reasons(trained: Experience, matching: Tensor, advantage: AdvantageEstimator) -> list[str | None]:
    """Why each trajectory is not trained; None: it is. Where the kept ones are compared with each other, one whose
    fellows are all masked has nobody left."""
    reasons = [None if matches else "mismatch" for matches in matching.tolist()]
    if not isinstance(advantage, GroupBaseline) or advantage.over == "generated" or advantage.baseline == "none":
        return reasons
    groups = trained.groups.tolist()
    left = Counter(group for group, reason in zip(groups, reasons, strict=True) if reason is None)
    return [
        "group_of_one" if reason is None and left[group] == 1 else reason
        for group, reason in zip(groups, reasons, strict=True)
    ]


def normalised(experience: Experience, moments: RunningMoments, config: PPOConfig) -> Experience:
    """Rewards in units of their running standard deviation, where the config says so.

    ``standardise`` subtracts the running mean at each trajectory's last token: its total is shifted once.
    """
    how = config.reward_normalisation
    if how == "none":
        return experience
    rewards, totals = experience.rewards.clone(), experience.total_rewards
    if how == "standardise":
        rewards[experience.lengths.cumsum(0) - 1] -= moments.mean
        totals = totals - moments.mean
    return replace(experience, rewards=rewards / moments.std, total_rewards=totals / moments.std)


def score(
    studied: Experience,
    *,
    reference: Policy | AdapterOff | None,
    critic: ScalarHeadModel | None,
    kl_coefficient: float,
    config: PPOConfig,
    ranks: Ranks = SINGLE,
) -> Signals:
    """Reference and critic pass over the studied tokens. Raises NonFiniteLogprobError, NonFiniteValueError."""
    logprobs = torch.zeros_like(studied.behaviour_logprobs)
    divergence = torch.zeros_like(logprobs)
    if reference is not None:
        logprobs = logprobs_of(reference, studied.sequences, config.row_tokens, ranks)
        _check_finite(logprobs, studied, NonFiniteLogprobError, "reference log-probability")
        divergence = kl.kl_estimate(
            config.kl.estimator, current_logprobs=studied.behaviour_logprobs, reference_logprobs=logprobs
        )
    coefficient = kl_coefficient if config.kl.place == "reward" else 0.0
    rewards = with_penalty(studied.rewards, divergence=divergence, coefficient=coefficient)
    values = None
    if critic is not None:
        values = values_of(critic, studied.sequences, config.row_tokens, ranks)
        _check_finite(values, studied, NonFiniteValueError, "value")
    return Signals(logprobs, divergence, values, rewards, penalties=rewards - studied.rewards)


def _check_finite(numbers: Tensor, studied: Experience, error: type[TrajectoryError], what: str) -> None:
    """Whitening would spread one token's NaN over all: here it still has a name."""
    wrong = (~numbers.isfinite()).nonzero()
    if len(wrong):
        place = int(wrong[0])
        index = int(owner(studied.lengths)[place])
        within = place - int(studied.lengths[:index].sum())
        raise error(
            studied.sequences[index].name,
            f"{what} {float(numbers[place])} at trained token {within} of {int(studied.lengths[index])}",
        )


def critic_targets(studied: Experience, signals: Signals, config: PPOConfig) -> Tensor | None:
    """What the critic regresses on; None without one."""
    if signals.values is None or not isinstance(config.advantage, GAE):
        return None
    return generalised_advantages(
        rewards=signals.rewards,
        values=signals.values,
        lengths=studied.lengths,
        gamma=config.advantage.gamma,
        lam=config.advantage.critic.target_lambda,
    ).returns


def advantages_of(trained: Experience, members: Experience, signals: Signals, config: PPOConfig) -> Tensor:
    """Advantages of the trained tokens; whitened, where they are, over them and no others.

    Args:
        trained: the first of the studied trajectories.
        members: all that were generated, for group baselines.
        signals: of the studied tokens.
        config: of the stage.
    """
    num_tokens = len(trained.rewards)
    if isinstance(config.advantage, GAE):
        assert signals.values is not None
        advantages = generalised_advantages(
            rewards=signals.rewards[:num_tokens],
            values=signals.values[:num_tokens],
            lengths=trained.lengths,
            gamma=config.advantage.gamma,
            lam=config.advantage.lam,
        ).advantages
    else:
        advantages = _from_groups(trained, members, signals.penalties[:num_tokens], config.advantage)
    return whiten(advantages) if config.whitens else advantages


def _from_groups(trained: Experience, members: Experience, penalties: Tensor, estimator: GroupBaseline) -> Tensor:
    compared = trained if estimator.over == "kept" else members
    advantages = group_advantages(
        estimator.baseline,
        rewards=trained.total_rewards,
        groups=trained.groups,
        members=compared.total_rewards,
        member_groups=compared.groups,
    )
    return spread_with_penalty(advantages=advantages, penalties=penalties, lengths=trained.lengths)
