"""Stage ``ppo``: the controller's loop on real parts, with checkpoints, journal, ledger and metrics."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from actors.checking import COMPILED_LANGUAGES
from actors.rewards import (
    COMPILING_TERMS,
    RewardModelTermConfig,
    TermSources,
    build_terms,
    normalised_within_prompt,
)
from actors.trainer import StepReport
from cluster.background import background
from cluster.checkpoints import Checkpoints, latest_checkpoint
from cluster.context import RunContext
from cluster.controller import Controller, StepInput, shuffled_rewards
from cluster.errors import ActorError, ConfigError, TrainerLostError
from cluster.inputs import problems_of
from cluster.journal import write_journal
from cluster.leakage import learned_by
from cluster.learned_problems import write_learned
from cluster.ledger import Ledger, steps_file
from cluster.metrics import Span
from cluster.rollout import Ask, Group, Rollout
from cluster.run_folder import StageFolder
from cluster.stage_config import PPOStage, ProblemSource
from cluster.stages.comparing import Comparisons
from cluster.stages.figures import rollout_figures, shares_of, shown
from cluster.stages.learned_reward import LearnedReward, choose_filter, chosen_filter
from cluster.stages.rerank import check_reranker
from cluster.stages.watches import look_back, surviving_groups, watches_of
from cluster.stream import Draw, Stream, stream_of
from cluster.trainer import TRAINER, TrainerGroup
from learner.trajectory import Trajectory
from problems.identity import WeightsVersion, derive_seed
from problems.problem import Problem

_HELD_OUT_SHARE = 0.1  # of the warm-up's groups: by problem, so that nothing of them was trained on
_WARMUP = ".warmup"
_CHOICE = ".filter"


async def train_policy(context: RunContext, stage: PPOStage, folder: StageFolder, lineage: int) -> dict[str, Any]:
    """Runs the stage from its last checkpoint, or from the start, to its end; returns the manifest's figures."""
    parts, reward = _prepare(context, stage, folder)
    reward.start()
    parts.comparisons.start()
    try:
        stage = await _with_chosen_filter(context, stage, folder, parts, lineage)
        await _train_through_losses(context, stage, folder, lineage, parts)
    finally:
        await parts.comparisons.stop()
        await reward.stop()
    return {name: value for name, value in context.metrics.latest[stage.name].values.items() if value == value}


async def _train_through_losses(
    context: RunContext, stage: PPOStage, folder: StageFolder, lineage: int, parts: _Parts
) -> None:
    """When the trainer is lost, all of it begins again at the last checkpoint, in a new lineage; the generators and
    executors stay."""
    losses, last = 0, latest_checkpoint(folder.checkpoints)
    while True:
        config = context.config
        transport = config.generators.engine.weight_transport
        trainer = TrainerGroup(stage, config.name, config.supervision, context.report, transport, context.where)
        try:
            await _Job(context, stage, folder, lineage, parts, trainer).run()
            break
        except TrainerLostError:
            reached, last = last, latest_checkpoint(folder.checkpoints)
            losses = losses + 1 if reached == last else 1
            if losses >= context.config.supervision.max_trainer_losses:
                raise
            lineage = context.metrics.lineage = context.folder.begin_lineage(stage.name)
        finally:
            trainer.close()


@dataclass(frozen=True, slots=True)
class _Parts:
    """What every start of the stage has in common."""

    model: Path
    rollout: Rollout
    stream: Stream
    critic: Path | None
    comparisons: Comparisons


def _prepare(context: RunContext, stage: PPOStage, folder: StageFolder) -> tuple[_Parts, LearnedReward]:
    model = context.model_path(stage.policy)
    loaded = context.tokenizer(model)
    reward = LearnedReward(context, stage)
    comparisons = Comparisons(context, stage, folder)
    sources = TermSources(reward.ask, reward.read, context.check, comparisons.compare, comparisons.judge)
    rollout = context.rollout(loaded, stage.sampling, build_terms(stage.rewards, sources), execute_cut=False)
    sets = [
        ([problem for problem in _compiled(context, stage, source) if rollout.fits(problem)], source.weight)
        for source in stage.problems
    ]
    if not any(kept for kept, _ in sets):
        limit = stage.sampling.max_prompt_tokens
        raise ConfigError(f"stages.{stage.name}: every prompt is longer than sampling.max_prompt_tokens {limit}")
    critic = check_reranker(context, stage.critic_from, model) if stage.critic_from is not None else None
    return _Parts(model, rollout, stream_of(sets, context.config.seed), critic, comparisons), reward


