"""Models with a scalar head as workers: one that trains a reward model, one that scores answers with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from actors.rewards import Tokens
from actors.training import TrainingWorker
from learner.line_labels import LabelledAnswer
from learner.model_config import ComputeConfig
from learner.models import load_causal_lm
from learner.placement import Place, at_work, compute_device, settle
from learner.preferences import PreferencePair
from learner.process_reward_model import LineFigures, PositionPredictor, judge_lines, train_process_reward_model
from learner.reward_model import PairFigures, judge_pairs, train_reward_model
from learner.scalar_config import RewardModelConfig, ScalarTrainingConfig
from learner.scalar_head import KIND_FILE, ScalarHeadModel
from learner.scalar_training import Saving, ScalarProgress, readings_of, scored_sequence

DISCRIMINATOR_FILE = "discriminator.json"
"""Marks a scalar-head model whose number is of a text that it tokenises itself."""


@dataclass(frozen=True, slots=True)
class ScoringConfig:
    """How a scorer computes.

    Attributes:
        compute: precision and device.
        row_tokens: most tokens in one packed row; longer answers are refused, never cut.
        threads: of torch.
        placement: where the model waits between batches.
    """

    compute: ComputeConfig
    row_tokens: int
    threads: int
    placement: Place = "device"


class Scorer:
    """Reads one scalar-head model's numbers off answers."""

    def __init__(self, folder: str, config: ScoringConfig) -> None:
        torch.set_num_threads(config.threads)
        self._row_tokens = config.row_tokens
        self._device = compute_device(config.compute.device)
        self._place: Place = config.placement
        self._model = ScalarHeadModel.from_pretrained(folder).compute_as(config.compute).eval()
        settle(self._model, self._device, self._place)

    def score(self, answers: Sequence[tuple[Tokens, Tokens]]) -> NDArray[np.float64]:
        """[M] score of each whole (prompt ids, completion ids). Raises TooLongError, ValueError (an empty part)."""
        last = [np.array([len(completion) - 1], np.int32) for _, completion in answers]
        numbers = self.read([(*answer, token) for answer, token in zip(answers, last, strict=True)])
        return np.concatenate([np.zeros(0), *numbers])

    def read(self, answers: Sequence[tuple[Tokens, Tokens, Tokens]]) -> list[NDArray[np.float64]]:
        """For each (prompt ids, completion ids, tokens of the completion) the model's numbers at those tokens.

        Raises TooLongError, ValueError (an empty part).
        """
        sequences = [
            scored_sequence(f"answer {index}", prompt.tolist(), completion.tolist())
            for index, (prompt, completion, _) in enumerate(answers)
        ]
        places = [[len(prompt) + token for token in tokens.tolist()] for prompt, _, tokens in answers]
        with at_work(self._model, self._device, self._place):
            return readings_of(self._model, sequences, places, self._row_tokens)


class RewardModelTrainer(TrainingWorker[RewardModelConfig]):
    """One reward_model stage's trainer."""

    def train(
        self, base: str, pairs: Sequence[PreferencePair], output: str, saving: Saving | None = None
    ) -> ScalarProgress:
        """Trains a reward model and writes it with its tokenizer; goes on from a checkpoint if there is one.

        ``base`` is the folder of a causal LM, whose backbone gets a new head, or of a scalar-head model.
        """
        from transformers import AutoTokenizer

        model = starting_model(base)
        final = train_reward_model(model, self._config, pairs, progress=self._note, saving=saving)
        model.save_pretrained(output)
        AutoTokenizer.from_pretrained(base).save_pretrained(output)
        return final

    def judge(self, folder: str, pairs: Sequence[PreferencePair]) -> PairFigures:
        """Figures of a reward model that is done."""
        return judge_pairs(_placed(folder, self._config.compute), pairs, row_tokens=self._config.row_tokens)


class ProcessRewardModelTrainer(TrainingWorker[ScalarTrainingConfig]):
    """One process_reward_model stage's trainer."""

    def train(
        self, base: str, answers: Sequence[LabelledAnswer], output: str, saving: Saving | None = None
    ) -> ScalarProgress:
        """Trains a process reward model and writes it with its tokenizer; the rest as for a reward model."""
        from transformers import AutoTokenizer

        model = starting_model(base)
        final = train_process_reward_model(model, self._config, answers, progress=self._note, saving=saving)
        model.save_pretrained(output, reads="line_ends")
        AutoTokenizer.from_pretrained(base).save_pretrained(output)
        return final

    def judge(self, folder: str, seen: Sequence[LabelledAnswer], held_out: Sequence[LabelledAnswer]) -> LineFigures:
        """Figures of a model that is done, beside a predictor by position that knows the answers in ``seen``."""
        model = _placed(folder, self._config.compute)
        return judge_lines(model, held_out, PositionPredictor(seen), row_tokens=self._config.row_tokens)


def _placed(folder: str, compute: ComputeConfig) -> ScalarHeadModel:
    """A model that computes where and as it was trained."""
    model = ScalarHeadModel.from_pretrained(folder).compute_as(compute).eval()
    settle(model, compute_device(compute.device))
    return model


def starting_model(folder: str) -> ScalarHeadModel:
    """A scalar-head model as it is in ``folder``, or a new head on the backbone of a causal LM."""
    if is_scalar_head(Path(folder)):
        return ScalarHeadModel.from_pretrained(folder)
    return ScalarHeadModel.from_causal_lm(load_causal_lm(folder))


def is_scalar_head(folder: Path) -> bool:
    """Whether a folder holds a scalar-head model."""
    return (folder / KIND_FILE).is_file()


def scores_answers(folder: Path) -> bool:
    """Whether a folder's scalar-head model reads answers as a policy wrote them, which a discriminator does not."""
    return is_scalar_head(folder) and not (folder / DISCRIMINATOR_FILE).exists()
