"""Stage ``collect``: answers of a model, executed, and pairs of them that differ in what they are worth."""

from __future__ import annotations

from typing import Any

from actors.rewards import ShareOfTestsConfig, build_terms
from cluster.answers import write_answers, write_pairs
from cluster.config import CollectStage
from cluster.context import RunContext
from cluster.errors import ConfigError
from cluster.inputs import problems_of
from cluster.journal import write_journal
from cluster.rollout import Ask
from cluster.run_folder import StageFolder
from learner.preferences import make_pairs
from problems.identity import WeightsVersion


async def collect(context: RunContext, stage: CollectStage, folder: StageFolder, lineage: int) -> dict[str, Any]:
    """Samples, executes, writes answers and pairs, and returns the manifest's figures."""
    model = context.model_path(stage.model)
    version = WeightsVersion(lineage, 0)
    problems = problems_of(stage.problems)
    # The share of cases that passed is what an answer is worth; so all cases are run.
    terms = build_terms([ShareOfTestsConfig(weight=1.0)])
    rollout = context.rollout(context.tokenizer(model), stage.sampling, terms, execute_cut=False)
    kept = [problem for problem in problems if rollout.fits(problem)]
    context.panel.begin(stage.name, len(kept))
    await context.serve(model, version)
    asks = [
        Ask(context.config.name, stage.name, 0, index, problem, stage.samples, stage.sampling.temperature)
        for index, problem in enumerate(kept)
    ]
    groups = await rollout.groups(
        asks, lambda: context.panel.progress(stage.name, context.panel.rows[stage.name].done + 1)
    )
    entries = [entry for group in groups for entry in group.entries]
    write_journal(folder.trajectories, version, entries)
    answers = write_answers(folder.root, entries)
    pairs = make_pairs(answers, stage.pairs.rule, per_problem=stage.pairs.per_problem, seed=context.config.seed)
    if not pairs:
        raise ConfigError(
            f"stages.{stage.name}: no two answers to one problem differ (pass rate "
            f"{sum(answer.passed for answer in answers) / max(len(answers), 1):.2f}); "
            "take more samples, or problems that the model sometimes solves"
        )
    write_pairs(folder.root, pairs)
    return {
        "num_filtered_prompts": len(problems) - len(kept),
        "num_answers": len(answers),
        "num_dropped": len(entries) - len(answers),
        "num_pairs": len(pairs),
        "num_problems_with_pairs": len({pair.chosen.problem_id for pair in pairs}),
        "pass_rate": sum(answer.passed for answer in answers) / max(len(answers), 1),
    }
