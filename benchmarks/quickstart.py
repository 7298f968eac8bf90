"""The main job over seeds: critic recipe, group recipe, and the control with shuffled rewards.

python -m benchmarks.quickstart            runs the arms that are missing (each 5 to 15 minutes on 2 cores)
python -m benchmarks.quickstart --list     says which stand
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.experiment import ROOT, logged, manifests, run_missing, run_recipe

EXPERIMENT = "quickstart"
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
    run_missing(EXPERIMENT, {arm.name: lambda arm=arm: run_arm(arm) for arm in arms()})


def run_arm(arm: Arm) -> dict[str, Any]:
    """Runs one arm and gathers its figures."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = [f"seed={arm.seed}", f"stages.base.train.seed={arm.seed}", f"stages.ppo.learner.seed={arm.seed}"]
        cost = run_recipe(ROOT / "recipes" / arm.recipe, arm.name, Path(folder), [*overrides, *arm.overrides])
        figures = gather(Path(folder) / arm.name)
    return figures | cost | {"recipe": arm.recipe, "seed": arm.seed, "overrides": list(arm.overrides)}


def gather(run: Path) -> dict[str, Any]:
    """Figures of a finished run, from its files."""
    stages, policy = manifests(run), logged(run, "ppo")
    last_quarter = policy[round(len(policy) * _LAST_QUARTER) :]
    warmup = next(iter(logged(run, "ppo.warmup")), {})
    everywhere = "critic/explained_variance_all"
    explained = [step[everywhere] for step in last_quarter if everywhere in step]
    return {
        "before": stages["before"]["figures"]["sampled_pass_at_1"],
        "after": stages["after"]["figures"]["sampled_pass_at_1"],
        "before_greedy": stages["before"]["figures"]["greedy_pass_at_1"],
        "after_greedy": stages["after"]["figures"]["greedy_pass_at_1"],
        "difference": stages["after"]["figures"]["difference"]["sampled_pass_at_1"],
        "stage_seconds": {name: manifest["seconds"] for name, manifest in stages.items()},
        "explained_variance_warm": warmup.get("critic/held_out_explained_variance"),
        "explained_variance_last_quarter": mean(explained) if explained else None,
        "pass_rate_curve": [round(step["rollout/pass_rate"], 4) for step in policy],
    }


if __name__ == "__main__":
    main()
