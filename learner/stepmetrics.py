"""Figures of a learner step under the names of docs/metrics.md."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import numpy as np
from jaxtyping import Float
from torch import Tensor

from learner.experience import Experience, Sample
from learner.explained_variance import explained_variance
from learner.ragged import to_go
from learner.trajectory import FinishReason, Trajectory


class PartTimes:
    """Seconds spent in each part of a step."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Generator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - begin

    def metrics(self) -> dict[str, float]:
        parts = {f"learner/time_{name}_s": seconds for name, seconds in self._seconds.items()}
        return {**parts, "learner/time_step_s": time.perf_counter() - self._begin}


def signal_metrics(
    trained: Experience,
    studied: Experience,
    divergence: Float[Tensor, " C"],
    values: Float[Tensor, " C"] | None,
    rewards: Float[Tensor, " C"],
) -> dict[str, float]:
    """What reference and critic said before the update. The trained tokens are the first of the studied ones."""
    metrics = {"policy/kl_reference": float(divergence[: len(trained.rewards)].mean())}
    if values is not None:
        returns = to_go(rewards, studied.lengths)
        kept = len(trained.rewards)
        metrics["critic/explained_variance_kept"] = float(
            explained_variance(values=values[:kept], returns=returns[:kept])
        )
        if len(studied.lengths) > len(trained.lengths):
            metrics["critic/explained_variance_all"] = float(explained_variance(values=values, returns=returns))
    return metrics


def batch_metrics(
    groups: Sequence[Sequence[Trajectory]],
    kept: Sequence[Sample],
    passed_over: Sequence[Sample],
    policy_tokens: int,
    critic_tokens: int,
) -> dict[str, float]:
    """What came in and what was trained."""
    given = [trajectory for group in groups for trajectory in group]
    usable = [*kept, *passed_over]
    generated_tokens = sum(t.num_completion_tokens + sum(len(turn.prompt_ids) for turn in t.turns) for t in given)
    rewards = np.array([sample.reward for sample in usable])
    lengths = np.array([len(sample.rewards) for sample in usable])
    figures = {
        "learner/samples_given": float(len(given)),
        "learner/samples_trained": float(len(kept)),
        "learner/tokens_given": float(generated_tokens),
        "learner/tokens_policy": float(policy_tokens),
        "learner/tokens_critic": float(critic_tokens),
    }
    if usable:
        cut = [sample.trajectory.turns[-1].finish_reason is FinishReason.LENGTH for sample in usable]
        figures |= {
            "reward/mean": float(rewards.mean()),
            "reward/std": float(rewards.std()),
            "reward/kept_mean": float(np.mean([sample.reward for sample in kept])) if kept else 0.0,
            "reward/cut_by_length_fraction": float(np.mean(cut)),
            "reward/completion_tokens": float(lengths.mean()),
        }
    return figures
