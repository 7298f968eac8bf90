"""Stage ``collect``: answers of a model, executed, and pairs of them that differ in what they are worth."""

from __future__ import annotations

from typing import Any

from cluster.answers import write_answers, write_pairs
from cluster.context import RunContext
from cluster.errors import ConfigError
from cluster.run_folder import StageFolder
from cluster.stage_config import CollectStage
from cluster.stages.sampled import sample_and_execute
from learner.preferences import make_pairs, one_sided
from problems.identity import WeightsVersion


async def collect(context: RunContext, stage: CollectStage, folder: StageFolder, lineage: int) -> dict[str, Any]:
    """Samples, executes, writes answers and pairs, and returns the manifest's figures."""
    sampled = await sample_and_execute(context, stage, folder, WeightsVersion(lineage, 0), model=stage.model)
    answers = write_answers(folder.root, sampled.entries)
    pairs = make_pairs(answers, stage.pairs.rule, per_problem=stage.pairs.per_problem, seed=context.config.seed)
    without_right, without_wrong = one_sided(answers)
    if not pairs:
        raise ConfigError(
            f"stages.{stage.name}: no pair of answers ({without_right} problems without a right answer, "
            f"{without_wrong} without a wrong one; rule {stage.pairs.rule!r}); take more samples, or problems that the "
            "model sometimes solves"
        )
    write_pairs(folder.root, pairs)
    return {
        "num_filtered_prompts": sampled.num_filtered_prompts,
        "num_answers": len(answers),
        "num_dropped": len(sampled.entries) - len(answers),
        "num_pairs": len(pairs),
        "num_problems_with_pairs": len({pair.chosen.problem_id for pair in pairs}),
        "num_problems_without_right": without_right,
        "num_problems_without_wrong": without_wrong,
        "pass_rate": sum(answer.passed for answer in answers) / max(len(answers), 1),
    }
