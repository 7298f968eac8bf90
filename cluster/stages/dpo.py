"""Stage ``dpo``: direct preference optimisation of a policy on collected pairs, PF-PPO's baseline without sampling."""

from __future__ import annotations

from typing import Any

from actors.dpo import DPOTrainer
from cluster.context import RunContext
from cluster.run_folder import StageFolder
from cluster.stage_config import DPOStage
from cluster.stages.one_trainer import OneTrainer, with_trainer
from cluster.stages.pairs import split_pairs
from learner.dpo import DPOFigures
from learner.scalar_training import ScalarProgress


async def prefer(context: RunContext, stage: DPOStage, folder: StageFolder) -> dict[str, Any]:
    """Trains, writes ``model/``, and returns the manifest's figures."""
    pairs = split_pairs(context, stage, stage.policy)

    async def train(trainer: OneTrainer) -> tuple[ScalarProgress, DPOFigures]:
        job = (str(context.model_path(stage.policy)), pairs.train, pairs.judged, str(folder.model), trainer.saving)
        return await trainer.call("train", *job, what="train a policy")

    progress, held_out = await with_trainer(
        context, stage, folder, train, kind=DPOTrainer, settings=stage.train, who="DPO trainer", prefix="dpo"
    )
    figures = {f"dpo/held_out_{name}": value for name, value in held_out._asdict().items() if name != "num_pairs"}
    context.metrics.log(stage.name, progress.step, figures)
    return {
        "num_pairs": len(pairs.train),
        "num_held_out_pairs": len(pairs.judged),
        "steps": progress.step,
        **{name.removeprefix("dpo/"): value for name, value in figures.items()},
    }
