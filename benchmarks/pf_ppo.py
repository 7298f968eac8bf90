"""PF-PPO (arXiv 2409.06957) with a learned reward as the only one: filters, baselines, and the control "2 random of 5".

python -m benchmarks.pf_ppo            runs the arms that are missing (each 2 to 4 minutes on 2 quiet cores)
python -m benchmarks.pf_ppo --list     says which stand

One run a seed, an arm after the other, so that all share the fine-tuned model, its answers, the reward model, the order
of the problems, and engines that are warm. Stopped (``crucible stop``), the same command goes on where it was.

Of one seed all arms but ``dpo`` take the same number of optimizer steps: a step's batch is cut in two, whatever the
filter leaves of it. All generate the same number of samples, five answers to each of 48 prompts a step, but for
``ppo_s_steps``; those with a critic 480 more before, to warm it up, which ``raft`` has no use for. Each is evaluated on
the same held-out problems after half of its steps and at its end.
``ppo_s_samples`` (one answer, the paper's PPO-S) takes five times as many prompts instead, ``ppo_s_steps`` as many
prompts and so a fifth of the samples. ``raft`` fine-tunes on the best of five, ``dpo`` on the pairs that the reward
model learned from, and samples nothing. Nothing but the reward model pays; a fifth of the answers is executed, to look.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from benchmarks.experiment import RUNS, load_stages, logged, manifests, recipe_file, run_missing, run_recipe
from cluster.journal import read_journal
from cluster.rollout import Group
from cluster.stages.learned_reward import Judged, fits_of, scores_and_truth
from learner.filter_config import BestOfN, BestRandom, BestWorst, KeepAll, RandomK
from learner.filter_quality import Binning
from problems.problem import CompletionStyle, Problem

EXPERIMENT = "pf_ppo"
SEEDS = (1, 2, 3)
_PROMPTS, _SAMPLES, _STEPS = 48, 5, 16
_WARMUP = {"warmup_rollouts": 480, "warmup_steps": 40}
_KEPT = {"ppo_m": 5, "bon": 1, "br": 2, "bw": 2, "random_2": 2, "raft": 1}
_FILTERS: dict[str, dict[str, Any]] = {
    "br": {"kind": "br"},
    "bw": {"kind": "bw"},
    "random_2": {"kind": "random_k", "k": 2},
    "ppo_m": {"kind": "none"},
    "bon": {"kind": "bon"},
}
_RAFT = {
    "filter": {"kind": "bon"},
    "policy_loss": "likelihood",
    "advantage": {"kind": "group", "baseline": "none"},
    "kl": {"coefficient": 0.0},
}
_RULES = (KeepAll(), BestOfN(), BestRandom(), BestWorst(), RandomK(k=2))
_MINIBATCHES = 2
_SHARED = ("base", "before", "answers", "reward")
METHODS = ("sft", *_FILTERS, "ppo_s_samples", "ppo_s_steps", "raft", "dpo")


def main() -> None:
    arms = {
        f"{method}-{seed}": functools.partial(run_arm, method, seed) for seed in SEEDS for method in METHODS
    }  # fmt: skip
    run_missing(EXPERIMENT, arms)


def run_arm(method: str, seed: int) -> dict[str, Any]:
    """An arm's figures; goes on with the seed's run until they are there, which is to its end."""
    name = f"{EXPERIMENT}-{seed}"
    run = RUNS / name
    last = "reward" if method == "sft" else f"after-{method}"
    if last not in manifests(run):
        run_recipe(recipe_file(recipe(seed), name), name, RUNS)
    figures = _sft_figures(run) if method == "sft" else gather(run, method)
    return {"method": method, "seed": seed, **figures, "wall_s": sum(figures["stage_seconds"].values())}


def recipe(seed: int) -> dict[str, Any]:
    """The recipe's stages before PPO, then each method's training and evaluation."""
    common, stages = load_stages("pf_ppo.yaml")
    kept = [stages[stage] for stage in _SHARED]
    kept[0] = kept[0] | {"train": kept[0]["train"] | {"seed": seed}}
    looked_at = {"greedy": False, "problems": [{"spec": "synthetic:split=test,count=300,depth=2-3,seed=12"}]}
    kept[1] = kept[1] | looked_at
    for method in METHODS[1:]:
        kept.append(_training(method, seed, stages["ppo"]))
        models = {f"after-{method}": f"stage:{method}"}
        if method != "dpo":
            models = {f"half-{method}": f"stage:{method}@{_STEPS // 2}"} | models
        kept += [stages["after"] | looked_at | {"name": name, "model": model} for name, model in models.items()]
    common["generators"]["count"] = 1  # the least work in all: arms run beside other work
    return common | {"seed": seed, "stages": kept}


def _training(method: str, seed: int, ppo: dict[str, Any]) -> dict[str, Any]:
    if method == "dpo":
        pairs = {"policy": "stage:base", "pairs": ["stage:answers"], "train": {"epochs": 2, "seed": seed}}
        return {"kind": "dpo", "name": method} | pairs
    prompts, samples = _PROMPTS, _SAMPLES
    if method in ("ppo_s_samples", "ppo_s_steps"):
        samples, prompts = 1, _PROMPTS * (_SAMPLES if method == "ppo_s_samples" else 1)
    advantage = ppo["learner"]["advantage"]
    batch = {
        "seed": seed,
        "num_steps": _STEPS,
        "minibatch_trajectories": prompts * _KEPT.get(method, 1) // _MINIBATCHES,
        "advantage": advantage | {"critic": advantage["critic"] | _WARMUP},
    }
    selection = _RAFT if method == "raft" else {"filter": _FILTERS.get(method, {"kind": "none"})}
    changed = {
        "name": method,
        "prompts_per_step": prompts,
        "samples_per_prompt": samples,
        "export_steps": [_STEPS // 2],
        "execute_share": 1.0 if method == "ppo_s_steps" else 0.2,
        "learner": ppo["learner"] | batch | selection,
    }
    without = {"choose_filter"} | ({"critic_from"} if method == "raft" else set())
    return {key: value for key, value in ppo.items() if key not in without} | changed


def gather(run: Path, method: str) -> dict[str, Any]:
    """Figures of a finished arm, from its files.

    Raises ValueError where a step was not logged, as where the run was told to stop in the middle of one.
    """
    steps, stages = logged(run, method), manifests(run)
    after, half = f"after-{method}", f"half-{method}"
    figures: dict[str, Any] = {
        "after": stages[after]["figures"]["sampled_pass_at_1"],
        "rates": _rates(run / "stages" / after),
        "stage_seconds": {name: stages[name]["seconds"] for name in (method, after)},
    }
    if method == "dpo":
        return figures | {"peak": figures["after"]["mean"], "pairs": stages[method]["figures"]}
    if (numbers := [step["step"] for step in steps]) != list(range(1, _STEPS + 1)):
        raise ValueError(f"{run}: of {method} steps {numbers} were logged; remove the run, and start it again")
    alarms = [step["alarm/reward_hacking"] for step in steps if "alarm/reward_hacking" in step]
    figures["half"] = stages[half]["figures"]["sampled_pass_at_1"]
    figures["stage_seconds"][half] = stages[half]["seconds"]
    curve = [step["rollout/pass_rate"] for step in steps]
    return figures | {
        "peak": max(figures[when]["mean"] for when in ("half", "after")),
        "pass_rate_curve": [round(value, 4) for value in curve],
        "score_curve": [round(step["rollout/reward"], 4) for step in steps],
        "kl_curve": [round(step["policy/kl_reference"], 5) for step in steps if "policy/kl_reference" in step],
        "alarms": sum(alarms) if alarms else None,
        "tokens_given": sum(step["learner/tokens_given"] for step in steps),
        "tokens_policy": sum(step["learner/tokens_policy"] for step in steps),
        "learner_cpu_s": round(sum(step["time/train_cpu_s"] for step in steps), 1),
        "r_squared": r_squared_by_part(run / "stages" / method / "trajectories"),
    }


def _lineage(path: Path) -> int:
    """Of a step's journal: a step that was taken again has several, of which the newest was trained."""
    return int(path.stem.rpartition("L")[2])


