"""Batch geometry of a ppo stage: prompts x samples -> kept -> micro-batches -> optimizer steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cluster.stage_config import PPOStage
from learner.config import GAE
from learner.filter_config import BestOfN, BestRandom, BestWorst, PowerK, RandomK, Threshold


@dataclass(frozen=True, slots=True)
class Geometry:
    """One learner step of a stage, and the stage.

    Attributes:
        trajectories: prompts x samples.
        kept_least, kept_most: what the filter leaves; a threshold decides by reward, so that both differ.
        optimizer_steps: of the policy, all epochs, at ``kept_most``.
        minibatch: trajectories of the largest mini-batch.
        rows_most: packed rows (micro-batches) of a mini-batch, if every trajectory is as long as it may be.
        trajectory_tokens: prompt and completion at their limits.
        in_flight: groups that may be sampled at once, by the staleness bound.
        rollouts: trajectories of the whole stage, the critic's warm-up included.
    """

    prompts: int
    samples: int
    kept_least: int
    kept_most: int
    optimizer_steps: int
    minibatch: int
    rows_most: int
    trajectory_tokens: int
    in_flight: int
    rollouts: int

    @property
    def trajectories(self) -> int:
        return self.prompts * self.samples


def geometry_of(stage: PPOStage) -> Geometry:
    """Counts; nothing is measured."""
    learner = stage.learner
    least, most = _kept_of_group(stage)
    kept = stage.prompts_per_step * most
    per_epoch = max(1, math.ceil(kept / learner.minibatch_trajectories))
    minibatch = math.ceil(kept / per_epoch)
    tokens = stage.sampling.max_prompt_tokens + stage.sampling.max_new_tokens
    tokens = min(tokens, learner.max_trajectory_tokens)
    warmup = stage.warmup_groups * stage.warmup_samples_per_prompt if isinstance(learner.advantage, GAE) else 0
    return Geometry(
        prompts=stage.prompts_per_step,
        samples=stage.samples_per_prompt,
        kept_least=stage.prompts_per_step * least,
        kept_most=kept,
        optimizer_steps=per_epoch * learner.epochs,
        minibatch=minibatch,
        rows_most=math.ceil(minibatch / max(learner.row_tokens // tokens, 1)),
        trajectory_tokens=tokens,
        in_flight=(stage.max_staleness + 1) * stage.prompts_per_step,
        rollouts=learner.num_steps * stage.prompts_per_step * stage.samples_per_prompt + warmup,
    )


def _kept_of_group(stage: PPOStage) -> tuple[int, int]:
    """Fewest and most samples of one group that the filter keeps."""
    samples = stage.samples_per_prompt
    match stage.learner.filter:
        case Threshold():
            return 0, samples
        case BestOfN():
            kept = 1
        case BestRandom() | BestWorst():
            kept = 2
        case RandomK(k=count) | PowerK(count=count):
            kept = count
        case _:
            kept = samples
    return min(kept, samples), min(kept, samples)


def warnings_of(stage: PPOStage, max_model_len: int) -> list[str]:
    """Settings that are allowed, and may end the stage when a long prompt or completion comes, or do nothing."""
    sampling = stage.sampling
    longest = sampling.max_prompt_tokens + sampling.max_new_tokens
    found: list[str] = []
    if longest > max_model_len:
        found.append(
            f"sampling.max_prompt_tokens + max_new_tokens is {longest}, generators.engine.max_model_len "
            f"{max_model_len}: the engine refuses prompts of more than {max_model_len - sampling.max_new_tokens} tokens"
        )
    if longest > stage.learner.max_trajectory_tokens:
        found.append(
            f"sampling.max_prompt_tokens + max_new_tokens is {longest}, learner.max_trajectory_tokens "
            f"{stage.learner.max_trajectory_tokens}: the learner refuses longer trajectories"
        )
    kl = stage.learner.kl
    if kl.coefficient and (kl.place, kl.estimator) == ("loss", "k1"):
        found.append("learner.kl: the gradient of k1 as a loss has mean zero, so that it anchors nothing; k2 and k3 do")
    return found
