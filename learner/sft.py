"""Supervised fine-tuning: the completion is trained, its end-of-sequence token included; the prompt is not."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from learner.aggregate import weighted_sum
from learner.checkpoint import load_checkpoint, random_state, restore_random_state, weights_fingerprint
from learner.checkpoint_writer import CheckpointWriter
from learner.config import SFTConfig
from learner.errors import EmptyCompletionError
from learner.export import export_huggingface
from learner.lora import add_adapter, trained_state
from learner.minibatch import MiniBatch, PassFigures, minibatches, update
from learner.optim import ScheduledOptimizer
from learner.packing import PackedRow, TokenSequence, check_length, check_tokens, fingerprint
from learner.parallel import SINGLE, Ranks, shard
from learner.placement import compute_device, settle
from learner.policy import Policy, check_packed_path
from problems.identity import derive_seed


@dataclass(frozen=True, slots=True)
class SFTProgress:
    """Where the training stands.

    Attributes:
        step: optimizer steps made.
        fraction: of the budget, in [0, 1].
        loss: of the last mini-batch, nats a trained token.
        tokens: passed so far, prompts included.
        seconds: trained so far, those before a resume included.
        learning_rate: of the last step.
        grad_norm: of the last step, before clipping.
    """

    step: int
    fraction: float
    loss: float
    tokens: int
    seconds: float
    learning_rate: float
    grad_norm: float


def sft_example(name: str, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> TokenSequence:
    """One pair as a sequence. ``completion_ids`` end with the end-of-sequence id, trained like any other token.

    Raises EmptyCompletionError or ValueError (empty prompt).
    """
    if not len(completion_ids):
        raise EmptyCompletionError(name, "no token to train")
    if not len(prompt_ids):
        raise ValueError(f"example {name}: empty prompt, its first token has no context to be predicted from")
    ids = np.array([*prompt_ids, *completion_ids], dtype=np.int64)
    return TokenSequence(name, ids, np.arange(len(ids)) >= len(prompt_ids))


class SFTTrainer:
    """Trains a causal LM in place. Deterministic by seed under a budget of steps; resumable in the middle of a pass."""

    def __init__(
        self, model: PreTrainedModel, config: SFTConfig, examples: Sequence[TokenSequence], *, ranks: Ranks = SINGLE
    ) -> None:
        """
        Args:
            model: from ``learner.models``.
            config: budget, optimizer, packing.
            examples: from ``sft_example``; each at most ``config.max_example_tokens`` long (TooLongError otherwise), of
                tokens that the model has (TokenOutsideVocabularyError).
            ranks: processes that share the work; each makes this object with the same arguments and calls the same
                methods in the same order.
        """
        if not examples:
            raise ValueError("no examples to train on")
        for example in examples:
            check_length(example, config.max_example_tokens)
            check_tokens(example, model.config.vocab_size)
        self.config = config
        self.examples = examples
        self.ranks = ranks
        settle(model, compute_device(config.compute.device))
        self.policy = Policy(model, compute=config.compute)
        check_packed_path(self.policy, max_tokens=config.max_example_tokens)
        self._origins = {
            "base of the adapter": weights_fingerprint(model) if config.lora is not None else "none",
            "set of examples": fingerprint(examples),
        }
        if config.lora is not None:
            add_adapter(model, config.lora, seed=derive_seed("lora", config.seed))
        shard(self.policy, ranks)
        self.optimizer = ScheduledOptimizer(self.policy, config.optimizer, states=config.compute.optimizer_states)
        self._writer = CheckpointWriter(ranks)
        self.num_steps = 0
        self.num_tokens = 0
        self.seconds = 0.0

    @property
    def fraction(self) -> float:
        """Share of the budget that is used, by whichever bound is nearer."""
        steps = self.num_steps / self.config.max_steps if self.config.max_steps else 0.0
        seconds = self.seconds / self.config.max_seconds if self.config.max_seconds else 0.0
        return min(1.0, max(steps, seconds))

    def train(
        self,
        *,
        progress: Callable[[SFTProgress], None] | None = None,
        stop: Callable[[], bool] = lambda: False,
        checkpoint: Path | None = None,
        checkpoint_every_s: float = math.inf,
    ) -> SFTProgress:
        """Trains until the budget is used or ``stop`` says so between two steps; callable again to go on.

        Args:
            progress: called after each step.
            stop: looked at between steps.
            checkpoint: folder of the newest checkpoint, which replaces the one before; None: none is written.
            checkpoint_every_s: seconds of training between two.

        Raises NonFiniteGradientError, with the weights of before that step.
        """
        saved_s = self.seconds
        latest = SFTProgress(self.num_steps, self.fraction, float("nan"), self.num_tokens, self.seconds, 0.0, 0.0)
        for batch in self._batches():
            is_over, is_due = self.ranks.any_of(
                stop() or self.fraction >= 1.0, self.seconds - saved_s >= checkpoint_every_s
            )
            if is_due and checkpoint is not None:
                saved_s = self.seconds
                self.begin_save(checkpoint)
            if is_over:
                break
            latest = self._step(batch)
            if progress is not None:
                progress(latest)
        self._writer.finish()
        return latest

    def save(self, folder: str | Path) -> None:
        """Writes everything that the next step depends on."""
        self.begin_save(folder)
        self._writer.finish()

    def begin_save(self, folder: str | Path) -> None:
        """Like ``save``, but returns when the state is copied; it is written while training goes on."""
        self._writer.begin(folder, kind="sft", settings=self.config, state=self._state(), origins=self._origins)

    def load(self, folder: str | Path) -> None:
        """Goes on from what ``save`` wrote, with the same examples. Raises CheckpointError."""
        state = load_checkpoint(
            folder, kind="sft", settings=self.config, state=self._state(), origins=self._origins, ranks=self.ranks
        )
        self.policy.load_state_dict(state["policy"], strict=self.config.lora is None)
        self.optimizer.load_state_dict(state["optimizer"])
        self.num_steps, self.num_tokens, self.seconds = state["num_steps"], state["num_tokens"], state["seconds"]
        restore_random_state(state["random"])

    def _state(self) -> dict[str, Any]:
        return {
            "num_steps": self.num_steps,
            "num_tokens": self.num_tokens,
            "seconds": self.seconds,
            "policy": trained_state(self.policy),
            "optimizer": self.optimizer.state_dict(),
            "random": random_state(),
        }

    def export(self, folder: str | Path, tokenizer: Any = None) -> None:
        """Writes the model as a Hugging Face folder."""
        dtype = getattr(torch, self.config.export_precision)
        export_huggingface(self.policy.model, folder, tokenizer=tokenizer, dtype=dtype, ranks=self.ranks)

    def _batches(self) -> Iterator[MiniBatch]:
        """Mini-batches without end from where the training stands: each pass in an order of its own."""
        per_pass = -(-len(self.examples) // self.config.batch_examples)
        epoch, skip = divmod(self.num_steps, per_pass)
        while True:
            order = derive_seed("sft-order", self.config.seed, epoch)
            size = self.config.batch_examples
            for index, batch in enumerate(
                minibatches(self.examples, size=size, aggregation="token_mean", order_seed=order)
            ):
                if index >= skip:
                    yield batch
            epoch, skip = epoch + 1, 0

    def _step(self, batch: MiniBatch) -> SFTProgress:
        begin, figures = time.perf_counter(), PassFigures()
        update(
            batch, model_name="policy", optimizer=self.optimizer, row_tokens=self.config.row_tokens,
            row_loss=self._row_loss, progress=self.fraction, figures=figures, ranks=self.ranks,
        )  # fmt: skip
        self.num_steps += 1
        self.num_tokens += int(self.ranks.total(torch.tensor(figures.num_tokens)))
        # one clock for all ranks: the rate follows it
        elapsed = torch.tensor(time.perf_counter() - begin, dtype=torch.float64)
        self.seconds += float(self.ranks.largest(elapsed))
        return SFTProgress(
            step=self.num_steps,
            fraction=self.fraction,
            loss=figures.losses[-1],
            tokens=self.num_tokens,
            seconds=self.seconds,
            learning_rate=self.optimizer.learning_rate,
            grad_norm=figures.grad_norm,
        )

    def _row_loss(self, row: PackedRow, flat: Tensor, weights: Tensor) -> tuple[Tensor, dict[str, float]]:  # noqa: ARG002
        return weighted_sum(-self.policy(row).logprobs, weights), {}
