"""Stage ``discriminator``: programs of a model that compile, references, and the model that tells them apart."""

from __future__ import annotations

import asyncio
import math
import shutil
from collections import Counter
from collections.abc import Sequence
from typing import Any

from actors.checking import COMPILES, NO_COMPILER, reference_code
from actors.comparer import DiscriminatorTrained, DiscriminatorTrainer
from actors.comparison import reference_program
from actors.compiler import CompilerTerm, CompilerTermConfig
from actors.terms import Failed
from cluster.context import RunContext
from cluster.errors import ActorError, ConfigError
from cluster.inputs import problems_of
from cluster.journal import write_journal
from cluster.rollout import Ask, Group
from cluster.run_folder import StageFolder
from cluster.stage_config import DiscriminatorStage
from cluster.stages.comparing import pair_of
from cluster.stages.figures import event_shares
from cluster.stages.one_trainer import OneTrainer, with_trainer
from learner.discriminator import ComparisonPair
from learner.preferences import part_held_out
from problems.identity import WeightsVersion
from problems.problem import Problem

NO_REFERENCE, BAD_REFERENCE, SAME = "no_reference", "bad_reference", "same"


async def fit_discriminator(
    context: RunContext, stage: DiscriminatorStage, folder: StageFolder, lineage: int
) -> dict[str, Any]:
    """Samples, compiles, makes pairs, trains; writes ``model/`` and returns the manifest's figures.

    Problems without a reference, with one that does not compile, or without a compiler make no pairs, and are counted.
    """
    term = CompilerTermConfig()
    compiler = CompilerTerm(term, term.checker(context.check))
    model = context.model_path(stage.model)
    rollout = context.rollout(context.tokenizer(model), stage.sampling, [compiler], execute_cut=False)
    problems = problems_of(stage.problems)
    fitting = [problem for problem in problems if rollout.fits(problem)]
    kept, left_out = await with_sound_references(compiler, fitting)
    context.panel.begin(stage.name, len(kept))
    version = WeightsVersion(lineage, 0)
    await context.serve(model, version)
    asks = [
        Ask(context.config.name, stage.name, 0, i, problem, stage.samples, stage.sampling.temperature, execute=False)
        for i, problem in enumerate(kept)
    ]
    groups = await rollout.groups(
        asks, lambda: context.panel.progress(stage.name, context.panel.rows[stage.name].done + 1)
    )
    entries = [entry for group in groups for entry in group.entries]
    write_journal(folder.trajectories, version, entries)
    pairs, num_same = pairs_of(groups)
    train, held_out = part_held_out(pairs, lambda pair: pair.problem_id, stage.held_out_share, stage.held_out_seed)
    if not train or not held_out:
        raise ConfigError(
            f"stages.{stage.name}: {len(train)} pairs to learn from and {len(held_out)} to judge by are too few; "
            "take more problems or samples, or change held_out_share"
        )

    async def fit(trainer: OneTrainer) -> DiscriminatorTrained:
        job = (str(context.model_path(stage.encoder)), train, held_out, str(folder.model), trainer.saving)
        return await trainer.call("train", *job, what="train a discriminator")

    # An earlier start's had other samples, and so other pairs.
    shutil.rmtree(folder.checkpoints, ignore_errors=True)
    done = await with_trainer(
        context,
        stage,
        folder,
        fit,
        kind=DiscriminatorTrainer,
        settings=stage.train,
        who="discriminator trainer",
        prefix="discriminator",
    )
    figures = {f"discriminator/held_out_{name}": value for name, value in done.held_out._asdict().items()}
    context.metrics.log(stage.name, done.progress.step, figures | event_shares(entries))
    return {
        "num_filtered_prompts": len(problems) - len(fitting),
        "references": dict(left_out),
        "num_pairs": len(train),
        "num_held_out_pairs": len(held_out),
        "num_same_as_reference": num_same,
        "num_too_long": done.num_too_long,
        "steps": done.progress.step,
        **{name.removeprefix("discriminator/"): value for name, value in figures.items() if math.isfinite(value)},
        **event_shares(entries),
    }


async def with_sound_references(
    compiler: CompilerTerm, problems: Sequence[Problem]
) -> tuple[list[Problem], Counter[str]]:
    """The problems whose reference compiles, and how many have none, a bad one, or no compiler to say."""

    async def judge(problem: Problem) -> str:
        if reference_code(problem) is None:
            return NO_REFERENCE
        checked = await compiler.checker.of_program(problem, reference_program(problem))
        if isinstance(checked, Failed):
            raise ActorError(f"the reference of {problem.id} could not be compiled: {checked.reason}")
        return checked.result if checked.result in (COMPILES, NO_COMPILER) else BAD_REFERENCE

    found = await asyncio.gather(*(judge(problem) for problem in problems))
    kept = [problem for problem, what in zip(problems, found, strict=True) if what == COMPILES]
    return kept, Counter(what for what in found if what != COMPILES)


def pairs_of(groups: Sequence[Group]) -> tuple[list[ComparisonPair], int]:
    """Pairs of the programs that compile, equal programs to a problem once; and how many were the reference itself."""
    pairs: dict[tuple[str, str], ComparisonPair] = {}
    num_same = 0
    for group in groups:
        for entry in group.entries:
            if not any(event.term == f"compiler.{COMPILES}" for event in entry.trajectory.events):
                continue
            pair = pair_of(group.problem, entry)
            if pair.generated.split() == pair.reference.split():
                num_same += 1
            else:
                pairs.setdefault((pair.problem_id, pair.generated), pair)
    return list(pairs.values()), num_same
