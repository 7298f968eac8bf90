"""Choosing among samples by a model with a scalar head: what its choice is worth, between chance and an oracle."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.checks import refuse_other_readers, refuse_scores_without_a_choice
from cluster.context import RunContext
from cluster.errors import ConfigError
from cluster.journal import JournalEntry
from cluster.rollout import Group
from cluster.scorers import ScorerPool
from cluster.stage_config import LineScore
from cluster.statistics import Estimate, mean_over_problems, paired_difference
from learner.scalar_head import Reads, reads_of
from learner.trajectory import FinishReason
from problems.bytemap import ByteMap
from problems.extraction import extract_program
from problems.identity import derive_seed
from problems.linespans import line_spans
from problems.problem import Problem
from problems.prompting import TokenBytes
from problems.tokenizer import vocabulary_digest

_ALL = "all"
Choices = dict[str, dict[str, float]]
"""Language -> problem -> 1 where the chosen sample passes, else 0."""


def check_reranker(context: RunContext, reference: str, model: Path, *, reads: Reads | None = None) -> Path:
    """The folder of a scalar-head model that reads the same token ids as ``model``. Raises ConfigError.

    ``reads``: where its numbers must be meant to be read, if that is asked.
    """
    folder = context.model_path(reference)
    refuse_other_readers(folder, repr(reference), reads)
    if vocabulary_digest(context.tokenizer(folder).tokenizer) != vocabulary_digest(context.tokenizer(model).tokenizer):
        raise ConfigError(
            f"{reference!r} was trained on another tokenizer than that of {model}; its scores mean nothing"
        )
    return folder


@dataclass(frozen=True, slots=True)
class LineReading:
    """How one score is made of a process reward model's numbers.

    Attributes:
        token_bytes: of the tokenizer that the answers were written with.
        score: that of the last line that counts, the lowest, or the mean.
    """

    token_bytes: TokenBytes
    score: LineScore

    def of(self, numbers: NDArray[np.float64]) -> float:
        """``numbers``: of the lines that count, at least one."""
        match self.score:
            case "last":
                return float(numbers[-1])
            case "min":
                return float(numbers.min())
            case "mean":
                return float(numbers.mean())


async def rerank(
    context: RunContext,
    folder: Path,
    groups: Sequence[Group],
    lines: LineReading,
    sampling_s: Mapping[str, float],
) -> tuple[dict[str, Any], Choices]:
    """Scores every judged sample and returns the figures: for all problems together, and for each language.

    Also returned is whether the chosen sample of each problem passes.

    ``random`` is the pass rate of one sample drawn without looking, ``reranked`` of the one that scores highest,
    ``oracle`` the share of problems with any that passes: random <= oracle and reranked <= oracle always.
    Raises ConfigError for a model that gives different answers one score, or no number.

    ``gap_closed`` is (reranked - pass@1) / (oracle - pass@1). ``seconds``, of wall time: ``samples`` for sampling and
    executing all of them, ``one_sample`` that over their number, ``scoring`` for the model that chooses.

    Args:
        context: of the run.
        folder: of the scalar-head model, a reward model or a process reward model.
        groups: the samples.
        lines: how a process reward model is read.
        sampling_s: seconds that each language's samples took.
    """
    pool = ScorerPool(folder, context.config.scorers, context.config.supervision, context.report)
    reading = lines if reads_of(folder) == "line_ends" else None
    measured: dict[str, list[tuple[float, float, float, float]]] = {}
    choices: Choices = {}
    scoring_s: dict[str, float] = {}
    different: dict[tuple[str, bytes], float] = {}
    pool.start()
    try:
        for group in groups[:1]:  # before the clock runs: the actor comes up, and its model is loaded
            await asyncio.gather(*(_score(pool, group.problem, entry, reading) for entry in group.entries[:1]))
        for language in dict.fromkeys(group.problem.language for group in groups):
            begun = time.monotonic()
            judged = [
                (group.problem, [entry for entry in group.entries if entry.trajectory.passed is not None])
                for group in groups
                if group.problem.language == language
            ]
            scores = await asyncio.gather(
                *(
                    asyncio.gather(*(_score(pool, problem, entry, reading) for entry in entries))
                    for problem, entries in judged
                )
            )
            scoring_s[language] = time.monotonic() - begun
            different |= {
                (problem.id, entry.trajectory.turns[-1].completion_ids.tobytes()): score
                for (problem, entries), row in zip(judged, scores, strict=True)
                for entry, score in zip(entries, row, strict=True)
            }
            rows = {
                problem.id: outcomes_of(entries, row)
                for (problem, entries), row in zip(judged, scores, strict=True)
                if entries
            }
            measured[language] = list(rows.values())
            choices[language] = {problem_id: row[2] for problem_id, row in rows.items()}
    finally:
        await pool.stop()
    refuse_scores_without_a_choice(str(folder), list(different.values()))
    num_samples = max((len(group.entries) for group in groups), default=1)
    figures = {
        language: figures_of(outcomes) | {"seconds": _seconds(sampling_s[language], scoring_s[language], num_samples)}
        for language, outcomes in measured.items()
        if outcomes
    }
    total = _seconds(sum(sampling_s.values()), sum(scoring_s.values()), num_samples)
    together = figures_of([row for outcomes in measured.values() for row in outcomes])
    whole = {"seconds": total["scoring"], _ALL: together | {"seconds": total}, **dict(sorted(figures.items()))}
    return whole, choices


def gained_on(earlier: Choices, later: Choices) -> dict[str, Estimate]:
    """What the later reranker's choice is worth more, over the same problems: for all, and for each language."""
    together = [{key: value for one in side.values() for key, value in one.items()} for side in (earlier, later)]
    gained = {language: paired_difference(earlier[language], later[language]) for language in later if later[language]}
    return {_ALL: paired_difference(*together), **gained}


