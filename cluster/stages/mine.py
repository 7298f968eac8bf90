"""Stage ``mine``: answers that fail and that a reward model overrates, for its next training (arXiv 2504.09643)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

from actors.executor import Execution
from cluster.answers import read_answers, write_answers, write_pairs
from cluster.checks import refuse_scores_without_a_choice
from cluster.context import RunContext
from cluster.errors import ConfigError
from cluster.journal import JournalEntry
from cluster.rollout import MAIN_SUITE, Group
from cluster.run_folder import StageFolder
from cluster.scorers import ScorerPool
from cluster.stage_config import STAGE_PREFIX, MineStage
from cluster.stages.rerank import check_reranker
from cluster.stages.sampled import sample_and_execute
from learner.preferences import ScoredAnswer, make_pairs
from problems.identity import WeightsVersion
from sandbox.verdict import Outcome, Program

# Failures that say something about the program each time it runs.
_CERTAIN = {Outcome.WRONG_ANSWER, Outcome.RUNTIME_ERROR, Outcome.COMPILE_ERROR}


async def mine(context: RunContext, stage: MineStage, folder: StageFolder, lineage: int) -> dict[str, Any]:
    """Samples, executes, scores, executes the overrated ones again, writes answers and pairs; returns the figures."""
    model = context.model_path(stage.model)
    folder_of_scorer = check_reranker(context, stage.reward_model, model, reads="last_token")
    scorers = ScorerPool(folder_of_scorer, context.config.scorers, context.config.supervision, context.report)
    sampled = await sample_and_execute(context, stage, folder, WeightsVersion(lineage, 0), model=stage.model)
    usable = [entry for entry in sampled.entries if entry.trajectory.drop_reason is None]
    scorers.start()
    try:
        scores = await asyncio.gather(*(_score(scorers, entry) for entry in usable))
    finally:
        await scorers.stop()
    failing = [entry for entry in usable if not entry.trajectory.passed]
    overrated, threshold = overrated_of(stage, usable, scores)
    negatives = await _executed_again(context, sampled.groups, overrated)
    passing = [entry for entry in usable if entry.trajectory.passed]
    if stage.positives is None:
        answers = write_answers(folder.root, [*negatives, *passing])
    else:
        answers = write_answers(folder.root, negatives, _positives(context, stage.positives))
    pairs = make_pairs(answers, "right_wrong", per_problem=stage.per_problem, seed=context.config.seed)
    if not pairs:
        raise ConfigError(
            f"stages.{stage.name}: {len(negatives)} hard negatives and no passing answer to the same problems; "
            "take more samples, a lower threshold, or name positives"
        )
    write_pairs(folder.root, pairs)
    return {
        "num_filtered_prompts": sampled.num_filtered_prompts,
        "num_answers": len(usable),
        "num_dropped": len(sampled.entries) - len(usable),
        "pass_rate": len(passing) / max(len(usable), 1),
        "num_failing": len(failing),
        "num_overrated": len(overrated),
        "num_unstable": len(overrated) - len(negatives),
        "num_hard_negatives": len(negatives),
        "threshold": threshold,
        "num_pairs": len(pairs),
    }


async def _score(scorers: ScorerPool, entry: JournalEntry) -> float:
    turn = entry.trajectory.turns[-1]
    return await scorers.score(turn.prompt_ids, turn.completion_ids)


def overrated_of(
    stage: MineStage, entries: Sequence[JournalEntry], scores: Sequence[float]
) -> tuple[list[JournalEntry], float]:
    """(the failing answers that count as overrated, the score from which they do).

    That score is the stage's ``threshold``, or the one that its ``top_share`` of the failing answers reach. What was
    cut, or ran out of time or memory, is none of them, since it can be no negative. Raises ConfigError where all scores
    are equal (none is overrated more than another), or one is no number.
    """
    refuse_scores_without_a_choice(f"stages.{stage.name}: {stage.reward_model!r}", scores)
    scored = zip(entries, scores, strict=True)
    failing = [(entry, score) for entry, score in scored if not entry.trajectory.passed and _is_certain(entry)]
    threshold = stage.threshold
    if threshold is None:
        threshold = float(np.quantile([score for _, score in failing], 1 - stage.top_share)) if failing else np.inf
    return [entry for entry, score in failing if score >= threshold], threshold


async def _executed_again(
    context: RunContext, groups: Sequence[Group], entries: Sequence[JournalEntry]
) -> list[JournalEntry]:
    """Those that fail a second time, for certain: what was flaky, or out of time, is no negative to learn from."""
    problems = {group.problem.id: group.problem for group in groups}

    async def fails_again(entry: JournalEntry) -> bool:
        problem = problems[entry.trajectory.id.problem_id]
        work = Execution(
            Program(problem.language, entry.program),
            problem.suites[MAIN_SUITE],
            problem.limits,
            stop_at_first_failure=True,
            problem_id=problem.id,
        )
        executed = await context.executors.run(work, anew=True)
        return executed.verdict.outcome in _CERTAIN

    again = await asyncio.gather(*(fails_again(entry) for entry in entries))
    return [entry for entry, fails in zip(entries, again, strict=True) if fails]


def _is_certain(entry: JournalEntry) -> bool:
    return entry.outcome in _CERTAIN


def _positives(context: RunContext, stage: str) -> list[ScoredAnswer]:
    """The passing answers of a collect stage."""
    answers = read_answers(context.folder.stage(stage.removeprefix(STAGE_PREFIX)).root)
    return [answer for answer in answers if answer.passed]