def _compiled(context: RunContext, stage: PPOStage, source: ProblemSource) -> list[Problem]:
    """The problems of a source; where the reward is a compiler's, those of languages that have none are left out."""
    problems = problems_of([source])
    if not any(term.kind in COMPILING_TERMS for term in stage.rewards):
        return problems
    kept = [problem for problem in problems if problem.language in COMPILED_LANGUAGES]
    if not kept:
        raise ConfigError(
            f"stages.{stage.name}.problems: {source.spec!r} has no problem in {' or '.join(COMPILED_LANGUAGES)}, and "
            "no other language has a compiler's reward"
        )
    context.metrics.log(stage.name, 0, {"compiler/no_compiler_prompts": float(len(problems) - len(kept))})
    return kept


async def _with_chosen_filter(
    context: RunContext, stage: PPOStage, folder: StageFolder, parts: _Parts, lineage: int
) -> PPOStage:
    """The stage, with the filter that R^2 recommends where it asks for the choice."""
    choice = stage.choose_filter
    if choice is None:
        return stage
    rule = chosen_filter(folder, choice)
    if rule is None:
        await context.serve(parts.model, WeightsVersion(lineage, 0))
        name = stage.name + _CHOICE
        asks = [
            _ask(context, stage, name, parts.stream.at(position), position, choice.samples)
            for position in range(min(choice.prompts, len(parts.stream.problems)))
        ]
        groups = await parts.rollout.groups(asks, lambda: None)
        entries = [entry for group in groups for entry in group.entries]
        write_journal(folder.trajectories / "filter_choice", WeightsVersion(lineage, 0), entries)
        rule, record = choose_filter(folder, choice, groups)
        figures = {
            f"reward_model/{kind}_{of}": fit[kind]
            for of, fit in record["fits"].items()
            for kind in ("r_squared", "r_squared_equal")
        }
        context.metrics.log(name, 0, figures)
        chosen = record["chosen"]
        context.panel.say(f"{stage.name}: filter {chosen} has the highest R^2 of {', '.join(record['fits'])}")
    return stage.model_copy(update={"learner": stage.learner.model_copy(update={"filter": rule})})


def _ask(context: RunContext, stage: PPOStage, stage_name: str, draw: Draw, index: int, num_samples: int) -> Ask:
    return Ask(
        context.config.name, stage_name, draw.epoch, index, draw.problem, num_samples, stage.sampling.temperature
    )


@dataclass(slots=True)
class _Step:
    """A step on its way through trainer, push and log."""

    offered: StepInput
    training: asyncio.Task[StepReport]
    figures: dict[str, float] | None = None


