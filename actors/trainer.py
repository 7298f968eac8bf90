"""The trainer's workers: supervised fine-tuning and PPO. cluster/ turns them into Ray actors."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from actors.weights import ShmSender
from learner.config import NewModelConfig, PPOConfig, SFTConfig
from learner.models import load_causal_lm, load_tokenizer, new_causal_lm
from learner.ppo import PPOLearner
from learner.sft import SFTProgress, SFTTrainer, sft_example
from learner.trajectory import Trajectory
from problems.identity import WeightsVersion
from problems.prompting import PromptStyle, render_prompt


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one learner step did, in plain values.

    Attributes:
        metrics: under the names of docs/metrics.md.
        trained: identities (as text) that made the update.
        dropped: identity -> reason.
        start, end: seconds since the epoch.
    """

    metrics: dict[str, float]
    trained: tuple[str, ...]
    dropped: dict[str, str]
    start: float
    end: float


class TrainerWorker:
    """One ppo stage's learner with its side of the weight transport.

    Args:
        config: the learner's settings.
        run: name of the run; a part of the published folder's name.
        threads: of torch.
    """

    def __init__(self, config: PPOConfig, run: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._config = config
        self._sender = ShmSender(run)
        self._learner: PPOLearner | None = None
        self._tokenizer: Any = None

    def start(self, policy: str, checkpoint: str | None) -> None:
        """Loads the initial policy (also the reference), then the checkpoint's state over it if there is one."""
        model = load_causal_lm(policy)
        self._tokenizer = load_tokenizer(policy, model)
        self._learner = PPOLearner(model, self._config)
        if checkpoint is not None:
            self._learner.load(checkpoint)

    def warm_up(self, train: Sequence[Trajectory], held_out: Sequence[Trajectory]) -> dict[str, float]:
        """See PPOLearner.warm_up_critic."""
        return self._started.warm_up_critic(train, held_out)

    def step(self, groups: Sequence[Sequence[Trajectory]]) -> StepReport:
        """One learner step on complete groups."""
        start = time.time()
        result = self._started.step(groups)
        dropped = {str(outcome.id): outcome.drop_reason or "" for outcome in result.outcomes if not outcome.kept}
        trained = tuple(str(identity) for identity in result.trained_ids)
        return StepReport(result.metrics, trained, dropped, start, time.time())

    def publish(self, version: WeightsVersion) -> dict[str, str]:
        """Publishes the policy's weights as ``version`` and returns the ticket."""
        return self._sender.publish(version, self._started.weights())

    def save(self, folder: str) -> None:
        """Writes a checkpoint, complete or not at all."""
        self._started.save(folder)

    def export(self, folder: str) -> None:
        """Writes the policy as a Hugging Face folder, tokenizer included."""
        self._started.export(folder, self._tokenizer)

    def close(self) -> None:
        """Frees published weights."""
        self._sender.close()

    @property
    def _started(self) -> PPOLearner:
        if self._learner is None:
            raise RuntimeError("the trainer has no model: start() comes first")
        return self._learner


class FineTuner:
    """One sft stage's trainer. ``train`` runs in one thread, ``progress`` and ``stop`` answer from another.

    Args:
        config: the trainer's settings.
        threads: of torch.
    """

    def __init__(self, config: SFTConfig, threads: int) -> None:
        torch.set_num_threads(threads)
        self._config = config
        self._latest: SFTProgress | None = None
        self._stop = threading.Event()

    def train(
        self,
        tokenizer_folder: str,
        base: str | None,
        new_model: NewModelConfig,
        style: PromptStyle,
        pairs: Sequence[tuple[str, str]],
        output: str,
    ) -> SFTProgress:
        """Trains on (prompt, completion) texts and writes a Hugging Face folder.

        Args:
            tokenizer_folder: tokenizer, saved beside the model.
            base: model to start from; None makes one of ``new_model``.
            new_model: shape of the new model.
            style: how prompts are rendered, here as in RL and evaluation.
            pairs: completions get the end-of-sequence token.
            output: the folder to write.
        """
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
        model = (
            load_causal_lm(base)
            if base is not None
            else new_causal_lm(
                new_model,
                vocab_size=len(tokenizer),
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                seed=self._config.seed,
            )
        )
        examples = [
            sft_example(
                str(index),
                render_prompt(prompt, style, tokenizer),
                [*tokenizer.encode(completion, add_special_tokens=False), tokenizer.eos_token_id],
            )
            for index, (prompt, completion) in enumerate(pairs)
        ]
        trainer = SFTTrainer(model, self._config, examples)
        final = trainer.train(progress=self._note, stop=self._stop.is_set)
        trainer.export(Path(output), tokenizer)
        return final

    def progress(self) -> SFTProgress | None:
        """Where the training stands; None before its first step."""
        return self._latest

    def stop(self) -> None:
        """Ends the training between two steps."""
        self._stop.set()

    def _note(self, progress: SFTProgress) -> None:
        self._latest = progress