def _seconds(sampling_s: float, scoring_s: float, num_samples: int) -> dict[str, float]:
    return {
        "one_sample": round(sampling_s / num_samples, 2),
        "samples": round(sampling_s, 2),
        "scoring": round(scoring_s, 2),
    }


async def _score(pool: ScorerPool, problem: Problem, entry: JournalEntry, reading: LineReading | None) -> float:
    """An answer without any token is never chosen, nor is one without any line that counts by its lines."""
    turn = entry.trajectory.turns[-1]
    if not len(turn.completion_ids):
        return float("-inf")
    if reading is None:
        return await pool.score(turn.prompt_ids, turn.completion_ids)
    pieces = reading.token_bytes.pieces(turn.completion_ids.tolist())
    extraction = extract_program(problem, b"".join(pieces))
    is_cut = turn.finish_reason is FinishReason.LENGTH
    spans = line_spans(extraction.program, ByteMap.build(pieces, extraction), problem.language, is_cut=is_cut)
    tokens = np.array([span.token for span in spans if not span.is_neutral], np.int32)
    if not len(tokens):
        return float("-inf")
    return reading.of(await pool.read(turn.prompt_ids, turn.completion_ids, tokens))


def outcomes_of(entries: Sequence[JournalEntry], scores: Sequence[float]) -> tuple[float, float, float, float]:
    """(pass@1, random, reranked, oracle) of one problem. Equal scores are chosen among by a hash of the identity."""
    passed = [float(bool(entry.trajectory.passed)) for entry in entries]
    ties = [derive_seed("rerank-tie", str(entry.trajectory.id)) for entry in entries]
    best = max(range(len(entries)), key=lambda index: (scores[index], ties[index]))
    drawn = max(range(len(entries)), key=lambda index: ties[index])
    return sum(passed) / len(passed), passed[drawn], passed[best], max(passed)


def figures_of(outcomes: Sequence[Sequence[float]]) -> dict[str, Any]:
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
