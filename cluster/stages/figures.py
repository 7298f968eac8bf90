"""Figures of one ppo step: what was sampled and executed, who waited for what, and what the panel shows of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any

from actors.generator import GeneratorStats
from cluster.controller import StepInput, Waits
from cluster.executor_pool import ExecutorStats
from cluster.journal import JournalEntry
from learner.trajectory import FinishReason

# Panel label -> metric name and format.
_SHOWN = {
    "pass rate": ("rollout/pass_rate", "{:.3f}"),
    "reward": ("rollout/reward", "{:+.3f}"),
    "KL": ("policy/kl_reference", "{:.4f}"),
    "entropy": ("policy/entropy", "{:.3f}"),
    "expl. var.": ("critic/explained_variance_kept", "{:.3f}"),
    "tokens/s": ("rollout/tokens_per_s", "{:.0f}"),
    "executions/s": ("rollout/executions_per_s", "{:.0f}"),
    "clip frac.": ("policy/clip_fraction", "{:.3f}"),
}


def rollout_figures(step_input: StepInput, executors: ExecutorStats) -> dict[str, float]:
    """Figures of the trajectories that one step was offered. Rates are over the step's wall time, and with the times
    left out of a step that has not come to its end."""
    entries = [entry for group in step_input.sampled for entry in group.entries]
    trajectories = [entry.trajectory for entry in entries]
    count = max(len(trajectories), 1)
    replaced = [trajectory for trajectory in trajectories if trajectory.drop_reason == "replaced"]
    tokens = sum(trajectory.num_completion_tokens for trajectory in trajectories)
    waits = step_input.waits
    judged = sum(entry.is_right is not None for entry in entries)
    cut = sum(trajectory.turns[-1].finish_reason is FinishReason.LENGTH for trajectory in trajectories)
    executed = sum(entry.outcome not in {"", "cut"} for entry in entries)
    suspect = sum(bool(entry.signs) for entry in entries)
    return {
        "rollout/pass_rate": sum(bool(trajectory.passed) for trajectory in trajectories) / max(judged, 1),
        "rollout/judged_fraction": judged / count,
        "rollout/reward": sum(trajectory.reward for trajectory in trajectories) / count,
        "rollout/completion_tokens": tokens / count,
        "rollout/cut_fraction": cut / count,
        "rollout/suspect_fraction": suspect / count,
        "rollout/dropped": float(sum(trajectory.drop_reason not in {None, "replaced"} for trajectory in trajectories)),
        "rollout/replaced_groups": float(sum(len(group.replaced) for group in step_input.groups)),
        "rollout/replaced_tokens_fraction": sum(t.num_completion_tokens for t in replaced) / max(tokens, 1),
        "rollout/staleness": _mean_staleness(step_input),
        "executor/executed_total": float(executors.executed),
        "executor/cached_total": float(executors.cached),
        "executor/retried_total": float(executors.retried),
        **event_shares([entry for group in step_input.groups for entry in group.entries]),
        **(_timed(waits, tokens, executed) if waits.wall_s else {}),
    }


def _timed(waits: Waits, tokens: int, executed: int) -> dict[str, float]:
    return {
        "rollout/tokens_per_s": tokens / waits.wall_s,
        "rollout/executions_per_s": executed / waits.wall_s,
        "time/wait_groups_s": waits.for_groups_s,
        "time/train_s": waits.training_s,
        "time/push_s": waits.pushing_s,
        "time/step_s": waits.wall_s,
    }


def event_shares(entries: Sequence[JournalEntry]) -> dict[str, float]:
    """Share of the trajectories with each kind of event that has a name of two parts.

    ``compiler.type_mismatch`` is counted as ``compiler/type_mismatch``; of what a term compares, ``comparison/mean``
    and ``comparison/spread`` say how much it came to.
    """
    count = max(len(entries), 1)
    named = Counter(name for entry in entries for name in {event.term for event in entry.trajectory.events})
    figures = {name.replace(".", "/", 1): number / count for name, number in named.items() if "." in name}
    for term in ("comparison", "judge"):
        values = [e.value for entry in entries for e in entry.trajectory.events if e.term == f"{term}.compared"]
        if values:
            figures |= {f"{term}/mean": fmean(values), f"{term}/spread": pstdev(values)}
    return figures


def _mean_staleness(step_input: StepInput) -> float:
    """Versions between the oldest token's weights and those that the step started from; mean over trajectories.

    One without a token (a stop string came first) was sampled by no weights.
    """
    trajectories = [entry.trajectory for group in step_input.groups for entry in group.entries]
    lags = [
        step_input.step - trajectory.oldest_version.step
        for trajectory in trajectories
        if trajectory.num_completion_tokens
    ]
    return sum(lags) / max(len(lags), 1)


def shares_of(waits: Waits, generators: Sequence[GeneratorStats]) -> dict[str, dict[str, float]]:
    """Busy, starved and blocked shares: of the trainer in this step, of all generators since their start."""
    up_s = max(sum(stats.up_s for stats in generators), 1e-9)
    busy = sum(stats.busy_s for stats in generators) / up_s
    blocked = sum(stats.paused_s for stats in generators) / up_s
    return {
        "trainer": waits.shares(),
        "generators": {"busy": busy, "starved": max(0.0, 1.0 - busy - blocked), "blocked": blocked},
    }


def shown(figures: Mapping[str, Any]) -> dict[str, str]:
    """The panel's figures."""
    return {label: form.format(figures[name]) for label, (name, form) in _SHOWN.items() if name in figures}
