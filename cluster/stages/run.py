"""Runs the open stages of a recipe, one after the other."""

from __future__ import annotations

import time
from importlib.metadata import version

from rich.console import Console

from cluster.background import background
from cluster.config import RunConfig
from cluster.context import RunContext
from cluster.inputs import fingerprint_inputs, weights_digest
from cluster.leakage import learned_by
from cluster.learned_problems import write_learned
from cluster.metrics import Metrics
from cluster.panel import Panel
from cluster.placement import WITHOUT_EXECUTION
from cluster.run_folder import Finished, RunFolder, digest
from cluster.stage_config import (
    CollectStage,
    DiscriminatorStage,
    DPOStage,
    EvaluateStage,
    LineLabelsStage,
    MineStage,
    PPOStage,
    ProcessRewardModelStage,
    RewardModelStage,
    SFTStage,
    Stage,
)
from cluster.stages.collect import collect
from cluster.stages.discriminator import fit_discriminator
from cluster.stages.dpo import prefer
from cluster.stages.evaluate import evaluate
from cluster.stages.line_labels import label_lines
from cluster.stages.mine import mine
from cluster.stages.ppo import train_policy
from cluster.stages.process_reward_model import fit_process_reward_model
from cluster.stages.reward_model import fit_reward_model
from cluster.stages.sft import fine_tune
from cluster.wandb_sink import WandbSink


async def run_stages(
    config: RunConfig, folder: RunFolder, finished: list[Finished], console: Console
) -> list[Finished]:
    """Runs what is not in ``finished`` yet and returns all; the pools end with the last stage or the first error."""
    metrics = Metrics(folder, WandbSink(config, folder.root) if config.wandb is not None else None)
    log = folder.log.open("a", buffering=1)
    panel = Panel(f"Crucible  {config.name}", {stage.name: stage.kind for stage in config.stages}, console, log)
    context = RunContext(config, folder, metrics, panel)
    for done in finished:
        panel.end(done.name)
    try:
        if any(stage.kind not in WITHOUT_EXECUTION for stage in config.stages[len(finished) :]):
            await context.executors.start()  # first of all: a missing engine or image is told before any training
        with panel:
            async with background(context.watch):
                for stage in config.stages[len(finished) :]:
                    finished.append(await _run_stage(context, stage))
    finally:
        await context.close()
        metrics.close()
        log.close()
    return finished


async def _run_stage(context: RunContext, stage: Stage) -> Finished:
    folder = context.folder.stage(stage.name)
    if context.shares_gpu and stage.kind in WITHOUT_EXECUTION:
        await context.generators.stop()  # it would be in the trainer's way
    lineage = context.folder.begin_lineage(stage.name)
    context.metrics.lineage = lineage
    begun = time.time()
    match stage:
        case SFTStage():
            figures = await fine_tune(context, stage, folder)
        case CollectStage():
            figures = await collect(context, stage, folder, lineage)
        case RewardModelStage():
            figures = await fit_reward_model(context, stage, folder)
        case DPOStage():
            figures = await prefer(context, stage, folder)
        case LineLabelsStage():
            figures = await label_lines(context, stage, folder, lineage)
        case ProcessRewardModelStage():
            figures = await fit_process_reward_model(context, stage, folder)
        case PPOStage():
            figures = await train_policy(context, stage, folder, lineage)
        case DiscriminatorStage():
            figures = await fit_discriminator(context, stage, folder, lineage)
        case MineStage():
            figures = await mine(context, stage, folder, lineage)
        case EvaluateStage():
            figures = await evaluate(context, stage, folder, lineage)
    manifest = {
        "kind": stage.kind,
        "config": digest(stage.model_dump(mode="json")),
        "inputs": fingerprint_inputs(stage, context.folder),
        "code": version("crucible-rl"),
        "lineage": lineage,
        "seconds": round(time.time() - begun, 1),
        "figures": figures,
    }
    if folder.model.is_dir():
        write_learned(folder.model, learned_by(stage.name, context.config.stages, context.folder))
        manifest["weights"] = weights_digest(folder.model)
    folder.finish(manifest)
    context.panel.end(stage.name)
    return Finished(stage.name, stage.kind, manifest)
