# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""The process reward model: a number for each prefix of lines (arXiv 2410.17621).

    min over phi of  sum over lines m of (R_phi(x, y^(<=m)) - l_m)^2

read at the token that ends line m; neutral lines have the label 0 and are learned like the others. It is judged on
problems held out, beside a predictor that knows nothing but how many lines came before: programs go wrong sooner or
later, and a model that has learned only when would look good alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.line_labels import BAD, GOOD, NEUTRAL, LabelledAnswer
from learner.packing import PackedRow, TokenSequence
from learner.parallel import SINGLE, Ranks
from learner.scalar_config import ScalarTrainingConfig
from learner.scalar_head import ScalarHeadModel
from learner.scalar_training import Saving, ScalarProgress, ScalarTrainer, readings_of, scored_sequence

Array = NDArray[np.float64]


class PositionFigures(NamedTuple):
    """Lines at one place; ``position``: lines that count up to it, itself included, from 1."""

    position: int
    num_lines: int
    accuracy: float
    by_position: float


class LineFigures(NamedTuple):
    """A process reward model on answers that it has not seen; lines that count only.

    Attributes:
        accuracy: share of the lines whose score has the label's sign; a score of 0 counts as bad.
        by_position: likewise of the predictor that knows the position only.
        majority: share of the commoner label.
        squared_error: mean of (R - l)^2 over these lines.
        first_bad: share of the failing answers whose first bad line is found exactly; "none is bad" is an answer too.
        first_bad_by_position: likewise by position only.
        first_bad_early, first_bad_late: shares found before and after the true place.
        positions: by place in the program.
        num_lines, num_answers: how many.
    """

    accuracy: float
    by_position: float
    majority: float
    squared_error: float
    first_bad: float
    first_bad_by_position: float
    first_bad_early: float
    first_bad_late: float
    positions: tuple[PositionFigures, ...]
    num_lines: int
    num_answers: int


class PositionPredictor:
    """Says for each place the label that was commoner there; beyond the longest answer it saw, the commoner of all."""

    def __init__(self, answers: Sequence[LabelledAnswer]) -> None:
        """``answers``: whose places it learns; none of those that it is judged on."""
        sums: dict[int, int] = {}
        for answer in answers:
            for position, label in enumerate(answer.counted, 1):
                sums[position] = sums.get(position, 0) + label
        self._signs = {position: GOOD if total > 0 else BAD for position, total in sums.items()}
        self._otherwise = GOOD if sum(sums.values()) > 0 else BAD

    def scores(self, num_lines: int) -> Array:
        """[T] +1 or -1 for an answer of ``num_lines`` lines that count."""
        return np.array([self._signs.get(p, self._otherwise) for p in range(1, num_lines + 1)], dtype=np.float64)


def answer_sequence(answer: LabelledAnswer) -> TokenSequence:
    """Prompt and completion as one sequence."""
    return scored_sequence(answer.name, answer.prompt_ids, answer.completion_ids)


def line_places(answer: LabelledAnswer) -> list[int]:
    """[L] places in that sequence where the lines' scores are read."""
    return [len(answer.prompt_ids) + token for token in answer.line_tokens]


def line_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """sum (R - l)^2 over lines; scores and labels: [L]."""
    return (scores - labels).square().sum()


def train_process_reward_model(
    model: ScalarHeadModel,
    config: ScalarTrainingConfig,
    answers: Sequence[LabelledAnswer],
    *,
    progress: Callable[[ScalarProgress], None] | None = None,
    ranks: Ranks = SINGLE,
    saving: Saving | None = None,
) -> ScalarProgress:
    """Trains ``model`` in place; the loss of a step is the mean over its answers of each answer's sum over lines.

    Raises ValueError (no answers), TooLongError, NonFiniteGradientError.
    """
    places = [torch.tensor(line_places(answer), dtype=torch.int64) for answer in answers]
    labels = [torch.tensor(answer.labels, dtype=torch.float32) for answer in answers]

    def objective(scores: Tensor, row: PackedRow, members: Sequence[int]) -> Tensor:
        starts = row.ends + 1 - torch.tensor(row.lengths)
        read = torch.cat([start + places[member] for start, member in zip(starts, members, strict=True)])
        return line_loss(scores[read], torch.cat([labels[member] for member in members]))

    examples = [(answer_sequence(answer),) for answer in answers]
    return ScalarTrainer(model, config, examples, objective, ranks, saving).train(progress)


def judge_lines(
    model: ScalarHeadModel,
    answers: Sequence[LabelledAnswer],
    position: PositionPredictor,
    *,
    row_tokens: int,
    ranks: Ranks = SINGLE,
) -> LineFigures:
    """The model's figures on held-out answers. Raises ValueError without any line."""
    sequences = [answer_sequence(answer) for answer in answers]
    read = readings_of(model, sequences, [line_places(answer) for answer in answers], row_tokens, ranks)
    scores = [values[np.array(answer.labels) != NEUTRAL] for values, answer in zip(read, answers, strict=True)]
    return line_figures(
        scores=scores,
        by_position=[position.scores(len(answer.counted)) for answer in answers],
        labels=[np.array(answer.counted, dtype=np.float64) for answer in answers],
        passed=[answer.passed for answer in answers],
    )


def line_figures(
    *, scores: Sequence[Array], by_position: Sequence[Array], labels: Sequence[Array], passed: Sequence[bool]
) -> LineFigures:
    """Figures of A answers.

    Args:
        scores: of each answer [T], the model's numbers at the lines that count.
        by_position: likewise, those of the predictor that knows the position only.
        labels: likewise, +1 or -1.
        passed: of each answer.
    """
    if not sum(map(len, labels)):
        raise ValueError("no line to judge a process reward model by")
    truth = np.concatenate(labels)
    hits = (np.concatenate(scores) > 0) == (truth > 0)
    position_hits = (np.concatenate(by_position) > 0) == (truth > 0)
    place = np.concatenate([np.arange(1, len(row) + 1) for row in labels])
    misses = [
        (_num_good(values) - _num_good(row), _num_good(guessed) - _num_good(row))
        for values, guessed, row, is_right in zip(scores, by_position, labels, passed, strict=True)
        if not is_right and len(row)
    ]
    found = np.array(misses, dtype=np.int64).reshape(-1, 2)
    return LineFigures(
        accuracy=float(hits.mean()),
        by_position=float(position_hits.mean()),
        majority=float(max((truth > 0).mean(), (truth < 0).mean())),
        squared_error=float(np.square(np.concatenate(scores) - truth).mean()),
        first_bad=_mean(found[:, 0] == 0),
        first_bad_by_position=_mean(found[:, 1] == 0),
        first_bad_early=_mean(found[:, 0] < 0),
        first_bad_late=_mean(found[:, 0] > 0),
        positions=tuple(
            PositionFigures(
                int(at),
                int((place == at).sum()),
                float(hits[place == at].mean()),
                float(position_hits[place == at].mean()),
            )
            for at in np.unique(place)
        ),
        num_lines=len(truth),
        num_answers=len(labels),
    )


def _num_good(scores: Array) -> int:
    """Lines before the first one that is not above 0."""
    bad = np.flatnonzero(scores <= 0)
    return int(bad[0]) if len(bad) else len(scores)


def _mean(values: NDArray[np.bool_]) -> float:
    return float(values.mean()) if len(values) else float("nan")
