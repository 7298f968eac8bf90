"""PF-PPO (arXiv 2409.06957) with a learned reward as the only one: filters, baselines, and the control "2 random of 5".

python -m benchmarks.pf_ppo            runs the arms that are missing (1 to 4 minutes each; ``long`` more on slow cores)
python -m benchmarks.pf_ppo --list     says which stand

All arms of a seed share one run with the fine-tuned model, its answers and the reward model; then one run after the
other, so that an experiment shares the order of the problems, and engines that are warm. Stopped (``crucible stop``),
the same command goes on where it was.

Of one seed all arms but ``dpo`` take the same number of optimizer steps: a step's batch is cut in two, whatever the
filter leaves of it. All generate the same number of samples, five answers to each of 48 prompts a step, but for
``ppo_s_steps``; those with a critic 480 more before, to warm it up, which ``raft`` has no use for. Each is evaluated on
the same held-out problems after half of its steps and at its end.
``ppo_s_samples`` (one answer, the paper's PPO-S) takes five times as many prompts instead, ``ppo_s_steps`` as many
prompts and so a fifth of the samples. ``raft`` fine-tunes on the best of five, ``dpo`` on the pairs that the reward
model learned from, and samples nothing. Nothing but the reward model pays; a fifth of the answers is executed, to look.

Where the paper's order may begin to hold is asked by ``CONDITIONS``: the arms with two answers, with all five, and two
at random, each with one thing changed (with the larger model, also the steps and the reward model's problems).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.experiment import RUNS, load_stages, manifests, recipe_file, run_missing, run_recipe, steps_of
from cluster.run_folder import StageFolder
from cluster.stages.learned_reward import Judged, fits_at_equal_numbers, fits_of, scores_and_truth
from cluster.stages.watches import surviving_groups
from learner.filter_config import BestOfN, BestRandom, BestWorst, KeepAll, RandomK
from learner.filter_quality import Binning

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
_COMPARED = ("br", "bw", "random_2", "ppo_m")
_LOOKED_AT = {"greedy": False, "problems": [{"spec": "synthetic:split=test,count=300,depth=2-3,seed=12"}]}


@dataclass(frozen=True, slots=True)
class Condition:
    """What differs from the plain arms: one thing, but for ``large``.

    Attributes:
        steps: of PPO.
        tests_pay: the true reward, and not the learned one.
        problems: that the reward model's pairs are made of.
        shape: of the model that all begins with; None: the recipe's.
        makes: the shared stages that it makes anew; the others are the plain arms'.
        methods: its arms, with ``sft`` where what they begin with differs.
    """

    steps: int = _STEPS
    tests_pay: bool = False
    problems: int = 1000
    shape: dict[str, int] | None = None
    makes: tuple[str, ...] = ()
    methods: tuple[str, ...] = _COMPARED


CONDITIONS = {
    "": Condition(makes=(*_SHARED, "dpo", "after-dpo"), methods=METHODS),
    "tests": Condition(tests_pay=True),
    "long": Condition(steps=3 * _STEPS),
    "strong": Condition(problems=4000, makes=("answers", "reward"), methods=("sft", *_COMPARED)),
    "large": Condition(
        steps=_STEPS // 2,  # each takes the learner nearly three times as long: so an arm stays within 4 minutes
        problems=2000,  # from half as many its reward model had but 70 to 72 % of the held-out pairs
        shape={"hidden_size": 192, "num_layers": 4, "intermediate_size": 576},
        makes=_SHARED,
        methods=("sft", *_COMPARED),
    ),
}
"""The plain arms, whose condition has no name, and those that ask where the order of the paper begins to hold."""


def main() -> None:
    arms = {
        _name(condition, method, seed): functools.partial(run_arm, method, seed, condition)
        for condition, changed in CONDITIONS.items()
        for seed in SEEDS
        for method in changed.methods
    }
    run_missing(EXPERIMENT, arms)


def _name(*parts: str | int) -> str:
    return "-".join(str(part) for part in parts if part != "")


def run_arm(method: str, seed: int, condition: str) -> dict[str, Any]:
    """An arm's figures; goes on with the seed's run until they are there, which is to its end."""
    shared = shared_runs(seed, condition)
    if method == "sft":
        figures = _sft_figures(shared)
    elif method == "dpo":
        run = shared["dpo"].parent.parent
        figures = _evaluated(run, "dpo")
        figures |= {"peak": figures["after"]["mean"], "pairs": manifests(run)["dpo"]["figures"]}
    else:
        name = _name(EXPERIMENT, condition, seed)
        if f"after-{method}" not in manifests(RUNS / name):
            run_recipe(recipe_file(recipe(seed, condition, shared), name), name, RUNS)
        figures = gather(RUNS / name, method, CONDITIONS[condition].steps)
    what = {"condition": condition, "method": method, "seed": seed}
    return {**what, **figures, "wall_s": sum(figures["stage_seconds"].values())}


def shared_runs(seed: int, condition: str = "") -> dict[str, Path]:
    """Shared stage -> its folder, made where it is missing."""
    makes = CONDITIONS[condition].makes
    folders = {} if "base" in makes else shared_runs(seed)
    if makes:
        name = _name(EXPERIMENT, "shared", condition, seed)
        if makes[-1] not in manifests(RUNS / name):
            run_recipe(recipe_file(shared_recipe(seed, condition, folders), name), name, RUNS)
        folders |= {stage: RUNS / name / "stages" / stage for stage in makes}
    return folders


def shared_recipe(seed: int, condition: str, made: Mapping[str, Path]) -> dict[str, Any]:
    """What the condition makes, from the models that are ``made``."""
    common, stages = load_stages("pf_ppo.yaml")
    changed = CONDITIONS[condition]
    stages["base"]["train"] |= {"seed": seed, "max_seconds": None}  # as many steps on a slow machine
    if changed.shape:
        stages["base"]["new_model"] = changed.shape
    stages["before"] |= _LOOKED_AT
    stages["answers"]["problems"] = [{"spec": f"synthetic:split=train,count={changed.problems},depth=2-3,seed=21"}]
    pairs = {"policy": "stage:base", "pairs": ["stage:answers"], "train": {"epochs": 2, "seed": seed}}
    stages["dpo"] = {"kind": "dpo", "name": "dpo"} | pairs  # here, beside the pairs that it learns from
    stages["after-dpo"] = _evaluation("dpo")
    common["generators"]["count"] = 1  # the least work in all: arms run beside other work
    others = {stage: folder for stage, folder in made.items() if stage not in changed.makes}
    return common | {"seed": seed, "stages": _with_models_of([stages[stage] for stage in changed.makes], others)}


def recipe(seed: int, condition: str, made: Mapping[str, Path]) -> dict[str, Any]:
    """Each method's training and evaluation, from the models that are ``made``."""
    common, stages = load_stages("pf_ppo.yaml")
    changed = CONDITIONS[condition]
    kept: list[dict[str, Any]] = []
    for method in changed.methods:
        if method not in ("sft", "dpo"):
            half = _evaluation(method) | {"name": f"half-{method}", "model": f"stage:{method}@{changed.steps // 2}"}
            kept += [_training(method, seed, stages["ppo"], changed), half, _evaluation(method)]
    common["generators"]["count"] = 1  # as above
    return common | {"seed": seed, "stages": _with_models_of(kept, made)}


