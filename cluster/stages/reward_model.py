"""Stage ``reward_model``: Bradley-Terry on collected pairs, judged on pairs of problems that it has not seen."""

from __future__ import annotations

import json
import math
from typing import Any

from actors.scorer import RewardModelTrainer
from cluster.context import RunContext
from cluster.errors import ConfigError
from cluster.run_folder import StageFolder, digest, write_atomically
from cluster.stage_config import RewardModelStage
from cluster.stages.one_trainer import OneTrainer, with_trainer
from cluster.stages.pairs import SplitPairs, split_pairs
from learner.preferences import PreferencePair
from learner.reward_model import PairFigures
from learner.scalar_training import ScalarProgress


async def fit_reward_model(context: RunContext, stage: RewardModelStage, folder: StageFolder) -> dict[str, Any]:
    """Trains, writes ``model/`` and ``held_out.json``, and returns the manifest's figures."""
    pairs = split_pairs(context, stage, stage.base)
    progress, figures, sources = await with_trainer(
        context,
        stage,
        folder,
        lambda trainer: _train(context, stage, folder, pairs, trainer),
        kind=RewardModelTrainer,
        settings=stage.train,
        who="reward-model trainer",
        prefix="reward_model",
    )
    if figures.calibration.confidence.max() == 0.5:  # of each pair, so that both its answers have one score
        raise ConfigError(
            f"stages.{stage.name}: the model gives both answers of every held-out pair one score, after "
            f"{progress.step} steps: it ranks nothing. Give it more pairs or steps, or another rate (train)"
        )
    write_atomically(folder.root / "held_out.json", json.dumps(_written(figures), indent=1))
    known = {name: value for name, value in _metrics(figures).items() if math.isfinite(value)}
    context.metrics.log(stage.name, progress.step, known)
    return {
        "num_pairs": len(pairs.train),
        "num_held_out_pairs": len(pairs.judged),
        "held_out_problems": digest(sorted({pair.chosen.problem_id for pair in pairs.judged})),
        "steps": progress.step,
        **{name.removeprefix("reward_model/"): value for name, value in known.items()},
        "sources": sources,
    }


async def _train(
    context: RunContext, stage: RewardModelStage, folder: StageFolder, pairs: SplitPairs, trainer: OneTrainer
) -> tuple[ScalarProgress, PairFigures, dict[str, dict[str, float]]]:
    """(last progress, figures on all held-out pairs, accuracy on those of each source, now and before)."""

    async def judge(model: str, pairs: list[PreferencePair]) -> PairFigures:
        return await trainer.call("judge", model, pairs, what="judge pairs")

    job = (str(context.model_path(stage.base)), pairs.train, str(folder.model), trainer.saving)
    progress: ScalarProgress = await trainer.call("train", *job, what="train a reward model")
    figures = await judge(str(folder.model), pairs.judged)
    sources: dict[str, dict[str, float]] = {}
    for source, of_source in pairs.held_out.items():
        if of_source:
            accuracy = (await judge(str(folder.model), of_source)).accuracy
            sources[source] = {"num_pairs": len(of_source), "accuracy": accuracy}
            if stage.earlier is not None:
                earlier = str(context.model_path(stage.earlier))
                sources[source]["accuracy_before"] = (await judge(earlier, of_source)).accuracy
    return progress, figures, sources


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
