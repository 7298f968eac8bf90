"""What a recipe takes from outside: problem sets and models. All of it is looked at before the first stage begins."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from actors.config import GeneratorConfig
from actors.rewards import ProcessTermConfig, RewardModelTermConfig
from cluster.errors import ConfigError
from cluster.labels import labelled_problems, refuse_other_tokenizer
from cluster.learned_problems import read_learned
from cluster.run_folder import RunFolder, digest
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
    ProblemSource,
    ProcessRewardModelStage,
    RewardModelStage,
    SFTStage,
    Stage,
    compared_by,
    scored_by,
    stage_references,
)
from problems.datasets import is_generated, load_problems
from problems.problem import Problem, Split, Use
from problems.tokenizer import vocabulary_digest

if TYPE_CHECKING:
    from learner.scalar_head import Reads

_SHOWN = 60  # characters of a prompt in an error
_PLACES = {
    "last_token": "an answer's last token (a reward model)",
    "line_ends": "the end of each line (a process reward model)",
}


@lru_cache(maxsize=16)
def _load(spec: str) -> tuple[Problem, ...]:
    try:
        return tuple(load_problems(spec))
    except (ValueError, OSError) as error:
        raise ConfigError(f"problems {spec!r}: {error}") from None


def problems_of(sources: Sequence[ProblemSource]) -> list[Problem]:
    """All problems of the sources. Raises ConfigError with the reader's sentence, or for a split without problems."""
    return [problem for source in sources for problem in _of_split(source)]


def _of_split(source: ProblemSource) -> Sequence[Problem]:
    problems = _load(source.spec)
    if source.split is None:
        return problems
    kept = [problem for problem in problems if problem.split is source.split]
    if not kept:
        raise ConfigError(f"problems {source.spec!r}: none of {len(problems)} is of split {source.split.value!r}")
    return kept


def model_folder(reference: str) -> Path:
    """The folder of a model that no stage makes: on disk, or fetched from the hub. Raises ConfigError."""
    path = Path(reference)
    if path.is_dir():
        if not (path / "config.json").exists():
            raise ConfigError(f"model folder {path} has no config.json; it is not a Hugging Face model")
        return path
    return _from_hub(reference)


def _from_hub(reference: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(reference))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError):
        raise ConfigError(
            f"model {reference!r} is neither a folder nor a model that the hub gave; name a folder or stage:NAME"
        ) from None


def resolve_model(reference: str, folder: RunFolder) -> Path:
    """The folder of a model: of an earlier stage, on disk, or fetched from the hub into the run's folder."""
    if not reference.startswith(STAGE_PREFIX):
        return model_folder(reference) if Path(reference).is_dir() else _hub_model(reference, folder)
    name, _, step = reference.removeprefix(STAGE_PREFIX).partition(STEP_MARK)
    return folder.stage(name).model_at(int(step)) if step else folder.stage(name).model


def _hub_model(reference: str, folder: RunFolder) -> Path:
    """The hub's files in the run's folder, which all nodes see and a run that goes on finds unchanged.

    The hub's cache is that of this user on this node, and moves on with the hub.
    """
    place = folder.hub / reference.replace("/", "--")
    if not place.exists():
        partial = place.with_name(f"{place.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(model_folder(reference), partial, copy_function=_link_or_copy)
        partial.rename(place)
    return place


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(os.path.realpath(source), target)  # the cache's names are links to its blobs
    except OSError:  # another file system
        shutil.copyfile(source, target)


def weights_digest(model: Path) -> str:
    """Of a model's weights, from its ``.safetensors`` files: equal for equal weights that were saved alike."""
    whole = hashlib.blake2b(digest_size=16)
    for path in sorted(model.glob("*.safetensors")):
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "blake2b").digest())
    return whole.hexdigest()


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
            for path in _files(stage):
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


def check_inputs(stages: Sequence[Stage]) -> None:
    """Raises ConfigError for the first input that is missing, malformed, or may not be used so."""
    for stage in stages:
        for reference in _models_from_outside(stage):
            model_folder(reference)
        for field, reference, reads in _scalar_heads(stage):
            if not reference.startswith(STAGE_PREFIX):
                refuse_other_readers(model_folder(reference), f"stages.{stage.name}.{field}: {reference!r}", reads)
        if isinstance(stage, ProcessRewardModelStage):
            _labels_are_there(stage)
    with_problems = [stage for stage in stages if not isinstance(stage, FROM_FILES)]
    specs = {source.spec for stage in with_problems for source in stage.problems}
    for spec in sorted(specs, key=is_generated):  # what is missing is told before anything is made for seconds
        _load(spec)
    for stage in with_problems:
        problems = problems_of(stage.problems)
        if not isinstance(stage, EvaluateStage):
            _may_be_trained_on(stage, problems)


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


def _labels_are_there(stage: ProcessRewardModelStage) -> None:
    for path in _files(stage):
        if not path.is_file():
            raise ConfigError(f"stages.{stage.name}.labels: {str(path)!r} is neither a file nor stage:NAME")


def _models(stage: Stage) -> list[str]:
    """The models that a stage starts from."""
    match stage:
        case RewardModelStage():
            named = [stage.base, stage.earlier]
        case SFTStage() | ProcessRewardModelStage():
            named = [stage.base]
        case DPOStage():
            named = [stage.policy]
        case PPOStage():
            named = [stage.policy, stage.critic_from, *(term.model for term in compared_by(stage))]
        case LineLabelsStage():
            named = [*stage.policies, stage.completer]
        case MineStage() | CollectStage() | EvaluateStage():
            named = [stage.model]
        case DiscriminatorStage():
            named = [stage.model, stage.encoder]
    return [reference for reference in (*named, *scored_by(stage)) if reference is not None]


