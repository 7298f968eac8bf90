"""Figures of a learner step under the names of docs/metrics.md."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from learner.advantages import returns_to_go
from learner.experience import Batch, Experience
from learner.explained_variance import explained_variance
from learner.signals import Anchor, Signals
from learner.trajectory import FinishReason


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

    def seconds(self, name: str) -> float:
        """Of a part; 0 if it did not happen."""
        return self._seconds.get(name, 0.0)

    def metrics(self) -> dict[str, float]:
        parts = {f"learner/time_{name}_s": seconds for name, seconds in self._seconds.items()}
        return {**parts, "learner/time_step_s": time.perf_counter() - self._begin}


@dataclass(frozen=True, slots=True)
class Passed:
    """What went through a model's updates, all epochs and all ranks.

    Attributes:
        tokens: forward and backward, prompts included.
        flops: of those passes, as ``learner.flops`` counts.
    """

    tokens: int
    flops: float


def speed_metrics(times: PartTimes, passed: Mapping[str, Passed], peak: float | None) -> dict[str, float]:
    """Tokens a second of each model's updates, and the share of the peak where it is known.

    Args:
        times: parts under the models' names.
        passed: by the models' names.
        peak: operations a second, of all ranks together.
    """
    figures: dict[str, float] = {}
    for name, work in passed.items():
        seconds = times.seconds(name)
        if work.tokens and seconds:
            figures[f"learner/tokens_per_s_{name}"] = work.tokens / seconds
            if peak is not None:
                figures[f"learner/mfu_{name}"] = work.flops / seconds / peak
    return figures


def signal_metrics(
    trained: Experience, studied: Experience, signals: Signals, anchor: Anchor, gamma: float, *, studied_all: bool
) -> dict[str, float]:
    """What reference and critic said before the update. The trained tokens are the first of the studied ones.

    ``gamma``: discount per token of the returns that the values are compared with. ``studied_all``: whether the studied
    ones are all that could be.
    """
    kept = len(trained.rewards)
    metrics = {"policy/kl_reference": float(signals.divergence[:kept].mean())}
    if anchor.importance is not None:
        metrics["policy/importance_mean"] = float(anchor.importance.mean())
    if signals.values is not None:
        values = signals.values
        returns = returns_to_go(rewards=signals.rewards, lengths=studied.lengths, gamma=gamma)
        metrics["critic/explained_variance_kept"] = float(
            explained_variance(values=values[:kept], returns=returns[:kept])
        )
        if studied_all:
            metrics["critic/explained_variance_all"] = float(explained_variance(values=values, returns=returns))
    return metrics


def batch_metrics(batch: Batch, policy_tokens: int, critic_tokens: int) -> dict[str, float]:
    """What came in and what was trained."""
    given_tokens = sum(t.num_completion_tokens + sum(len(turn.prompt_ids) for turn in t.turns) for t in batch.given)
    figures = {
        "learner/samples_given": float(len(batch.given)),
        "learner/samples_trained": float(len(batch.kept)),
        "learner/tokens_given": float(given_tokens),
        "learner/tokens_policy": float(policy_tokens),
        "learner/tokens_critic": float(critic_tokens),
    }
    if batch.usable:
        rewards = [sample.reward for sample in batch.usable]
        cut = [sample.trajectory.turns[-1].finish_reason is FinishReason.LENGTH for sample in batch.usable]
        figures |= {
            "reward/mean": float(np.mean(rewards)),
            "reward/std": float(np.std(rewards)),
            "reward/cut_by_length_fraction": float(np.mean(cut)),
            "reward/completion_tokens": float(np.mean([len(sample.rewards) for sample in batch.usable])),
        }
    if batch.kept:
        figures["reward/kept_mean"] = float(np.mean([sample.reward for sample in batch.kept]))
    return figures
