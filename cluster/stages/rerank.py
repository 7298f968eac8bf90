"""Choosing among samples by a model with a scalar head: what its choice is worth, between chance and an oracle."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from actors.scorer import is_scalar_head, vocabulary_digest
from cluster.context import RunContext
from cluster.errors import ConfigError
from cluster.journal import JournalEntry
from cluster.rollout import Group
from cluster.scorers import ScorerPool
from cluster.statistics import Estimate, mean_over_problems
from problems.identity import derive_seed

_ALL = "all"


def check_reranker(context: RunContext, reference: str, model: Path) -> Path:
    """The folder of a scalar-head model that reads the same token ids as ``model``. Raises ConfigError."""
    folder = context.model_path(reference)
    if not is_scalar_head(folder):
        raise ConfigError(f"{reference!r} holds no scalar-head model, such as a reward_model stage writes")
    if vocabulary_digest(context.tokenizer(folder).tokenizer) != vocabulary_digest(context.tokenizer(model).tokenizer):
        raise ConfigError(
            f"{reference!r} was trained on another tokenizer than that of {model}; its scores mean nothing"
        )
    return folder


async def rerank(context: RunContext, folder: Path, groups: Sequence[Group]) -> dict[str, Any]:
    """Scores every judged sample and returns the figures: for all problems together, and for each language.

    ``random`` is the pass rate of one sample drawn without looking, ``reranked`` of the one that scores highest,
    ``oracle`` the share of problems with any that passes: random <= oracle and reranked <= oracle always.
    ``gap_closed`` is (reranked - pass@1) / (oracle - pass@1).
    """
    pool = ScorerPool(folder, context.config.scorers)
    pool.start()
    begun = time.monotonic()
    judged = [[entry for entry in group.entries if entry.trajectory.passed is not None] for group in groups]
    try:
        scores = [await asyncio.gather(*(_score(pool, entry) for entry in entries)) for entries in judged]
    finally:
        await pool.stop()
    seconds = time.monotonic() - begun
    measured = [
        (group.problem.language, *_outcomes(entries, group_scores))
        for group, entries, group_scores in zip(groups, judged, scores, strict=True)
        if entries
    ]
    languages = sorted({language for language, *_ in measured})
    return {
        "seconds": round(seconds, 1),
        _ALL: _figures([outcomes for _, *outcomes in measured]),
        **{
            language: _figures([outcomes for named, *outcomes in measured if named == language])
            for language in languages
        },
    }


async def _score(pool: ScorerPool, entry: JournalEntry) -> float:
    """An answer without any token is never chosen."""
    turn = entry.trajectory.turns[-1]
    if not len(turn.completion_ids):
        return float("-inf")
    return await pool.score(turn.prompt_ids, turn.completion_ids)


def _outcomes(entries: Sequence[JournalEntry], scores: Sequence[float]) -> tuple[float, float, float, float]:
    """(pass@1, random, reranked, oracle) of one problem. Equal scores are chosen among by a hash of the identity."""
    passed = [float(bool(entry.trajectory.passed)) for entry in entries]
    ties = [derive_seed("rerank-tie", str(entry.trajectory.id)) for entry in entries]
    best = max(range(len(entries)), key=lambda index: (scores[index], ties[index]))
    drawn = max(range(len(entries)), key=lambda index: ties[index])
    return sum(passed) / len(passed), passed[drawn], passed[best], max(passed)


def _figures(outcomes: Sequence[Sequence[float]]) -> dict[str, Any]:
    names = ("pass_at_1", "random", "reranked", "oracle")
    estimates = [mean_over_problems([row[place] for row in outcomes]) for place in range(len(names))]
    gain = mean_over_problems([row[2] - row[0] for row in outcomes])
    room = estimates[3].mean - estimates[0].mean
    return {
        **{name: asdict(estimate) for name, estimate in zip(names, estimates, strict=True)},
        "reranked_minus_pass_at_1": asdict(gain),
        "gap_closed": gain.mean / room if room > 0 else 0.0,
    }


def table_row(figures: dict[str, Any]) -> str:
    """One line for the terminal."""
    shown = {name: str(Estimate(**figures[name])) for name in ("pass_at_1", "random", "reranked", "oracle")}
    return "  ".join(f"{name} {value}" for name, value in shown.items())
