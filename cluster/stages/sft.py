"""Stage ``sft``: tokenizer and model from nothing, or further training of a model, on prompts and completions."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from actors.trainer import FineTuner
from cluster.background import background
from cluster.calls import again_when_lost
from cluster.context import RunContext
from cluster.errors import LostActorError, TrainerLostError
from cluster.inputs import problems_of
from cluster.presence import Present
from cluster.run_folder import StageFolder
from cluster.session import start_actor
from cluster.stage_config import SFTStage
from cluster.trainer import RankGroup
from learner.environment import torch_environment
from learner.sft import SFTProgress
from problems.synthetic import corpus
from problems.tokenizer import save_tokenizer, train_tokenizer

_FINE_TUNER = "fine-tuner"
_POLL_S = 0.5
_TIMEOUT_S = 7 * 24 * 3600.0  # a budget in the config ends the training; this only bounds a lost actor
_TOKENIZER_TEXTS = 6000


class FineTunerActor(FineTuner, Present):
    """The fine-tuner's worker as a Ray actor."""


async def fine_tune(context: RunContext, stage: SFTStage, folder: StageFolder) -> dict[str, Any]:
    """Trains, writes ``model/``, and returns the manifest's figures. A stage that was cut short goes on from its last
    checkpoint, if it had come to one."""
    context.panel.begin(stage.name, 1.0)
    context.panel.progress(stage.name, 0.0, "writing the corpus")
    pairs = await asyncio.to_thread(_pairs, stage)
    base = context.model_path(stage.base) if stage.base is not None else None
    tokenizer_folder = base or await asyncio.to_thread(_new_tokenizer, stage, pairs, folder.root / "tokenizer")
    style = context.tokenizer(tokenizer_folder).style
    checkpoint = folder.checkpoints / "newest"
    job = (
        str(tokenizer_folder),
        str(base) if base else None,
        stage.new_model,
        style,
        pairs,
        str(folder.model),
        str(checkpoint),
        60.0 * stage.checkpoint_every_minutes,
    )
    progress = await again_when_lost(
        lambda: _fine_tune_once(context, stage, job),
        who=_FINE_TUNER,
        times=context.config.supervision.max_trainer_losses,
        report=context.report,
    )
    shutil.rmtree(folder.checkpoints, ignore_errors=True)  # the model is whole
    return asdict(progress)


async def _fine_tune_once(context: RunContext, stage: SFTStage, job: tuple[Any, ...]) -> SFTProgress:
    """The whole training, or what is left of it. Raises LostActorError when a rank is lost."""
    handles = [
        start_actor(
            FineTunerActor,
            stage.train,
            stage.threads,
            rank,
            num_cpus=1,
            num_gpus=stage.gpus_per_rank,
            max_concurrency=2,
            runtime_env={"env_vars": torch_environment(stage.threads)},
        )
        for rank in range(stage.ranks)
    ]
    timeout_s = context.config.supervision.trainer_timeout_s
    tuner = RankGroup(_FINE_TUNER, handles, timeout_s, report=lambda *_: None)  # who begins anew reports it
    try:
        await tuner.meet()
        async with background(lambda: _watch(context, stage, tuner)):
            return await tuner.call("train", *job, what="fine-tune", timeout_s=_TIMEOUT_S)
    except TrainerLostError as error:
        raise LostActorError(str(error)) from error
    finally:
        tuner.end()


def _pairs(stage: SFTStage) -> list[tuple[str, str]]:
    """(prompt, completion) texts of the stage."""
    if stage.corpus is not None:
        return list(corpus(stage.corpus))
    return [(problem.prompt, problem.reference_completions[0]) for problem in problems_of(stage.problems)]


def _new_tokenizer(stage: SFTStage, pairs: list[tuple[str, str]], folder: Path) -> Path:
    texts = [prompt + completion for prompt, completion in pairs[:_TOKENIZER_TEXTS]]
    save_tokenizer(train_tokenizer(texts, stage.vocab_size), folder, max_tokens=stage.new_model.max_position_embeddings)
    return folder


async def _watch(context: RunContext, stage: SFTStage, tuner: RankGroup) -> None:
    """Consumes the trainer's progress, its health check too; waits between polls; ends when it is cancelled."""
    last_step = 0
    while True:
        await asyncio.sleep(_POLL_S)
        timeout_s = context.config.supervision.health_timeout_s
        progress: SFTProgress | None = await tuner.call("progress", what="answer its health check", timeout_s=timeout_s)
        if progress is None or progress.step == last_step:
            continue
        last_step = progress.step
        context.metrics.log(
            stage.name,
            progress.step,
            {
                "sft/loss": progress.loss,
                "sft/grad_norm": progress.grad_norm,
                "sft/learning_rate": progress.learning_rate,
                "sft/tokens_per_s": progress.tokens / max(progress.seconds, 1e-9),
            },
        )
        context.panel.figures(
            {"loss": f"{progress.loss:.3f}", "tokens/s": f"{progress.tokens / max(progress.seconds, 1e-9):.0f}"}
        )
        context.panel.progress(stage.name, progress.fraction, f"step {progress.step}")
