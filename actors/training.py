"""What trainers of one process have in common: they train in one thread and tell where they stand from another."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

import torch

from learner.scalar_config import ScalarTrainingConfig
from learner.scalar_training import ScalarProgress

C = TypeVar("C", bound=ScalarTrainingConfig)


class TrainingWorker(Generic[C]):
    """Subclasses have a ``train``, which gives ``_note`` every step."""

    def __init__(self, config: C, threads: int) -> None:
        torch.set_num_threads(threads)
        self._config = config
        self._latest: ScalarProgress | None = None
        self._lock = threading.Lock()

    def progress(self) -> ScalarProgress | None:
        """Where the training stands; None before its first step."""
        with self._lock:
            return self._latest

    def _note(self, progress: ScalarProgress) -> None:
        with self._lock:
            self._latest = progress
