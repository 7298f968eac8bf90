"""Process supervision (arXiv 2410.17621): line labels, the model that learns them, and what PPO makes of it.

python -m benchmarks.process            runs the arms that are missing (training: about 5 minutes each on 2 quiet cores)
python -m benchmarks.process --list     says which stand

All arms share one run of ``recipes/process.yaml``, whole, which the first arm that needs it makes:

    recipe      that run: what each stage took, and its evaluations
    labels      what its labels are worth, beside what trying everything finds out; and the model that learned them,
                judged by both
    speed       searches all together against one program at a time, in one run
    baseline, dense, value, both, each for three seeds: PPO from the supervised model under the sparse reward; with
                line rewards, with the model as the value function's beginning, with both. All four critics are warmed
                up on as many rollouts of the policy. Arms of one seed bear one run name, so that they draw the same
                prompts and, until their policies differ, the same samples.
    cold        both, and the critic as the model left it, as in the paper: it says -1 to 1 where returns are -0.25 to
                1.03
"""

from __future__ import annotations

import asyncio
import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import pyarrow.parquet as pq
from transformers import AutoTokenizer

from benchmarks.experiment import (
    ROOT,
    RUNS,
    load_stages,
    logged,
    manifests,
    recipe_file,
    run_missing,
    run_recipe,
    steps_of,
)
from cluster.labels import LABELS, read_labels
from cluster.stage_config import ProcessRewardModelStage
from learner.line_labels import GOOD, NEUTRAL, labels_of
from learner.preferences import is_held_out
from learner.process_reward_model import PositionPredictor, judge_lines
from learner.scalar_head import ScalarHeadModel
from problems.comments import without_comments
from problems.datasets import load_problems
from problems.problem import Problem
from problems.synthetic.savable import completions_of
from problems.tokenizer import vocabulary_digest
from sandbox import Executor, Outcome, Program, open_executor

EXPERIMENT = "process"
SEEDS = (1, 2, 3)
METHODS = {
    "baseline": (False, False), "dense": (True, False), "value": (False, True), "both": (True, True),
    "cold": (True, True),
}  # fmt: skip
"""Whether line rewards are paid, and whether the critic begins as the process reward model."""
_NUM_CHECKED = 120
_AT_ONCE = 4


def main() -> None:
    arms = {f"{method}-{seed}": functools.partial(run_arm, method, seed) for seed in SEEDS for method in METHODS}
    run_missing(EXPERIMENT, {"recipe": run_shared, "labels": run_labels, "speed": run_speed, **arms})


def shared_run() -> tuple[Path, dict[str, float]]:
    """The run whose models all arms share, and what this call spent on it: nothing but a start once it is done."""
    name = f"{EXPERIMENT}-shared"
    cost = run_recipe(ROOT / "recipes" / "process.yaml", name, RUNS)
    return RUNS / name, cost


def run_shared() -> dict[str, Any]:
    """The recipe whole; ``stage_seconds`` of a stage that was interrupted are those of its last start."""
    shared, cost = shared_run()
    done = manifests(shared)
    evaluations = {name: manifest["figures"] for name, manifest in done.items() if manifest["kind"] == "evaluate"}
    keys = ("sampled_pass_at_1", "greedy_pass_at_1", "difference", "rerank")
    return cost | {
        "stage_seconds": {name: manifest["seconds"] for name, manifest in done.items()},
        "evaluations": {
            name: {key: figures[key] for key in keys if key in figures} for name, figures in evaluations.items()
        },
        "baseline_pass_rate_curve": [round(step["rollout/pass_rate"], 4) for step in logged(shared, "baseline")],
    }


def model_of(shared: Path, stage: str) -> str:
    return str(shared / "stages" / stage / "model")


def arm_recipe(method: str, seed: int, shared: Path) -> dict[str, Any]:
    """PPO with or without line rewards and the value function's beginning, and its evaluation."""
    common, stages = load_stages("process.yaml")
    dense, value = METHODS[method]
    outcome, lines = stages["supervised"]["rewards"]
    policy = stages["supervised"] | {
        "policy": model_of(shared, "base"),
        "critic_from": model_of(shared, "prm") if value else None,
        "rewards": [outcome, lines | {"model": model_of(shared, "prm")}] if dense else [outcome],
        "learner": stages["supervised" if method == "cold" else "baseline"]["learner"] | {"seed": seed},
    }
    return common | {"seed": seed, "stages": [policy, stages["after"] | {"compare_with": None}]}


