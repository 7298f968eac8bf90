# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""RLCF's discriminator: tells a generated program from a reference, whichever of the two it is shown first.

    text      (prompt x, program y)
    tokens    [cls] x [sep] y [end]                          cls, sep, end: those that the tokenizer has
    windows   [cls] x [sep] y[0:w] [end],  [cls] x [sep] y[w/2:3w/2] [end],  ..      where all of y is too long for one
    score     s(x, y) = mean over the windows of the head at the window's last token
    g         tanh(s(x, y0) - s(x, y1))

Both programs are tokenised here, from text: the token ids that a policy sampled may be others than those which the
tokenizer gives for the same text, and would give the generated one away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.comparison_loss import comparison, comparison_losses
from learner.errors import TooLongError
from learner.packing import PackedRow, TokenSequence
from learner.parallel import SINGLE, Ranks
from learner.scalar_config import DiscriminatorConfig
from learner.scalar_head import ScalarHeadModel
from learner.scalar_training import Saving, ScalarProgress, ScalarTrainer, scores_of
from problems.identity import derive_seed

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ComparisonPair:
    """A generated program and the reference to the same problem, as texts; both compile.

    Attributes:
        problem_id: pairs of one problem lie all on one side of the split.
        name: of the generated one, unique; draws depend on it alone.
        prompt: what was asked.
        generated, reference: the two answers, without blanks at their ends.
    """

    problem_id: str
    name: str
    prompt: str
    generated: str
    reference: str


class ComparisonFigures(NamedTuple):
    """A discriminator on pairs that it has not seen.

    Attributes:
        accuracy: share in which the reference wins; a tie counts one half.
        loss: mean.
        comparison: mean g(x, generated, reference): what a program earns now.
        spread: its standard deviation; near 0 the model has collapsed and says nothing.
        num_pairs: how many.
    """

    accuracy: float
    loss: float
    comparison: float
    spread: float
    num_pairs: int


