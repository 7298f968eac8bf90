"""The parts of docs/results.md that ``benchmarks/pf_ppo.py`` and ``benchmarks/reranker.py`` fill."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

from benchmarks.experiment import over_seeds
from benchmarks.pf_ppo import CONDITIONS, METHODS
from benchmarks.reranker import MODELS, SETTINGS
from cluster.statistics import Estimate, mean_over_problems

Arm = dict[str, Any]
_CONTROL = "random_2"
_PF_PPO_HEAD = """
## PF-PPO: which samples of a learned reward are trained

`python -m benchmarks.pf_ppo`; its head says what the arms are. The reward model is the only reward; true pass@1 is
measured on 300 held-out compositions, two samples each at temperature 1. Differences are paired by problem; over
several seeds the interval is Student's, 95 %, over the seeds' differences. *At half*: pass@1 after half of the steps,
and so of the trained tokens; *peak*: the better of the two. *Alarms*: steps at which the score had risen while the
tests passed less often. *Trained tokens*: through policy updates, in thousands. R^2 of five answers a group and some
dozens of groups holds much noise of its own, and the more of it the fewer answers a filter trains: a bin of
best-of-five has two or three. *Equal numbers*: on as many answers as best-of-five trains, mean of draws (two of five at
random are then no other than all).
"""
_CONDITIONS_HEAD = """
The same with one thing changed, in *large* three. *tests*: they pay, and no learned reward. *long*: three times the
steps. *strong*: the reward model learns from four times the problems. *large*: a model of four layers and 1.5 times the
width, for half of the steps; its reward model learns from twice the problems.
"""
_RERANKER_HEAD = """
## A reranker that trains itself

