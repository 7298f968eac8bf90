"""The part of docs/results.md that ``benchmarks/process.py`` fills."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from benchmarks.process import METHODS

_T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # two-sided Student t for n seeds (n - 1 degrees of freedom)
_HEAD = """
## Process supervision

`benchmarks/process.py`: the synthetic family's programs of four operations, a reward of 1 for passing all tests and
nothing else. All arms share the supervised model, the baseline run's labels and the process reward model. *First bad
line*: on failing answers, the searched one against the one that trying every end of every right program finds.
"""


def section(arms: Sequence[dict[str, Any]]) -> str:
    """Markdown; says of what was not run that it was not."""
    by_name = {arm["arm"]: arm for arm in arms}
    parts = [_HEAD]
    parts.append(_labels(by_name["labels"]) if "labels" in by_name else "Labels: not run.\n")
    parts.append(_speed(by_name["speed"]) if "speed" in by_name else "Speed of labelling: not run.\n")
    trained = [arm for arm in arms if arm.get("method") in METHODS]
    parts.append(_training(trained) if trained else "PPO with line rewards and value initialisation: not run.\n")
    return "\n".join(parts)


def _labels(arm: dict[str, Any]) -> str:
    labels, truth, model = arm["labels"], arm["agreement"], arm["model"]
    name = "process_model/held_out_"
    return f"""| figure | value |
|---|---|
| labelled answers, of which pass | {labels["num_answers"]}, {labels["pass_rate"]:.2f} |
| completions of prefixes | {labels["num_completions"]} |
| first bad line as by trying everything ({truth["num_answers"]} answers): exact, early, late | {truth["exact"]:.2f}, {truth["early"]:.2f}, {truth["late"]:.2f} |
| line accuracy on held-out problems ({model["num_lines"]} lines) | {model[name + "accuracy"]:.3f} |
| likewise by position only, and the commoner label | {model[name + "accuracy_by_position"]:.3f}, {model[name + "majority"]:.3f} |
| first bad line found exactly, and by position only | {model[name + "first_bad"]:.3f}, {model[name + "first_bad_by_position"]:.3f} |
"""  # noqa: E501 (rows of a table)


def _speed(arm: dict[str, Any]) -> str:
    seconds = arm["seconds_per_program"]
    return (
        f"Labelling: {seconds['together']:.2f} s a program with all searches together, {seconds['alone']:.2f} s one "
        f"program at a time, in one run: {arm['times_faster']:.1f} times as fast.\n"
    )


def _training(arms: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| arm | before | after | greedy after | EV warm, mean of steps | wall s |",
        "|---|---|---|---|---|---|",
    ]
    for arm in sorted(arms, key=lambda arm: (list(METHODS).index(arm["method"]), arm["seed"])):
        known = [value for value in arm["explained_variance_curve"] if value is not None]
        warm = arm["explained_variance_warm"]
        lines.append(
            f"| {arm['arm']} | {arm['before']['mean']:.3f} | {_cell(arm['after'])} | {arm['after_greedy']['mean']:.3f} "
            f"| {'-' if warm is None else format(warm, '.3f')}, {mean(known) if known else math.nan:.3f} "
            f"| {arm['wall_s']:.0f} |"
        )
    lines += ["", "| method | seeds | pass@1 after, 95 % over seeds |", "|---|---|---|"]
    for method in METHODS:
        values = [arm["after"]["mean"] for arm in arms if arm["method"] == method]
        if values:
            lines.append(f"| {method} | {len(values)} | {_over_seeds(values)} |")
    return "\n".join(lines) + "\n"


def _cell(estimate: dict[str, float]) -> str:
    return f"{estimate['mean']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def _over_seeds(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.3f} (one seed: no interval)"
    return f"{mean(values):.3f} ± {_T_95[len(values)] * stdev(values) / math.sqrt(len(values)):.3f}"
