# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Training of a model on examples of one or several sequences each: a scalar-head model, or a policy by pairs (DPO).

    examples  --shuffle-->  batches of N  --pack whole examples-->  rows  --loss.backward-->  one optimizer step a batch

An example's sequences stand in one row, in its order, so that an objective may compare them. The rows' gradients add up
to that of the batch's mean loss, however uneven the rows are.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from learner.checkpoint import load_checkpoint, random_state, restore_random_state
from learner.checkpoint_writer import CheckpointWriter
from learner.errors import NonFiniteGradientError
from learner.models import backbone_of
from learner.optim import ScheduledOptimizer
from learner.packing import PackedRow, TokenSequence, assign, check_length, check_tokens, fingerprint, pack
from learner.parallel import SINGLE, Ranks, reshard, shard
from learner.placement import compute_device, settle
from learner.scalar_config import ScalarTrainingConfig
from learner.scalar_head import ScalarHeadModel
from problems.identity import derive_seed

_KIND = "scalar"  # of a checkpoint
Example = tuple[TokenSequence, ...]
Objective = Callable[[Tensor, PackedRow, Sequence[int]], Float[Tensor, ""]]
"""(model's numbers, the row, indices of its examples in order) -> sum of their losses. A scalar-head model gives one
number for each token of the row, a policy one for each trained token."""


@dataclass(frozen=True, slots=True)
class Saving:
    """Where a training keeps its newest checkpoint, from which it goes on if there is one.

    Attributes:
        folder: of the checkpoint.
        every_s: seconds of training between two.
    """

    folder: Path
    every_s: float


@dataclass(frozen=True, slots=True)
class ScalarProgress:
    """Where the training stands.

    Attributes:
        step: optimizer steps made.
        num_steps: steps in all.
        loss: mean over the last step's examples.
        tokens: passed so far.
        learning_rate: of the last step.
        grad_norm: of the last step, before clipping.
    """

    step: int
    num_steps: int
    loss: float
    tokens: int
    learning_rate: float
    grad_norm: float


class ScalarTrainer:
    """Trains a model in place; deterministic by seed."""

    def __init__(
        self,
        model: nn.Module,
        config: ScalarTrainingConfig,
        examples: Sequence[Example],
        objective: Objective,
        ranks: Ranks = SINGLE,
        saving: Saving | None = None,
    ) -> None:
        """
        Args:
            model: gives numbers for a packed row. A scalar-head model computes as the config says.
            config: epochs, optimizer, packing.
            examples: all of the same number of sequences.
            objective: what is made of the model's numbers.
            ranks: processes that share the work, and the model from here on (FSDP2).
            saving: None: no checkpoint is written, and none is gone on from.

        Raises:
            ValueError: no examples.
            TooLongError: an example that does not fit into one row.
            TokenOutsideVocabularyError: one with a token that the model does not have.
            CheckpointError: a checkpoint of other settings or examples, or a broken one.
        """
        if not examples:
            raise ValueError("no examples to train on")
        vocab_size = backbone_of(model).config.vocab_size
        for example in examples:
            check_length(example[0], config.row_tokens - sum(other.num_tokens for other in example[1:]))
            for sequence in example:
                check_tokens(sequence, vocab_size)
        self.config = config
        self.model = model.compute_as(config.compute) if isinstance(model, ScalarHeadModel) else model
        settle(model, compute_device(config.compute.device))
        shard(model, ranks)
        self.optimizer = ScheduledOptimizer(model, config.optimizer, states=config.compute.optimizer_states)
        self._examples = examples
        self._objective = objective
        self._ranks = ranks
        self._saving = saving
        self._num_made = 0
        self._num_tokens = 0
        if saving is not None:
            self._origins = {"set of examples": fingerprint([one for example in examples for one in example])}
            self._writer = CheckpointWriter(ranks)
            if saving.folder.exists():
                self._load(saving.folder)

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.config.epochs * self._per_epoch

    @property
    def _per_epoch(self) -> int:
        return math.ceil(len(self._examples) / self.config.batch_examples)

    def train(self, progress: Callable[[ScalarProgress], None] | None = None) -> ScalarProgress:
        """All epochs, or what is left of them. Raises NonFiniteGradientError, with the weights of before that step."""
        latest = ScalarProgress(self._num_made, self.num_steps, float("nan"), self._num_tokens, 0.0, 0.0)
        saved = time.monotonic()
        try:
            for batch in islice(self._batches(), self._num_made, None):
                latest = self._step(batch)
                if progress is not None:
                    progress(latest)
                if self._saving is None:
                    continue
                (is_due,) = self._ranks.any_of(time.monotonic() - saved >= self._saving.every_s)
                if is_due:
                    saved = time.monotonic()
                    self._begin_save(self._saving.folder)
        finally:
            if self._saving is not None:
                self._writer.close()
        return latest

    def _begin_save(self, folder: Path) -> None:
        self._writer.begin(folder, kind=_KIND, settings=self.config, state=self._state(), origins=self._origins)

    def _load(self, folder: Path) -> None:
        state = load_checkpoint(
            folder, kind=_KIND, settings=self.config, state=self._state(), origins=self._origins, ranks=self._ranks
        )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._num_made, self._num_tokens = state["num_steps"], state["num_tokens"]
        restore_random_state(state["random"])

    def _state(self) -> dict[str, Any]:
        return {
            "num_steps": self._num_made,
            "num_tokens": self._num_tokens,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": random_state(),
        }

    def _batches(self) -> Iterator[list[int]]:
        for epoch in range(self.config.epochs):
            seed = derive_seed("scalar-order", self.config.seed, epoch)
            order = np.random.default_rng(seed).permutation(len(self._examples))
            for members in np.array_split(order, self._per_epoch):
                yield [int(member) for member in members]

    def _step(self, batch: Sequence[int]) -> ScalarProgress:
        total = torch.zeros((), dtype=torch.float64)
        for row, members, counts in self._rows(batch):
            loss = self._objective(self.model(row), row, members) / len(batch)
            if not counts:
                loss = loss * 0.0
            (loss * self._ranks.count).backward()
            total += loss.detach()
            self._num_tokens += row.num_tokens if counts else 0
        norm = self.optimizer.step(progress=self._num_made / self.num_steps)
        if not math.isfinite(norm):
            raise NonFiniteGradientError("model", self._culprits(batch))
        loss = float(self._ranks.total(total))
        self._num_made += 1
        return ScalarProgress(
            self._num_made, self.num_steps, loss, self._num_tokens, self.optimizer.learning_rate, norm
        )

    def _culprits(self, batch: Sequence[int]) -> tuple[str, ...]:
        """Names of the examples whose gradient, alone, is not finite; all of them if each alone is finite."""
        guilty: list[int] = []
        for index in batch:
            ((row, _),) = pack_examples([self._examples[index]], self.config.row_tokens)
            self._objective(self.model(row), row, [index]).backward()
            if not math.isfinite(self.optimizer.gradient_norm()):
                guilty.append(index)
            self.optimizer.zero_grad()
        return tuple(sequence.name for index in guilty or batch for sequence in self._examples[index])

    def _rows(self, batch: Sequence[int]) -> Iterator[tuple[PackedRow, list[int], bool]]:
        """This rank's rows with their examples; False for one that only keeps step with the other ranks."""
        rows = pack_examples([self._examples[index] for index in batch], self.config.row_tokens, self._ranks.count)
        for start in range(0, len(rows), self._ranks.count):
            mine = start + self._ranks.index
            row, places = rows[mine] if mine < len(rows) else rows[0]
            yield row, [batch[place] for place in places], mine < len(rows)


