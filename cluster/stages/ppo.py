"""Stage ``ppo``: the controller's loop on real parts, with checkpoints, journal, ledger and metrics."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.rewards import build_terms
from actors.trainer import StepReport, TrainerWorker
from cluster.config import PPOStage
from cluster.context import RunContext
from cluster.controller import Controller, StepInput, shuffled_rewards
from cluster.errors import ConfigError
from cluster.inputs import problems_of
from cluster.journal import write_journal
from cluster.ledger import Ledger
from cluster.metrics import Span
from cluster.pools import within
from cluster.rollout import Ask, Group, Rollout
from cluster.run_folder import StageFolder
from cluster.session import end_actor, start_actor
from cluster.stages.figures import rollout_figures, shares_of, shown
from cluster.stream import Draw, ProblemStream
from learner.trajectory import Trajectory
from problems.identity import WeightsVersion, derive_seed

_TRAINER = "trainer"
_TRAINER_TIMEOUT_S = 1800.0
_HELD_OUT_SHARE = 0.1  # of the warm-up's groups: by problem, so that nothing of them was trained on
_WARMUP = ".warmup"


async def train_policy(context: RunContext, stage: PPOStage, folder: StageFolder, lineage: int) -> dict[str, Any]:
    """Runs the stage from its last checkpoint, or from the start, to its end; returns the manifest's figures."""
    job = await _prepare(context, stage, folder, lineage)
    try:
        version = await job.begin()
        await job.controller().run(version)
        await job.call("export", str(folder.model), what="export the model")
        await job.call("close", what="free its published weights")
    finally:
        end_actor(job.trainer)
    return {name: value for name, value in context.metrics.latest[stage.name].values.items() if value == value}


async def _prepare(context: RunContext, stage: PPOStage, folder: StageFolder, lineage: int) -> _Job:
    model = context.model_path(stage.policy)
    problems = problems_of(stage.problems)
    loaded = context.tokenizer(model)
    rollout = context.rollout(loaded, stage.sampling, build_terms(stage.rewards), execute_cut=False)
    kept = [problem for problem in problems if rollout.fits(problem)]
    if not kept:
        limit = stage.sampling.max_prompt_tokens
        raise ConfigError(f"stages.{stage.name}: every prompt is longer than sampling.max_prompt_tokens {limit}")
    trainer = start_actor(
        TrainerWorker,
        stage.learner,
        context.config.name,
        stage.threads,
        num_cpus=1,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": str(stage.threads)}},
    )
    return _Job(context, stage, folder, lineage, model, rollout, ProblemStream(kept, context.config.seed), trainer)


