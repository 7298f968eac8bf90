# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Checkpoints written while training goes on, and which of them stay.

    begin   copy the state to host memory (training waits)  -->  a thread writes it (training goes on)
    finish  waits for the thread, and raises what went wrong in it

The copy is consistent: nothing that a later step changes is in it. One write at a time: a second ``begin`` waits.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import torch.distributed as dist
from pydantic import BaseModel
from torch.distributed.checkpoint.staging import BlockingAsyncStager

from learner.checkpoint import read_manifest, save_checkpoint
from learner.parallel import SINGLE, Ranks


class CheckpointWriter:
    """Writes one checkpoint at a time in the background.

    The thread talks to the other ranks through a process group of its own: its messages never mix with training's.

    Args:
        ranks: those that write together; all make this object at the same time.
    """

    def __init__(self, ranks: Ranks = SINGLE) -> None:
        self._ranks = ranks
        self._group = cast(dist.ProcessGroup, dist.new_group(backend="gloo")) if ranks.count > 1 else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[Path] | None = None

    def begin(
        self,
        folder: str | Path,
        *,
        kind: str,
        settings: BaseModel,
        state: dict[str, Any],
        origins: Mapping[str, str] | None = None,
        figures: Mapping[str, float] | None = None,
    ) -> None:
        """Takes a copy of ``state`` and starts to write it; arguments as in ``save_checkpoint``."""
        self.finish()
        copied = BlockingAsyncStager().stage(state)
        self._pending = self._thread.submit(
            save_checkpoint, folder, kind=kind, settings=settings, state=copied, origins=origins, figures=figures,
            ranks=self._ranks, group=self._group,
        )  # fmt: skip

    def finish(self) -> Path | None:
        """Waits for the checkpoint that is being written; returns its folder, None if there was none.

        Raises what went wrong while it was written.
        """
        pending, self._pending = self._pending, None
        return None if pending is None else pending.result()

    def close(self) -> None:
        """Finishes and ends the thread."""
        try:
            self.finish()
        finally:
            self._thread.shutdown()


def superfluous(
    checkpoints: Sequence[Path],
    *,
    keep_last: int,
    keep_best: int = 0,
    metric: str = "",
    smaller_is_better: bool = False,
) -> list[Path]:
    """Which checkpoints may go: all but the last ones and the best ones.

    Args:
        checkpoints: complete ones, oldest first.
        keep_last: how many of the newest stay; at least 1.
        keep_best: how many of the best by ``metric`` stay besides.
        metric: a name among the figures that were saved with each; those without it are never among the best.
        smaller_is_better: of the metric.
    """
    if keep_last < 1:
        raise ValueError(f"keep_last {keep_last}: the newest checkpoint always stays")
    kept = set(checkpoints[-keep_last:])
    if keep_best:
        sign = 1.0 if smaller_is_better else -1.0
        figures = {path: read_manifest(path).get("figures", {}) for path in checkpoints}
        scored = [path for path in reversed(checkpoints) if metric in figures[path]]  # of equals the newer
        kept |= set(sorted(scored, key=lambda path: sign * figures[path][metric])[:keep_best])
    return [path for path in checkpoints if path not in kept]


def prune(checkpoints: Sequence[Path], **rule: Any) -> list[Path]:
    """Deletes what is superfluous (``superfluous``'s arguments) and what kills left over; returns the former.

    To be called while none is being written. A folder loses its name before it is deleted: one that is half gone is
    never taken for a checkpoint.
    """
    gone = superfluous(checkpoints, **rule)
    for path in gone:
        path.rename(path.with_name(f"{path.name}.partial-old"))
    for folder in {path.parent for path in checkpoints}:
        for left_over in folder.glob("*.partial*"):
            shutil.rmtree(left_over, ignore_errors=True)
    return gone
