"""What a recipe takes from outside: problem sets, models, labels."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from cluster.errors import ConfigError
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
from problems.datasets import load_problems
from problems.problem import Problem


@lru_cache(maxsize=16)
def load_set(spec: str) -> tuple[Problem, ...]:
    """All problems of one set. Raises ConfigError with the reader's sentence."""
    try:
        return tuple(load_problems(spec))
    except (ValueError, OSError) as error:
        raise ConfigError(f"problems {spec!r}: {error}") from None


def problems_of(sources: Sequence[ProblemSource]) -> list[Problem]:
    """All problems of the sources. Raises ConfigError with the reader's sentence, or for a split without problems."""
    return [problem for source in sources for problem in _of_split(source)]


def _of_split(source: ProblemSource) -> Sequence[Problem]:
    problems = load_set(source.spec)
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


def models_from_outside(stage: Stage) -> list[str]:
    """The models that it starts from and no stage of the run makes: folders, or names of the hub."""
    return [reference for reference in _models(stage) if not reference.startswith(STAGE_PREFIX)]


def models_are_here(stages: Sequence[Stage]) -> bool:
    """Whether none would have to be fetched from the hub."""
    return all(Path(reference).is_dir() for stage in stages for reference in models_from_outside(stage))


def label_files(stage: ProcessRewardModelStage) -> list[Path]:
    """Its labels from outside."""
    return [Path(reference) for reference in stage.labels if not reference.startswith(STAGE_PREFIX)]


def fingerprint_inputs(stage: Stage, folder: RunFolder) -> dict[str, str]:
    """What went into a stage: digests of each earlier stage's manifest, each model's weights, each problem set."""
    prints = {f"{field}:{name}": digest(folder.stage(name).manifest()) for field, name in stage_references(stage)}
    for reference in _models(stage):
        prints[f"weights:{reference}"] = weights_digest(resolve_model(reference, folder))
    for source in () if isinstance(stage, FROM_FILES) else stage.problems:
        part = f",split={source.split.value}" if source.split else ""
        prints[f"problems:{source.spec}{part}"] = digest([repr(problem) for problem in problems_of([source])])
    return prints
