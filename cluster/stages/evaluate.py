"""Stage ``evaluate``: pass@1 of a model on problems, sampled and greedy."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cluster.context import RunContext
from cluster.inputs import problems_of
from cluster.journal import write_journal
from cluster.rollout import Ask, Group
from cluster.run_folder import StageFolder, write_atomically
from cluster.stage_config import EvaluateStage
from cluster.stages.measures import measures_by_source, measures_of, shares_of
from cluster.stages.rerank import Choices, LineReading, check_reranker, gained_on, rerank, table_row
from cluster.statistics import Estimate, mean_over_problems, paired_difference
from problems.identity import WeightsVersion
from problems.problem import Problem

_RESULTS = "results.json"


async def evaluate(context: RunContext, stage: EvaluateStage, folder: StageFolder, lineage: int) -> dict[str, Any]:
    """Samples, executes, and returns the manifest's figures."""
    model = context.model_path(stage.model)
    rerankers = {
        field: check_reranker(context, reference, model)
        for field, reference in (("rerank_earlier", stage.rerank_earlier), ("rerank", stage.rerank))
        if reference is not None
    }
    version = WeightsVersion(lineage, 0)
    problems = problems_of(stage.problems)
    rollout = context.rollout(context.tokenizer(model), stage.sampling, [], execute_cut=True)
    kept = [problem for problem in problems if rollout.fits(problem)]
    passes = [(stage.name, stage.samples, stage.sampling.temperature)] if stage.samples else []
    passes += [(f"{stage.name}.greedy", 1, 0.0)] if stage.greedy else []
    context.panel.begin(stage.name, len(kept) * len(passes))
    await context.serve(model, version)

    def count() -> None:
        context.panel.progress(stage.name, context.panel.rows[stage.name].done + 1)

    groups: dict[str, list[Group]] = {}
    seconds: dict[str, float] = {}
    for name, num_samples, temperature in passes:
        groups[name] = []
        for language, problems_of_it in _by_language(kept).items():
            begun = time.monotonic()
            asks = [
                Ask(context.config.name, name, 0, index, problem, num_samples, temperature)
                for index, problem in enumerate(problems_of_it, len(groups[name]))
            ]
            groups[name] += await rollout.groups(asks, count)
            if name == stage.name:
                seconds[language] = time.monotonic() - begun
    for name, measured in groups.items():
        write_journal(folder.trajectories / name, version, [entry for group in measured for entry in group.entries])
    summary = _summary(context, stage, folder, groups, len(problems) - len(kept))
    how = LineReading(context.tokenizer(model).token_bytes, stage.line_score)
    choices: dict[str, Choices] = {}
    for field, folder_of_it in rerankers.items():
        summary[field], choices[field] = await rerank(context, folder_of_it, groups[stage.name], how, seconds)
        context.panel.say(f"{stage.name}, {field} of {stage.samples}: {table_row(summary[field]['all'])}")
    if len(choices) == 2:
        gained = gained_on(choices["rerank_earlier"], choices["rerank"])
        for language, difference in gained.items():
            summary["rerank"][language]["reranked_minus_earlier"] = asdict(difference)
    return summary


def _by_language(problems: Sequence[Problem]) -> dict[str, list[Problem]]:
    """In the order of their first problem; one after the other is measured, so that each has a time of its own."""
    found: dict[str, list[Problem]] = {}
    for problem in problems:
        found.setdefault(problem.language, []).append(problem)
    return found


def _pass_rates(groups: Sequence[Group]) -> tuple[dict[str, float], int]:
    """Share of each problem's samples that passed, and how many samples could not be judged (left out of it)."""
    rates: dict[str, float] = {}
    unknown = 0
    for group in groups:
        judged = [entry.trajectory.passed for entry in group.entries if entry.trajectory.passed is not None]
        unknown += len(group.entries) - len(judged)
        if judged:
            rates[group.problem.id] = sum(judged) / len(judged)
    return rates, unknown


def _summary(
    context: RunContext,
    stage: EvaluateStage,
    folder: StageFolder,
    groups: dict[str, list[Group]],
    num_filtered: int,
) -> dict[str, Any]:
    summary: dict[str, Any] = {"num_filtered_prompts": num_filtered}
    results: dict[str, dict[str, float]] = {}
    for name, measured in groups.items():
        key = "greedy_pass_at_1" if name.endswith(".greedy") else "sampled_pass_at_1"
        results[key], unknown = _pass_rates(measured)
        estimate = mean_over_problems(list(results[key].values()))
        summary[key] = asdict(estimate)
        summary[f"{key}_infrastructure_errors"] = unknown
        context.metrics.log(stage.name, 0, {f"evaluate/{key}": estimate.mean})
        kind = key.removesuffix("_pass_at_1")
        summary[kind] = measures_of(measured)
        shares = shares_of(summary[kind])
        context.metrics.log(stage.name, 0, {f"evaluate/{kind}_{what}": share for what, share in shares.items()})
        context.panel.say(f"{stage.name}, {kind}: {_row(shares)}")
        sets = measures_by_source(measured)
        if len(sets) > 1:
            summary[kind]["by_source"] = sets
            for source, figures in sets.items():
                context.panel.say(f"{stage.name}, {kind}, {source}: {_row(shares_of(figures))}")
    write_atomically(folder.root / _RESULTS, json.dumps(results))
    if stage.compare_with is not None:
        earlier = json.loads((context.folder.stage(stage.compare_with).root / _RESULTS).read_text())
        summary["difference"] = {
            key: asdict(_difference(earlier[key], results[key])) for key in results if key in earlier
        }
    return summary


def _row(shares: dict[str, float]) -> str:
    return ", ".join(f"{what} {share:.1%}" for what, share in shares.items())


def _difference(before: dict[str, float], after: dict[str, float]) -> Estimate:
    """Paired over the problems that both could judge: a fault of ours in one of them is not a failure."""
    both = before.keys() & after.keys()
    return paired_difference({key: before[key] for key in both}, {key: after[key] for key in both})