class _Job:
    """One start of a ppo stage."""

    def __init__(
        self,
        context: RunContext,
        stage: PPOStage,
        folder: StageFolder,
        lineage: int,
        parts: _Parts,
        trainer: TrainerGroup,
    ) -> None:
        self.context = context
        self.stage = stage
        self.folder = folder
        self.lineage = lineage
        self.model, self.rollout, self.stream = parts.model, parts.rollout, parts.stream
        self.critic, self.comparisons = parts.critic, parts.comparisons
        self.watches = watches_of(stage)
        self.replacements = parts.stream.reseeded(derive_seed("replacements", context.config.seed))
        self.trainer = trainer
        self.ledger = Ledger(folder.ledger)
        self.version = WeightsVersion(lineage, 0)  # that the generators serve
        self._unlogged: _Step | None = None  # that is trained, or pushed
        self.checkpoints = Checkpoints(folder.checkpoints, stage, trainer, self.ledger)
        self._has_begun = False

    async def run(self) -> None:
        """From the last checkpoint to the exported model. When it is told to stop, it makes a checkpoint first."""
        try:
            async with background(self.trainer.watch):
                version = await self.begin()
                self._has_begun = True
                await self.controller().run(version)
                await self.checkpoints.finish()
                await self.call("export", str(self.folder.model), what="export the model")
                await self.call("close", what="free its published weights")
        except asyncio.CancelledError:
            if self._has_begun:
                await self._save_in_time()
            raise
        finally:
            if self._unlogged is not None:
                self._unlogged.training.cancel()
            await self.checkpoints.abandon()

    async def call(self, method: str, *arguments: Any, what: str) -> Any:
        """A call to the trainer, under a time-out."""
        return await self.trainer.call(method, *arguments, what=what)

    async def _save_in_time(self) -> None:
        """A last checkpoint. A step that the trainer is in comes to its end before, is in it, and is logged."""
        timeout_s = self.context.config.supervision.last_save_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                saved = await self._save()
                if (step := self._unlogged) is not None:
                    await step.training
                    self._log(step, self._figures(step))
            self.context.panel.say(f"{self.stage.name}: checkpoint {saved} was written")
        except (ActorError, TimeoutError, OSError) as error:
            why = f"not within {timeout_s:g} s" if isinstance(error, TimeoutError) else error
            self.context.panel.say(f"{self.stage.name}: no checkpoint could be written ({why})")

    async def _save(self) -> WeightsVersion:
        version = await self.checkpoints.begin()
        await self.checkpoints.finish()
        return version

    async def begin(self) -> WeightsVersion:
        """Loads model or checkpoint, serves the weights, warms the critic up; returns the version to go on from."""
        checkpoint = latest_checkpoint(self.folder.checkpoints)
        self.context.panel.begin(self.stage.name, self.stage.learner.num_steps)
        await self.trainer.meet()
        loading = asyncio.create_task(self._load(checkpoint))
        if self.context.shares_gpu:  # vLLM measures what is free on the GPU, and must not be disturbed in it
            await loading
        base = self.context.serve(self.model, WeightsVersion(self.lineage, 0), others_follow=checkpoint is not None)
        _, initial_weights = await asyncio.gather(base, loading)
        parent = WeightsVersion.parse(checkpoint.name) if checkpoint else None
        self.comparisons.rewind(parent.step if parent else 0)
        self.ledger.start(self.lineage, parent, initial_weights)
        if parent is None:
            version = self.version = WeightsVersion(self.lineage, 0)
            await self._warm_up()
            await self._save()
        else:
            version = WeightsVersion(self.lineage, parent.step)
            await asyncio.to_thread(look_back, self.folder, self.watches)
            problems = {problem.id: problem for problem in self.stream.problems}
            await self.comparisons.recall(surviving_groups(self.folder), problems)
            await self._push(version)
            self.context.panel.say(f"{self.stage.name}: goes on from {parent}")
        self.context.panel.begin(self.stage.name, self.stage.learner.num_steps, version.step)
        return version

    async def _load(self, checkpoint: Path | None) -> str:
        """Fingerprint of the policy that the trainer began with."""
        return await self.call(
            "start",
            str(self.model),
            str(checkpoint) if checkpoint else None,
            self.lineage,
            str(steps_file(self.folder.ledger, self.lineage)),
            str(self.critic) if self.critic else None,
            what="load its models",
        )

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
            answered=lambda: self.context.generators.answered + self.context.executors.answered,
            is_missing=lambda: self.context.generators.roster.is_missing or self.context.executors.roster.is_missing,
        )

    def _ask(self, stage_name: str, draw: Draw, index: int, num_samples: int) -> Ask:
        return _ask(self.context, self.stage, stage_name, draw, index, num_samples)

    def _is_executed(self, position: int) -> bool:
        """A seeded share of the groups."""
        drawn = derive_seed("execute", self.context.config.seed, self.stage.name, position) / 2.0**63
        return drawn < self.stage.execute_share

    async def _produce(self, draw: Draw, position: int) -> Group:
        """The group of one place. One without signal is replaced, by problems that are a function of the place."""
        replaced: list[Group] = []
        group = await self._issue(draw, position, attempt=0)
        while not group.has_signal and len(replaced) < self.stage.max_replacements:
            replaced.append(group.discarded())
            draw = self.replacements.at(position * self.stage.max_replacements + len(replaced) - 1)
            group = await self._issue(draw, position, attempt=1)
        self.ledger.completed(self.lineage, position)
        return replace(group, replaced=tuple(replaced))

    async def _issue(self, draw: Draw, position: int, *, attempt: int) -> Group:
        num_samples = self.stage.samples_per_prompt
        self.ledger.issued(
            self.version,
            place=position,
            problem_id=draw.problem.id,
            epoch=draw.epoch,
            num_samples=num_samples,
            attempt=attempt,
        )
        ask = self._ask(self.stage.name, draw, position, num_samples)
        return await self.rollout.group(replace(ask, execute=self._is_executed(position), attempt=attempt))

    async def _warm_up(self) -> None:
        """Rollouts of the frozen policy teach the critic before the first policy step."""
        num_groups = self.stage.warmup_groups
        if not num_groups:
            return
        num_samples = self.stage.warmup_samples_per_prompt
        name = self.stage.name + _WARMUP
        stream = self.stream.reseeded(derive_seed("warm-up", self.context.config.seed))
        done = itertools.count(1)
        asks = [
            replace(self._ask(name, stream.at(position), position, num_samples), execute=self._is_executed(position))
            for position in range(num_groups)
        ]
        groups = await self.rollout.groups(
            asks,
            lambda: self.context.panel.progress(
                self.stage.name, 0.0, f"critic warm-up: {next(done)}/{num_groups} groups"
            ),
        )
        entries = [entry for group in groups for entry in group.entries]
        write_journal(self.folder.trajectories / "warmup", WeightsVersion(self.lineage, 0), entries)
        trajectories = [as_trained(self.stage, group) for group in groups]
        if self.stage.shuffle_rewards:  # here too: a critic that knew the truth would tell it to the policy
            trajectories = shuffled_rewards(trajectories, self.context.config.seed, _WARMUP)
        train, held_out = _split_by_problem(trajectories)
        self.context.panel.progress(self.stage.name, 0.0, "critic warm-up: training")
        await self._take_gpu()
        figures = await self.call("warm_up", train, held_out, what="warm its critic up")
        if self.context.shares_gpu:
            await self._push(self.version)
        self.context.metrics.log(name, 0, figures)

    async def _train(self, step_input: StepInput) -> None:
        """Journals everything, then one learner step."""
        entries = [entry for group in step_input.sampled for entry in group.entries]
        before = WeightsVersion(self.lineage, step_input.step)
        await asyncio.to_thread(write_journal, self.folder.trajectories, before, entries)
        groups = [as_trained(self.stage, group) for group in step_input.sampled]
        if self.stage.shuffle_rewards:
            groups = shuffled_rewards(groups, self.context.config.seed, step_input.step)
        await self._take_gpu()
        training: asyncio.Task[StepReport] = asyncio.create_task(self.call("step", groups, what="train a step"))
        self._unlogged = _Step(step_input, training)
        report = await asyncio.shield(training)  # whoever is told to stop meanwhile waits for it, and logs it
        if report.version != before.next():
            raise ActorError(f"the trainer made {report.version} where {before.next()} was due")

    async def _take_gpu(self) -> None:
        """The trainer's turn on a shared GPU, until the next push: everything that a step needs has been sampled."""
        if self.context.shares_gpu:
            await self.context.generators.sleep()

    async def _push(self, version: WeightsVersion) -> None:
        ticket = await self.call("publish", version, what="publish its weights")
        if self.context.shares_gpu:
            await self.call("yield_gpu", what="give the GPU up")
        await self.context.generators.push(ticket, version)
        self.version = version

    async def _done(self, step_input: StepInput, version: WeightsVersion) -> None:
        step = self._unlogged
        assert step is not None, "a step was reported before it was trained"
        figures = self._figures(step)
        figures |= await self.comparisons.step(version.step, step_input.groups)
        shares = shares_of(step_input.waits, await self.context.generators.stats())
        figures |= {f"share/{who}/{what}": share for who, parts in shares.items() for what, share in parts.items()}
        self._log(step, figures)
        self._unlogged = None
        self.context.panel.figures(shown(figures))
        self.context.panel.shares(shares)
        self.context.panel.progress(self.stage.name, version.step, f"step {version.step}")
        if version.step in self.stage.export_steps:
            model = self.folder.model_at(version.step)
            await self.call("export", str(model), what="export the model")
            write_learned(model, learned_by(self.stage.name, self.context.config.stages, self.context.folder))
        await self.checkpoints.check()
        if self.checkpoints.is_due(version):
            await self.checkpoints.begin({name: value for name, value in figures.items() if math.isfinite(value)})

    def _figures(self, step: _Step) -> dict[str, float]:
        """What the trainer says of a step, and what was offered to it."""
        if step.figures is None:
            report = step.training.result()
            step.figures = report.metrics | rollout_figures(step.offered, self.context.executors.stats)
            for watch in self.watches:  # each sees a step once
                step.figures |= watch.step(step.offered.groups)
        return step.figures

    def _log(self, step: _Step, figures: dict[str, float]) -> None:
        report = step.training.result()
        self.context.metrics.log(self.stage.name, report.version.step, figures)
        self.context.metrics.span(Span(TRAINER, "train", report.start, report.end))


