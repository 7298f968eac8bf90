"""The ledger: what each optimizer step trained and dropped, by identity and lineage.

Three kinds of lines in a stage's ``ledger.jsonl``, each written and synced before the run goes on:
    {"kind": "start", "lineage": 2, "parent": "L1.S40"}      began at this checkpoint, or anew
    {"kind": "step",  "version": "L2.S41", "trained": [...], "dropped": {...}}      the weights L2.S41 came of these
    {"kind": "checkpoint", "version": "L2.S50"}

The *surviving lineage* is the chain of versions from the last one back through the parents: steps of an abandoned
lineage that lie after the checkpoint at which its successor began are not in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.run_folder import append_line, read_lines
from problems.identity import WeightsVersion


class Ledger:
    """Appends to one stage's ledger."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def start(self, lineage: int, parent: WeightsVersion | None) -> None:
        append_line(self._path, {"kind": "start", "lineage": lineage, "parent": str(parent) if parent else None})

    def step(self, version: WeightsVersion, trained: Iterable[str], dropped: Mapping[str, str]) -> None:
        """``version``: of the weights after the step."""
        record = {"kind": "step", "version": str(version), "trained": list(trained), "dropped": dict(dropped)}
        append_line(self._path, record)

    def checkpoint(self, version: WeightsVersion) -> None:
        append_line(self._path, {"kind": "checkpoint", "version": str(version)})


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step of the surviving lineage."""

    version: WeightsVersion
    trained: tuple[str, ...]
    dropped: Mapping[str, str]


def surviving_steps(path: Path) -> list[Step]:
    """The steps that the last weights came of, in order."""
    parents: dict[int, WeightsVersion | None] = {}
    steps: dict[int, list[Step]] = {}
    for record in read_lines(path):
        _take(record, parents, steps)
    survivors: list[Step] = []
    lineage, last_step = max(parents, default=-1), None
    while lineage in parents:
        own = [step for step in steps.get(lineage, []) if last_step is None or step.version.step <= last_step]
        survivors = own + survivors
        parent = parents[lineage]
        if parent is None:
            break
        lineage, last_step = parent.lineage, parent.step
    return survivors


def _take(record: dict[str, Any], parents: dict[int, WeightsVersion | None], steps: dict[int, list[Step]]) -> None:
    if record["kind"] == "start":
        parents[record["lineage"]] = WeightsVersion.parse(record["parent"]) if record["parent"] else None
    elif record["kind"] == "step":
        version = WeightsVersion.parse(record["version"])
        steps.setdefault(version.lineage, []).append(Step(version, tuple(record["trained"]), record["dropped"]))
