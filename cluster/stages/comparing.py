"""Comparisons with references in PPO: who compares, and how the discriminator learns from the policy's programs."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path

from actors.checking import reference_code
from actors.comparer import DiscriminatorTrained, DiscriminatorTrainer, read_config
from actors.comparison import COMPARED, ComparisonTermConfig, JudgeTermConfig, TooLong, comparable
from actors.terms import Failed
from cluster.calls import within
from cluster.context import RunContext
from cluster.errors import ActorError, ConfigError
from cluster.journal import JournalEntry
from cluster.rollout import Group
from cluster.run_folder import StageFolder
from cluster.scorers import ComparerPool, JudgePool
from cluster.session import end_actor, start_actor
from cluster.stage_config import PPOStage, compared_by
from learner.discriminator import ComparisonPair
from learner.environment import torch_environment
from learner.preferences import part_held_out
from problems.problem import CompletionStyle, Problem

_TRAINER = "discriminator trainer"
_TRAIN_TIMEOUT_S = 7 * 24 * 3600.0  # the number of epochs ends the training; this only bounds a lost actor
_HELD_OUT_SHARE = 0.1
_FRESH = "comparison"


class Comparisons:
    """The models behind a stage's ``comparison`` and ``judge`` terms. ``start`` before the first question."""

    def __init__(self, context: RunContext, stage: PPOStage, folder: StageFolder) -> None:
        self._context = context
        self._stage = stage
        self._folder = folder.root / "discriminators"
        self._fresh: dict[tuple[str, str], ComparisonPair] = {}  # equal programs to a problem once
        self._refreshed = 0  # the step of the last refresh
        self._comparers: ComparerPool | None = None
        self._judges: JudgePool | None = None
        self._term: ComparisonTermConfig | None = None
        for term in compared_by(stage):
            model = context.model_path(term.model)
            if isinstance(term, JudgeTermConfig):
                self._judges = JudgePool(
                    model, context.config.scorers, term, context.config.supervision, context.report
                )
            else:
                try:
                    self._config = read_config(model)
                except ValueError as error:
                    raise ConfigError(f"stages.{stage.name}.rewards.model: {error}") from None
                self._comparers = ComparerPool(
                    model, context.config.scorers, context.config.supervision, context.report
                )
                self._term, self._model = term, model

    def start(self) -> None:
        """Starts whoever compares."""
        for pool in (self._comparers, self._judges):
            if pool is not None:
                pool.start()

    def rewind(self, step: int) -> None:
        """Back to the discriminator as it was after policy step ``step``: what was made later is forgotten."""
        self._fresh = {}
        if self._comparers is None or self._term is None:
            return
        for path in self._folder.glob("step-*"):
            if "partial" in path.name or int(path.name.removeprefix("step-")) > step:
                shutil.rmtree(path)
        made = sorted(self._folder.glob("step-*"))
        self._model = made[-1] if made else self._context.model_path(self._term.model)
        self._refreshed = int(made[-1].name.removeprefix("step-")) if made else 0
        self._comparers.change_model(self._model)

    async def recall(
        self, steps: Iterable[tuple[int, Sequence[Sequence[JournalEntry]]]], problems: Mapping[str, Problem]
    ) -> None:
        """After ``rewind``: what the steps since the last refresh have shown, and a refresh that a stop prevented.

        ``steps``: those that the weights came of, with their groups' answers (``surviving_groups``).
        """
        if self._term is None or not self._term.refresh_every_steps:
            return
        for step, groups in steps:
            if step > self._refreshed:
                await self._learn(step, [(problems[group[0].trajectory.id.problem_id], group) for group in groups])

    async def stop(self) -> None:
        for pool in (self._comparers, self._judges):
            if pool is not None:
                await pool.stop()

    async def compare(self, prompt: str, answer: str, other: str) -> float | TooLong | Failed:
        """By the discriminator."""
        assert self._comparers is not None, "the stage has no comparison term"
        return await _or_failed(self._comparers.compare, prompt, answer, other)

    async def judge(self, prompt: str, answer: str, other: str) -> float | TooLong | Failed:
        """By the judge model."""
        assert self._judges is not None, "the stage has no judge term"
        return await _or_failed(self._judges.compare, prompt, answer, other)

    async def step(self, step: int, groups: Sequence[Group]) -> dict[str, float]:
        """After policy step ``step``: perhaps a refresh on the programs since the last one. Returns its figures."""
        if self._term is None or not self._term.refresh_every_steps:
            return {}
        return await self._learn(step, [(group.problem, group.entries) for group in groups])

    async def _learn(self, step: int, groups: Sequence[tuple[Problem, Sequence[JournalEntry]]]) -> dict[str, float]:
        assert self._term is not None
        assert self._comparers is not None
        for problem, entries in groups:
            for pair in fresh_pairs(problem, entries):
                self._fresh.setdefault((pair.problem_id, pair.generated), pair)
        if step % self._term.refresh_every_steps or step == self._stage.learner.num_steps:  # nothing comes after
            return {}
        pairs = list(self._fresh.values())
        train, held_out = part_held_out(pairs, lambda pair: pair.problem_id, _HELD_OUT_SHARE, self._config.seed)
        if not train or not held_out:  # they wait for more
            return {}
        output = self._folder / f"step-{step:06d}"
        done = await self._refresh(train, held_out, output)
        self._model, self._refreshed, self._fresh = output, step, {}
        self._comparers.change_model(output)
        return {"comparison/refresh_accuracy": done.held_out.accuracy, "comparison/refresh_loss": done.held_out.loss}

    async def _refresh(
        self, train: Sequence[ComparisonPair], held_out: Sequence[ComparisonPair], output: Path
    ) -> DiscriminatorTrained:
        aside = output.with_name(output.name + ".partial")
        threads = self._context.config.scorers.threads
        trainer = start_actor(
            DiscriminatorTrainer,
            self._config,
            threads,
            num_cpus=0,
            runtime_env={"env_vars": torch_environment(threads)},
        )
        try:
            work = trainer.train.remote(str(self._model), train, held_out, str(aside))
            done: DiscriminatorTrained = await within(work, _TRAIN_TIMEOUT_S, _TRAINER, "refresh the discriminator")
        finally:
            end_actor(trainer)
        aside.rename(output)
        return done


async def _or_failed(
    compare: Callable[[str, str, str], Awaitable[float | TooLong]], prompt: str, answer: str, other: str
) -> float | TooLong | Failed:
    """A fault of ours is never a reward."""
    try:
        return await compare(prompt, answer, other)
    except ActorError as error:
        return Failed(str(error))


def fresh_pairs(problem: Problem, entries: Sequence[JournalEntry]) -> list[ComparisonPair]:
    """The programs that were compared with the reference, as pairs to learn from."""
    compared = f"{_FRESH}.{COMPARED}"
    chosen = [entry for entry in entries if any(event.term == compared for event in entry.trajectory.events)]
    return [pair_of(problem, entry) for entry in chosen]


def pair_of(problem: Problem, entry: JournalEntry) -> ComparisonPair:
    """A sampled program and the reference of its problem, which must have one."""
    reference = reference_code(problem)
    assert reference is not None, f"{problem.id} has no reference"
    own = entry.program
    if problem.completion_style is CompletionStyle.CONTINUE:
        own = own.removeprefix(problem.prompt.encode())
    name = str(entry.trajectory.id)
    return ComparisonPair(problem.id, name, problem.prompt, comparable(own), comparable(reference))