def _evaluation(method: str) -> dict[str, Any]:
    _, stages = load_stages("pf_ppo.yaml")
    after = {"name": f"after-{method}", "model": f"stage:{method}", "compare_with": None}
    return stages["after"] | _LOOKED_AT | after


def _with_models_of(stages: Any, made: Mapping[str, Path]) -> Any:
    """``stages``, in which the models that other runs made are named by their folders."""
    text = json.dumps(stages)
    for stage, folder in made.items():
        text = text.replace(f'"stage:{stage}"', f'"{folder / "model"}"')
    return json.loads(text)


def _training(method: str, seed: int, ppo: dict[str, Any], condition: Condition) -> dict[str, Any]:
    prompts, samples = _PROMPTS, _SAMPLES
    if method in ("ppo_s_samples", "ppo_s_steps"):
        samples, prompts = 1, _PROMPTS * (_SAMPLES if method == "ppo_s_samples" else 1)
    advantage = ppo["learner"]["advantage"]
    batch = {
        "seed": seed,
        "num_steps": condition.steps,
        "minibatch_trajectories": prompts * _KEPT.get(method, 1) // _MINIBATCHES,
        "advantage": advantage | {"critic": advantage["critic"] | _WARMUP},
    }
    selection = _RAFT if method == "raft" else {"filter": _FILTERS.get(method, {"kind": "none"})}
    changed = {
        "name": method,
        "prompts_per_step": prompts,
        "samples_per_prompt": samples,
        "export_steps": [condition.steps // 2],
        "execute_share": 1.0 if method == "ppo_s_steps" or condition.tests_pay else 0.2,
        "learner": ppo["learner"] | batch | selection,
    }
    if condition.tests_pay:
        others = [term for term in ppo["rewards"] if term["kind"] != "reward_model"]
        changed["rewards"] = [{"kind": "all_passed"}, *others]
    without = {"choose_filter"} | ({"critic_from"} if method == "raft" else set())
    return {key: value for key, value in ppo.items() if key not in without} | changed


def _evaluated(run: Path, method: str) -> dict[str, Any]:
    stages = manifests(run)
    after = f"after-{method}"
    return {
        "after": stages[after]["figures"]["sampled_pass_at_1"],
        "rates": _rates(run / "stages" / after),
        "stage_seconds": {name: stages[name]["seconds"] for name in (method, after)},
    }


def gather(run: Path, method: str, num_steps: int) -> dict[str, Any]:
    """Figures of a finished arm, from its files. Raises ValueError where a step was not logged."""
    steps, stages = steps_of(run, method, num_steps), manifests(run)
    half = f"half-{method}"
    figures = _evaluated(run, method)
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
        "r_squared": r_squared_by_part(StageFolder(run / "stages" / method)),
    }


