"""What a run would be refused for, looked at before its first stage begins."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from actors.config import GeneratorConfig
from actors.rewards import ProcessTermConfig, RewardModelTermConfig
from cluster.errors import ConfigError
from cluster.inputs import label_files, load_set, model_folder, models_from_outside, problems_of
from cluster.labels import refuse_other_tokenizer
from cluster.leakage import ProblemSplit, check_leakage
from cluster.stage_config import (
    FROM_FILES,
    STAGE_PREFIX,
    STEP_MARK,
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
    scored_by,
)
from problems.datasets import is_generated
from problems.problem import Problem, Split, Use
from problems.tokenizer import vocabulary_digest

if TYPE_CHECKING:
    from learner.scalar_head import Reads

_PLACES = {
    "last_token": "an answer's last token (a reward model)",
    "line_ends": "the end of each line (a process reward model)",
}


def check_all(engine: GeneratorConfig, stages: Sequence[Stage], num_finished: int = 0) -> ProblemSplit:
    """Raises ConfigError for the first thing that a run of ``stages`` would be refused for; the first ``num_finished``
    have been run."""
    check_inputs(stages[num_finished:])
    check_engine(engine, stages[num_finished:])
    check_tokenizers(stages)
    return check_leakage(stages, num_finished)


def check_inputs(stages: Sequence[Stage]) -> None:
    """Raises ConfigError for the first input that is missing, malformed, or may not be used so."""
    for stage in stages:
        for reference in models_from_outside(stage):
            model_folder(reference)
        for field, reference, reads in _scalar_heads(stage):
            if not reference.startswith(STAGE_PREFIX):
                refuse_other_readers(model_folder(reference), f"stages.{stage.name}.{field}: {reference!r}", reads)
        if isinstance(stage, ProcessRewardModelStage):
            _labels_are_there(stage)
    with_problems = [stage for stage in stages if not isinstance(stage, FROM_FILES)]
    specs = {source.spec for stage in with_problems for source in stage.problems}
    for spec in sorted(specs, key=is_generated):  # what is missing is told before anything is made for seconds
        load_set(spec)
    for stage in with_problems:
        problems = problems_of(stage.problems)
        if not isinstance(stage, EvaluateStage):
            _may_be_trained_on(stage, problems)


def _labels_are_there(stage: ProcessRewardModelStage) -> None:
    for path in label_files(stage):
        if not path.is_file():
            raise ConfigError(f"stages.{stage.name}.labels: {str(path)!r} is neither a file nor stage:NAME")


def _may_be_trained_on(
    stage: SFTStage | PPOStage | CollectStage | DiscriminatorStage | MineStage | LineLabelsStage,
    problems: Sequence[Problem],
) -> None:
    for problem in problems:
        if problem.use is not Use.TRAIN or problem.split is Split.TEST:
            raise ConfigError(
                f"stages.{stage.name}.problems: {problem.id!r} may not be trained on "
                f"(use {problem.use.value}, split {problem.split.value})"
            )
        if isinstance(stage, SFTStage) and not problem.reference_completions:
            raise ConfigError(f"stages.{stage.name}.problems: {problem.id!r} has no reference completion to train on")


def check_engine(engine: GeneratorConfig, stages: Sequence[Stage]) -> None:
    """Raises ConfigError where the engines could not sample what a stage asks of them."""
    for stage in stages:
        if isinstance(stage, FROM_FILES | SFTStage):
            continue
        stopped = (problem.id for problem in problems_of(stage.problems) if problem.stop_strings)
        if not engine.stop_strings and (problem := next(stopped, None)) is not None:
            raise ConfigError(
                f"stages.{stage.name}.problems: answers to {problem!r} end at strings, which engines look for only "
                "with generators.engine.stop_strings: true"
            )
        for reference in _sampled(stage):
            positions = None if reference.startswith(STAGE_PREFIX) else _num_positions(model_folder(reference))
            if positions is not None and positions < engine.max_model_len:
                raise ConfigError(
                    f"stages.{stage.name}: model {reference!r} has {positions} positions, and "
                    f"generators.engine.max_model_len is {engine.max_model_len}; lower it, and with it prompts and "
                    "answers (max_prompt_tokens, max_new_tokens)"
                )


def _sampled(stage: Stage) -> list[str]:
    """The models that write answers in a stage."""
    match stage:
        case PPOStage():
            return [stage.policy]
        case LineLabelsStage():
            return [*stage.policies, *([stage.completer] if stage.completer else [])]
        case CollectStage() | MineStage() | EvaluateStage() | DiscriminatorStage():
            return [stage.model]
        case _:
            return []


def _num_positions(model: Path) -> int | None:
    """Of a model's config; None where it does not say, or stretches them by a rule that only the engine knows."""
    try:
        config = json.loads((model / "config.json").read_text())
    except ValueError:  # the engine will say what is wrong with it
        return None
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        return None
    return config.get("max_position_embeddings")


def refuse_other_readers(folder: Path, name: str, reads: Reads | None) -> None:
    """Raises ConfigError unless the folder holds a model that scores answers, by a number read as ``reads`` says."""
    from actors.scorer import scores_answers  # torch comes with it
    from learner.scalar_head import reads_of

    if not scores_answers(folder):
        raise ConfigError(f"{name} holds no scalar-head model of answers, such as a reward_model stage writes")
    if reads is not None and reads_of(folder) != reads:
        raise ConfigError(
            f"{name} was trained for its number at {_PLACES[reads_of(folder)]}; "
            f"what is asked of it here is one at {_PLACES[reads]}"
        )


