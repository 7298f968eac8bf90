"""A learned reward in PPO: who scores, which filter its quality recommends, and signs that the policy deceives it."""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from actors.rewards import Tokens
from actors.terms import Failed
from cluster.context import RunContext
from cluster.errors import ActorError, ConfigError
from cluster.rollout import Group
from cluster.run_folder import StageFolder, write_atomically
from cluster.scorers import ScorerPool
from cluster.stage_config import FilterChoiceConfig, PPOStage, scored_by
from cluster.stages.rerank import check_reranker
from learner.config import Filter, KeepAll
from learner.filter_quality import Fit, compare_filters

_CHOICE = "filter.json"
_TERM = "reward_model"


class LearnedReward:
    """The scorers behind a stage's reward model. Made without starting anything; ``start`` before the first score."""

    def __init__(self, context: RunContext, stage: PPOStage) -> None:
        model = scored_by(stage)
        self._pool: ScorerPool | None = None
        if model is not None:
            folder = check_reranker(context, model, context.model_path(stage.policy))
            self._pool = ScorerPool(folder, context.config.scorers)

    @property
    def is_there(self) -> bool:
        """Whether the stage has a learned reward at all."""
        return self._pool is not None

    def start(self) -> None:
        if self._pool is not None:
            self._pool.start()

    async def stop(self) -> None:
        if self._pool is not None:
            await self._pool.stop()

    async def ask(self, prompt_ids: Tokens, completion_ids: Tokens) -> float | Failed:
        """The score, or why there is none: a fault of ours is never a reward."""
        assert self._pool is not None, "the stage has no reward model"
        try:
            return await self._pool.score(prompt_ids, completion_ids)
        except ActorError as error:
            return Failed(str(error))


def scores_and_truth(groups: Sequence[Group]) -> list[tuple[np.ndarray, np.ndarray]]:
    """(learned scores, passed) of each executed group's answers that have both."""
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for group in groups:
        pairs = [
            (
                sum(event.value for event in entry.trajectory.events if event.term == _TERM),
                bool(entry.trajectory.passed),
            )
            for entry in group.entries
            if entry.trajectory.passed is not None and any(e.term == _TERM for e in entry.trajectory.events)
        ]
        if len(pairs) > 1:
            scores, passed = zip(*pairs, strict=True)
            found.append((np.array(scores, np.float64), np.array(passed, np.float64)))
    return found


def choose_filter(
    folder: StageFolder, choice: FilterChoiceConfig, groups: Sequence[Group]
) -> tuple[Filter, dict[str, Any]]:
    """The candidate with the highest R^2 on ``groups``, and the figures; written down, so that a resume keeps it.

    Raises ConfigError if the scores are too alike to be compared.
    """
    try:
        fits = compare_filters(
            choice.candidates, scores_and_truth(groups), num_bins=choice.num_bins, binning=choice.binning
        )
    except ValueError as error:
        raise ConfigError(f"choose_filter: {error}; take more prompts") from None
    best = max(choice.candidates, key=lambda rule: fits[rule.kind].r_squared)
    record = {"chosen": best.kind, "fits": {kind: _written(fit) for kind, fit in fits.items()}}
    write_atomically(folder.root / _CHOICE, json.dumps(record, indent=1))
    return best, record


def chosen_filter(folder: StageFolder, choice: FilterChoiceConfig) -> Filter | None:
    """What an earlier start of this stage chose; None before that."""
    path = folder.root / _CHOICE
    if not path.exists():
        return None
    kind = json.loads(path.read_text())["chosen"]
    return next(rule for rule in choice.candidates if rule.kind == kind)


def _written(fit: Fit) -> dict[str, Any]:
    return {
        "r_squared": fit.r_squared,
        "rewards": fit.rewards.tolist(),
        "scores": fit.scores.tolist(),
        "masses": fit.masses.tolist(),
    }


class RewardWatch:
    """Looks, over a window of steps, at how far the learned reward still says what the tests say.

    The policy drifts away from the answers that the reward model has seen. Reported: R^2 of every filter on the
    executed answers of the window, their correlation, and an alarm: the learned score is above that of the window in
    which the tests passed most, while they now pass less often by more than two standard errors.
    """

    def __init__(self, candidates: Sequence[Filter], window: int = 10) -> None:
        self._candidates = candidates or (KeepAll(),)
        self._window = window
        self._steps: deque[list[tuple[np.ndarray, np.ndarray]]] = deque(maxlen=window)
        self._best: tuple[float, float] | None = None  # (pass rate, mean score) of the best window

    def step(self, groups: Sequence[Group]) -> dict[str, float]:
        """Figures after one more step; none before the window is full."""
        self._steps.append(scores_and_truth(groups))
        seen = [group for step in self._steps for group in step]
        if len(self._steps) < self._window or not seen:
            return {}
        scores, passed = (np.concatenate([group[part] for group in seen]) for part in (0, 1))
        rate, score = float(passed.mean()), float(scores.mean())
        if self._best is None or rate > self._best[0]:
            self._best = (rate, score)
        error = float(np.sqrt(max(self._best[0] * (1 - self._best[0]), 1e-12) / len(passed)))
        is_hacked = self._best[0] - rate > 2 * np.sqrt(2) * error and score > self._best[1]
        figures = {
            "reward_model/window_score": score,
            "reward_model/window_pass_rate": rate,
            "alarm/reward_hacking": float(is_hacked),
        }
        if scores.std() > 0 and passed.std() > 0:
            figures["reward_model/correlation_with_tests"] = float(np.corrcoef(scores, passed)[0, 1])
        for rule in self._candidates:
            with contextlib.suppress(ValueError):  # too few different scores for a line
                fit = compare_filters([rule], seen)[rule.kind]
                figures[f"reward_model/r_squared_{rule.kind}"] = fit.r_squared
        return figures
