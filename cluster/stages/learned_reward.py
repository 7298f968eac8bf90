"""A learned reward in PPO: who scores, which filter its quality recommends, and signs that the policy deceives it."""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.rewards import ProcessTermConfig, RewardModelTermConfig, Tokens
from actors.terms import Failed
from cluster.context import RunContext
from cluster.errors import ActorError, ConfigError
from cluster.journal import JournalEntry
from cluster.rollout import Group
from cluster.run_folder import StageFolder, write_atomically
from cluster.scorers import ScorerPool
from cluster.stage_config import FilterChoiceConfig, PPOStage
from cluster.stages.parting import PartingWatch, Window
from cluster.stages.rerank import check_reranker
from learner.filter_config import Filter, name_of
from learner.filter_quality import Fit, at_equal_numbers, compare_filters

_CHOICE = "filter.json"
_TERM = "reward_model"


class LearnedReward:
    """The scorers behind a stage's learned terms. Made without starting anything; ``start`` before the first score."""

    def __init__(self, context: RunContext, stage: PPOStage) -> None:
        policy = context.model_path(stage.policy)
        self._pools: dict[str, ScorerPool] = {}
        for term in stage.rewards:
            if isinstance(term, RewardModelTermConfig | ProcessTermConfig):
                reads = "line_ends" if isinstance(term, ProcessTermConfig) else "last_token"
                folder = check_reranker(context, term.model, policy, reads=reads)
                self._pools[term.kind] = ScorerPool(
                    folder, context.config.scorers, context.config.supervision, context.report
                )

    @property
    def kinds(self) -> set[str]:
        """Kinds of the terms that a model is behind."""
        return set(self._pools)

    def start(self) -> None:
        for pool in self._pools.values():
            pool.start()

    async def stop(self) -> None:
        for pool in self._pools.values():
            await pool.stop()

    async def ask(self, prompt_ids: Tokens, completion_ids: Tokens) -> float | Failed:
        """The reward model's score, or why there is none: a fault of ours is never a reward."""
        try:
            return await self._pools["reward_model"].score(prompt_ids, completion_ids)
        except ActorError as error:
            return Failed(str(error))

    async def read(self, prompt_ids: Tokens, completion_ids: Tokens, tokens: Tokens) -> NDArray[np.float64] | Failed:
        """The process reward model's numbers at some tokens, or why there are none."""
        try:
            return await self._pools["process"].read(prompt_ids, completion_ids, tokens)
        except ActorError as error:
            return Failed(str(error))


class Judged(NamedTuple):
    """One group's answers, of each what the model says, whether it passes, and what it earns in all."""

    scores: np.ndarray
    passed: np.ndarray
    rewards: np.ndarray


def scores_and_truth(groups: Sequence[Sequence[JournalEntry]]) -> list[Judged]:
    """Of each executed group the answers that have a learned score; cut ones have not passed."""
    found: list[Judged] = []
    for group in groups:
        rows = [
            (
                sum(event.value for event in entry.trajectory.events if event.term == _TERM),
                bool(entry.is_right),
                sum(event.value for event in entry.trajectory.events),
            )
            for entry in group
            if entry.is_right is not None and any(e.term == _TERM for e in entry.trajectory.events)
        ]
        if rows:
            found.append(Judged(*(np.array(column, np.float64) for column in zip(*rows, strict=True))))
    return found


def fits_of(rules: Sequence[Filter], judged: Sequence[Judged], **bins: Any) -> dict[str, Fit]:
    """R^2 of each filter. It ranks by all that an answer earns, as in training; what is measured is the learned part.

    ``bins``: of ``learner.filter_quality.compare_filters``. Raises ValueError: too few different scores for a line.
    """
    pairs = [(group.scores, group.passed) for group in judged]
    return compare_filters(rules, pairs, ranked_by=[group.rewards for group in judged], **bins)


def fits_at_equal_numbers(rules: Sequence[Filter], judged: Sequence[Judged], **bins: Any) -> dict[str, float]:
    """As ``fits_of``, with as many answers for each filter (``learner.filter_quality.at_equal_numbers``)."""
    pairs = [(group.scores, group.passed) for group in judged]
    return at_equal_numbers(rules, pairs, ranked_by=[group.rewards for group in judged], **bins)


