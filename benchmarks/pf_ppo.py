"""PF-PPO (arXiv 2409.06957) with a learned reward as the only one: filters, baselines, and the control "2 random of 5".

python -m benchmarks.pf_ppo            runs the arms that are missing (each 2 to 4 minutes on 2 cores)
python -m benchmarks.pf_ppo --list     says which stand

Of one seed all arms share the fine-tuned model and its reward model, the order of the problems, and the number of
optimizer steps: a step's batch is cut in two, whatever the filter leaves of it. All but ``ppo_s_steps`` generate the
same number of samples: five answers to each of 48 prompts a step; ``ppo_s_samples`` (one answer, the paper's PPO-S)
takes five times as many prompts instead, ``ppo_s_steps`` as many prompts and so a fifth of the samples.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.experiment import RUNS, load_stages, logged, manifests, peak, recipe_file, run_missing, run_recipe
from cluster.journal import read_journal
from cluster.rollout import Group
from cluster.stages.learned_reward import scores_and_truth
from learner.filter_config import BestOfN, BestRandom, BestWorst, KeepAll, RandomK
from learner.filter_quality import Binning, compare_filters
from problems.problem import CompletionStyle, Problem

EXPERIMENT = "pf_ppo"
SEEDS = (1, 2, 3)
_PROMPTS, _SAMPLES = 48, 5
_KEPT = {"ppo_m": 5, "bon": 1, "br": 2, "bw": 2, "random_2": 2}
_FILTERS: dict[str, dict[str, Any]] = {
    "ppo_m": {"kind": "none"},
    "bon": {"kind": "bon"},
    "br": {"kind": "br"},
    "bw": {"kind": "bw"},
    "random_2": {"kind": "random_k", "k": 2},
}
_RULES = (KeepAll(), BestOfN(), BestRandom(), BestWorst(), RandomK(k=2))
_MINIBATCHES = 2
METHODS = ("sft", "ppo_s_samples", "ppo_s_steps", *_FILTERS)


def main() -> None:
    arms = {
        f"{method}-{seed}": functools.partial(run_arm, method, seed) for seed in SEEDS for method in METHODS
    }  # fmt: skip
    run_missing(EXPERIMENT, arms)


def run_arm(method: str, seed: int) -> dict[str, Any]:
    """Runs one arm from the seed's shared models, which are made first where they are missing."""
    shared, cost = shared_run(seed)
    figures: dict[str, Any] = {"method": method, "seed": seed}
    if method == "sft":
        return figures | cost | _sft_figures(shared)
    name = f"{EXPERIMENT}-{method}-{seed}"
    cost = run_recipe(recipe_file(arm_recipe(method, seed, shared), name), name, RUNS)
    return figures | cost | gather(RUNS / name)


def shared_run(seed: int) -> tuple[Path, dict[str, float]]:
    """The recipe's stages before PPO: (folder of the run, what it cost if it was run now)."""
    common, stages = load_stages("pf_ppo.yaml")
    name = f"{EXPERIMENT}-shared-{seed}"
    kept = [stages[stage] for stage in ("base", "before", "answers", "reward")]
    kept[0] = kept[0] | {"train": kept[0]["train"] | {"seed": seed}}
    cost = run_recipe(recipe_file(common | {"seed": seed, "stages": kept}, name), name, RUNS)
    return RUNS / name, cost


def arm_recipe(method: str, seed: int, shared: Path) -> dict[str, Any]:
    """PPO with the method's selection, and its evaluation."""
    common, stages = load_stages("pf_ppo.yaml")
    ppo, after = dict(stages["ppo"]), dict(stages["after"])
    ppo.pop("choose_filter")
    prompts, samples, kept = _PROMPTS, _SAMPLES, _KEPT.get(method, 1)
    if method in ("ppo_s_samples", "ppo_s_steps"):
        samples, prompts = 1, _PROMPTS * (_SAMPLES if method == "ppo_s_samples" else 1)
    model = str(shared / "stages" / "reward" / "model")
    ppo |= {
        "policy": str(shared / "stages" / "base" / "model"),
        "prompts_per_step": prompts,
        "samples_per_prompt": samples,
        "rewards": [term | {"model": model} if "model" in term else term for term in ppo["rewards"]],
        "execute_share": 1.0 if samples == 1 else 0.5,  # only to be looked at: the reward is the model's alone
        "learner": ppo["learner"]
        | {
            "seed": seed,
            "filter": _FILTERS.get(method, {"kind": "none"}),
            "minibatch_trajectories": prompts * kept // _MINIBATCHES,
        },
    }
    after.pop("compare_with")
    return common | {"seed": seed, "stages": [ppo, after]}