@dataclass(frozen=True, slots=True)
class ProblemSplit:
    """What a recipe trains on and what it evaluates on: numbers of problems, and digests of their ids and prompts."""

    num_train: int
    train_digest: str
    num_evaluate: int
    evaluate_digest: str

    def __str__(self) -> str:
        return (
            f"{self.num_train} problems for training ({self.train_digest}), "
            f"{self.num_evaluate} for evaluation ({self.evaluate_digest}), none in both"
        )


def check_leakage(stages: Sequence[Stage], num_finished: int = 0) -> ProblemSplit:
    """Raises ConfigError if a problem is evaluated on that a stage learns from, by its id or by its prompt's words; or
    that a model from outside has learned from.

    Of the first ``num_finished`` stages the models from outside were looked at before, and need not be there any more.
    """
    learned: dict[str, str] = {}
    labelled: dict[str, str] = {}  # by a file from outside, which names problems by their ids alone
    evaluated: dict[str, str] = {}
    before: dict[str, str] = {}  # by models from outside, which name problems by digests
    for index, stage in enumerate(stages):
        for model in _models_from_outside(stage) if index >= num_finished else ():
            before |= dict.fromkeys(read_learned(model_folder(model)), f"the model {model!r} has learned from")
        if isinstance(stage, ProcessRewardModelStage):
            labelled |= {problem: stage.name for path in _files(stage) for problem in labelled_problems(path)}
        if isinstance(stage, FROM_FILES):
            continue
        if isinstance(stage, EvaluateStage):
            if not stage.may_be_training_problems:
                evaluated |= dict.fromkeys(_marks(stage.problems), stage.name)
        else:
            learned |= dict.fromkeys(_marks(stage.problems), stage.name)
    taught = {mark: f"stages.{name} learns from" for mark, name in (labelled | learned).items()}
    taught |= {mark: before[digest(mark)] for mark in evaluated.keys() - taught.keys() if digest(mark) in before}
    shared = sorted(taught.keys() & evaluated.keys())
    if shared:
        what = shared[0] if len(shared[0]) < _SHOWN else shared[0][:_SHOWN] + ".."
        raise ConfigError(
            f"stages.{evaluated[shared[0]]} evaluates on problems that {taught[shared[0]]} "
            f"({len(shared)} ids or prompts in both, such as {what!r}); use another split, "
            "or set may_be_training_problems"
        )
    return ProblemSplit(len(learned) // 2, digest(sorted(learned)), len(evaluated) // 2, digest(sorted(evaluated)))


def check_all(engine: GeneratorConfig, stages: Sequence[Stage], num_finished: int = 0) -> ProblemSplit:
    """Raises ConfigError for the first thing that a run of ``stages`` would be refused for; the first ``num_finished``
    have been run."""
    check_inputs(stages[num_finished:])
    check_engine(engine, stages[num_finished:])
    check_tokenizers(stages)
    return check_leakage(stages, num_finished)


def models_are_here(stages: Sequence[Stage]) -> bool:
    """Whether none would have to be fetched from the hub."""
    return all(Path(reference).is_dir() for stage in stages for reference in _models_from_outside(stage))


def learned_by(name: str, stages: Sequence[Stage], folder: RunFolder) -> set[str]:
    """Digests of the ids and prompts that a stage learns from, itself or by what it takes from others and from outside.

    ``stages``: those of the run, of which each takes from earlier ones alone.
    """
    learned: dict[str, set[str]] = {}
    for stage in stages:
        found = learned[stage.name] = set()
        if isinstance(stage, ProcessRewardModelStage):
            found |= {digest(problem) for path in _files(stage) for problem in labelled_problems(path)}
        if not isinstance(stage, FROM_FILES | EvaluateStage):
            found |= {digest(mark) for mark in _marks(stage.problems)}
        for model in _models_from_outside(stage):
            found |= read_learned(resolve_model(model, folder))
        found.update(*(learned[earlier] for _, earlier in stage_references(stage)))
        if stage.name == name:
            break
    return learned[name]


def _models_from_outside(stage: Stage) -> list[str]:
    return [reference for reference in _models(stage) if not reference.startswith(STAGE_PREFIX)]


def _files(stage: ProcessRewardModelStage) -> list[Path]:
    """Its labels from outside."""
    return [Path(reference) for reference in stage.labels if not reference.startswith(STAGE_PREFIX)]


def _marks(sources: Sequence[ProblemSource]) -> list[str]:
    """What a problem is known by: its id, and its prompt with its blanks made one."""
    return [mark for problem in problems_of(sources) for mark in (problem.id, " ".join(problem.prompt.split()))]


def fingerprint_inputs(stage: Stage, folder: RunFolder) -> dict[str, str]:
    """What went into a stage: digests of each earlier stage's manifest, each model's weights, each problem set."""
    prints = {f"{field}:{name}": digest(folder.stage(name).manifest()) for field, name in stage_references(stage)}
    for reference in _models(stage):
        prints[f"weights:{reference}"] = weights_digest(resolve_model(reference, folder))
    for source in () if isinstance(stage, FROM_FILES) else stage.problems:
        part = f",split={source.split.value}" if source.split else ""
        prints[f"problems:{source.spec}{part}"] = digest([repr(problem) for problem in problems_of([source])])
    return prints


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