def choose_filter(
    folder: StageFolder, choice: FilterChoiceConfig, groups: Sequence[Group]
) -> tuple[Filter, dict[str, Any]]:
    """The candidate with the highest R^2 on ``groups``, and the figures; written down, so that a resume keeps it.

    R^2 on equal numbers of answers: by the paper's on all that a filter trains, the one that trains most would win by
    its number (``learner.filter_quality``). Both are in the figures.

    Raises ConfigError if the scores are too alike to be compared.
    """
    executed = scores_and_truth([group.entries for group in groups])
    judged = [group for group in executed if len(group.scores) > 1]  # a group of one is no choice
    if len({truth for group in judged for truth in group.passed.tolist()}) < 2:
        num_answers = sum(len(group.passed) for group in judged)
        raise ConfigError(
            f"choose_filter: of {num_answers} answers all pass, or none does: no filter is better than another; "
            "take other problems, or a policy that solves some of them"
        )
    try:
        bins = {"num_bins": choice.num_bins, "binning": choice.binning}
        fits = fits_of(choice.candidates, judged, **bins)
        fair = fits_at_equal_numbers(choice.candidates, judged, **bins)
    except ValueError as error:
        raise ConfigError(f"choose_filter: {error}; take more prompts, or a reward model whose scores differ") from None
    best = max(choice.candidates, key=lambda rule: fair[name_of(rule)])
    written = {name: _written(fit) | {"r_squared_equal": fair[name]} for name, fit in fits.items()}
    record = {"chosen": name_of(best), "fits": written}
    write_atomically(folder.root / _CHOICE, json.dumps(record, indent=1))
    return best, record


def chosen_filter(folder: StageFolder, choice: FilterChoiceConfig) -> Filter | None:
    """What an earlier start of this stage chose; None before that."""
    path = folder.root / _CHOICE
    if not path.exists():
        return None
    name = json.loads(path.read_text())["chosen"]
    return next(rule for rule in choice.candidates if name_of(rule) == name)


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
    executed answers of the window, their correlation, and an alarm when score and tests part (cluster.stages.parting).
    """

    def __init__(self, choice: FilterChoiceConfig, window: int = 10) -> None:
        """``choice``: the filters that are measured, and the bins."""
        self._choice = choice
        self._steps: deque[list[Judged]] = deque(maxlen=window)
        self._parting = PartingWatch(window)

    def recall(self, groups: Sequence[Sequence[JournalEntry]]) -> Window | None:
        """One more step, which may be of a start before this one: each group's answers."""
        now = scores_and_truth(groups)
        self._steps.append([group for group in now if len(group.scores) > 1])
        return self._parting.step([(group.scores, group.passed) for group in now])

    def step(self, groups: Sequence[Group]) -> dict[str, float]:
        """Figures after one more step; none before the first window, and no R^2 before a full one."""
        window = self.recall([group.entries for group in groups])
        if window is None:
            return {}
        figures = {
            "reward_model/window_score": window.score,
            "reward_model/window_pass_rate": window.pass_rate,
            "alarm/reward_hacking": float(window.is_parted),
        }
        if window.correlation is not None:
            figures["reward_model/correlation_with_tests"] = window.correlation
        seen = [group for step in self._steps for group in step]
        bins = {"num_bins": self._choice.num_bins, "binning": self._choice.binning}
        rules = self._choice.candidates if len(self._steps) == self._steps.maxlen else ()
        for rule in rules:
            with contextlib.suppress(ValueError):  # too few different scores for a line, or no group of several
                fit = fits_of([rule], seen, **bins)[name_of(rule)]
                figures[f"reward_model/r_squared_{name_of(rule)}"] = fit.r_squared
        with contextlib.suppress(ValueError):
            for name, value in fits_at_equal_numbers(rules, seen, **bins).items() if rules else ():
                figures[f"reward_model/r_squared_equal_{name}"] = value
        return figures
