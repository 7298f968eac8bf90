"""Runs every experiment whose arms are missing, and writes docs/results.md and docs/performance.md from the arms.

python -m benchmarks.results            runs, then writes
python -m benchmarks.results --write    writes only
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import (
    learned_tables,
    performance,
    pf_ppo,
    process,
    process_tables,
    quickstart,
    reranker,
    rlcf,
    rlcf_tables,
)
from benchmarks.experiment import ARMS, over_seeds

DOCS = Path(__file__).resolve().parent.parent / "docs" / "results.md"

_HEAD = """# Results

Every table is made from the JSON files in `benchmarks/arms/` by `python -m benchmarks.results --write`; `make results`
runs the arms that are missing. Nothing here is typed by hand.

## The quick start

The whole main job from one command: `crucible run recipes/<recipe>` on the machine named below. Pass@1 is measured on
400 held-out compositions (two samples each at temperature 1, and one greedy) that no stage has seen. The interval of a
difference is over problems, paired, 95 %. *Shuffled* is the critic recipe with the rewards of each step's trajectories
dealt out anew at random. EV: the critic's explained variance, on held-out rollouts after the warm-up, and on all
rollouts over the last quarter of the steps. Machine CPU: everything that ran on the machine meanwhile, which for seeds
2 and 3 and for `shuffled-1` was other work as well; so their wall times are upper bounds.

"""


def _arms(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def _cell(estimate: dict[str, float], sign: str = "") -> str:
    return f"{estimate['mean']:{sign}.3f} [{estimate['low']:{sign}.3f}, {estimate['high']:{sign}.3f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def quickstart_table(arms: list[dict[str, Any]]) -> list[str]:
    """One row an arm, then one a recipe over its seeds."""
    lines = [
        "| arm | before | after | difference | greedy before, after | EV warm, last quarter | wall s | machine CPU s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm in arms:
        lines.append(
            f"| {arm['arm']} | {arm['before']['mean']:.3f} | {arm['after']['mean']:.3f} "
            f"| {_cell(arm['difference'], '+')} "
            f"| {arm['before_greedy']['mean']:.3f}, {arm['after_greedy']['mean']:.3f} "
            f"| {_number(arm['explained_variance_warm'])}, {_number(arm['explained_variance_last_quarter'])} "
            f"| {arm['wall_s']:.0f} | {_seconds(arm.get('machine_cpu_s'))} |"
        )
    lines += ["", "| recipe | seeds | mean difference, 95 % over seeds |", "|---|---|---|"]
    groups: dict[str, list[float]] = {}
    for arm in arms:
        groups.setdefault(arm["arm"].rsplit("-", 1)[0], []).append(arm["difference"]["mean"])
    lines += [f"| {name} | {len(values)} | {over_seeds(values)} |" for name, values in groups.items()]
    return lines


def main() -> None:
    if unknown := set(sys.argv[1:]) - {"--write", "--list"}:
        raise SystemExit(f"{sorted(unknown)[0]!r} is no option here; there are --write and --list")
    if "--write" not in sys.argv:
        quickstart.main()
        pf_ppo.main()
        reranker.main()
        rlcf.main()
        process.main()
        subprocess.run([sys.executable, "-m", "benchmarks.learner"], check=True)
    arms = _arms(ARMS / quickstart.EXPERIMENT)
    body = "\n".join(quickstart_table(arms)) if arms else "No arm has been run yet."
    body += rlcf_tables.section(_arms(ARMS / rlcf.EXPERIMENT))
    machines = sorted({arm["machine"] for arm in arms})
    machine = f"\n\nMachine: {', '.join(machines)}.\n" if machines else "\n"
    learned = learned_tables.pf_ppo_section(_arms(ARMS / pf_ppo.EXPERIMENT))
    learned += learned_tables.reranker_section(_arms(ARMS / reranker.EXPERIMENT))
    DOCS.write_text(_HEAD + body + machine + learned + process_tables.section(_arms(ARMS / process.EXPERIMENT)))
    performance.write()


if __name__ == "__main__":
    main()
