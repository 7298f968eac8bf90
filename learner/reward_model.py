"""The Bradley-Terry reward model: PF-PPO's reward, and RewardRanker's reranker (arXiv 2409.06957, 2504.09643)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.packing import PackedRow
from learner.parallel import SINGLE, Ranks
from learner.preference_loss import bradley_terry_loss
from learner.preferences import PreferencePair, ScoredAnswer
from learner.scalar_config import RewardModelConfig
from learner.scalar_head import ScalarHeadModel
from learner.scalar_training import Example, Saving, ScalarProgress, ScalarTrainer, scored_sequence, scores_of

Array = NDArray[np.float64]
_NUM_BINS = 10


class Calibration(NamedTuple):
    """How far the stated certainty can be believed; [K] bins of equal width over [0.5, 1], empty ones left out.

    Attributes:
        confidence: mean sigmoid(|difference of scores|) of the pairs in the bin.
        accuracy: share of them that are in the right order.
        counts: pairs in the bin.
        error: expected calibration error: mean over pairs of |confidence - accuracy| of their bin.
    """

    confidence: Array
    accuracy: Array
    counts: NDArray[np.int64]
    error: float


class PairFigures(NamedTuple):
    """A reward model on pairs that it has not seen.

    Attributes:
        accuracy: share in the right order; equal scores count one half.
        loss: mean plain Bradley-Terry loss, nats; ln 2 is a coin's.
        accuracy_longer: accuracy where the better answer is the longer one; NaN without such pairs.
        accuracy_shorter: where it is the shorter one. A model that likes length has the first above the second.
        length_correlation: Pearson's, of the difference of scores with the difference of lengths; 0 if either is
            constant.
        calibration: see there.
        num_pairs: how many.
    """

    accuracy: float
    loss: float
    accuracy_longer: float
    accuracy_shorter: float
    length_correlation: float
    calibration: Calibration
    num_pairs: int


def answer_example(answer: ScoredAnswer) -> Example:
    """One answer as an example of one sequence."""
    return (scored_sequence(answer.name, answer.prompt_ids, answer.completion_ids),)


def train_reward_model(
    model: ScalarHeadModel,
    config: RewardModelConfig,
    pairs: Sequence[PreferencePair],
    *,
    progress: Callable[[ScalarProgress], None] | None = None,
    ranks: Ranks = SINGLE,
    saving: Saving | None = None,
) -> ScalarProgress:
    """Trains ``model`` in place on the pairs. Raises ValueError (no pairs), TooLongError, NonFiniteGradientError."""

    def objective(scores: Tensor, row: PackedRow, members: Sequence[int]) -> Tensor:
        chosen, rejected = scores[row.ends].reshape(len(members), 2).unbind(1)
        return bradley_terry_loss(
            chosen_scores=chosen, rejected_scores=rejected, margin=config.margin, centring=config.centring
        ).sum()

    examples = [answer_example(pair.chosen) + answer_example(pair.rejected) for pair in pairs]
    return ScalarTrainer(model, config, examples, objective, ranks, saving).train(progress)


def judge_pairs(
    model: ScalarHeadModel, pairs: Sequence[PreferencePair], *, row_tokens: int, ranks: Ranks = SINGLE
) -> PairFigures:
    """The model's figures on held-out pairs. Raises ValueError without any."""
    answers = {answer.name: answer for pair in pairs for answer in (pair.chosen, pair.rejected)}
    scores = scores_of(model, [answer_example(answer)[0] for answer in answers.values()], row_tokens, ranks)
    by_name = dict(zip(answers, scores, strict=True))
    return pair_figures(
        chosen_scores=np.array([by_name[pair.chosen.name] for pair in pairs]),
        rejected_scores=np.array([by_name[pair.rejected.name] for pair in pairs]),
        length_differences=np.array(
            [len(pair.chosen.completion_ids) - len(pair.rejected.completion_ids) for pair in pairs], dtype=np.float64
        ),
    )


def pair_figures(*, chosen_scores: Array, rejected_scores: Array, length_differences: Array) -> PairFigures:
    """Figures of P pairs.

    Args:
        chosen_scores: [P] scores of the better answers.
        rejected_scores: [P] of the worse.
        length_differences: [P] tokens of the better minus tokens of the worse answer.
    """
    if not len(chosen_scores):
        raise ValueError("no pairs to judge a reward model by")
    differences = chosen_scores - rejected_scores
    right = np.where(differences == 0, 0.5, (differences > 0).astype(np.float64))
    losses = bradley_terry_loss(
        chosen_scores=torch.tensor(chosen_scores), rejected_scores=torch.tensor(rejected_scores)
    )
    return PairFigures(
        accuracy=float(right.mean()),
        loss=float(losses.mean()),
        accuracy_longer=_mean(right[length_differences > 0]),
        accuracy_shorter=_mean(right[length_differences < 0]),
        length_correlation=_correlation(differences, length_differences),
        calibration=calibration(differences),
        num_pairs=len(differences),
    )


def calibration(differences: Array) -> Calibration:
    """Certainty against accuracy of P pairs; ``differences``: [P], score of the better minus that of the worse."""
    confidence = 1 / (1 + np.exp(-np.abs(differences)))
    right = np.where(differences == 0, 0.5, (differences > 0).astype(np.float64))
    bins = np.minimum(((confidence - 0.5) * 2 * _NUM_BINS).astype(np.intp), _NUM_BINS - 1)
    counts = np.bincount(bins, minlength=_NUM_BINS)
    filled = counts > 0
    mean_confidence = np.bincount(bins, confidence, _NUM_BINS)[filled] / counts[filled]
    mean_right = np.bincount(bins, right, _NUM_BINS)[filled] / counts[filled]
    error = float((np.abs(mean_confidence - mean_right) * counts[filled]).sum() / len(differences))
    return Calibration(mean_confidence, mean_right, counts[filled], error)


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _correlation(left: Array, right: Array) -> float:
    if left.std() == 0 or right.std() == 0:
        return 0.0
    return float(np.corrcoef(left, right)[0, 1])
