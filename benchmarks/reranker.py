"""RewardRanker (arXiv 2504.09643): no iteration, hard negatives only, self-training; on the same answers of two models.

python -m benchmarks.reranker            runs the arms (seeds) that are missing, about 15 minutes each on 2 cores
python -m benchmarks.reranker --list     says which stand

One run a seed: the recipe's first round, then both ways to retrain the first ranker, and each of the three rankers
chooses among eight answers of the supervised model and of the policy that was trained against the first ranker. Both
models' answers are the same for every ranker: their seeds derive from the problem and the stage's name, so one
evaluation of each ranker samples under the same name in a run of its own.
"""

from __future__ import annotations

import functools
from typing import Any

from benchmarks.experiment import RUNS, load_stages, manifests, recipe_file, run_missing, run_recipe

EXPERIMENT = "reranker"
SEEDS = (1, 2, 3)
SETTINGS = {"no_iteration": "ranker", "hard_negatives": "ranker-hard", "self_training": "ranker-self"}
MODELS = {"base": "base", "policy": "policy"}


def main() -> None:
    run_missing(EXPERIMENT, {f"seed-{seed}": functools.partial(run_arm, seed) for seed in SEEDS})


def run_arm(seed: int) -> dict[str, Any]:
    """Trains the models of one seed, then lets each ranker choose."""
    name = f"{EXPERIMENT}-{seed}"
    training, evaluation = recipes(seed)
    cost = run_recipe(recipe_file(training, name), name, RUNS)
    trained = RUNS / name
    figures: dict[str, Any] = {"seed": seed, "rerank": {}}
    for setting, ranker in SETTINGS.items():
        stages = [
            evaluation
            | {
                "name": model,
                "model": str(trained / "stages" / stage / "model"),
                "rerank": str(trained / "stages" / ranker / "model"),
            }
            for model, stage in MODELS.items()
        ]
        # One run name for all settings: samples are seeded by run, stage and problem, and must not differ.
        folder = RUNS / f"{name}-{setting}"
        common, _ = load_stages("reranker.yaml")
        path = recipe_file(common | {"seed": seed, "stages": stages}, f"{name}-{setting}")
        run_recipe(path, f"{name}-evaluation", folder)
        chosen = manifests(folder / f"{name}-evaluation")
        figures["rerank"][setting] = {model: chosen[model]["figures"]["rerank"]["all"] for model in MODELS}
    done = manifests(trained)
    return figures | cost | {
        "mined": {stage: done[stage]["figures"] for stage in ("mined-self", "mined-hard")},
        "rankers": {stage: done[stage]["figures"] for stage in SETTINGS.values()},
        "weights": {
            "base": done["base"]["weights"],
            "policy_began_with": done["policy"]["inputs"]["weights:stage:base"],
        },
        "stage_seconds": {stage: manifest["seconds"] for stage, manifest in done.items()},
    }  # fmt: skip


def recipes(seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the run that trains, the stage that each evaluation is made from)."""
    common, stages = load_stages("reranker.yaml")
    round_1 = {stage["name"]: stage for stage in stages["rounds"]["stages"]}
    base = stages["base"] | {"train": stages["base"]["train"] | {"seed": seed}}
    policy = round_1["policy"] | {"learner": round_1["policy"]["learner"] | {"seed": seed}}
    mined, ranker = round_1["mined"], round_1["ranker"]
    training = [base, stages["answers"], stages["ranker"], policy]
    for way, positives in (("self", None), ("hard", "stage:answers")):
        training += [
            mined | {"name": f"mined-{way}", "positives": positives},
            ranker | {"name": f"ranker-{way}", "pairs": ["stage:answers", f"stage:mined-{way}"]},
        ]
    return common | {"seed": seed, "stages": training}, stages["after"] | {"compare_with": None}


if __name__ == "__main__":
    main()
