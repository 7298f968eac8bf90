"""PF-PPO (arXiv 2409.06957) with a learned reward as the only one: filters, baselines, and the control "2 random of 5".

python -m benchmarks.pf_ppo            runs the arms that are missing (each 1 to 4 minutes on 2 quiet cores)
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
at random, each with one thing changed.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.experiment import RUNS, load_stages, logged, manifests, recipe_file, run_missing, run_recipe
from cluster.journal import read_journal
from cluster.stages.learned_reward import Judged, fits_of, scores_and_truth
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
_LOOKED_AT = {"greedy": False, "problems": [{"spec": "synthetic:split=test,count=300,depth=2-3,seed=12"}]}


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that differs from the plain arms.

    Attributes:
        steps: of PPO.
        tests_pay: the true reward, and not the learned one.
        problems: that the reward model's pairs are made of.
        shape: of the model that all begins with; None: the recipe's.
        makes: the shared stages that it makes anew; the others are the plain arms'.
    """

    steps: int = _STEPS
    tests_pay: bool = False
    problems: int = 1000
    shape: dict[str, int] | None = None
    makes: tuple[str, ...] = ()

    @property
    def methods(self) -> tuple[str, ...]:
        """Those that ask where the order of the paper begins to hold, after what they begin with where it differs."""
        return (*(("sft",) if self.makes else ()), "br", "bw", "random_2", "ppo_m")


PLAIN = Condition()
CONDITIONS = {
    "tests": Condition(tests_pay=True),
    "long": Condition(steps=3 * _STEPS),
    "strong": Condition(problems=4000, makes=("answers", "reward")),
    "large": Condition(
        shape={"hidden_size": 192, "num_layers": 4, "intermediate_size": 576},
        makes=("base", "before", "answers", "reward"),
    ),
}


def main() -> None:
    arms = {f"{method}-{seed}": functools.partial(run_arm, method, seed) for seed in SEEDS for method in METHODS}
    for name, condition in CONDITIONS.items():
        arms |= {
            f"{name}-{method}-{seed}": functools.partial(run_arm, method, seed, name)
            for seed in SEEDS
            for method in condition.methods
        }
    run_missing(EXPERIMENT, arms)


def run_arm(method: str, seed: int, condition: str = "") -> dict[str, Any]:
    """An arm's figures; goes on with the seed's run until they are there, which is to its end."""
    shared = shared_runs(seed, condition)
    if method == "sft":
        figures = _sft_figures(shared)
    elif method == "dpo":
        figures = _evaluated(shared["dpo"].parent.parent, "dpo")
    else:
        name = "-".join(filter(None, (EXPERIMENT, condition, str(seed))))
        if f"after-{method}" not in manifests(RUNS / name):
            run_recipe(recipe_file(recipe(seed, condition, shared), name), name, RUNS)
        figures = gather(RUNS / name, method, CONDITIONS.get(condition, PLAIN).steps)
    what = {"condition": condition, "method": method, "seed": seed}
    return {**what, **figures, "wall_s": sum(figures["stage_seconds"].values())}


def shared_runs(seed: int, condition: str = "") -> dict[str, Path]:
    """Shared stage -> its folder, made where it is missing."""
    makes = CONDITIONS[condition].makes if condition else (*_SHARED, "dpo", "after-dpo")
    folders = {} if "base" in makes else shared_runs(seed)
    if makes:
        name = "-".join(filter(None, (EXPERIMENT, "shared", condition, str(seed))))
        if makes[-1] not in manifests(RUNS / name):
            run_recipe(recipe_file(shared_recipe(seed, condition, folders), name), name, RUNS)
        folders |= {stage: RUNS / name / "stages" / stage for stage in makes}
    return folders


def shared_recipe(seed: int, condition: str, made: Mapping[str, Path]) -> dict[str, Any]:
    """The recipe's stages before PPO, but for those that are ``made``."""
    common, stages = load_stages("pf_ppo.yaml")
    changed = CONDITIONS.get(condition, PLAIN)
    stages["base"]["train"] |= {"seed": seed, "max_seconds": None}  # as many steps on a slow machine
    if changed.shape:
        stages["base"]["new_model"] = changed.shape
    stages["before"] |= _LOOKED_AT
    stages["answers"]["problems"] = [{"spec": f"synthetic:split=train,count={changed.problems},depth=2-3,seed=21"}]
    kept = [stages[stage] for stage in changed.makes or _SHARED]
    if not condition:  # beside the pairs that it learns from
        pairs = {"policy": "stage:base", "pairs": ["stage:answers"], "train": {"epochs": 2, "seed": seed}}
        kept += [{"kind": "dpo", "name": "dpo"} | pairs, _evaluation("dpo")]
    common["generators"]["count"] = 1  # the least work in all: arms run beside other work
    others = {stage: folder for stage, folder in made.items() if stage not in changed.makes}
    return common | {"seed": seed, "stages": _with_models_of(kept, others)}


def recipe(seed: int, condition: str, made: Mapping[str, Path]) -> dict[str, Any]:
    """Each method's training and evaluation, from the models that are ``made``."""
    common, stages = load_stages("pf_ppo.yaml")
    changed = CONDITIONS.get(condition, PLAIN)
    kept: list[dict[str, Any]] = []
    for method in changed.methods if condition else METHODS:
        if method not in ("sft", "dpo"):
            half = _evaluation(method) | {"name": f"half-{method}", "model": f"stage:{method}@{changed.steps // 2}"}
            kept += [_training(method, seed, stages["ppo"], changed), half, _evaluation(method)]
    common["generators"]["count"] = 1
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
    """Figures of a finished arm, from its files.

    Raises ValueError where a step was not logged, as where the run was told to stop in the middle of one.
    """
    steps, stages = logged(run, method), manifests(run)
    half = f"half-{method}"
    figures = _evaluated(run, method)
    if (numbers := [step["step"] for step in steps]) != list(range(1, num_steps + 1)):
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
        judged = scores_and_truth(list(by_problem.values()))
        groups += [group for group in judged if len(group.scores) > 1]
    third = len(groups) // 3
    parts = {"start": groups[:third], "middle": groups[third : 2 * third], "end": groups[2 * third :]}
    return {name: {binning: _fits(part, binning) for binning in _BINNINGS} for name, part in parts.items() if part}


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