@dataclass(slots=True)
class _Job:
    """One start of a ppo stage."""

    context: RunContext
    stage: PPOStage
    folder: StageFolder
    lineage: int
    model: Path
    rollout: Rollout
    stream: ProblemStream
    trainer: Any
    report: StepReport | None = None

    async def call(self, method: str, *arguments: Any, what: str) -> Any:
        """A call to the trainer, under a time-out."""
        return await within(getattr(self.trainer, method).remote(*arguments), _TRAINER_TIMEOUT_S, _TRAINER, what)

    async def begin(self) -> WeightsVersion:
        """Loads model or checkpoint, serves the weights, warms the critic up; returns the version to go on from."""
        checkpoint = latest_checkpoint(self.folder.checkpoints)
        self.context.panel.begin(self.stage.name, self.stage.learner.num_steps)
        await asyncio.gather(
            self.context.serve(self.model, WeightsVersion(self.lineage, 0)),
            self.call("start", str(self.model), str(checkpoint) if checkpoint else None, what="load its models"),
        )
        parent = WeightsVersion.parse(checkpoint.name) if checkpoint else None
        Ledger(self.folder.ledger).start(self.lineage, parent)
        if parent is None:
            version = WeightsVersion(self.lineage, 0)
            await self._warm_up()
            await self._save(version)
        else:
            version = WeightsVersion(self.lineage, parent.step)
            await self._push(version)
            self.context.panel.say(f"{self.stage.name}: goes on from {parent}")
        self.context.panel.begin(self.stage.name, self.stage.learner.num_steps, version.step)
        return version

    def controller(self) -> Controller:
        return Controller(
            stream=self.stream,
            produce=self._produce,
            train=self._train,
            push=self._push,
            done=self._done,
            prompts_per_step=self.stage.prompts_per_step,
            num_steps=self.stage.learner.num_steps,
            max_staleness=self.stage.max_staleness,
            group_timeout_s=self.stage.group_timeout_s,
        )

    def _ask(self, stage_name: str, draw: Draw, index: int, num_samples: int) -> Ask:
        return Ask(
            self.context.config.name,
            stage_name,
            draw.epoch,
            index,
            draw.problem,
            num_samples,
            self.stage.sampling.temperature,
        )

    async def _produce(self, draw: Draw, position: int) -> Group:
        return await self.rollout.group(self._ask(self.stage.name, draw, position, self.stage.samples_per_prompt))

    async def _warm_up(self) -> None:
        """Rollouts of the frozen policy teach the critic before the first policy step."""
        num_groups = self.stage.warmup_groups
        if not num_groups:
            return
        num_samples = self.stage.warmup_samples_per_prompt
        name = self.stage.name + _WARMUP
        stream = ProblemStream(self.stream.problems, derive_seed("warm-up", self.context.config.seed))
        done = itertools.count(1)
        asks = [self._ask(name, stream.at(position), position, num_samples) for position in range(num_groups)]
        groups = await self.rollout.groups(
            asks,
            lambda: self.context.panel.progress(
                self.stage.name, 0.0, f"critic warm-up: {next(done)}/{num_groups} groups"
            ),
        )
        entries = [entry for group in groups for entry in group.entries]
        write_journal(self.folder.trajectories / "warmup", WeightsVersion(self.lineage, 0), entries)
        trajectories = [[entry.trajectory for entry in group.entries] for group in groups]
        if self.stage.shuffle_rewards:  # here too: a critic that knew the truth would tell it to the policy
            trajectories = shuffled_rewards(trajectories, self.context.config.seed, _WARMUP)
        train, held_out = _split_by_problem(trajectories)
        self.context.panel.progress(self.stage.name, 0.0, "critic warm-up: training")
        figures = await self.call("warm_up", train, held_out, what="warm its critic up")
        self.context.metrics.log(name, 0, figures)

    async def _train(self, step_input: StepInput) -> None:
        """Journals everything, then one learner step."""
        entries = [entry for group in step_input.groups for entry in group.entries]
        before = WeightsVersion(self.lineage, step_input.step)
        await asyncio.to_thread(write_journal, self.folder.trajectories, before, entries)
        groups = [[entry.trajectory for entry in group.entries] for group in step_input.groups]
        if self.stage.shuffle_rewards:
            groups = shuffled_rewards(groups, self.context.config.seed, step_input.step)
        report: StepReport = await self.call("step", groups, what="train a step")
        Ledger(self.folder.ledger).step(before.next(), report.trained, report.dropped)
        self.report = report

    async def _push(self, version: WeightsVersion) -> None:
        ticket = await self.call("publish", version, what="publish its weights")
        await self.context.generators.push(ticket, version)

    async def _done(self, step_input: StepInput, version: WeightsVersion) -> None:
        assert self.report is not None, "a step was reported before it was trained"
        figures = self.report.metrics | rollout_figures(step_input, self.context.executors.stats)
        shares = shares_of(step_input.waits, await self.context.generators.stats())
        figures |= {f"share/{who}/{what}": share for who, parts in shares.items() for what, share in parts.items()}
        self.context.metrics.log(self.stage.name, version.step, figures)
        self.context.metrics.span(Span(_TRAINER, "train", self.report.start, self.report.end))
        self.context.panel.figures(shown(figures))
        self.context.panel.shares(shares)
        self.context.panel.progress(self.stage.name, version.step, f"step {version.step}")
        if version.step % self.stage.checkpoint_every_steps == 0 or version.step == self.stage.learner.num_steps:
            await self._save(version)

    async def _save(self, version: WeightsVersion) -> None:
        await self.call("save", str(self.folder.checkpoints / str(version)), what="write a checkpoint")
        Ledger(self.folder.ledger).checkpoint(version)
        for old in _checkpoints(self.folder.checkpoints)[: -self.stage.keep_checkpoints]:
            shutil.rmtree(old)


def _checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first: a folder appears under its name only when it is whole.

    A later lineage began at the newest checkpoint of its time, so that its own are newer than all before.
    """
    found = [path for path in folder.glob("L*.S*") if path.is_dir() and "partial" not in path.name]
    return sorted(found, key=lambda path: WeightsVersion.parse(path.name))


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a stage; None before the first."""
    return next(reversed(_checkpoints(folder)), None)


def _split_by_problem(groups: Sequence[Sequence[Trajectory]]) -> tuple[list[Trajectory], list[Trajectory]]:
    """(train, held out) of the usable ones, split by problem id so that one problem is never on both sides."""
    usable = [trajectory for group in groups for trajectory in group if trajectory.drop_reason is None]
    ids = sorted({trajectory.id.problem_id for trajectory in usable}, key=lambda name: derive_seed("held-out", name))
    held_out_ids = set(ids[: round(len(ids) * _HELD_OUT_SHARE)])
    held_out = [trajectory for trajectory in usable if trajectory.id.problem_id in held_out_ids]
    return [trajectory for trajectory in usable if trajectory.id.problem_id not in held_out_ids], held_out