def refuse_scores_without_a_choice(name: str, scores: Sequence[float]) -> None:
    """Raises ConfigError where a model's scores of different answers are all equal, or one is no number.

    Minus infinity stands for an answer that has nothing to score.
    """
    wrong = [score for score in scores if math.isnan(score) or score == math.inf]
    if wrong:
        raise ConfigError(f"{name} gives {len(wrong)} of {len(scores)} answers the score {wrong[0]:g}; train it anew")
    if len(scores) > 1 and min(scores) == max(scores):
        raise ConfigError(
            f"{name} gives all {len(scores)} answers the score {scores[0]:g}, and so prefers none; train it longer, or "
            "on more pairs"
        )


def _scalar_heads(stage: Stage) -> list[tuple[str, str, Reads | None]]:
    """(field, scalar-head model that it names, where its number is read) of a stage; None: where it was trained for."""
    match stage:
        case PPOStage():
            heads: list[tuple[str, str | None, Reads | None]] = [("critic_from", stage.critic_from, None)]
            for term in stage.rewards:
                if isinstance(term, RewardModelTermConfig | ProcessTermConfig):
                    heads.append(("rewards", term.model, "last_token" if term.kind == "reward_model" else "line_ends"))
        case RewardModelStage():
            heads = [("earlier", stage.earlier, "last_token")]
        case MineStage():
            heads = [("reward_model", stage.reward_model, "last_token")]
        case EvaluateStage():
            heads = [("rerank", stage.rerank, None), ("rerank_earlier", stage.rerank_earlier, None)]
        case _:
            heads = []
    return [(field, model, reads) for field, model, reads in heads if model is not None]


def check_tokenizers(stages: Sequence[Stage]) -> None:
    """Raises ConfigError where a model would read token ids that a model with another tokenizer wrote.

    Of models that the run itself makes from nothing the stages look when they are there.
    """
    named = {stage.name: stage for stage in stages}
    for stage in stages:
        for field, reads, wrote in _readings(stage, named):
            reader, writer = _origin(reads, named), _origin(wrote, named)
            if reader is None or writer is None or reader == writer:
                continue
            if _vocabulary(model_folder(reader)) != _vocabulary(model_folder(writer)):
                raise ConfigError(
                    f"stages.{stage.name}.{field}: {reads!r} has another tokenizer than {wrote!r} ({reader} and "
                    f"{writer}); of its token ids it can make nothing"
                )
        if isinstance(stage, ProcessRewardModelStage) and (base := _origin(stage.base, named)) is not None:
            for path in label_files(stage):
                refuse_other_tokenizer(path, _vocabulary(model_folder(base)))


def _readings(stage: Stage, named: Mapping[str, Stage]) -> list[tuple[str, str, str]]:
    """(field, model that reads token ids, model that wrote them) of a stage."""
    match stage:
        case PPOStage():
            readers = [("rewards", model) for model in scored_by(stage)]
            readers += [("critic_from", stage.critic_from)] if stage.critic_from is not None else []
            return [(field, model, stage.policy) for field, model in readers]
        case LineLabelsStage(completer=str(completer)):
            return [("completer", completer, policy) for policy in stage.policies]
        case ProcessRewardModelStage():
            return [("base", stage.base, writer) for writer in _writers(stage.labels, named)]
        case MineStage() | EvaluateStage():
            field = "reward_model" if isinstance(stage, MineStage) else "rerank"
            found = [(field, model, stage.model) for model in scored_by(stage)]
            if isinstance(stage, MineStage) and stage.positives is not None:
                found += [("positives", stage.model, model) for model in _writers([stage.positives], named)]
            return found
        case RewardModelStage() | DPOStage():
            field, model = ("base", stage.base) if isinstance(stage, RewardModelStage) else ("policy", stage.policy)
            readers = [(field, model)]
            if isinstance(stage, RewardModelStage) and stage.earlier is not None:
                readers.append(("earlier", stage.earlier))
            return [(field, model, writer) for field, model in readers for writer in _writers(stage.pairs, named)]
        case _:
            return []


def _writers(references: Sequence[str], named: Mapping[str, Stage]) -> list[str]:
    """The models that the named stages sample."""
    stages = [named.get(reference.removeprefix(STAGE_PREFIX)) for reference in references]
    sampled = [stage.model for stage in stages if isinstance(stage, CollectStage | MineStage)]
    return sampled + [model for stage in stages if isinstance(stage, LineLabelsStage) for model in stage.policies]


def _origin(reference: str | None, named: Mapping[str, Stage]) -> str | None:
    """The model from outside whose tokenizer a model has inherited; None: the run makes one."""
    while reference is not None and reference.startswith(STAGE_PREFIX):
        stage = named[reference.removeprefix(STAGE_PREFIX).partition(STEP_MARK)[0]]
        match stage:
            case SFTStage() | RewardModelStage() | ProcessRewardModelStage():
                reference = stage.base
            case PPOStage() | DPOStage():
                reference = stage.policy
            case _:
                return None
    return reference


def _vocabulary(model: Path) -> str:
    from transformers import AutoTokenizer

    return vocabulary_digest(AutoTokenizer.from_pretrained(model))
