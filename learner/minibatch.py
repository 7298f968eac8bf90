# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Passing over a set of sequences in mini-batches, each a few packed rows whose gradients add up to one update.

    sequences  --shuffle-->  mini-batches of N  --pack-->  rows  --loss.backward-->  one optimizer step a mini-batch

Aggregation weights are made for the whole mini-batch before it is cut into rows, so the sum of the rows' gradients is
the gradient of the mini-batch, however uneven the rows are.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from learner.aggregate import Aggregation, token_weights
from learner.errors import NonFiniteGradientError
from learner.optim import ScheduledOptimizer
from learner.packing import PackedRow, TokenSequence, pack
from learner.parallel import SINGLE, Ranks
from learner.ragged import places


@dataclass(frozen=True, slots=True)
class MiniBatch:
    """One optimizer step's worth.

    Attributes:
        sequences: its members.
        flat: [K], places of its trained tokens in the flat layout of the whole set.
        weights: [K], aggregation weights of those tokens.
    """

    sequences: tuple[TokenSequence, ...]
    flat: Int[Tensor, " K"]
    weights: Float[Tensor, " K"]


RowLoss = Callable[[PackedRow, Tensor, Tensor], tuple[Tensor, Mapping[str, float]]]
"""(row, places of its tokens in the whole flat layout, their weights) -> (loss, means over the row's tokens)."""


def minibatches(
    sequences: Sequence[TokenSequence],
    *,
    size: int,
    aggregation: Aggregation,
    constant_length: int | None = None,
    order_seed: int,
) -> Iterator[MiniBatch]:
    """One pass over all sequences in a shuffled order that depends on ``order_seed`` alone.

    Mini-batches differ in size by at most one: a small rest would make one noisy update.
    """
    order = np.random.default_rng(order_seed).permutation(len(sequences))
    lengths = torch.tensor([sequence.num_trained for sequence in sequences])
    for members in np.array_split(order, max(1, math.ceil(len(sequences) / size))):
        index = torch.from_numpy(members)
        yield MiniBatch(
            sequences=tuple(sequences[i] for i in members),
            flat=places(lengths, index),
            weights=token_weights(aggregation, lengths=lengths[index], constant_length=constant_length),
        )


@dataclass(slots=True)
class PassFigures:
    """Figures of one or several passes: token-weighted means, or the largest for names that end in ``max``."""

    num_updates: int = 0
    num_tokens: int = 0
    grad_norm: float = 0.0
    losses: list[float] = field(default_factory=list)
    _sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add_row(self, row: PackedRow, figures: Mapping[str, float], *, counts: bool = True) -> None:
        """Takes a row in; one that does not count leaves only its names."""
        self.num_tokens += row.num_tokens if counts else 0
        num_trained = len(row.targets) if counts else 0
        for name, value in figures.items():
            if name.endswith("max"):
                self._sums[name] = max(self._sums[name], value if counts else 0.0)
            else:
                self._sums[name] += value * num_trained
            self._counts[name] += num_trained

    def add_update(self, loss: float, grad_norm: float) -> None:
        self.num_updates += 1
        self.grad_norm += (grad_norm - self.grad_norm) / self.num_updates
        self.losses.append(loss)

    def means(self, ranks: Ranks = SINGLE) -> dict[str, float]:
        """Over all ranks."""
        names = sorted(self._sums)
        sums, counts = torch.tensor(
            [[self._sums[n] for n in names], [self._counts[n] for n in names]], dtype=torch.float64
        )
        highest = ranks.largest(sums.clone())
        sums, counts = ranks.total(sums), ranks.total(counts)
        figures = {
            name: float(highest[i]) if name.endswith("max") else float(sums[i] / max(float(counts[i]), 1.0))
            for i, name in enumerate(names)
        }
        loss = sum(self.losses) / max(len(self.losses), 1)
        return {**figures, "loss": loss, "grad_norm": self.grad_norm}


def update(
    batch: MiniBatch,
    *,
    model_name: str,
    optimizer: ScheduledOptimizer,
    row_tokens: int,
    row_loss: RowLoss,
    progress: float,
    figures: PassFigures,
    ranks: Ranks = SINGLE,
) -> None:
    """Accumulates the gradients of one mini-batch over its rows and makes one optimizer step.

    Raises NonFiniteGradientError, with nothing changed, naming the trajectories whose own gradient is not finite.
    """
    total = torch.zeros((), dtype=torch.float64)
    for row, counts in ranks.rows(batch.sequences, row_tokens):
        weights = batch.weights[row.flat] if counts else torch.zeros(len(row.flat))
        loss, row_figures = row_loss(row, batch.flat[row.flat], weights)
        (loss * ranks.count).backward()  # sharded gradients are averaged over the ranks; the weights are the sum's
        total += loss.detach()
        figures.add_row(row, row_figures, counts=counts)
    norm = optimizer.step(progress=progress)
    if not math.isfinite(norm):
        raise NonFiniteGradientError(model_name, _culprits(batch, optimizer, row_loss))
    figures.add_update(float(ranks.total(total)), norm)


def _culprits(batch: MiniBatch, optimizer: ScheduledOptimizer, row_loss: RowLoss) -> tuple[str, ...]:
    """Names of the sequences whose gradient, alone, is not finite; all of them if each alone is finite."""
    start, guilty = 0, []
    for sequence in batch.sequences:
        part = slice(start, start + sequence.num_trained)
        start = part.stop
        (row,) = pack([sequence], sequence.num_tokens)
        loss, _ = row_loss(row, batch.flat[part], batch.weights[part])
        loss.backward()
        if not math.isfinite(optimizer.gradient_norm()):
            guilty.append(sequence.name)
        optimizer.zero_grad()
    return tuple(guilty) or tuple(sequence.name for sequence in batch.sequences)
