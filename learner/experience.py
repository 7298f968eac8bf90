# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""What one learner step studies: trajectories checked, filtered, and laid out as flat streams of trained tokens.

B trajectories, C trained tokens of all of them in the flat layout of ``learner.ragged``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from learner.config import PPOConfig
from learner.errors import GroupTooSmallError, NonFiniteLogprobError
from learner.packing import TokenSequence, as_sequence, check_length, check_tokens
from learner.rewards import event_rewards, finite_events, overlong_penalty, raw_reward
from learner.selection import identity_keys, select
from learner.trajectory import FinishReason, RewardEvent, Trajectory
from problems.identity import TrajectoryId

MAX_LOGPROB = 1e-3  # rounding may lift a log-probability of certainty a little above 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one trajectory.

    Attributes:
        id: which.
        kept: trained or not.
        drop_reason: ``filter:<kind>``, ``aborted``, ``cut_by_length``, ``group_of_one``, ``uniform_group``,
            ``mismatch``, or the reason it came with.
    """

    id: TrajectoryId
    kept: bool
    drop_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One usable trajectory, checked.

    Attributes:
        trajectory: as it came.
        group: index of its group among those of the step.
        sequence: its tokens.
        behaviour_logprobs: float32, of its trained tokens.
        rewards: float64, events placed on its trained tokens.
        reward: their sum: what the filter ranks by.
    """

    trajectory: Trajectory
    group: int
    sequence: TokenSequence
    behaviour_logprobs: np.ndarray
    rewards: np.ndarray
    reward: float


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step was given, and what it does with it.

    Attributes:
        given: all trajectories, group after group.
        usable: samples of those that passed the checks.
        kept: those that the policy trains on.
        also_studied: those that only the critic sees.
        dropped: why the others are not trained.
    """

    given: tuple[Trajectory, ...]
    usable: tuple[Sample, ...]
    kept: tuple[Sample, ...]
    also_studied: tuple[Sample, ...]
    dropped: Mapping[TrajectoryId, str]

    def outcomes(self) -> tuple[Outcome, ...]:
        """What became of each trajectory, in the order given."""
        return tuple(
            Outcome(t.id, kept=t.id not in self.dropped, drop_reason=self.dropped.get(t.id)) for t in self.given
        )


@dataclass(frozen=True, slots=True)
class Experience:
    """Samples as flat streams.

    Attributes:
        sequences: tokens of each.
        lengths: [B], trained tokens of each.
        groups: [B], index of the group.
        total_rewards: [B], sums of events.
        behaviour_logprobs: [C].
        rewards: [C], events placed on tokens; no KL term yet.
    """

    sequences: tuple[TokenSequence, ...]
    lengths: Int[Tensor, " B"]
    groups: Int[Tensor, " B"]
    total_rewards: Float[Tensor, " B"]
    behaviour_logprobs: Float[Tensor, " C"]
    rewards: Float[Tensor, " C"]

    @property
    def num_tokens(self) -> int:
        return sum(sequence.num_tokens for sequence in self.sequences)


def admit(
    groups: Sequence[Sequence[Trajectory]], config: PPOConfig, vocab_size: int
) -> tuple[list[list[Sample]], list[Sample], dict[TrajectoryId, str]]:
    """Checks every trajectory; returns the usable ones by group, those of uniform groups, which the policy does not
    train on, and why neither these nor the others are trained.

    Raises a TrajectoryError for one that can't be trained and should never have come this far.
    """
    admitted: list[list[Sample]] = []
    uniform: list[Sample] = []
    dropped: dict[TrajectoryId, str] = {}
    for index, group in enumerate(groups):
        _check_group(group, config)
        usable: list[Sample] = []
        for trajectory in group:
            reason = _unusable(trajectory, config.cut_by_length)
            if reason is None:
                usable.append(_sample(trajectory, index, config, vocab_size))
            else:
                dropped[trajectory.id] = reason
        if len(usable) == 1 and _compares(config):
            dropped[usable.pop().trajectory.id] = "group_of_one"  # its fellows were dropped before
        if config.drop_uniform_groups and _is_uniform(usable):
            dropped |= {sample.trajectory.id: "uniform_group" for sample in usable}
            uniform += usable
        else:
            admitted.append(usable)
    return admitted, uniform, dropped


def _is_uniform(group: Sequence[Sample]) -> bool:
    """Whether what the reward terms say is the same for all of several: a penalty for length tells none apart."""
    return len(group) > 1 and len({raw_reward(sample.trajectory.events) for sample in group}) == 1


def admit_ungrouped(trajectories: Sequence[Trajectory], config: PPOConfig, vocab_size: int) -> list[Sample]:
    """The usable ones of trajectories that are not compared with each other, checked."""
    usable = [trajectory for trajectory in trajectories if _unusable(trajectory, config.cut_by_length) is None]
    return [_sample(trajectory, index, config, vocab_size) for index, trajectory in enumerate(usable)]


def apply_filter(groups: Sequence[Sequence[Sample]], config: PPOConfig) -> tuple[list[Sample], list[Sample]]:
    """Splits each group into the samples that are trained and those that are not; (kept, dropped) of all groups."""
    kept: list[Sample] = []
    dropped: list[Sample] = []
    for group in groups:
        if not group:
            continue
        ids = [sample.trajectory.id for sample in group]
        chosen = set(
            select(
                config.filter,
                rewards=np.array([sample.reward for sample in group]),
                tie_keys=identity_keys("filter-tie", config.seed, ids),
                draw_keys=identity_keys("filter-draw", config.seed, ids),
            )
        )
        for index, sample in enumerate(group):
            (kept if index in chosen else dropped).append(sample)
    return kept, dropped


def lay_out(samples: Sequence[Sample]) -> Experience:
    """Flat streams of some samples, in their order."""
    empty = [np.zeros(0, dtype=np.float32)]
    return Experience(
        sequences=tuple(sample.sequence for sample in samples),
        lengths=torch.tensor([len(sample.rewards) for sample in samples], dtype=torch.int64),
        groups=torch.tensor([sample.group for sample in samples], dtype=torch.int64),
        total_rewards=torch.tensor([sample.reward for sample in samples], dtype=torch.float32),
        behaviour_logprobs=torch.from_numpy(np.concatenate([s.behaviour_logprobs for s in samples] or empty)),
        rewards=torch.from_numpy(np.concatenate([s.rewards for s in samples] or empty).astype(np.float32)),
    )


def _compares(config: PPOConfig) -> bool:
    """Whether members of a group are compared with each other."""
    by_advantage = config.advantage.kind == "group" and config.advantage.baseline != "none"
    return by_advantage or config.filter.kind in ("br", "bw")


def _check_group(group: Sequence[Trajectory], config: PPOConfig) -> None:
    if not group:
        raise ValueError("a group without trajectories")
    first = group[0]
    if len(group) == 1 and _compares(config):
        raise GroupTooSmallError(
            str(first.id), "a group of one, where samples of a prompt are compared with each other"
        )
    for trajectory in group:
        if (trajectory.group, trajectory.id.problem_id) != (first.group, first.id.problem_id):
            raise ValueError(
                f"trajectory {trajectory.id} of group {trajectory.group} came in a group with {first.id} "
                f"of group {first.group}"
            )


def _unusable(trajectory: Trajectory, cut_by_length: str) -> str | None:
    if trajectory.drop_reason is not None or trajectory.kept is False:
        return trajectory.drop_reason or "dropped"
    reasons = [turn.finish_reason for turn in trajectory.turns]
    if FinishReason.ABORTED in reasons:
        return "aborted"
    if reasons[-1] is FinishReason.LENGTH and cut_by_length == "drop":
        return "cut_by_length"
    return None


def _sample(trajectory: Trajectory, group: int, config: PPOConfig, vocab_size: int) -> Sample:
    sequence = as_sequence(trajectory)
    check_length(sequence, config.max_trajectory_tokens)
    check_tokens(sequence, vocab_size)
    logprobs = np.concatenate([turn.behaviour_logprobs[turn.loss_mask] for turn in trajectory.turns])
    wrong = ~np.isfinite(logprobs) | (logprobs > MAX_LOGPROB)
    if wrong.any():
        place = int(wrong.argmax())
        raise NonFiniteLogprobError(
            sequence.name, f"behaviour log-probability {logprobs[place]} at trained token {place} of {len(logprobs)}"
        )
    events = finite_events(trajectory)
    if config.overlong is not None:
        limits = config.overlong.model_dump()
        events += (RewardEvent("overlong", overlong_penalty(trajectory.num_completion_tokens, **limits)),)
    return Sample(
        trajectory, group, sequence, logprobs.astype(np.float32), event_rewards(trajectory, events), raw_reward(events)
    )
