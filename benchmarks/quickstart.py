"""The main job over seeds: critic recipe, group recipe, and the control with shuffled rewards.

python -m benchmarks.quickstart            runs the arms that are missing (each 5 to 15 minutes on 2 cores)
python -m benchmarks.quickstart --list     says which stand
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
ARMS = Path(__file__).resolve().parent / "arms" / "quickstart"
_LAST_QUARTER = 0.75


@dataclass(frozen=True, slots=True)
class Arm:
    """One run of a recipe."""

    name: str
    recipe: str
    seed: int
    overrides: tuple[str, ...] = ()


def arms() -> list[Arm]:
    """All arms of the experiment."""
    return [
        arm
        for seed in (1, 2, 3)
        for arm in (
            Arm(f"critic-{seed}", "quickstart.yaml", seed),
            Arm(f"shuffled-{seed}", "quickstart.yaml", seed, ("stages.ppo.shuffle_rewards=true",)),
            Arm(f"group-{seed}", "quickstart_group.yaml", seed),
        )
    ]


def main() -> None:
    ARMS.mkdir(parents=True, exist_ok=True)
    named = {argument for argument in sys.argv[1:] if not argument.startswith("-")}
    for arm in arms():
        if named and arm.name not in named:
            continue
        path = ARMS / f"{arm.name}.json"
        if path.exists() or "--list" in sys.argv:
            print(f"{arm.name}: {'stands' if path.exists() else 'missing'}")
            continue
        result = run_arm(arm)
        aside = path.with_suffix(".part")
        aside.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
        aside.rename(path)
        print(
            f"{arm.name}: {result['before']['mean']:.3f} -> {result['after']['mean']:.3f} in {result['wall_s']:.0f} s"
        )


def run_arm(arm: Arm) -> dict[str, Any]:
    """Runs one arm through the command line, as a user would, and gathers its figures."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = [f"seed={arm.seed}", f"stages.base.train.seed={arm.seed}", f"stages.ppo.learner.seed={arm.seed}"]
        command = [str(Path(sys.executable).with_name("crucible")), "run", str(ROOT / "recipes" / arm.recipe)]
        command += ["--name", arm.name, "--folder", folder]
        command += [part for override in [*overrides, *arm.overrides] for part in ("--set", override)]
        begun, busy_before = time.time(), machine_cpu_s()
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        wall_s, cpu_s = time.time() - begun, machine_cpu_s() - busy_before
        figures = gather(Path(folder) / arm.name)
    return figures | {
        "arm": arm.name,
        "recipe": arm.recipe,
        "seed": arm.seed,
        "overrides": list(arm.overrides),
        "wall_s": round(wall_s, 1),
        "machine_cpu_s": round(cpu_s, 1),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
    }


def machine_cpu_s() -> float:
    """CPU seconds that the whole machine has worked: Ray's processes and containers are not the command's children."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system


def gather(run: Path) -> dict[str, Any]:
    """Figures of a finished run, from its files."""
    manifests = {path.parent.name: json.loads(path.read_text()) for path in run.glob("stages/*/manifest.json")}
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    policy = [step for step in steps if step["stage"] == "ppo"]
    last_quarter = policy[round(len(policy) * _LAST_QUARTER) :]
    warmup = next((step for step in steps if step["stage"] == "ppo.warmup"), {})
    # Without a filter all are kept, and "all" is not reported beside "kept".
    everywhere, kept = "critic/explained_variance_all", "critic/explained_variance_kept"
    explained = [step.get(everywhere, step[kept]) for step in last_quarter if kept in step]
    return {
        "before": manifests["before"]["figures"]["sampled_pass_at_1"],
        "after": manifests["after"]["figures"]["sampled_pass_at_1"],
        "before_greedy": manifests["before"]["figures"]["greedy_pass_at_1"],
        "after_greedy": manifests["after"]["figures"]["greedy_pass_at_1"],
        "difference": manifests["after"]["figures"]["difference"]["sampled_pass_at_1"],
        "stage_seconds": {name: manifest["seconds"] for name, manifest in manifests.items()},
        "explained_variance_warm": warmup.get("critic/held_out_explained_variance"),
        "explained_variance_last_quarter": mean(explained) if explained else None,
        "pass_rate_curve": [round(step["rollout/pass_rate"], 4) for step in policy],
    }


if __name__ == "__main__":
    main()