def r_squared_by_part(folder: StageFolder) -> dict[str, dict[str, dict[str, float]]]:
    """R^2 of each filter over the first, middle and last third of the steps, with both kinds of bins; and the same on
    equal numbers of answers (``.. equal numbers``).

    Over the executed answers of whole groups; a part whose groups hold one answer has none.
    """
    judged = [group for _, offered in surviving_groups(folder) for group in scores_and_truth(offered)]
    groups = [group for group in judged if len(group.scores) > 1]
    third = len(groups) // 3
    parts = {"start": groups[:third], "middle": groups[third : 2 * third], "end": groups[2 * third :]}
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, part in parts.items():
        if part:
            found[name] = {binning: _fits(part, binning) for binning in _BINNINGS}
            found[name] |= {f"{binning}, equal numbers": _fits_at_equal_numbers(part, binning) for binning in _BINNINGS}
    return found


_BINNINGS: tuple[Binning, ...] = ("equal_mass", "equal_width")


def _fits(groups: list[Judged], binning: Binning) -> dict[str, float]:
    try:
        fits = fits_of(_RULES, groups, binning=binning)
    except ValueError:  # too few different scores for a line
        return {}
    return {kind: round(fit.r_squared, 4) for kind, fit in fits.items()}


def _fits_at_equal_numbers(groups: list[Judged], binning: Binning) -> dict[str, float]:
    try:
        fits = fits_at_equal_numbers(_RULES, groups, binning=binning)
    except ValueError:
        return {}
    return {kind: round(r_squared, 4) for kind, r_squared in fits.items()}


def _rates(evaluation: Path) -> dict[str, float]:
    """Of the problems that the model solved at least once: the share of its samples that passed. Others are 0."""
    rates = json.loads((evaluation / "results.json").read_text())["sampled_pass_at_1"]
    return {problem: rate for problem, rate in rates.items() if rate}


def _sft_figures(shared: Mapping[str, Path]) -> dict[str, Any]:
    stages = {name: manifests(folder.parent.parent)[name] for name, folder in shared.items()}
    return {
        "after": stages["before"]["figures"]["sampled_pass_at_1"],
        "rates": _rates(shared["before"]),
        "answers": stages["answers"]["figures"],
        "reward_model": stages["reward"]["figures"],
        "stage_seconds": {name: stages[name]["seconds"] for name in _SHARED},
    }


if __name__ == "__main__":
    main()