def pack_examples(
    examples: Sequence[Example], row_tokens: int, multiple_of: int = 1
) -> list[tuple[PackedRow, tuple[int, ...]]]:
    """Rows of whole examples, each with the examples' indices; their sequences stand in the examples' order."""
    costs = [sum(sequence.num_tokens for sequence in example) for example in examples]
    packed: list[tuple[PackedRow, tuple[int, ...]]] = []
    for members in assign(costs, row_tokens, multiple_of=multiple_of):
        sequences = [sequence for member in members for sequence in examples[member]]
        (row,) = pack(sequences, sum(costs[member] for member in members))
        packed.append((row, members))
    return packed


def scored_sequence(name: str, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> TokenSequence:
    """Prompt and completion as one sequence, scored at its last token.

    Raises ValueError if either is empty.
    """
    if not len(prompt_ids) or not len(completion_ids):
        raise ValueError(f"example {name}: an empty {'completion' if len(prompt_ids) else 'prompt'}")
    ids = np.array([*prompt_ids, *completion_ids], dtype=np.int64)
    return TokenSequence(name, ids, np.arange(len(ids)) >= len(prompt_ids))


def scores_of(
    model: ScalarHeadModel, sequences: Sequence[TokenSequence], row_tokens: int, ranks: Ranks = SINGLE
) -> NDArray[np.float64]:
    """[M] score of each whole sequence, read at its last token. Raises TooLongError."""
    last = [[sequence.num_tokens - 1] for sequence in sequences]
    return np.concatenate([np.zeros(0), *readings_of(model, sequences, last, row_tokens, ranks)])


@torch.no_grad()
def readings_of(
    model: ScalarHeadModel,
    sequences: Sequence[TokenSequence],
    places: Sequence[Sequence[int]],
    row_tokens: int,
    ranks: Ranks = SINGLE,
) -> list[NDArray[np.float64]]:
    """For each sequence the model's numbers at its ``places``, from 0 at the prompt's begin. Raises TooLongError."""
    for sequence in sequences:
        check_length(sequence, row_tokens)
    counts = [len(row) for row in places]
    begins = np.cumsum([0, *counts])
    read = torch.zeros(int(begins[-1]), dtype=torch.float64)
    for row, is_ours in ranks.rows(sequences, row_tokens):
        numbers = model(row)
        if not is_ours:
            continue
        starts = (row.ends + 1 - torch.tensor(row.lengths)).tolist()
        for start, member in zip(starts, row.members, strict=True):
            here = torch.tensor(places[member], dtype=torch.int64)
            read[begins[member] : begins[member + 1]] = numbers[start + here].double()
    reshard(model)
    return np.split(ranks.total(read).numpy(), begins[1:-1]) if counts else []