`python -m benchmarks.reranker`; its head says what is compared. Share of held-out problems whose chosen answer, of
eight, passes. *Distance closed*: (reranked - pass@1) / (oracle - pass@1). *Gain*: on the first reranker's choice among
the same answers, paired by problem, 95 %.
"""


def pf_ppo_section(arms: Sequence[Arm]) -> str:
    """Markdown; says of what was not run that it was not."""
    if not arms:
        return _PF_PPO_HEAD + "\nNo arm has been run yet.\n"
    plain = [arm for arm in arms if not arm.get("condition")]
    lines = [_PF_PPO_HEAD, *_methods_table(METHODS, plain), "", *_r_squared_table(plain), _CONDITIONS_HEAD]
    for name in filter(None, CONDITIONS):
        own = [arm for arm in arms if arm.get("condition") == name]
        if not own:
            lines += [f"*{name}*: not run.", ""]
            continue
        methods = CONDITIONS[name].methods
        begun_with = [] if "sft" in methods else [arm for arm in plain if arm["method"] == "sft"]
        lines += [f"*{name}*:", "", *_methods_table(methods, own, begun_with), "", *_r_squared_table(own), ""]
    return "\n".join(lines) + "\n"


def _methods_table(methods: Sequence[str], own: Sequence[Arm], begun_with: Sequence[Arm] = ()) -> list[str]:
    """One row a method, after the accuracy of the seeds' reward models. ``begun_with``: models that others measured."""
    arms = [*begun_with, *own]
    seeds = sorted({arm["seed"] for arm in arms})
    models = [arm["reward_model"] for arm in arms if arm["method"] == "sft"]
    accuracy = ", ".join(f"{model['held_out_accuracy']:.3f} ({model['num_held_out_pairs']} pairs)" for model in models)
    lines = [
        f"Reward model: accuracy on held-out pairs {accuracy or 'not measured'} "
        f"of seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}.",
        "",
        "| method | seeds | pass@1 | against SFT | against PPO-M | against two at random | at half | peak | alarms "
        "| trained tokens | CPU s | s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_method_row(method, arms) for method in dict.fromkeys(arm["method"] for arm in begun_with)]
    lines += [_method_row(method, arms) for method in methods if any(arm["method"] == method for arm in own)]
    missing = [f"{method}-{seed}" for seed in seeds for method in methods if not _arm(own, method, seed)]
    return [*lines, "", f"Not run: {', '.join(missing)}."] if missing else lines


def _arm(arms: Sequence[Arm], method: str, seed: int) -> Arm | None:
    return next((arm for arm in arms if (arm["method"], arm["seed"]) == (method, seed)), None)


def _method_row(method: str, arms: Sequence[Arm]) -> str:
    own = [arm for arm in arms if arm["method"] == method]
    cells = [
        method,
        str(len(own)),
        _mean(own, lambda arm: arm["after"]["mean"], "{:.3f}"),
        _against("sft", method, arms),
        _against("ppo_m", method, arms),
        _against(_CONTROL, method, arms),
        _mean(own, lambda arm: arm["half"]["mean"] if "half" in arm else None, "{:.3f}"),
        _mean(own, lambda arm: arm.get("peak"), "{:.3f}"),
        _mean(own, lambda arm: arm.get("alarms"), "{:.1f}"),
        _mean(own, lambda arm: arm["tokens_policy"] / 1e3 if "tokens_policy" in arm else None, "{:.0f}"),
        _mean(own, lambda arm: arm.get("learner_cpu_s"), "{:.0f}"),
        _mean(own, lambda arm: arm["wall_s"], "{:.0f}"),
    ]
    return f"| {' | '.join(cells)} |"


def _mean(arms: Sequence[Arm], of: Any, shown: str) -> str:
    values = [value for arm in arms if (value := of(arm)) is not None]
    return shown.format(mean(values)) if values else "-"


def _against(other: str, method: str, arms: Sequence[Arm]) -> str:
    """Difference in pass@1 over the seeds that have both."""
    if method == other:
        return "-"
    pairs = [(_arm(arms, other, arm["seed"]), arm) for arm in arms if arm["method"] == method]
    found = [difference(before, after) for before, after in pairs if before is not None]
    if not found:
        return "-"
    if len(found) == 1:
        return f"{found[0].mean:+.3f} [{found[0].low:+.3f}, {found[0].high:+.3f}]"
    return over_seeds([one.mean for one in found])


def difference(before: Arm, after: Arm) -> Estimate:
    """In pass@1, paired by problem; ``rates`` leaves out the problems that were never solved.

    Raises ValueError where one has fewer problems: those of which no verdict was had are no failures.
    """
    count, other = (arm["after"]["num_problems"] for arm in (before, after))
    if count != other:
        raise ValueError(f"{before['arm']} was judged on {count} problems and {after['arm']} on {other}; run one anew")
    solved = before["rates"].keys() | after["rates"].keys()
    values = [after["rates"].get(problem, 0.0) - before["rates"].get(problem, 0.0) for problem in solved]
    return mean_over_problems([*values, *[0.0] * (count - len(values))])


def _r_squared_table(arms: Sequence[Arm]) -> list[str]:
    """R^2 of each filter along training, mean over the arms with groups of five; nothing where none is measured."""
    fits = [arm["r_squared"] for arm in arms if arm.get("r_squared")]
    kinds = ("none", "bon", "br", "bw", "random_k")
    lines = [
        f"R^2 of the true score on the learned one, 20 bins, mean over {len(fits)} arms with groups of five, by what "
        "each filter would train:",
        "",
        f"| steps | bins | {' | '.join(kinds)} |",
        "|---|---|---|---|---|---|---|",
    ]
    for part in ("start", "middle", "end"):
        for binning in ("equal_mass", "equal_width", "equal_mass, equal numbers", "equal_width, equal numbers"):
            here = [fit[part][binning] for fit in fits if fit.get(part, {}).get(binning)]
            if not here and "numbers" in binning:
                continue  # arms of before there was such a figure
            cells = [f"{mean(one[kind] for one in here):.3f}" if here else "-" for kind in kinds]
            lines.append(f"| {part} | {binning.replace('_', ' ')} | {' | '.join(cells)} |")
    return lines if fits else []


def reranker_section(arms: Sequence[Arm]) -> str:
    """Markdown; says of what was not run that it was not."""
    if not arms:
        return _RERANKER_HEAD + "\nNo arm has been run yet.\n"
    lines = [
        _RERANKER_HEAD,
        "| answers of | setting | seed | pass@1 | random | reranked@8 | oracle | distance closed | gain |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for model in MODELS:
        for setting in SETTINGS:
            for arm in arms:
                row = arm["rerank"][model][setting]
                cells = [f"{row[name]['mean']:.3f}" for name in ("pass_at_1", "random", "reranked", "oracle")]
                gained = row["gained"]
                gain = f"{gained['mean']:+.3f} [{gained['low']:+.3f}, {gained['high']:+.3f}]"
                lines.append(
                    f"| {model} | {setting} | {arm['seed']} | {' | '.join(cells)} | {row['gap_closed']:.2f} | "
                    f"{'-' if setting == 'no_iteration' else gain} |"
                )
    lines += [
        "",
        "Accuracy on held-out pairs (problems that no retraining saw), the first reranker's and the retrained one's:",
        "",
        "| setting | seed | pairs mined, held out | mined: before, after | first set: before, after |",
        "|---|---|---|---|---|",
    ]
    for setting, mined in (("hard_negatives", "mined-hard"), ("self_training", "mined-self")):
        for arm in arms:
            sources = arm["rankers"][SETTINGS[setting]]["sources"]
            cells = [
                f"{sources[name]['accuracy_before']:.3f}, {sources[name]['accuracy']:.3f}" if name in sources else "-"
                for name in (mined, "answers")
            ]
            counts = f"{arm['mined'][mined]['num_pairs']}, {sources.get(mined, {}).get('num_pairs', 0)}"
            lines.append(f"| {setting} | {arm['seed']} | {counts} | {' | '.join(cells)} |")
    same = all(arm["weights"]["base"] == arm["weights"]["policy_began_with"] for arm in arms)
    lines += ["", f"The policy paid by a reranker began with the supervised model's weights, by their digest: {same}."]
    return "\n".join(lines) + "\n"