def as_trained(stage: PPOStage, group: Group) -> list[Trajectory]:
    """The group's trajectories with those rewards normalised that the stage compares within a prompt.

    The journal, the choice of the filter and the watch over the reward model keep the scores themselves: of normalised
    ones the mean is always 0, however far the policy goes.
    """
    trajectories = [entry.trajectory for entry in group.entries]
    for term in stage.rewards:
        if isinstance(term, RewardModelTermConfig) and term.normalise == "within_prompt":
            trajectories = normalised_within_prompt(trajectories, term.kind, term.weight)
    return trajectories


def _split_by_problem(groups: Sequence[Sequence[Trajectory]]) -> tuple[list[Trajectory], list[Trajectory]]:
    """(train, held out) of the usable ones, split by problem id so that one problem is never on both sides."""
    usable = [trajectory for group in groups for trajectory in group if trajectory.drop_reason is None]
    ids = sorted({trajectory.id.problem_id for trajectory in usable}, key=lambda name: derive_seed("held-out", name))
    held_out_ids = set(ids[: round(len(ids) * _HELD_OUT_SHARE)])
    held_out = [trajectory for trajectory in usable if trajectory.id.problem_id in held_out_ids]
    return [trajectory for trajectory in usable if trajectory.id.problem_id not in held_out_ids], held_out
