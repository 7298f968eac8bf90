"""The page: evaluations, what was learned about the reward, curves and trajectories of each stage, the config."""

from __future__ import annotations

import html
from collections import defaultdict
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from cluster.errors import RunFolderError
from cluster.report.learned import learned_reward, rerank_tables
from cluster.report.plots import curve
from cluster.report.trajectories import browser, outcomes, token_bytes
from cluster.run_folder import RunFolder, StageFolder, read_lines, write_atomically

_STYLE = """body{font:15px system-ui,sans-serif;margin:2rem auto;max-width:70rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.3rem .9rem;text-align:left;border-bottom:1px solid #ddd}
.plots{display:grid;grid-template-columns:1fr 1fr;gap:.5rem}code{background:#f4f4f4;padding:.1rem .3rem}
details{border-bottom:1px solid #ddd;padding:.3rem}pre{margin:.3rem 0;overflow-x:auto}.prompt{color:#666}"""

Series = dict[str, list[tuple[int, float]]]


def write_report(root: Path) -> Path:
    """Writes ``report.html`` into a run's folder from its files and returns its path."""
    if not (root / "config.yaml").exists():
        raise RunFolderError(f"{root} is no run folder: it has no config.yaml")
    folder = RunFolder(root)
    series = _series(folder)
    body = [f"<h1>{html.escape(root.name)}</h1>", _evaluations(root)]
    names = dict.fromkeys([*series, *(path.name for path in sorted(root.glob("stages/*")))])
    for stage in names:
        metrics, parts = series.get(stage, {}), _stage_parts(folder, stage)
        plots = [curve(name, points) for name, points in sorted(metrics.items()) if len(points) > 1]
        if plots or parts:
            body += [f"<h2>{html.escape(stage)}</h2><div class=plots>", *plots, "</div>", *parts]
    body.append(f"<h2>Config</h2><pre>{html.escape((root / 'config.yaml').read_text())}</pre>")
    page = (
        f"<!doctype html><meta charset=utf-8><title>{html.escape(root.name)}</title><style>{_STYLE}</style>"
        f"<script>{get_plotlyjs()}</script>" + "\n".join(body)
    )
    write_atomically(folder.report, page)
    return folder.report


def _series(folder: RunFolder) -> dict[str, Series]:
    """stage -> metric -> points; where a step was measured in two lineages, the later one stands."""
    values: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for record in read_lines(folder.metrics):
        for name, value in record.items():
            if name not in {"time", "stage", "lineage", "step"} and value is not None:
                values[record["stage"]][name][record["step"]] = value
    return {
        stage: {name: sorted(points.items()) for name, points in metrics.items()} for stage, metrics in values.items()
    }


def _stage_parts(folder: RunFolder, stage: str) -> list[str]:
    if not (folder.root / "stages" / stage).is_dir():  # a stage's own warm-up logs under a name without a folder
        return []
    files = folder.stage(stage)
    return [*learned_reward(files), *outcomes(files), *browser(files, token_bytes(folder, stage))]


def _evaluations(root: Path) -> str:
    rows: list[str] = []
    for path in sorted(root.glob("stages/*")):
        manifest = StageFolder(path).manifest()
        if manifest is not None and manifest["kind"] == "evaluate":
            rows.append(_evaluation_row(path.name, manifest["figures"]))
    if not rows:
        return "<p>Nothing was evaluated yet.</p>"
    head = "<tr><th>evaluation<th>sampled pass@1<th>greedy pass@1<th>difference (sampled)</tr>"
    return f"<h2>Evaluation</h2><table>{head}{''.join(rows)}</table>" + rerank_tables(root)


def _evaluation_row(name: str, figures: dict[str, Any]) -> str:
    estimates = [
        figures.get("sampled_pass_at_1"),
        figures.get("greedy_pass_at_1"),
        figures.get("difference", {}).get("sampled_pass_at_1"),
    ]
    cells = "".join(f"<td>{_interval(estimate)}" for estimate in estimates)
    return f"<tr><td>{html.escape(name)}{cells}</tr>"


def _interval(estimate: dict[str, float] | None) -> str:
    if estimate is None:
        return ""
    return f"{estimate['mean']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"