def run_arm(method: str, seed: int) -> dict[str, Any]:
    """One arm's figures and curves."""
    shared, _ = shared_run()
    recipe = arm_recipe(method, seed, shared)
    path = recipe_file(recipe, f"{EXPERIMENT}-{method}-{seed}")
    folder = RUNS / f"{EXPERIMENT}-{method}-{seed}"
    cost = run_recipe(path, f"{EXPERIMENT}-{seed}", folder)
    run = folder / f"{EXPERIMENT}-{seed}"
    steps = steps_of(run, "supervised", recipe["stages"][0]["learner"]["num_steps"])
    warm = next(iter(logged(run, "supervised.warmup")), {})
    figures = manifests(run)["after"]["figures"]
    return cost | {
        "method": method,
        "seed": seed,
        "before": manifests(shared)["before"]["figures"]["sampled_pass_at_1"],
        "after": figures["sampled_pass_at_1"],
        "after_greedy": figures["greedy_pass_at_1"],
        "rates": json.loads((run / "stages" / "after" / "results.json").read_text())["sampled_pass_at_1"],
        "stage_seconds": {stage: manifest["seconds"] for stage, manifest in manifests(run).items()},
        "pass_rate_curve": [round(step["rollout/pass_rate"], 4) for step in steps],
        "explained_variance_warm": warm.get("critic/held_out_explained_variance"),
        "explained_variance_curve": [_finite(step.get("critic/explained_variance_kept")) for step in steps],
        "process": {
            name: steps[-1][name] for name in steps[-1] if name.startswith(("process/", "alarm/process"))
        },
    }  # fmt: skip


def _finite(value: float | None) -> float | None:
    """None where nothing varied that could be explained."""
    return value if value is not None and math.isfinite(value) else None


def run_labels() -> dict[str, Any]:
    """Figures of the shared run's labels and of the model that learned them."""
    shared, cost = shared_run()
    done = manifests(shared)
    rows = pq.read_table(shared / "stages" / "labels" / LABELS).to_pylist()
    _, stages = load_stages("process.yaml")
    problems = {p.id: p for source in stages["labels"]["problems"] for p in load_problems(source["spec"])}
    whole = [row for row in rows if len(row["completion_ids"]) < stages["labels"]["sampling"]["max_new_tokens"]]
    settings = ProcessRewardModelStage.model_validate(stages["prm"])
    out = [is_held_out(row["problem_id"], settings.held_out_share, settings.held_out_seed) for row in whole]
    held_out, others = ([row for row, is_out in zip(whole, out, strict=True) if is_out == one] for one in (True, False))
    checked = [*spread(others, _NUM_CHECKED), *held_out]
    truths = asyncio.run(true_places(checked, problems))
    searched = [row for row in rows if not row["passed"]]
    most = [
        stages["labels"]["completions"] * math.ceil(math.log2(1 + sum(label != 0 for label in row["labels"])))
        for row in searched
    ]
    return cost | {
        "labels": done["labels"]["figures"],
        "num_searched": len(searched),
        "num_over_bound": sum(row["num_completions"] > bound for row, bound in zip(searched, most, strict=True)),
        "completions_per_search": mean(row["num_completions"] for row in searched),
        "agreement": agreement(checked, truths),
        "model": json.loads((shared / "stages" / "prm" / "lines.json").read_text()),
        "model_by_truth": judged_by_truth(shared, truths),
    }


