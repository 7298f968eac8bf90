"""What a recipe takes from outside: problem sets and models. All of it is looked at before the first stage begins."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from cluster.config import STAGE_PREFIX, EvaluateStage, PPOStage, ProblemSource, SFTStage, Stage, stage_references
from cluster.errors import ConfigError
from cluster.run_folder import RunFolder, digest
from problems.datasets import load_problems
from problems.problem import Problem, Split, Use


@lru_cache(maxsize=16)
def _load(spec: str) -> tuple[Problem, ...]:
    try:
        return tuple(load_problems(spec))
    except (ValueError, OSError) as error:
        raise ConfigError(f"problems {spec!r}: {error}") from None


def problems_of(sources: Sequence[ProblemSource]) -> list[Problem]:
    """All problems of the sources. Raises ConfigError with the reader's sentence."""
    return [problem for source in sources for problem in _load(source.spec)]


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


def check_inputs(stages: Sequence[Stage]) -> None:
    """Raises ConfigError for the first input that is missing, malformed, or may not be used so."""
    for stage in stages:
        field = {"sft": "base", "ppo": "policy", "evaluate": "model"}[stage.kind]
        reference: str | None = getattr(stage, field)
        if reference is not None and not reference.startswith(STAGE_PREFIX):
            model_folder(reference)
        problems = problems_of(stage.problems)
        if not isinstance(stage, EvaluateStage):
            _may_be_trained_on(stage, problems)


def fingerprint_inputs(stage: Stage, folder: RunFolder) -> dict[str, str]:
    """What went into a stage: a digest of each earlier stage's manifest and of each problem set's contents."""
    prints = {f"{field}:{name}": digest(folder.stage(name).manifest()) for field, name in stage_references(stage)}
    for source in stage.problems:
        prints[f"problems:{source.spec}"] = digest([repr(problem) for problem in _load(source.spec)])
    return prints


def _may_be_trained_on(stage: SFTStage | PPOStage, problems: Sequence[Problem]) -> None:
    for problem in problems:
        if problem.use is not Use.TRAIN or problem.split is Split.TEST:
            raise ConfigError(
                f"stages.{stage.name}.problems: {problem.id!r} may not be trained on "
                f"(use {problem.use.value}, split {problem.split.value})"
            )
        if isinstance(stage, SFTStage) and not problem.reference_completions:
            raise ConfigError(f"stages.{stage.name}.problems: {problem.id!r} has no reference completion to train on")