def r_squared_by_part(journal: Path) -> dict[str, dict[str, dict[str, float]]]:
    """R^2 of each filter over the first, middle and last third of the steps, with both kinds of bins.

    Over the executed answers of whole groups; a part whose groups hold one answer has none.
    """
    groups: list[Judged] = []
    newest = {path.name.partition(".")[0]: path for path in sorted(journal.glob("*.parquet"), key=_lineage)}
    for _, path in sorted(newest.items()):
        by_problem: dict[tuple[int, str], list[Any]] = {}
        for entry in read_journal(path):
            by_problem.setdefault((entry.trajectory.group, entry.trajectory.id.problem_id), []).append(entry)
        judged = scores_and_truth([Group(0, _NO_PROBLEM, tuple(entries)) for entries in by_problem.values()])
        groups += [group for group in judged if len(group.scores) > 1]
    third = len(groups) // 3
    parts = {"start": groups[:third], "middle": groups[third : 2 * third], "end": groups[2 * third :]}
    return {name: {binning: _fits(part, binning) for binning in _BINNINGS} for name, part in parts.items() if part}


_NO_PROBLEM = Problem("", "python", "", CompletionStyle.CONTINUE, {})
_BINNINGS: tuple[Binning, ...] = ("equal_mass", "equal_width")


def _fits(groups: list[Judged], binning: Binning) -> dict[str, float]:
    try:
        fits = fits_of(_RULES, groups, binning=binning)
    except ValueError:  # too few different scores for a line
        return {}
    return {kind: round(fit.r_squared, 4) for kind, fit in fits.items()}


def _rates(evaluation: Path) -> dict[str, float]:
    """Of the problems that the model solved at least once: the share of its samples that passed. Others are 0."""
    rates = json.loads((evaluation / "results.json").read_text())["sampled_pass_at_1"]
    return {problem: rate for problem, rate in rates.items() if rate}


def _sft_figures(run: Path) -> dict[str, Any]:
    stages = manifests(run)
    return {
        "after": stages["before"]["figures"]["sampled_pass_at_1"],
        "rates": _rates(run / "stages" / "before"),
        "answers": stages["answers"]["figures"],
        "reward_model": stages["reward"]["figures"],
        "stage_seconds": {name: stages[name]["seconds"] for name in _SHARED},
    }


if __name__ == "__main__":
    main()