def spread(rows: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """At most so many failing answers, of all policies alike: rows come policy by policy."""
    failing = [row for row in rows if not row["passed"]]
    return failing[:: max(1, len(failing) // count)][:count]


def agreement(rows: Sequence[dict[str, Any]], truths: Mapping[str, int]) -> dict[str, float]:
    """How often the searched first bad line of a failing answer is the true one. ``truths``: by name."""
    misses = [sum(label == GOOD for label in row["labels"]) - truths[row["name"]] for row in rows if not row["passed"]]
    return {
        "num_answers": len(misses),
        "exact": mean(found == 0 for found in misses),
        "early": mean(found < 0 for found in misses),
        "late": mean(found > 0 for found in misses),
    }


def judged_by_truth(shared: Path, truths: Mapping[str, int]) -> dict[str, float]:
    """Line accuracy of the model, and by position, on held-out answers whose true first bad line is known.

    Model and position have both learned from searched labels.
    """
    _, stages = load_stages("process.yaml")
    stage = ProcessRewardModelStage.model_validate(stages["prm"])
    folder = model_of(shared, "prm")
    tokenizer = vocabulary_digest(AutoTokenizer.from_pretrained(folder))
    answers = read_labels(shared / "stages" / "labels" / LABELS, tokenizer)
    answers = [answer for answer in answers if answer.num_tokens <= stage.train.row_tokens]
    out = [is_held_out(answer.problem_id, stage.held_out_share, stage.held_out_seed) for answer in answers]
    seen = [answer for answer, is_out in zip(answers, out, strict=True) if not is_out]
    judged = [
        replace(answer, labels=tuple(labels_of([label == NEUTRAL for label in answer.labels], truths[answer.name])))
        for answer, is_out in zip(answers, out, strict=True)
        if is_out and answer.name in truths
    ]
    figures = judge_lines(
        ScalarHeadModel.from_pretrained(folder), judged, PositionPredictor(seen), row_tokens=stage.train.row_tokens
    )
    return {
        "accuracy": figures.accuracy,
        "accuracy_by_position": figures.by_position,
        "first_bad": figures.first_bad,
        "first_bad_by_position": figures.first_bad_by_position,
        "num_answers": figures.num_answers,
        "num_lines": figures.num_lines,
    }


async def true_places(rows: Sequence[dict[str, Any]], problems: dict[str, Problem]) -> dict[str, int]:
    """Of each answer, by name: the lines that count before the first prefix that nothing saves; all where it passes."""
    executor = await open_executor()
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(row: dict[str, Any]) -> int:
        if row["passed"]:
            return sum(label != NEUTRAL for label in row["labels"])
        async with places:
            return await true_num_good(executor, problems[row["problem_id"]], row["program"])

    try:
        found = await asyncio.gather(*(one(row) for row in rows))
    finally:
        await executor.close()
    return {row["name"]: truth for row, truth in zip(rows, found, strict=True)}


async def true_num_good(executor: Executor, problem: Problem, program: str) -> int:
    """Lines that count before the first prefix that nothing saves."""
    body = program.removeprefix(problem.prompt)
    text = without_comments(program.encode(), problem.language).decode("utf-8", "replace")[len(problem.prompt) :]
    lines, said = body.splitlines(keepends=True), [bool(line.strip()) for line in text.splitlines()]
    num_good = 0
    for place, counts in enumerate(said, 1):
        if not counts:
            continue
        prefix = "".join(lines[:place])
        if not await _is_savable(executor, problem, prefix if prefix.endswith("\n") else prefix + "\n", num_good + 1):
            break
        num_good += 1
    return num_good


async def _is_savable(executor: Executor, problem: Problem, prefix: str, num_lines: int) -> bool:
    for body in completions_of(problem, prefix, num_lines):
        program = Program(problem.language, (problem.prompt + body).encode())
        verdict = await executor.run(program, problem.suites["main"], problem.limits, stop_at_first_failure=True)
        if verdict.outcome is Outcome.INFRASTRUCTURE_ERROR:
            raise RuntimeError(f"{problem.id} could not be judged ({verdict.detail}): run the arm again")
        if verdict.outcome is Outcome.PASSED:
            return True
    return False


def speed_recipe(shared: Path) -> dict[str, Any]:
    """Labels of answers to few problems twice: all of them together, and one at a time. Each samples its own answers,
    so the seconds are counted for each completion."""
    common, stages = load_stages("process.yaml")
    stage = stages["labels"] | {
        "policies": [model_of(shared, "base")],
        "completer": model_of(shared, "baseline"),
        "problems": [{"spec": "synthetic:split=train,count=40,depth=4,seed=23"}],
    }
    alone = stage | {"name": "alone", "max_in_flight": stage["completions"]}
    return common | {"stages": [stage | {"name": "together"}, alone]}


def run_speed() -> dict[str, Any]:
    """Labels all programs together, then one at a time, in one run."""
    shared, _ = shared_run()
    name = f"{EXPERIMENT}-speed"
    cost = run_recipe(recipe_file(speed_recipe(shared), name), name, RUNS)
    done = {stage: manifest["figures"] for stage, manifest in manifests(RUNS / name).items()}
    seconds = {stage: figures["search_s"] / figures["num_completions"] for stage, figures in done.items()}
    return cost | {
        "seconds_per_completion": seconds,
        "times_faster": seconds["alone"] / seconds["together"],
        "stages": done,
    }


if __name__ == "__main__":
    main()
