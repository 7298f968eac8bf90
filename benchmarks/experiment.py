"""What the experiments share: runs through the command line, as a user would start them, and one JSON an arm."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).resolve().parent.parent
ARMS = Path(__file__).resolve().parent / "arms"
RUNS = ROOT / "runs" / "experiments"
"""Run folders that several arms share, or that an arm goes on with after an interruption."""
_T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # two-sided Student t for n seeds (n - 1 degrees of freedom)


def run_missing(experiment: str, arms: Mapping[str, Callable[[], dict[str, Any]]]) -> None:
    """Runs the arms without a JSON yet; ``sys.argv`` may name some of them, or ask for a ``--list``."""
    folder = ARMS / experiment
    folder.mkdir(parents=True, exist_ok=True)
    named = {argument for argument in sys.argv[1:] if argument != "--list"}
    unknown = named - arms.keys()
    if unknown:
        raise SystemExit(f"{experiment} has no arm {sorted(unknown)[0]!r}; it has {', '.join(arms)}")
    for name, run in arms.items():
        if named and name not in named:
            continue
        path = folder / f"{name}.json"
        if path.exists() or "--list" in sys.argv:
            print(f"{name}: {'stands' if path.exists() else 'missing'}")
            continue
        result = run() | {"arm": name, "machine": f"{os.cpu_count()} cores, {platform.machine()}"}
        aside = path.with_suffix(".part")
        aside.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
        aside.rename(path)
        print(f"{name}: done in {result.get('wall_s', float('nan')):.0f} s", flush=True)


def run_recipe(recipe: Path, name: str, folder: Path, overrides: Sequence[str] = ()) -> dict[str, float]:
    """``crucible run``; returns its wall time and what the whole machine computed meanwhile, in seconds.

    Ray's processes and containers are not the command's children: hence the machine's.
    """
    command = [str(Path(sys.executable).with_name("crucible")), "run", str(recipe), "--name", name]
    command += ["--folder", str(folder)]
    command += [part for override in overrides for part in ("--set", override)]
    begun, busy_before = time.time(), machine_cpu_s()
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return {"wall_s": round(time.time() - begun, 1), "machine_cpu_s": round(machine_cpu_s() - busy_before, 1)}


def machine_cpu_s() -> float:
    """CPU seconds that the whole machine has worked."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system


def recipe_file(recipe: Mapping[str, Any], name: str) -> Path:
    """A recipe that an experiment has put together, on disk beside the runs."""
    RUNS.mkdir(parents=True, exist_ok=True)
    path = RUNS / f"{name}.yaml"
    path.write_text(yaml.safe_dump(dict(recipe), sort_keys=False))
    return path


def load_stages(recipe: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """(what a recipe in ``recipes/`` says besides its stages, its stages by name)."""
    loaded = yaml.safe_load((ROOT / "recipes" / recipe).read_text())
    stages = {stage["name"]: stage for stage in loaded.pop("stages")}
    return loaded, stages


def manifests(run: Path) -> dict[str, dict[str, Any]]:
    """The manifest of each finished stage of a run."""
    return {path.parent.name: json.loads(path.read_text()) for path in run.glob("stages/*/manifest.json")}


def logged(run: Path, stage: str) -> list[dict[str, Any]]:
    """The metrics of a stage in the order of its steps; of a step that was taken again, those of the newest lineage."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    records = [record for line in lines if (record := json.loads(line))["stage"] == stage]
    newest: dict[int, int] = {}
    for record in records:
        newest[record["step"]] = max(newest.get(record["step"], -1), record["lineage"])
    kept = [record for record in records if record["lineage"] == newest[record["step"]]]
    return sorted(kept, key=lambda record: record["step"])


def steps_of(run: Path, stage: str, num_steps: int) -> list[dict[str, Any]]:
    """The metrics of each training step; what was logged before the first is left out.

    Raises ValueError where a step was not logged.
    """
    steps = [record for record in logged(run, stage) if record["step"]]
    if (numbers := [step["step"] for step in steps]) != list(range(1, num_steps + 1)):
        raise ValueError(f"{run}: of {stage} steps {numbers} were logged; remove the run, and start it again")
    return steps


def over_seeds(values: Sequence[float]) -> str:
    """Mean and half of its 95 % interval over seeds. Raises KeyError for more than five."""
    if len(values) < 2:
        return f"{values[0]:+.3f} (one seed: no interval)"
    half = _T_95[len(values)] * stdev(values) / math.sqrt(len(values))
    return f"{mean(values):+.3f} ± {half:.3f}"
