"""A ppo stage's checkpoints: begun between two steps, written while the next one trains, counted when they are whole.

    step k | copy | step k+1 | step k+2 | copy | ..
                  [ write, rename, ledger ]    ^ waits for the write before, if it still goes on

The copy is in host memory; only for it does training wait. What goes wrong in a write stops the run at the next step.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from cluster.ledger import Ledger
from cluster.stage_config import PPOStage
from learner.checkpoint_writer import prune
from problems.identity import WeightsVersion


class Trainer(Protocol):
    """The part of a TrainerGroup that checkpoints need."""

    async def call(self, method: str, *arguments: Any, what: str) -> Any: ...

    async def call_beside(self, method: str, *arguments: Any, what: str) -> Any: ...


class Checkpoints:
    """Those of one start of a stage.

    Args:
        folder: where they lie, one folder each under its version's name.
        stage: when they are due, and which stay.
        trainer: writes them.
        ledger: is told of each that is whole.
    """

    def __init__(self, folder: Path, stage: PPOStage, trainer: Trainer, ledger: Ledger) -> None:
        self._folder = folder
        self._stage = stage
        self._trainer = trainer
        self._ledger = ledger
        self._writing: asyncio.Task[None] | None = None
        self._last = time.monotonic()

    def is_due(self, version: WeightsVersion) -> bool:
        """By steps, by minutes, and at the end."""
        minutes = self._stage.checkpoint_every_minutes
        late = minutes is not None and time.monotonic() - self._last >= 60 * minutes
        by_steps = version.step % self._stage.checkpoint_every_steps == 0
        return late or by_steps or version.step == self._stage.learner.num_steps

    async def begin(self, figures: Mapping[str, float] | None = None) -> WeightsVersion:
        """Returns when the trainer has copied its state; it is written from there on. One is written at a time.

        Args:
            figures: noted in it, so that the best one can be told.
        """
        await self.finish()
        version: WeightsVersion = await self._trainer.call(
            "begin_save", str(self._folder), figures, what="copy its state for a checkpoint"
        )
        self._last = time.monotonic()
        self._writing = asyncio.create_task(self._write(version))
        return version

    async def finish(self) -> None:
        """Waits for the one that is being written, if any; raises what went wrong. It outlives a cancelled wait."""
        writing = self._writing
        if writing is None:
            return
        try:
            await asyncio.shield(writing)
        finally:
            if writing.done():
                self._writing = None

    async def check(self) -> None:
        """Raises what went wrong in a write that has ended; waits for nothing."""
        if self._writing is not None and self._writing.done():
            await self.finish()

    async def abandon(self) -> None:
        """Waits for nothing more and tells nobody: the trainer is ended."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    async def _write(self, version: WeightsVersion) -> None:
        """Consumes one begun checkpoint; waits until the trainer has written it: it counts, and others may go."""
        await self._trainer.call_beside("finish_save", what="write a checkpoint")
        self._ledger.checkpoint(version)
        prune(
            complete_checkpoints(self._folder),
            keep_last=self._stage.keep_checkpoints,
            keep_best=self._stage.keep_best_checkpoints,
            metric=self._stage.best_metric,
        )


def complete_checkpoints(folder: Path) -> list[Path]:
    """Oldest first: a folder appears under its name only when it is whole.

    A later lineage began at the newest checkpoint of its time, so that its own are newer than all before.
    """
    found = [path for path in folder.glob("L*.S*") if path.is_dir() and "partial" not in path.name]
    return sorted(found, key=lambda path: WeightsVersion.parse(path.name))


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a stage; None before the first."""
    return next(reversed(complete_checkpoints(folder)), None)