class Reader:
    """Texts to token sequences, by a tokenizer and the limits of a config."""

    def __init__(self, tokenizer: Any, config: DiscriminatorConfig) -> None:
        self._tokenizer = tokenizer
        self._config = config
        separator = tokenizer.sep_token_id
        self._begin = [] if tokenizer.cls_token_id is None else [tokenizer.cls_token_id]
        self._between = [] if separator is None else [separator]
        end = separator if separator is not None else tokenizer.eos_token_id
        self._end = [] if end is None else [end]

    def windows(self, name: str, prompt: str, answer: str) -> list[TokenSequence]:
        """One sequence, or several where the answer is long and the config says ``window``.

        Raises TooLongError for what may not be cut: a long answer under ``refuse``, or a prompt that leaves it less
        than half of the room.
        """
        head = [*self._begin, *self._ids(prompt), *self._between]
        body = self._ids(answer)
        room = self._config.max_tokens - len(head) - len(self._end)
        if len(body) <= room:
            return [self._sequence(name, head, body)]
        if self._config.long_programs == "refuse":
            raise TooLongError(
                name, f"{len(head) + len(body) + len(self._end)} tokens, limit {self._config.max_tokens}"
            )
        if room < self._config.max_tokens // 2:
            raise TooLongError(name, f"a prompt of {len(head)} tokens, limit {self._config.max_tokens // 2} of windows")
        starts = range(0, len(body) - room + room // 2, room // 2)
        return [self._sequence(name, head, body[start : start + room]) for start in starts]

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _sequence(self, name: str, head: list[int], body: list[int]) -> TokenSequence:
        ids = np.array([*head, *body, *self._end], dtype=np.int64)
        if not len(ids):
            raise ValueError(f"{name}: neither prompt nor answer has a token")
        return TokenSequence(name, ids, np.zeros(len(ids), dtype=np.bool_))


def scores_of_texts(
    model: ScalarHeadModel, reader: Reader, texts: Sequence[tuple[str, str]], row_tokens: int, ranks: Ranks = SINGLE
) -> Array:
    """[M] s(x, y) of each (prompt, answer); NaN where it is too long to be read.

    Raises FloatingPointError if the model's own score is no number.
    """
    read: list[list[TokenSequence]] = []
    for index, (prompt, answer) in enumerate(texts):
        try:
            read.append(reader.windows(f"answer {index}", prompt, answer))
        except TooLongError:
            read.append([])
    flat = scores_of(model, [window for windows in read for window in windows], row_tokens, ranks)
    if not np.isfinite(flat).all():
        raise FloatingPointError(
            f"the model scores {int((~np.isfinite(flat)).sum())} of {len(flat)} windows as no number"
        )
    ends = np.cumsum([len(windows) for windows in read])
    parts = np.split(flat, ends[:-1]) if len(read) else []
    return np.array([part.mean() if len(part) else np.nan for part in parts])


def shows_reference_first(pair: ComparisonPair, seed: int) -> bool:
    """Whether the reference takes the first place: a fair draw, by the pair's name."""
    return derive_seed("comparison-order", seed, pair.name) % 2 == 0


def train_discriminator(
    model: ScalarHeadModel,
    reader: Reader,
    config: DiscriminatorConfig,
    pairs: Sequence[ComparisonPair],
    *,
    progress: Callable[[ScalarProgress], None] | None = None,
    ranks: Ranks = SINGLE,
    saving: Saving | None = None,
) -> tuple[ScalarProgress, int]:
    """Trains ``model`` in place; returns the last progress and the number of pairs that were too long.

    Raises ValueError (no pairs that fit), NonFiniteGradientError.
    """
    examples: list[tuple[TokenSequence, ...]] = []
    layouts: list[tuple[int, int, float]] = []  # windows of the first and of the second program, target
    for pair in pairs:
        try:
            reference = reader.windows(pair.name, pair.prompt, pair.reference)
            generated = reader.windows(pair.name, pair.prompt, pair.generated)
        except TooLongError:
            continue
        is_first = shows_reference_first(pair, config.seed)
        first, second = (reference, generated) if is_first else (generated, reference)
        if sum(window.num_tokens for window in (*first, *second)) > config.row_tokens:
            continue
        examples.append((*first, *second))
        layouts.append((len(first), len(second), 1.0 if is_first else -1.0))

    def objective(scores: Tensor, row: PackedRow, members: Sequence[int]) -> Tensor:
        chosen = [layouts[member] for member in members]
        parts = scores[row.ends].split([count for first, second, _ in chosen for count in (first, second)])
        means = torch.stack([part.mean() for part in parts]).reshape(len(members), 2)
        targets = torch.tensor([target for *_, target in chosen], dtype=means.dtype)
        return comparison_losses(
            config.loss, first_scores=means[:, 0], second_scores=means[:, 1], targets=targets
        ).sum()

    final = ScalarTrainer(model, config, examples, objective, ranks, saving).train(progress)
    return final, len(pairs) - len(examples)


def judge_discriminator(
    model: ScalarHeadModel, reader: Reader, config: DiscriminatorConfig, pairs: Sequence[ComparisonPair]
) -> ComparisonFigures:
    """Figures on held-out pairs; those that are too long are left out. Raises ValueError without any."""
    texts = [(pair.prompt, text) for pair in pairs for text in (pair.generated, pair.reference)]
    scores = scores_of_texts(model, reader, texts, config.row_tokens).reshape(-1, 2)
    return comparison_figures(scores[~np.isnan(scores).any(axis=1)], config)


def comparison_figures(scores: Array, config: DiscriminatorConfig) -> ComparisonFigures:
    """Figures from [P, 2] scores of generated programs and references."""
    if not len(scores):
        raise ValueError("no pairs to judge a discriminator by")
    generated, reference = (torch.tensor(scores[:, place]) for place in (0, 1))
    compared = comparison(generated, reference)
    losses = comparison_losses(
        config.loss, first_scores=reference, second_scores=generated, targets=torch.ones_like(reference)
    )
    right = (compared < 0).double() + 0.5 * (compared == 0).double()
    return ComparisonFigures(
        accuracy=float(right.mean()),
        loss=float(losses.mean()),
        comparison=float(compared.mean()),
        spread=float(compared.std(correction=0)),
        num_pairs=len(scores),
    )
