"""The discriminator as workers: one that trains it, one that compares programs with it."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from actors.comparison import TooLong
from actors.scorer import DISCRIMINATOR_FILE, ScoringConfig, is_scalar_head
from actors.training import TrainingWorker
from learner.discriminator import (
    ComparisonFigures,
    ComparisonPair,
    Reader,
    judge_discriminator,
    scores_of_texts,
    train_discriminator,
)
from learner.models import load_backbone
from learner.placement import Place, at_work, compute_device, settle
from learner.scalar_config import DiscriminatorConfig
from learner.scalar_head import ScalarHeadModel
from learner.scalar_training import Saving, ScalarProgress

_REFERENCES_KEPT = 100_000


class Comparer:
    """Compares programs by one discriminator, in the batches that it is given. References are scored once."""

    def __init__(self, folder: str, config: ScoringConfig) -> None:
        torch.set_num_threads(config.threads)
        self._config = read_config(Path(folder))
        self._reader = _reader(folder, self._config)
        self._device = compute_device(config.compute.device)
        self._place: Place = config.placement
        self._model = ScalarHeadModel.from_pretrained(folder).compute_as(config.compute).eval()
        settle(self._model, self._device, self._place)
        self._row_tokens = max(config.row_tokens, self._config.max_tokens)
        self._references: OrderedDict[tuple[str, str], float] = OrderedDict()

    def score(self, comparisons: Sequence[tuple[str, str, str]]) -> list[float | TooLong]:
        """g(x, y, z) of each (prompt, answer, other answer)."""
        texts = list(dict.fromkeys((prompt, other) for prompt, _, other in comparisons))
        unknown = [text for text in texts if text not in self._references]
        answers = [(prompt, answer) for prompt, answer, _ in comparisons]
        with at_work(self._model, self._device, self._place):
            scores = scores_of_texts(self._model, self._reader, [*answers, *unknown], self._row_tokens).tolist()
        references = {text: self._references[text] for text in texts if text in self._references}
        references |= dict(zip(unknown, scores[len(answers) :], strict=True))
        found = [
            _compared(score, references[prompt, other])
            for score, (prompt, _, other) in zip(scores[: len(answers)], comparisons, strict=True)
        ]
        self._remember(texts, references)
        return found

    def _remember(self, texts: Sequence[tuple[str, str]], references: dict[tuple[str, str], float]) -> None:
        for text in texts:
            self._references[text] = references[text]
            self._references.move_to_end(text)
        while len(self._references) > _REFERENCES_KEPT:
            self._references.popitem(last=False)


def _compared(answer: float, other: float) -> float | TooLong:
    return TooLong() if math.isnan(answer - other) else math.tanh(answer - other)


@dataclass(frozen=True, slots=True)
class DiscriminatorTrained:
    """What a training came to: its last progress, pairs that were too long, and figures on pairs kept out of it."""

    progress: ScalarProgress
    num_too_long: int
    held_out: ComparisonFigures


class DiscriminatorTrainer(TrainingWorker[DiscriminatorConfig]):
    """Trains discriminators."""

    def train(
        self,
        base: str,
        pairs: Sequence[ComparisonPair],
        held_out: Sequence[ComparisonPair],
        output: str,
        saving: Saving | None = None,
    ) -> DiscriminatorTrained:
        """Trains from ``base`` (an encoder, a language model or a discriminator), or goes on from a checkpoint if there
        is one, and writes model and tokenizer."""
        from transformers import AutoTokenizer

        reader = _reader(base, self._config)
        model = starting_discriminator(base, self._config)
        final, num_too_long = train_discriminator(
            model, reader, self._config, pairs, progress=self._note, saving=saving
        )
        figures = judge_discriminator(model.eval(), reader, self._config, held_out)
        model.save_pretrained(output)
        AutoTokenizer.from_pretrained(base).save_pretrained(output)
        (Path(output) / DISCRIMINATOR_FILE).write_text(self._config.model_dump_json(indent=1) + "\n")
        return DiscriminatorTrained(final, num_too_long, figures)


def starting_discriminator(folder: str, config: DiscriminatorConfig) -> ScalarHeadModel:
    """A discriminator as it is in ``folder``, or a new head on the backbone that is there."""
    if is_scalar_head(Path(folder)):
        return ScalarHeadModel.from_pretrained(folder)
    return ScalarHeadModel(
        load_backbone(folder, max_tokens=config.max_tokens).requires_grad_(True), hidden_layer=config.hidden_layer
    )


def read_config(folder: Path) -> DiscriminatorConfig:
    """The settings that a discriminator was trained with. Raises ValueError if the folder holds none."""
    path = folder / DISCRIMINATOR_FILE
    if not path.is_file():
        raise ValueError(f"{folder} holds no discriminator, such as a discriminator stage writes")
    return DiscriminatorConfig.model_validate_json(path.read_text())


def _reader(folder: str, config: DiscriminatorConfig) -> Reader:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    return Reader(tokenizer, config)
