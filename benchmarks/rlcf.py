"""RLCF (arXiv 2305.18341): what the compiler and the comparison bring, beside plain fine-tuning at equal cost.

python -m benchmarks.rlcf            runs the arms that are missing
python -m benchmarks.rlcf --list     says which stand

Of one seed all arms share the base model, its evaluation and the discriminator. ``both`` is the recipe; ``compiler``
and ``comparison`` leave one term out (a comparison alone is asked of every program, also of those that do not
compile); ``terminal`` pays the compiler's -1 on the last token. ``sft`` goes on with fine-tuning on the references of
the same problems for as long as discriminator and PPO of ``both`` took on this machine, so ``both`` runs first.
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
from pathlib import Path
from typing import Any

from benchmarks.experiment import (
    RUNS,
    load_stages,
    logged,
    machine_cpu_s,
    manifests,
    recipe_file,
    run_missing,
    run_recipe,
)
from problems.compiling import CompileSuite
from problems.problem import Limits
from problems.synthetic import CorpusConfig, corpus
from sandbox import Program, SandboxConfig, Verdict, open_executor

EXPERIMENT, RATE = "rlcf", "compiler-rate"
SEEDS = (1, 2, 3)
METHODS = ("both", "compiler", "comparison", "terminal", "sft")
_MEASURES = ("compiles", "executes", "passes")


def main() -> None:
    arms = {f"{method}-{seed}": functools.partial(run_arm, method, seed) for seed in SEEDS for method in METHODS}
    run_missing(EXPERIMENT, arms | {RATE: compiler_rate})


def run_arm(method: str, seed: int) -> dict[str, Any]:
    """Runs one arm from the seed's shared models, which are made first where they are missing."""
    shared, shared_cost = shared_run(seed)
    name = f"{EXPERIMENT}-{method}-{seed}"
    cost = run_recipe(recipe_file(arm_recipe(method, seed, shared), name), name, RUNS)
    figures = {"method": method, "seed": seed, "shared_wall_s": shared_cost["wall_s"]} | cost
    return figures | gather(shared, RUNS / name)


def shared_run(seed: int) -> tuple[Path, dict[str, float]]:
    """Base model, its evaluation and the discriminator: (folder of the run, what it cost if it was run now)."""
    common, stages = load_stages("rlcf.yaml")
    name = f"{EXPERIMENT}-shared-{seed}"
    kept = [stages[stage] for stage in ("base", "before", "discriminator")]
    kept[0] = kept[0] | {"train": kept[0]["train"] | {"seed": seed}}
    cost = run_recipe(recipe_file(common | {"seed": seed, "stages": kept}, name), name, RUNS)
    return RUNS / name, cost


def arm_recipe(method: str, seed: int, shared: Path) -> dict[str, Any]:
    """The arm's training from the shared base model, and its evaluation."""
    common, stages = load_stages("rlcf.yaml")
    after = {key: value for key, value in stages["after"].items() if key != "compare_with"}
    base = str(shared / "stages" / "base" / "model")
    if method == "sft":
        (trained,) = (stage for stage in load_stages("rlcf_sft.yaml")[1].values() if stage["name"] == "sft")
        seconds = training_seconds(shared, RUNS / f"{EXPERIMENT}-both-{seed}")
        trained = trained | {"base": base, "train": {"max_seconds": seconds, "batch_examples": 32, "seed": seed}}
        return common | {"seed": seed, "stages": [trained, after | {"model": "stage:sft"}]}
    ppo = stages["ppo"]
    compiler, comparison, cut = ppo["rewards"]
    comparison = comparison | {"model": str(shared / "stages" / "discriminator" / "model")}
    rewards = {
        "both": [compiler, comparison, cut],
        "compiler": [compiler, cut],
        "comparison": [comparison | {"compiling_only": False}, cut],
        "terminal": [compiler | {"localise": False}, comparison, cut],
    }[method]
    ppo = ppo | {"policy": base, "rewards": rewards, "learner": ppo["learner"] | {"seed": seed}}
    return common | {"seed": seed, "stages": [ppo, after]}


def training_seconds(shared: Path, both: Path) -> float:
    """What discriminator and PPO took in the arm ``both`` of the same seed. Raises SystemExit if it was not run."""
    stages = manifests(shared) | manifests(both)
    if "ppo" not in stages:
        raise SystemExit(f"{both.name} has to be run first: the baseline is given as much time")
    return stages["discriminator"]["seconds"] + stages["ppo"]["seconds"]