def gather(run: Path) -> dict[str, Any]:
    """Figures of a finished arm, from its files."""
    steps, stages = logged(run, "ppo"), manifests(run)
    curve = [step["rollout/pass_rate"] for step in steps]
    return {
        "after": stages["after"]["figures"]["sampled_pass_at_1"],
        "after_greedy": stages["after"]["figures"]["greedy_pass_at_1"],
        "rates": _rates(run / "stages" / "after"),
        "peak": peak(curve),
        "pass_rate_curve": [round(value, 4) for value in curve],
        "score_curve": [round(step["rollout/reward"], 4) for step in steps],
        "kl_curve": [round(step["policy/kl_reference"], 5) for step in steps],
        "alarms": sum(step.get("alarm/reward_hacking", 0.0) for step in steps),
        "tokens_given": sum(step["learner/tokens_given"] for step in steps),
        "tokens_policy": sum(step["learner/tokens_policy"] for step in steps),
        "stage_seconds": {name: manifest["seconds"] for name, manifest in stages.items()},
        "r_squared": r_squared_by_part(run / "stages" / "ppo" / "trajectories"),
    }


def r_squared_by_part(journal: Path) -> dict[str, dict[str, dict[str, float]]]:
    """R^2 of each filter over the first, middle and last third of the steps, with both kinds of bins.

    Over the executed answers of whole groups; a part whose groups hold one answer has none.
    """
    groups: list[tuple[np.ndarray, np.ndarray]] = []
    for path in sorted(journal.glob("*.parquet")):
        by_problem: dict[tuple[int, str], list[Any]] = {}
        for entry in read_journal(path):
            by_problem.setdefault((entry.trajectory.group, entry.trajectory.id.problem_id), []).append(entry)
        groups += scores_and_truth([Group(0, _NO_PROBLEM, tuple(entries)) for entries in by_problem.values()])
    third = len(groups) // 3
    parts = {"start": groups[:third], "middle": groups[third : 2 * third], "end": groups[2 * third :]}
    return {name: {binning: _fits(part, binning) for binning in _BINNINGS} for name, part in parts.items() if part}


_NO_PROBLEM = Problem("", "python", "", CompletionStyle.CONTINUE, {})
_BINNINGS: tuple[Binning, ...] = ("equal_mass", "equal_width")


def _fits(groups: list[tuple[np.ndarray, np.ndarray]], binning: Binning) -> dict[str, float]:
    try:
        fits = compare_filters(_RULES, groups, binning=binning)
    except ValueError:  # too few different scores for a line
        return {}
    return {kind: round(fit.r_squared, 4) for kind, fit in fits.items()}


def _rates(evaluation: Path) -> dict[str, float]:
    """Of the problems that the model solved at least once: the share of its samples that passed. Others are 0."""
    rates = json.loads((evaluation / "results.json").read_text())["sampled_pass_at_1"]
    return {problem: rate for problem, rate in rates.items() if rate}


def _sft_figures(shared: Path) -> dict[str, Any]:
    stages = manifests(shared)
    return {
        "after": stages["before"]["figures"]["sampled_pass_at_1"],
        "after_greedy": stages["before"]["figures"]["greedy_pass_at_1"],
        "rates": _rates(shared / "stages" / "before"),
        "reward_model": stages["reward"]["figures"],
        "stage_seconds": {name: manifest["seconds"] for name, manifest in stages.items()},
    }


if __name__ == "__main__":
    main()
