"""What models have learned from, and whether it is evaluated on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.errors import ConfigError
from cluster.inputs import label_files, model_folder, models_from_outside, problems_of, resolve_model
from cluster.labels import labelled_problems
from cluster.learned_problems import read_learned
from cluster.run_folder import RunFolder, digest
from cluster.stage_config import (
    FROM_FILES,
    EvaluateStage,
    ProblemSource,
    ProcessRewardModelStage,
    Stage,
    stage_references,
)

_SHOWN = 60  # characters of a prompt in an error


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
        for model in models_from_outside(stage) if index >= num_finished else ():
            before |= dict.fromkeys(read_learned(model_folder(model)), f"the model {model!r} has learned from")
        if isinstance(stage, ProcessRewardModelStage):
            labelled |= {problem: stage.name for path in label_files(stage) for problem in labelled_problems(path)}
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


def learned_by(name: str, stages: Sequence[Stage], folder: RunFolder) -> set[str]:
    """Digests of the ids and prompts that a stage learns from, itself or by what it takes from others and from outside.

    ``stages``: those of the run, of which each takes from earlier ones alone.
    """
    learned: dict[str, set[str]] = {}
    for stage in stages:
        found = learned[stage.name] = set()
        if isinstance(stage, ProcessRewardModelStage):
            found |= {digest(problem) for path in label_files(stage) for problem in labelled_problems(path)}
        if not isinstance(stage, FROM_FILES | EvaluateStage):
            found |= {digest(mark) for mark in _marks(stage.problems)}
        for model in models_from_outside(stage):
            found |= read_learned(resolve_model(model, folder))
        found.update(*(learned[earlier] for _, earlier in stage_references(stage)))
        if stage.name == name:
            break
    return learned[name]


def _marks(sources: Sequence[ProblemSource]) -> list[str]:
    """What a problem is known by: its id, and its prompt with its blanks made one."""
    return [mark for problem in problems_of(sources) for mark in (problem.id, " ".join(problem.prompt.split()))]