def gather(shared: Path, run: Path) -> dict[str, Any]:
    """Figures of a finished arm, from its files."""
    before, stages = manifests(shared), manifests(run)
    discriminator = before["discriminator"]["figures"]
    steps = logged(run, "ppo")
    return {
        "before": measured(before["before"]),
        "after": measured(stages["after"]),
        "discriminator": {name: discriminator[name] for name in ("held_out_accuracy", "held_out_loss", "num_pairs")},
        "stage_seconds": {name: manifest["seconds"] for name, manifest in (before | stages).items()},
        "compile_rate_curve": [round(step.get("compiler/compiles", 0.0), 4) for step in steps],
        "comparison_curve": [round(step.get("comparison/mean", 0.0), 4) for step in steps],
        "kl_curve": [round(step["policy/kl_reference"], 5) for step in steps],
    }


def compiler_rate(count: int = 400) -> dict[str, Any]:
    """The compiler's term alone on distinct faulty and sound Java programs of the family, two slots."""
    config = CorpusConfig(count=count, seed=5, languages={"java": 1.0}, form_rates={"java": 0.45})
    programs = [Program("java", (prompt + completion).encode()) for prompt, completion in corpus(config)]
    return asyncio.run(_compile_all(list(dict.fromkeys(programs))))


async def _compile_all(programs: list[Program]) -> dict[str, Any]:
    executor = await open_executor(SandboxConfig(languages=("java",), slots=2))
    gate = asyncio.Semaphore(8)

    async def compile_one(program: Program) -> Verdict:
        async with gate:
            return await executor.run(program, CompileSuite(), Limits())

    try:
        await asyncio.gather(*(compile_one(program) for program in programs[:20]))  # the compilers are warm then
        timed = programs[20:]
        begun, busy_before = time.time(), machine_cpu_s()
        verdicts = await asyncio.gather(*(compile_one(program) for program in timed))
        wall_s, busy_s = time.time() - begun, machine_cpu_s() - busy_before
    finally:
        await executor.close()
    compiler_cpu_s = sum(verdict.cpu_s for verdict in verdicts)
    return {
        "programs": len(timed),
        "compiles": sum(verdict.passed for verdict in verdicts) / len(verdicts),
        "wall_s": round(wall_s, 2),
        "programs_per_s": round(len(timed) / wall_s, 1),
        "compiler_cpu_ms": round(1000 * compiler_cpu_s / len(timed), 2),
        "machine_cpu_s": round(busy_s, 2),
        "load_1min": round(os.getloadavg()[0], 1),
    }


def measured(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Of an evaluation's samples: the three measures with their intervals, length, and classes of error."""
    sampled = evaluation["figures"]["sampled"]
    return {name: sampled[name] for name in (*_MEASURES, "code_tokens", "compile_errors")}


def table(arms: list[dict[str, Any]]) -> list[str]:
    """The compiler's rate; then one row an arm, shares with half their 95 % intervals over problems."""
    lines = [
        f"Compiler's term alone: {arm['programs']} distinct Java programs at {arm['programs_per_s']} a second with two "
        f"slots, {arm['compiler_cpu_ms']} ms of the compiler's CPU each, at a load of {arm['load_1min']}.\n"
        for arm in arms
        if arm["arm"] == RATE
    ]
    rows = [_row(arm) for arm in arms if arm["arm"] != RATE]
    if not rows:
        return [*lines, "No arm of the recipe has been run yet."]
    return [
        *lines,
        "| arm | compiles | executes | passes | code tokens | held-out accuracy | wall s |",
        "|---|---|---|---|---|---|---|",
        *rows,
    ]


def _row(arm: dict[str, Any]) -> str:
    before, after = arm["before"], arm["after"]
    shares = [f"{_share(before[name])} -> {_share(after[name])}" for name in _MEASURES]
    return (
        f"| {arm['arm']} | {' | '.join(shares)} | {before['code_tokens']:.1f} -> {after['code_tokens']:.1f} "
        f"| {arm['discriminator']['held_out_accuracy']:.3f} | {arm['wall_s']:.0f} |"
    )


def _share(estimate: dict[str, float]) -> str:
    return f"{estimate['mean']:.3f} ± {(estimate['high'] - estimate['low']) / 2:.3f}"


if __name__ == "__main__":
    main()
