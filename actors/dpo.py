"""One dpo stage's trainer as a worker."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import torch

from learner.dpo import DPOFigures, judge_dpo, train_dpo
from learner.export import export_huggingface
from learner.models import load_causal_lm, load_tokenizer
from learner.preferences import PreferencePair
from learner.scalar_config import DPOConfig
from learner.scalar_training import ScalarProgress


class DPOTrainer:
    """``train`` runs in one thread, ``progress`` answers from another."""

    def __init__(self, config: DPOConfig, threads: int) -> None:
        torch.set_num_threads(threads)
        self._config = config
        self._latest: ScalarProgress | None = None
        self._lock = threading.Lock()

    def train(
        self, policy: str, pairs: Sequence[PreferencePair], held_out: Sequence[PreferencePair], output: str
    ) -> tuple[ScalarProgress, DPOFigures]:
        """Trains from the folder ``policy``, which is the reference too, and writes a Hugging Face folder."""
        model = load_causal_lm(policy)
        final = train_dpo(model, self._config, pairs, progress=self._note)
        figures = judge_dpo(model, load_causal_lm(policy), self._config, held_out)
        export_huggingface(model, Path(output), tokenizer=load_tokenizer(policy, model))
        return final, figures

    def progress(self) -> ScalarProgress | None:
        """Where the training stands; None before its first step."""
        with self._lock:
            return self._latest

    def _note(self, progress: ScalarProgress) -> None:
        with self._lock:
            self._latest = progress
