"""Stage ``process_reward_model``: regression of line labels, judged on problems that it has not seen."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from actors.scorer import ProcessRewardModelTrainer
from cluster.context import RunContext
from cluster.errors import ConfigError
from cluster.labels import LABELS, read_labels
from cluster.run_folder import StageFolder, write_atomically
from cluster.stage_config import STAGE_PREFIX, ProcessRewardModelStage
from cluster.stages.one_trainer import OneTrainer, with_trainer
from learner.line_labels import LabelledAnswer, select_answers
from learner.preferences import is_held_out
from learner.process_reward_model import LineFigures
from learner.scalar_training import ScalarProgress
from problems.tokenizer import vocabulary_digest


async def fit_process_reward_model(
    context: RunContext, stage: ProcessRewardModelStage, folder: StageFolder
) -> dict[str, Any]:
    """Trains, writes ``model/`` and ``lines.json``, and returns the manifest's figures.

    The predictor by position that it is judged beside knows all answers to the problems not held out, whatever
    selection the model learns from: a selection's positions are not those of the answers that both are judged on.
    An answer that no row of the trainer's holds is left out, and counted.
    """
    labelled = _answers(context, stage)
    answers = [answer for answer in labelled if answer.num_tokens <= stage.train.row_tokens]
    problems = {answer.problem_id for answer in answers}
    out = {name for name in problems if is_held_out(name, stage.held_out_share, stage.held_out_seed)}
    seen = [answer for answer in answers if answer.problem_id not in out]
    train = select_answers(seen, stage.selection)
    judged = select_answers((answer for answer in answers if answer.problem_id in out), "full")
    if not train or not judged:
        raise ConfigError(
            f"stages.{stage.name}: {len(train)} answers to learn from (selection {stage.selection}) and {len(judged)} "
            f"to judge the model by are too few ({len(labelled) - len(answers)} more are longer than train.row_tokens "
            f"{stage.train.row_tokens}); label more, or change selection or held_out_share"
        )

    async def fit(trainer: OneTrainer) -> tuple[ScalarProgress, LineFigures]:
        job = (str(context.model_path(stage.base)), train, str(folder.model), trainer.saving)
        progress = await trainer.call("train", *job, what="train a process reward model")
        return progress, await trainer.call("judge", str(folder.model), seen, judged, what="judge lines")

    progress, figures = await with_trainer(
        context,
        stage,
        folder,
        fit,
        kind=ProcessRewardModelTrainer,
        settings=stage.train,
        who="process-reward-model trainer",
        prefix="process_model",
    )
    write_atomically(folder.root / "lines.json", json.dumps(_written(figures), indent=1))
    known = {name: value for name, value in _metrics(figures).items() if math.isfinite(value)}
    context.metrics.log(stage.name, progress.step, known)
    return {
        "num_answers": len(train),
        "num_too_long": len(labelled) - len(answers),
        "num_held_out_answers": figures.num_answers,
        "num_held_out_lines": figures.num_lines,
        "steps": progress.step,
        **{name.removeprefix("process_model/"): value for name, value in known.items()},
    }


def _answers(context: RunContext, stage: ProcessRewardModelStage) -> list[LabelledAnswer]:
    """Of all label files. Raises ConfigError for one of another tokenizer, RunFolderError for one that is broken."""
    tokenizer = vocabulary_digest(context.tokenizer(context.model_path(stage.base)).tokenizer)
    answers: list[LabelledAnswer] = []
    for reference in stage.labels:
        is_stage = reference.startswith(STAGE_PREFIX)
        name = reference.removeprefix(STAGE_PREFIX)
        path = context.folder.stage(name).root / LABELS if is_stage else Path(reference)
        answers += read_labels(path, tokenizer)
    return answers


def _metrics(figures: LineFigures) -> dict[str, float]:
    return {
        "process_model/held_out_accuracy": figures.accuracy,
        "process_model/held_out_accuracy_by_position": figures.by_position,
        "process_model/held_out_majority": figures.majority,
        "process_model/held_out_squared_error": figures.squared_error,
        "process_model/held_out_first_bad": figures.first_bad,
        "process_model/held_out_first_bad_by_position": figures.first_bad_by_position,
        "process_model/held_out_first_bad_early": figures.first_bad_early,
        "process_model/held_out_first_bad_late": figures.first_bad_late,
    }


def _written(figures: LineFigures) -> dict[str, Any]:
    """With the places in the program."""
    return {
        **_metrics(figures),
        "num_lines": figures.num_lines,
        "num_answers": figures.num_answers,
        "positions": [position._asdict() for position in figures.positions],
    }
