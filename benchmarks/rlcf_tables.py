"""The part of docs/results.md that ``benchmarks/rlcf.py`` fills."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.experiment import over_seeds
from benchmarks.rlcf import MEASURES, METHODS, RATE

_HEAD = """

## Reward from the compiler and from a comparison

`python -m benchmarks.rlcf`; its head says what the arms are. No tests in any reward: they measure alone, on 300
held-out compositions in Java, two samples each at temperature 1; intervals are over problems, 95 %. Code tokens:
lexemes of an answer that are no comments, mean. Held-out accuracy: of the discriminator that the arms of a seed share.

"""
Arm = Mapping[str, Any]


def section(arms: Sequence[Arm]) -> str:
    """Markdown; says of what was not run that it was not."""
    rates = [_rate(arm) for arm in arms if arm["arm"] == RATE]
    trained = sorted(
        (arm for arm in arms if arm["arm"] != RATE), key=lambda arm: (METHODS.index(arm["method"]), arm["seed"])
    )
    tables = (
        [_failures(trained), _each(trained), _by_method(trained), _against_each_other(trained)]
        if trained
        else [["No arm was run."]]
    )
    return _HEAD + "\n\n".join("\n".join(lines) for lines in [*rates, *tables])


def _rate(arm: Arm) -> list[str]:
    return [
        f"Compiler's term alone: {arm['programs']} distinct Java programs at {arm['programs_per_s']} a second with two "
        f"slots, {arm['compiler_cpu_ms']} ms of the compiler's CPU each (unknown names are compiled a second time with "
        f"the usual imports), at a load of {arm['load_1min']}."
    ]


def _failures(arms: Sequence[Arm]) -> list[str]:
    """What the base model of each seed fails by, commonest first."""
    bases = {arm["seed"]: arm["before"]["compile_errors"] for arm in arms}
    lines = ["| base model | programs refused | by class of the first error |", "|---|---|---|"]
    for seed, errors in sorted(bases.items()):
        total = sum(errors.values())
        shares = [f"{name} {count / total:.0%}" for name, count in sorted(errors.items(), key=lambda one: -one[1])]
        lines.append(f"| seed {seed} | {total} | {', '.join(shares)} |")
    return lines


def _each(arms: Sequence[Arm]) -> list[str]:
    """One row an arm, shares with half their intervals."""
    lines = [
        "| arm | compiles | executes | passes | code tokens | held-out accuracy | s, with the stages that it shares |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm in arms:
        before, after = arm["before"], arm["after"]
        shares = [f"{_share(before[name])} -> {_share(after[name])}" for name in MEASURES]
        lines.append(
            f"| {arm['arm']} | {' | '.join(shares)} | {before['code_tokens']:.1f} -> {after['code_tokens']:.1f} "
            f"| {arm['discriminator']['held_out_accuracy']:.3f} | {sum(arm['stage_seconds'].values()):.0f} |"
        )
    return lines


def _by_method(arms: Sequence[Arm]) -> list[str]:
    """The targets: one row a method, 95 % over seeds. The comparison is off in ``compiler`` and on in ``both``."""
    lines = [
        "| method | seeds | compiles: share of the way to 100 % | passes | code tokens, share of the base model's |",
        "|---|---|---|---|---|",
    ]
    for method in METHODS:
        own = [arm for arm in arms if arm["method"] == method]
        if own:
            columns = zip(*(_gains(arm) for arm in own), strict=True)
            lines.append(f"| {method} | {len(own)} | {' | '.join(over_seeds(list(column)) for column in columns)} |")
    return lines


def _against_each_other(arms: Sequence[Arm]) -> list[str]:
    """The recipe minus each ablation and minus plain fine-tuning, of the same seed; 95 % over seeds."""
    by_name = {(arm["method"], arm["seed"]): arm for arm in arms}
    lines = ["| both minus | seeds | compiles | passes | code tokens, ratio |", "|---|---|---|---|---|"]
    for other in METHODS[1:]:
        seeds = sorted(seed for method, seed in by_name if method == other and ("both", seed) in by_name)
        pairs = [(by_name[other, seed]["after"], by_name["both", seed]["after"]) for seed in seeds]
        if pairs:
            gains = [
                [both[name]["mean"] - less[name]["mean"] for less, both in pairs] for name in ("compiles", "passes")
            ]
            gains.append([both["code_tokens"] / less["code_tokens"] for less, both in pairs])
            lines.append(f"| {other} | {len(pairs)} | {' | '.join(map(over_seeds, gains))} |")
    return lines


def _gains(arm: Arm) -> tuple[float, float, float]:
    before, after = arm["before"], arm["after"]
    compiled, was = after["compiles"]["mean"], before["compiles"]["mean"]
    gained = after["passes"]["mean"] - before["passes"]["mean"]
    return (compiled - was) / (1 - was), gained, after["code_tokens"] / before["code_tokens"]


def _share(estimate: Mapping[str, float]) -> str:
    return f"{estimate['mean']:.3f} ± {(estimate['high'] - estimate['low']) / 2:.3f}"
