"""Stages whose model is trained by one process: an actor that is watched, and begun again where it is lost."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from cluster.background import background
from cluster.calls import again_when_lost, within
from cluster.context import RunContext
from cluster.run_folder import StageFolder
from cluster.session import end_actor, start_actor
from cluster.stage_config import OneTrainerStage
from learner.environment import torch_environment
from learner.scalar_training import Saving

T = TypeVar("T")

_TIMEOUT_S = 7 * 24 * 3600.0  # the number of epochs ends the training; this only bounds a lost actor
_POLL_S = 0.5


class OneTrainer:
    """The trainer's actor. Its ``train`` and ``progress`` answer beside each other."""

    def __init__(self, kind: type, stage: OneTrainerStage, settings: Any, who: str, folder: StageFolder) -> None:
        self.saving = Saving(folder.checkpoints / "newest", 60.0 * stage.checkpoint_every_minutes)
        self._who = who
        self._handle = start_actor(
            kind,
            settings,
            stage.threads,
            num_cpus=1,
            num_gpus=stage.gpus_per_rank,
            max_concurrency=2,
            runtime_env={"env_vars": torch_environment(stage.threads)},
        )

    async def call(self, method: str, *arguments: Any, what: str, timeout_s: float = _TIMEOUT_S) -> Any:
        """Raises LostActorError if it is lost, ActorError if it refuses."""
        return await within(getattr(self._handle, method).remote(*arguments), timeout_s, self._who, what)

    def end(self) -> None:
        end_actor(self._handle)


async def with_trainer(
    context: RunContext,
    stage: OneTrainerStage,
    folder: StageFolder,
    work: Callable[[OneTrainer], Awaitable[T]],
    *,
    kind: type,
    settings: Any,
    who: str,
    prefix: str,
) -> T:
    """What ``work`` makes of a trainer; of a new one where it is lost, as often as supervision allows.

    Its progress is logged under ``prefix``. The checkpoint that ``OneTrainer.saving`` names goes when all is done.
    """

    async def once() -> T:
        context.panel.begin(stage.name, 1.0)
        trainer = OneTrainer(kind, stage, settings, who, folder)
        try:
            async with background(lambda: _watch(context, stage.name, trainer, prefix)):
                return await work(trainer)
        finally:
            trainer.end()

    times = context.config.supervision.max_trainer_losses
    made = await again_when_lost(once, who=who, times=times, report=context.report)
    shutil.rmtree(folder.checkpoints, ignore_errors=True)  # the model is whole
    return made


async def _watch(context: RunContext, stage: str, trainer: OneTrainer, prefix: str) -> None:
    """Consumes the trainer's progress, its health check too; waits between polls; ends when it is cancelled."""
    last_step = 0
    timeout_s = context.config.supervision.health_timeout_s
    while True:
        await asyncio.sleep(_POLL_S)
        progress = await trainer.call("progress", what="answer its health check", timeout_s=timeout_s)
        if progress is None or progress.step == last_step:
            continue
        last_step = progress.step
        figures = {
            f"{prefix}/loss": progress.loss,
            f"{prefix}/grad_norm": progress.grad_norm,
            f"{prefix}/learning_rate": progress.learning_rate,
        }
        context.metrics.log(stage, progress.step, figures)
        context.panel.figures({"loss": f"{progress.loss:.3f}"})
        context.panel.progress(stage, progress.step / progress.num_steps, f"step {progress.step}")
