"""The part of docs/results.md that ``benchmarks/process.py`` fills."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from benchmarks.experiment import over_seeds
from benchmarks.process import METHODS, SEEDS
from cluster.statistics import mean_over_problems

_COMPARED = {
    "baseline": (), "dense": ("baseline",), "value": ("baseline",), "both": ("baseline", "dense", "value"),
    "cold": ("baseline", "both"),
}  # fmt: skip
_WINDOW = 5
_HEAD = """
## Process supervision

`python -m benchmarks.process`; its head says what the arms are. The synthetic family's programs of four operations, a
reward of 1 for passing all tests and nothing else. All arms share the supervised model, the baseline run's labels and
the process reward model, made by one run of `recipes/process.yaml`: what seeds differ by is reinforcement learning
alone. Intervals are 95 %.
"""

Arm = Mapping[str, Any]


def section(arms: Sequence[Arm]) -> str:
    """Markdown; says of what was not run that it was not."""
    by_name = {arm["arm"]: arm for arm in arms}
    parts = [_HEAD]
    parts.append(_recipe(by_name["recipe"]) if "recipe" in by_name else "The recipe whole: not run.\n")
    parts.append(_labels(by_name["labels"]) if "labels" in by_name else "Labels: not run.\n")
    parts.append(_speed(by_name["speed"]) if "speed" in by_name else "Speed of labelling: not run.\n")
    trained = [arm for arm in arms if arm.get("method") in METHODS]
    parts.append(_training(trained) if trained else "PPO with line rewards and value initialisation: not run.\n")
    return "\n".join(parts)


def _recipe(arm: Arm) -> str:
    seconds = arm["stage_seconds"]
    stages = ", ".join(f"{name} {spent:.0f}" for name, spent in seconds.items())
    lines = [
        f"The recipe whole: {sum(seconds.values()) / 60:.1f} minutes of stages (seconds: {stages}).",
        "",
        "| evaluation | pass@1 | greedy | difference |",
        "|---|---|---|---|",
    ]
    for name, figures in arm["evaluations"].items():
        greedy = figures.get("greedy_pass_at_1")
        difference = figures.get("difference", {}).get("sampled_pass_at_1")
        lines.append(
            f"| {name} | {_cell(figures['sampled_pass_at_1'])} | {format(greedy['mean'], '.3f') if greedy else '-'} "
            f"| {_cell(difference, '+') if difference else '-'} |"
        )
    for name, figures in arm["evaluations"].items():
        if "rerank" in figures:
            chosen = figures["rerank"]["all"]
            lines += [
                "",
                f"*{name}*, the model as reranker: one sample {chosen['pass_at_1']['mean']:.3f}, its choice "
                f"{_cell(chosen['reranked'])} ({_cell(chosen['reranked_minus_pass_at_1'], '+')}), oracle "
                f"{chosen['oracle']['mean']:.3f}.",
            ]
    return "\n".join(lines) + "\n"


def _labels(arm: Arm) -> str:
    labels, truth, model, by_truth = arm["labels"], arm["agreement"], arm["model"], arm["model_by_truth"]
    name = "process_model/held_out_"
    return f"""*First bad line*: on failing answers, the searched one against the one that trying every end of every right program finds.

