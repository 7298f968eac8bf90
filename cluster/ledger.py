"""The ledger: what was issued, completed, trained and dropped, by identity and lineage.

Each part is written by who does it. The driver's ``ledger.jsonl``:
    {"kind": "start", "lineage": 2, "parent": "L1.S40",      began at this checkpoint, or anew; the policy that the
     "initial_weights": ".."}                                trainer had loaded before (learner.checkpoint)
    {"kind": "issued", "lineage": 2, "place": 71, "problem": "..", "epoch": 0, "samples": 4, "attempt": 0,
     "version": "L2.S40"}                                     attempt 1: instead of the group issued there before
    {"kind": "completed", "lineage": 2, "place": 71}          its group was sampled, executed and scored
    {"kind": "checkpoint", "version": "L2.S50"}
The trainer's ``steps/L2.jsonl``, synced before the step is reported:
    {"version": "L2.S41", "trained": [..], "dropped": {..}}   the weights L2.S41 came of these
Together with the journal, which holds what was completed, they are all that ``cluster.verify`` looks at.

The *surviving lineage* is the chain of versions from the last one back through the parents: steps of an abandoned
lineage that lie after the checkpoint at which its successor began are not in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.lines import append_line
from cluster.run_folder import read_lines
from problems.identity import WeightsVersion

STEPS_FOLDER = "steps"


class Ledger:
    """Appends to one stage's ledger. ``start`` and ``checkpoint`` are synced, and bring the lines before them along."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def start(self, lineage: int, parent: WeightsVersion | None, initial_weights: str | None = None) -> None:
        """``initial_weights``: fingerprint of the policy that the trainer has loaded, before any checkpoint."""
        record = {"kind": "start", "lineage": lineage, "parent": str(parent) if parent else None}
        append_line(self._path, record | {"initial_weights": initial_weights})

    def issued(
        self, version: WeightsVersion, *, place: int, problem_id: str, epoch: int, num_samples: int, attempt: int = 0
    ) -> None:
        """A group was admitted, or (``attempt`` 1) takes the place of one without signal.

        ``version``: of the weights that serve now.
        """
        record = {"kind": "issued", "lineage": version.lineage, "place": place, "problem": problem_id}
        record |= {"epoch": epoch, "samples": num_samples, "attempt": attempt, "version": str(version)}
        append_line(self._path, record, sync=False)

    def completed(self, lineage: int, place: int) -> None:
        append_line(self._path, {"kind": "completed", "lineage": lineage, "place": place}, sync=False)

    def checkpoint(self, version: WeightsVersion) -> None:
        append_line(self._path, {"kind": "checkpoint", "version": str(version)})


def steps_file(ledger: Path, lineage: int) -> Path:
    """Where the trainer of a lineage writes its steps. One writer a file: a trainer that was given up for dead and
    still writes does not disturb its successor."""
    return ledger.parent / STEPS_FOLDER / f"L{lineage}.jsonl"


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step. ``version``: of the weights after it."""

    version: WeightsVersion
    trained: tuple[str, ...]
    dropped: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Segment:
    """What survives of one lineage: its steps after ``start``, up to ``end`` (None: all that there are)."""

    lineage: int
    start: int
    end: int | None

    def holds(self, step: int) -> bool:
        """Whether the weights after ``step`` are among those that survive."""
        return self.start <= step and (self.end is None or step <= self.end)


def surviving_segments(records: list[dict[str, Any]]) -> list[Segment]:
    """The chain of lineages that the last weights came of, in order, from the ledger's lines."""
    parents: dict[int, WeightsVersion | None] = {
        record["lineage"]: WeightsVersion.parse(record["parent"]) if record["parent"] else None
        for record in records
        if record["kind"] == "start"
    }
    segments: list[Segment] = []
    lineage, end = max(parents, default=-1), None
    while lineage in parents:
        parent = parents[lineage]
        segments.insert(0, Segment(lineage, parent.step if parent else 0, end))
        if parent is None:
            break
        lineage, end = parent.lineage, parent.step
    return segments


def steps_of(ledger: Path, segment: Segment) -> list[Step]:
    """The surviving steps of one lineage as its trainer wrote them, in the file's order."""
    records = read_lines(steps_file(ledger, segment.lineage))
    steps = [Step(WeightsVersion.parse(r["version"]), tuple(r["trained"]), r["dropped"]) for r in records]
    return [step for step in steps if segment.holds(step.version.step)]


def surviving_steps(ledger: Path) -> list[Step]:
    """The steps that the last weights came of, in order."""
    return [step for segment in surviving_segments(read_lines(ledger)) for step in steps_of(ledger, segment)]
