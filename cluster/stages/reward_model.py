"""Stage ``reward_model``: Bradley-Terry on collected pairs, judged on pairs of problems that it has not seen."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from actors.scorer import RewardModelTrainer
from cluster.answers import read_pairs
from cluster.config import STAGE_PREFIX, RewardModelStage
from cluster.context import RunContext
from cluster.errors import ConfigError
from cluster.pools import within
from cluster.run_folder import StageFolder, digest, write_atomically
from cluster.session import end_actor, start_actor
from learner.preferences import PreferencePair, held_out_problems
from learner.reward_model import PairFigures

_WHO = "reward-model trainer"
_POLL_S = 0.5
_TIMEOUT_S = 7 * 24 * 3600.0  # the number of epochs ends the training; this only bounds a lost actor


async def fit_reward_model(context: RunContext, stage: RewardModelStage, folder: StageFolder) -> dict[str, Any]:
    """Trains, writes ``model/`` and ``held_out.json``, and returns the manifest's figures."""
    pairs = [
        pair
        for reference in stage.pairs
        for pair in read_pairs(context.folder.stage(reference.removeprefix(STAGE_PREFIX)).root)
    ]
    seed = stage.train.seed
    held_out = held_out_problems((pair.chosen.problem_id for pair in pairs), stage.held_out_share, seed)
    train = [pair for pair in pairs if pair.chosen.problem_id not in held_out]
    judged = [pair for pair in pairs if pair.chosen.problem_id in held_out]
    if not train or not judged:
        raise ConfigError(
            f"stages.{stage.name}: {len(pairs)} pairs of {len({p.chosen.problem_id for p in pairs})} problems are too "
            f"few to keep a share of {stage.held_out_share} to judge the model by; collect more"
        )
    progress, figures = await _train(context, stage, folder, train, judged)
    write_atomically(folder.root / "held_out.json", json.dumps(_written(figures), indent=1))
    context.metrics.log(stage.name, progress.step, _metrics(figures))
    return {
        "num_pairs": len(train),
        "num_held_out_pairs": len(judged),
        "held_out_problems": digest(sorted(held_out)),
        "steps": progress.step,
        **{name.removeprefix("reward_model/"): value for name, value in _metrics(figures).items()},
    }


async def _train(
    context: RunContext,
    stage: RewardModelStage,
    folder: StageFolder,
    pairs: list[PreferencePair],
    held_out: list[PreferencePair],
) -> tuple[Any, PairFigures]:
    context.panel.begin(stage.name, 1.0)
    trainer = start_actor(
        RewardModelTrainer,
        stage.train,
        stage.threads,
        num_cpus=1,
        max_concurrency=2,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": str(stage.threads)}},
    )
    try:
        done = trainer.train.remote(str(context.model_path(stage.base)), pairs, held_out, str(folder.model))
        watching = asyncio.create_task(_watch(context, stage, trainer))
        try:
            return await within(done, _TIMEOUT_S, _WHO, "train a reward model")
        finally:
            watching.cancel()
    finally:
        end_actor(trainer)


async def _watch(context: RunContext, stage: RewardModelStage, trainer: Any) -> None:
    """Consumes the trainer's progress; waits between polls; ends when it is cancelled at the stage's end."""
    last_step = 0
    while True:
        await asyncio.sleep(_POLL_S)
        progress = await trainer.progress.remote()
        if progress is None or progress.step == last_step:
            continue
        last_step = progress.step
        context.metrics.log(
            stage.name,
            progress.step,
            {
                "reward_model/loss": progress.loss,
                "reward_model/grad_norm": progress.grad_norm,
                "reward_model/learning_rate": progress.learning_rate,
            },
        )
        context.panel.figures({"loss": f"{progress.loss:.3f}"})
        context.panel.progress(stage.name, progress.step / progress.num_steps, f"step {progress.step}")


def _metrics(figures: PairFigures) -> dict[str, float]:
    return {
        "reward_model/held_out_accuracy": figures.accuracy,
        "reward_model/held_out_loss": figures.loss,
        "reward_model/held_out_accuracy_longer": figures.accuracy_longer,
        "reward_model/held_out_accuracy_shorter": figures.accuracy_shorter,
        "reward_model/length_correlation": figures.length_correlation,
        "reward_model/calibration_error": figures.calibration.error,
    }


def _written(figures: PairFigures) -> dict[str, Any]:
    """For the report: the figures with the calibration's bins."""
    bins = figures.calibration
    return {
        **_metrics(figures),
        "num_pairs": figures.num_pairs,
        "calibration": {
            "confidence": bins.confidence.tolist(),
            "accuracy": bins.accuracy.tolist(),
            "counts": bins.counts.tolist(),
        },
    }