| figure | value |
|---|---|
| labelled answers, of which pass | {labels["num_answers"]}, {labels["pass_rate"]:.2f} |
| completions of prefixes: in all, a search, searches of more than K ceil(log2(T + 1)) | {labels["num_completions"]}, {arm["completions_per_search"]:.1f}, {arm["num_over_bound"]} of {arm["num_searched"]} |
| first bad line as by trying everything ({truth["num_answers"]} answers): exact, early, late | {truth["exact"]:.2f}, {truth["early"]:.2f}, {truth["late"]:.2f} |
| line accuracy on held-out problems ({model["num_lines"]} lines of {model["num_answers"]} answers) | {model[name + "accuracy"]:.3f} |
| likewise by position only, and the commoner label | {model[name + "accuracy_by_position"]:.3f}, {model[name + "majority"]:.3f} |
| first bad line found exactly, and by position only | {model[name + "first_bad"]:.3f}, {model[name + "first_bad_by_position"]:.3f} |
| line accuracy on held-out problems by true first bad lines ({by_truth["num_lines"]} lines of {by_truth["num_answers"]} answers), and by position only | {by_truth["accuracy"]:.3f}, {by_truth["accuracy_by_position"]:.3f} |
| true first bad line found exactly, and by position only | {by_truth["first_bad"]:.3f}, {by_truth["first_bad_by_position"]:.3f} |
"""  # noqa: E501 (rows of a table)


def _speed(arm: Arm) -> str:
    together, alone = (1000 * arm["seconds_per_completion"][name] for name in ("together", "alone"))
    return (
        f"Labelling: {together:.1f} ms a completion with all searches together, {alone:.1f} ms one program at a time, "
        f"in one run: {arm['times_faster']:.1f} times as fast.\n"
    )


def _training(arms: Sequence[Arm]) -> str:
    arms = sorted(arms, key=lambda arm: (list(METHODS).index(arm["method"]), arm["seed"]))
    by_method = {name: [arm for arm in arms if arm["method"] == name] for name in METHODS}
    parts = [*_each(arms), "", *_missing(arms), *_differences(by_method), "", *_curves(by_method)]
    return "\n".join(parts) + "\n"


def _each(arms: Sequence[Arm]) -> list[str]:
    lines = [
        "PPO from the supervised model. EV: the critic's explained variance, of the returns of its arm (with line",
        "rewards they hold those too): on held-out rollouts after the warm-up, before the first step's update, and",
        "before each step's, mean.",
        "",
        "| arm | before | after | greedy after | EV warm, first step, mean of steps | s |",
        "|---|---|---|---|---|---|",
    ]
    for arm in arms:
        known = [value for value in arm["explained_variance_curve"] if value is not None]
        lines.append(
            f"| {arm['arm']} | {arm['before']['mean']:.3f} | {_cell(arm['after'])} | {arm['after_greedy']['mean']:.3f} "
            f"| {_number(arm['explained_variance_warm'])}, {_number(arm['explained_variance_curve'][0])}, "
            f"{_number(mean(known) if known else None)} | {sum(arm['stage_seconds'].values()):.0f} |"
        )
    return lines


def _missing(arms: Sequence[Arm]) -> list[str]:
    names = {arm["arm"] for arm in arms}
    missing = [name for method in METHODS for seed in SEEDS if (name := f"{method}-{seed}") not in names]
    return [f"Not run: {', '.join(missing)}.", ""] if missing else []


def _differences(by_method: Mapping[str, Sequence[Arm]]) -> list[str]:
    """Of pass@1, of arms of the same seed: over the problems of all seeds, and over seeds."""
    lines = ["| method | seeds | pass@1 after | minus | over problems | over seeds |", "|---|---|---|---|---|---|"]
    for method, arms in by_method.items():
        after = f"{mean(arm['after']['mean'] for arm in arms):.3f}" if arms else "-"
        lines += [f"| {method} | {len(arms)} | {after} | - | - | - |"] if arms else []
        for other in _COMPARED[method]:
            of_other = {arm["seed"]: arm for arm in by_method[other]}
            pairs = [(of_other[arm["seed"]], arm) for arm in arms if arm["seed"] in of_other]
            if pairs:
                by_problem = mean_over_problems(_mean_gains(pairs))
                by_seed = over_seeds([arm["after"]["mean"] - base["after"]["mean"] for base, arm in pairs])
                interval = f"{by_problem.mean:+.3f} [{by_problem.low:+.3f}, {by_problem.high:+.3f}]"
                lines.append(f"| {method} | {len(pairs)} | - | {other} | {interval} | {by_seed} |")
    return lines


def _mean_gains(pairs: Sequence[tuple[Arm, Arm]]) -> list[float]:
    """For each problem that all of them were judged on, the mean over seeds of the difference in its pass rate."""
    judged = set.intersection(*(arm["rates"].keys() & base["rates"].keys() for base, arm in pairs))
    return [mean(arm["rates"][name] - base["rates"][name] for base, arm in pairs) for name in sorted(judged)]


def _curves(by_method: Mapping[str, Sequence[Arm]]) -> list[str]:
    """Means over seeds and over windows of steps."""
    curves = {"pass rate": "pass_rate_curve", "EV": "explained_variance_curve"}
    num_steps = max(len(arm["pass_rate_curve"]) for arms in by_method.values() for arm in arms)
    starts = range(0, num_steps, _WINDOW)
    spans = " | ".join(f"{start + 1}-{min(start + _WINDOW, num_steps)}" for start in starts)
    lines = [f"| curve, steps | {spans} |", "|---|" + "---|" * len(starts)]
    for what, key in curves.items():
        for method, arms in by_method.items():
            cells = [
                _mean_or_none([v for arm in arms for v in arm[key][start : start + _WINDOW] if v is not None])
                for start in starts
            ]
            if arms:
                lines.append(f"| {method}, {what} | {' | '.join(map(_number, cells))} |")
    return lines


def _mean_or_none(values: Sequence[float]) -> float | None:
    return mean(values) if values else None


def _cell(estimate: Mapping[str, float], sign: str = "") -> str:
    return f"{estimate['mean']:{sign}.3f} [{estimate['low']:{sign}.3f}, {estimate['high']:{sign}.3f}]"


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"
