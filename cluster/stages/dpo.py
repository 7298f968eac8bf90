"""Stage ``dpo``: direct preference optimisation of a policy on collected pairs, PF-PPO's baseline without sampling."""

from __future__ import annotations

from typing import Any

from actors.dpo import DPOTrainer
from cluster.background import background
from cluster.calls import again_when_lost, within
from cluster.context import RunContext
from cluster.run_folder import StageFolder
from cluster.session import end_actor
from cluster.stage_config import DPOStage
from cluster.stages.pairs import TIMEOUT_S, SplitPairs, split_pairs, start_trainer, watch_training
from learner.dpo import DPOFigures
from learner.scalar_training import ScalarProgress

_WHO = "DPO trainer"


async def prefer(context: RunContext, stage: DPOStage, folder: StageFolder) -> dict[str, Any]:
    """Trains, writes ``model/``, and returns the manifest's figures."""
    pairs = split_pairs(context, stage, stage.policy)
    progress, held_out = await again_when_lost(
        lambda: _train(context, stage, folder, pairs),
        who=_WHO,
        times=context.config.supervision.max_trainer_losses,
        report=context.report,
    )
    figures = {f"dpo/held_out_{name}": value for name, value in held_out._asdict().items() if name != "num_pairs"}
    context.metrics.log(stage.name, progress.step, figures)
    return {
        "num_pairs": len(pairs.train),
        "num_held_out_pairs": len(pairs.judged),
        "steps": progress.step,
        **{name.removeprefix("dpo/"): value for name, value in figures.items()},
    }


async def _train(
    context: RunContext, stage: DPOStage, folder: StageFolder, pairs: SplitPairs
) -> tuple[ScalarProgress, DPOFigures]:
    """The whole training: what another attempt left is overwritten. Raises LostActorError."""
    context.panel.begin(stage.name, 1.0)
    trainer = start_trainer(DPOTrainer, stage.train, stage)
    try:
        async with background(lambda: watch_training(context, stage.name, trainer, _WHO, "dpo")):
            policy = str(context.model_path(stage.policy))
            done = trainer.train.remote(policy, pairs.train, pairs.judged, str(folder.model))
            return await within(done, TIMEOUT_S, _WHO, "train a policy")
    finally:
        end_actor(trainer)
