"""RLCF (arXiv 2305.18341): what the compiler and the comparison bring, beside plain fine-tuning at equal cost.

python -m benchmarks.rlcf            runs the arms that are missing
python -m benchmarks.rlcf --list     says which stand

Of one seed all arms share the base model, its evaluation and the discriminator. ``both`` is the recipe. ``compiler``
leaves the comparison out. ``terminal`` pays the compiler's -1 on the last token. ``sft`` goes on with fine-tuning on
the references of the same problems for as long as discriminator and PPO of ``both`` took on this machine, so ``both``
runs first. ``frozen`` never refreshes the discriminator; ``comparison`` is that without the compiler's term: all
programs are compared then, those too that do not compile, and no discriminator is refreshed on such.
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from actors.compiler import CompilerTerm, CompilerTermConfig
from actors.terms import Attempt
from benchmarks.experiment import (
    RUNS,
    load_stages,
    machine_cpu_s,
    manifests,
    recipe_file,
    run_missing,
    run_recipe,
    steps_of,
)
from learner.trajectory import FinishReason, RewardEvent, Trajectory, Turn, VersionSpan
from problems.bytemap import ByteMap
from problems.compiling import CompileSuite
from problems.extraction import extract_program
from problems.identity import TrajectoryId, WeightsVersion
from problems.problem import CompletionStyle, Limits, Problem
from problems.synthetic import CorpusConfig, corpus
from sandbox import Program, SandboxConfig, Verdict, open_executor

EXPERIMENT, RATE = "rlcf", "compiler-rate"
SEEDS = (1, 2, 3)
METHODS = ("both", "compiler", "terminal", "sft", "frozen", "comparison")
MEASURES = ("compiles", "executes", "passes")
_CURVES = {
    "compile_rate_curve": "compiler/compiles", "trivial_curve": "compiler/trivial",
    "comparison_curve": "comparison/mean", "refresh_curve": "comparison/refresh_accuracy",
    "kl_curve": "policy/kl_reference", "cut_curve": "rollout/cut_fraction",
}  # fmt: skip
"""Of training, each where its term is paid; None where nothing of the kind came up in a step."""


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
        # As long, and on as many processors: while RLCF trains, generator and compiler work beside its trainer.
        budget = {"max_seconds": seconds, "batch_examples": 32, "seed": seed}
        trained = trained | {"base": base, "threads": os.cpu_count() or 1, "train": budget}
        return common | {"seed": seed, "stages": [trained, after | {"model": "stage:sft"}]}
    ppo = stages["ppo"]
    compiler, comparison, cut = ppo["rewards"]
    comparison = comparison | {"model": str(shared / "stages" / "discriminator" / "model")}
    rewards = {
        "both": [compiler, comparison, cut],
        "compiler": [compiler, cut],
        "terminal": [compiler | {"localise": False}, comparison, cut],
        "frozen": [compiler, comparison | {"refresh_every_steps": 0}, cut],
        "comparison": [comparison | {"refresh_every_steps": 0, "compiling_only": False}, cut],
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
    _, recipe = load_stages("rlcf.yaml")
    steps = steps_of(run, "ppo", recipe["ppo"]["learner"]["num_steps"]) if "ppo" in stages else []
    return {
        "before": measured(before["before"]),
        "after": measured(stages["after"]),
        "discriminator": {name: discriminator[name] for name in ("held_out_accuracy", "held_out_loss", "num_pairs")},
        "stage_seconds": {name: manifest["seconds"] for name, manifest in (before | stages).items()},
        **{
            name: [None if (value := step.get(key)) is None else round(value, 5) for step in steps]
            for name, key in _CURVES.items()
            if any(key in step for step in steps)
        },
    }


def compiler_rate(count: int = 400) -> dict[str, Any]:
    """The compiler's term on distinct faulty and sound Java programs of the family, with two slots of its own."""
    config = CorpusConfig(count=count, seed=5, languages={"java": 1.0}, form_rates={"java": 0.45})
    return asyncio.run(_score_all([attempt(*written) for written in dict.fromkeys(corpus(config))]))


def attempt(prompt: str, completion: str) -> Attempt:
    """As a rollout makes it, with tokens of three bytes."""
    written = completion.encode()
    pieces = [written[start : start + 3] for start in range(0, len(written), 3)]
    problem = Problem("p", "java", prompt, CompletionStyle.CONTINUE, {})
    turn = Turn(
        prompt_ids=np.zeros(1, np.int32),
        completion_ids=np.zeros(len(pieces), np.int32),
        loss_mask=np.ones(len(pieces), np.bool_),
        behaviour_logprobs=np.zeros(len(pieces), np.float32),
        spans=(VersionSpan(WeightsVersion(0, 0), 0, len(pieces)),),
        finish_reason=FinishReason.STOP,
    )
    extraction = extract_program(problem, written)
    trajectory = Trajectory(TrajectoryId(EXPERIMENT, RATE, 0, problem.id, 0), 0, (turn,))
    return Attempt(problem, trajectory, extraction, ByteMap.build(pieces, extraction), None)


async def _score_all(attempts: list[Attempt]) -> dict[str, Any]:
    executor = await open_executor(SandboxConfig(languages=("java",), slots=2))
    compiler_cpu_s: list[float] = []

    async def check(program: Program) -> Verdict:
        verdict = await executor.run(program, CompileSuite(), Limits())
        compiler_cpu_s.append(verdict.cpu_s)
        return verdict

    config = CompilerTermConfig()
    term = CompilerTerm(config, config.checker(check))
    try:
        await term.score(attempts[:20])  # the compilers are warm then
        compiler_cpu_s.clear()
        timed = attempts[20:]
        begun, busy_before = time.time(), machine_cpu_s()
        scored = await term.score(timed)
        wall_s, busy_s = time.time() - begun, machine_cpu_s() - busy_before
    finally:
        await executor.close()
    return {
        "programs": len(timed),
        "compilations": len(compiler_cpu_s),
        "compiles": sum(events == (RewardEvent("compiler.compiles", 0.0),) for events in scored) / len(timed),
        "wall_s": round(wall_s, 2),
        "programs_per_s": round(len(timed) / wall_s, 1),
        "compiler_cpu_ms": round(1000 * sum(compiler_cpu_s) / len(timed), 2),
        "machine_cpu_s": round(busy_s, 2),
        "load_1min": round(os.getloadavg()[0], 1),
    }


def measured(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Of an evaluation's samples: the three measures with their intervals, length, and classes of error."""
    sampled = evaluation["figures"]["sampled"]
    return {name: sampled[name] for name in (*MEASURES, "code_tokens", "compile_errors")}


if __name__ == "__main__":
    main()
