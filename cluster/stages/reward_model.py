"""Stage ``reward_model``: Bradley-Terry on collected pairs, judged on pairs of problems that it has not seen."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

from actors.scorer import RewardModelTrainer
from cluster.answers import read_pairs
from cluster.background import background
from cluster.calls import again_when_lost, within
from cluster.context import RunContext
from cluster.errors import ConfigError
from cluster.run_folder import StageFolder, digest, write_atomically
from cluster.session import end_actor, start_actor
from cluster.stage_config import STAGE_PREFIX, RewardModelStage
from learner.preferences import PreferencePair, is_held_out
from learner.reward_model import PairFigures
from learner.scalar_training import ScalarProgress

_WHO = "reward-model trainer"
_POLL_S = 0.5
_TIMEOUT_S = 7 * 24 * 3600.0  # the number of epochs ends the training; this only bounds a lost actor


async def fit_reward_model(context: RunContext, stage: RewardModelStage, folder: StageFolder) -> dict[str, Any]:
    """Trains, writes ``model/`` and ``held_out.json``, and returns the manifest's figures."""
    train: list[PreferencePair] = []
    held_out: dict[str, list[PreferencePair]] = {}
    for reference in stage.pairs:
        source = reference.removeprefix(STAGE_PREFIX)
        pairs = read_pairs(context.folder.stage(source).root)
        held_out[source] = [pair for pair in pairs if _is_held_out(stage, pair)]
        train += [pair for pair in pairs if not _is_held_out(stage, pair)]
    judged = [pair for pairs in held_out.values() for pair in pairs]
    if not train or not judged:
        raise ConfigError(
            f"stages.{stage.name}: {len(train)} pairs to learn from and {len(judged)} to judge the model by are too "
            "few; collect more, or change held_out_share"
        )
    progress, figures, sources = await again_when_lost(
        lambda: _train(context, stage, folder, train, held_out),
        who=_WHO,
        times=context.config.supervision.max_trainer_losses,
        report=context.report,
    )
    write_atomically(folder.root / "held_out.json", json.dumps(_written(figures), indent=1))
    known = {name: value for name, value in _metrics(figures).items() if math.isfinite(value)}
    context.metrics.log(stage.name, progress.step, known)
    return {
        "num_pairs": len(train),
        "num_held_out_pairs": len(judged),
        "held_out_problems": digest(sorted({pair.chosen.problem_id for pair in judged})),
        "steps": progress.step,
        **{name.removeprefix("reward_model/"): value for name, value in known.items()},
        "sources": sources,
    }


def _is_held_out(stage: RewardModelStage, pair: PreferencePair) -> bool:
    return is_held_out(pair.chosen.problem_id, stage.held_out_share, stage.held_out_seed)


async def _train(
    context: RunContext,
    stage: RewardModelStage,
    folder: StageFolder,
    pairs: list[PreferencePair],
    held_out: dict[str, list[PreferencePair]],
) -> tuple[ScalarProgress, PairFigures, dict[str, dict[str, float]]]:
    """(last progress, figures on all held-out pairs, accuracy on those of each source, now and before).

    The whole training: what another attempt left is overwritten. Raises LostActorError.
    """
    context.panel.begin(stage.name, 1.0)
    trainer = start_actor(
        RewardModelTrainer,
        stage.train,
        stage.threads,
        num_cpus=1,
        max_concurrency=2,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": str(stage.threads)}},
    )

    async def judge(model: str, pairs: list[PreferencePair]) -> PairFigures:
        return await within(trainer.judge.remote(model, pairs), _TIMEOUT_S, _WHO, "judge pairs")

    try:
        async with background(lambda: _watch(context, stage, trainer)):
            done = trainer.train.remote(str(context.model_path(stage.base)), pairs, str(folder.model))
            progress = await within(done, _TIMEOUT_S, _WHO, "train a reward model")
        figures = await judge(str(folder.model), [pair for pairs in held_out.values() for pair in pairs])
        sources: dict[str, dict[str, float]] = {}
        for source, of_source in held_out.items():
            if of_source:
                measured = {
                    "num_pairs": len(of_source),
                    "accuracy": (await judge(str(folder.model), of_source)).accuracy,
                }
                if stage.earlier is not None:
                    earlier = str(context.model_path(stage.earlier))
                    measured["accuracy_before"] = (await judge(earlier, of_source)).accuracy
                sources[source] = measured
        return progress, figures, sources
    finally:
        end_actor(trainer)


async def _watch(context: RunContext, stage: RewardModelStage, trainer: Any) -> None:
    """Consumes the trainer's progress, its health check too; waits between polls; ends when it is cancelled."""
    last_step = 0
    while True:
        await asyncio.sleep(_POLL_S)
        timeout_s = context.config.supervision.health_timeout_s
        progress = await within(trainer.progress.remote(), timeout_s, _WHO, "answer its health check")
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
