"""What the run found out about a learned reward: R^2 of the filters, calibration, bias for length, re-ranking."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

from cluster.report.plots import dots
from cluster.run_folder import StageFolder

_RERANKED = ("pass_at_1", "random", "reranked", "oracle")


def learned_reward(stage: StageFolder) -> list[str]:
    """Plots of a stage that trained a reward model, or chose a filter by one; nothing of others."""
    parts: list[str] = []
    choice, held_out = stage.root / "filter.json", stage.root / "held_out.json"
    if choice.exists():
        parts += _filter_choice(json.loads(choice.read_text()))
    if held_out.exists():
        parts += _held_out(json.loads(held_out.read_text()))
    return parts


def _filter_choice(record: dict[str, Any]) -> list[str]:
    plots = [
        dots(
            f"{kind}: real score on learned one, R^2 {fit['r_squared']:.3f}, "
            f"at equal numbers {fit['r_squared_equal']:.3f}",
            fit["rewards"],
            fit["scores"],
            fit["masses"],
        )
        for kind, fit in record["fits"].items()
    ]
    return [f"<p>Filter by R^2: <b>{html.escape(record['chosen'])}</b></p><div class=plots>", *plots, "</div>"]


def _held_out(figures: dict[str, Any]) -> list[str]:
    bins = figures["calibration"]
    title = f"certainty stated and true, held-out pairs (error {figures['reward_model/calibration_error']:.3f})"
    plot = dots(title, bins["confidence"], bins["accuracy"], bins["counts"], diagonal=True)
    rows = [
        ("held-out accuracy", "held_out_accuracy"),
        ("where the better answer is the longer", "held_out_accuracy_longer"),
        ("where it is the shorter", "held_out_accuracy_shorter"),
        ("correlation of score differences with length differences", "length_correlation"),
    ]
    cells = "".join(f"<tr><td>{label}<td>{figures[f'reward_model/{name}']:.3f}</tr>" for label, name in rows)
    return [f"<table>{cells}</table>", plot]


def rerank_tables(root: Path) -> str:
    """A table of what a model with a scalar head chose, for each evaluation that asked one, by language."""
    rows: list[str] = []
    for path in sorted(root.glob("stages/*")):
        manifest = StageFolder(path).manifest() or {}
        done = manifest.get("figures", {}) if manifest.get("kind") == "evaluate" else {}
        for field, label in (("rerank", path.name), ("rerank_earlier", f"{path.name} (the earlier one)")):
            for language, figures in done.get(field, {}).items():
                if isinstance(figures, dict):
                    cells = "".join(f"<td>{figures[name]['mean']:.3f}" for name in _RERANKED)
                    rows.append(f"<tr><td>{html.escape(label)}<td>{html.escape(language)}{cells}</tr>")
    if not rows:
        return ""
    head = "<tr><th>evaluation<th>language<th>pass@1<th>random<th>reranked<th>oracle</tr>"
    return f"<h3>Re-ranked</h3><table>{head}{''.join(rows)}</table>"
