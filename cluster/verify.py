"""``crucible verify``: whether a run lost or repeated anything, or broke its staleness bound.

Recomputed from what is on disk, never from a counter of the process that is checked:
    ledger.jsonl            which lineages there were, and which places of the stream each of them issued
    trajectories/*.parquet  what was completed and offered to each optimizer step, with the version of every token
    steps/L*.jsonl          what each optimizer step trained and dropped
Only the lineage of the surviving weights counts; what was rolled back with an abandoned one is told apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from cluster.errors import RunFolderError
from cluster.journal import OfferedRow, journal_path, read_offered
from cluster.ledger import STEPS_FOLDER, Segment, Step, steps_of, surviving_segments
from cluster.run_folder import StageFolder, read_lines
from problems.identity import TrajectoryId, WeightsVersion

_SHOWN = 20


@dataclass(slots=True)
class StageAccount:
    """What one stage's files say. The lists name identities, places or steps, each with what is wrong.

    Attributes:
        stage: its name.
        issued: groups that the surviving lineage issued.
        completed: trajectories that were offered to its steps.
        trained: those of them that made an update.
        dropped: reason -> how many of them did not.
        steps: optimizer steps of the surviving lineage.
        in_flight: groups that were issued and not yet offered to a step, in a stage that goes on.
        abandoned: lineage -> optimizer steps that were rolled back with it.
        lost: issued or completed, and neither trained nor dropped.
        repeated: offered or trained more than once.
        unexplained: trained or dropped, but never issued or not in the journal.
        bound_broken: trained on tokens of weights that were too old, or of an abandoned lineage.
    """

    stage: str
    issued: int = 0
    completed: int = 0
    trained: int = 0
    dropped: Counter[str] = field(default_factory=Counter[str])
    steps: int = 0
    in_flight: int = 0
    abandoned: dict[int, int] = field(default_factory=dict[int, int])
    lost: list[str] = field(default_factory=list[str])
    repeated: list[str] = field(default_factory=list[str])
    unexplained: list[str] = field(default_factory=list[str])
    bound_broken: list[str] = field(default_factory=list[str])

    @property
    def is_sound(self) -> bool:
        return not (self.lost or self.repeated or self.unexplained or self.bound_broken)


def verify_run(root: Path) -> list[StageAccount]:
    """The account of each stage that trains on what it sampled. Raises RunFolderError if ``root`` is no run."""
    config_file = root / "config.yaml"
    if not config_file.exists():
        raise RunFolderError(f"{root} holds no run: there is no config.yaml in it")
    config = yaml.safe_load(config_file.read_text(encoding="utf-8"))
    stages = [stage for stage in config["stages"] if stage["kind"] == "ppo"]
    begun = [stage for stage in stages if _has_begun(StageFolder(root / "stages" / stage["name"]))]
    return [_account(root, config["name"], stage) for stage in begun]


def _has_begun(folder: StageFolder) -> bool:
    """Whether there is anything to account for: one file of it that is missing must not hide the others."""
    traces = [*folder.trajectories.glob("step-*.parquet"), *(folder.root / STEPS_FOLDER).glob("L*.jsonl")]
    return folder.ledger.exists() or folder.manifest() is not None or bool(traces)


def _account(root: Path, run: str, stage: Mapping[str, Any]) -> StageAccount:
    folder = StageFolder(root / "stages" / stage["name"])
    account = StageAccount(stage["name"])
    if not folder.ledger.exists():
        account.lost.append("ledger.jsonl is not there")
    records = read_lines(folder.ledger)
    segments = surviving_segments(records)
    offered_places: dict[int, dict[TrajectoryId, OfferedRow]] = {}
    offers = _Offers(Counter(), Counter())
    for segment in segments:
        steps = steps_of(folder.ledger, segment)
        _check_contiguous(account, segment, steps, _least_end(folder, records, segment))
        for step in steps:
            rows = _read_rows(account, folder, step)
            _check_step(account, step, rows, offers)
            _check_bound(account, step, rows, segments, stage["max_staleness"])
            for row in rows:
                offered_places.setdefault(row.place, {})[row.id] = row
    _check_repeats(account, offers)
    is_finished = folder.manifest() is not None
    if is_finished and account.steps != stage["learner"]["num_steps"]:
        account.lost.append(f"steps: the stage is done after {account.steps} of {stage['learner']['num_steps']}")
    issued = [_Issue.of(record) for record in records if record["kind"] == "issued"]
    _check_issued(account, run, [issue for issue in issued if issue.lineage in _lineages(segments)],
                  offered_places, is_finished=is_finished)  # fmt: skip
    account.abandoned = _abandoned(folder, segments)
    return account


@dataclass(frozen=True, slots=True)
class _Offers:
    """How often each identity was offered to the surviving steps, and how often one of them trained it."""

    offered: Counter[str]
    trained: Counter[str]


@dataclass(frozen=True, slots=True)
class _Issue:
    """One issued group."""

    lineage: int
    place: int
    problem: str
    epoch: int
    samples: int
    attempt: int

    @staticmethod
    def of(record: Mapping[str, Any]) -> _Issue:
        return _Issue(
            record["lineage"],
            record["place"],
            record["problem"],
            record["epoch"],
            record["samples"],
            record.get("attempt", 0),
        )

    def identities(self, run: str, stage: str) -> list[TrajectoryId]:
        return [
            TrajectoryId(run, stage, self.epoch, self.problem, index, self.attempt) for index in range(self.samples)
        ]


def _lineages(segments: Sequence[Segment]) -> set[int]:
    return {segment.lineage for segment in segments}


def _least_end(folder: StageFolder, records: Sequence[Mapping[str, Any]], segment: Segment) -> int:
    """The step up to which a segment must have records: its end, or what the driver's own files say was reached.

    The newest journal may be of a step in progress; those before it are of steps that were made.
    """
    if segment.end is not None:
        return segment.end
    saved = [WeightsVersion.parse(record["version"]) for record in records if record["kind"] == "checkpoint"]
    reached = [version.step for version in saved if version.lineage == segment.lineage]
    journals = folder.trajectories.glob(f"step-*.L{segment.lineage}.parquet")
    reached += [int(path.name.removeprefix("step-").partition(".")[0]) for path in journals]  # steps before its own
    return max(reached, default=0)


def _check_contiguous(account: StageAccount, segment: Segment, steps: Sequence[Step], end: int) -> None:
    """Every step after the segment's start, each once and in order, at least up to ``end``."""
    expected = segment.start
    for step in steps:
        expected += 1
        if step.version.step < expected:
            account.repeated.append(f"step {step.version} was recorded again")
            expected = step.version.step
        for missing in range(expected, step.version.step):
            account.lost.append(f"step {WeightsVersion(segment.lineage, missing)} has no record")
        expected = step.version.step
    for missing in range(expected + 1, end + 1):
        account.lost.append(f"step {WeightsVersion(segment.lineage, missing)} has no record")


def _read_rows(account: StageAccount, folder: StageFolder, step: Step) -> list[OfferedRow]:
    before = WeightsVersion(step.version.lineage, step.version.step - 1)
    path = journal_path(folder.trajectories, before)
    try:
        return read_offered(path)
    except FileNotFoundError:
        account.lost.append(f"{path.name}: the journal of step {step.version} is not there")
    except (OSError, pa.ArrowException) as error:
        account.lost.append(f"{path.name}: the journal of step {step.version} cannot be read ({error})")
    return []


def _check_step(account: StageAccount, step: Step, rows: Sequence[OfferedRow], offers: _Offers) -> None:
    """The step's record against the journal: each offered trajectory is trained or dropped, and nothing else is."""
    account.steps += 1
    account.completed += len(rows)
    account.trained += len(step.trained)
    account.dropped.update(step.dropped.values())
    offered = [str(row.id) for row in rows]
    offers.offered.update(offered)
    offers.trained.update(step.trained)
    accounted = {*step.trained, *step.dropped}
    account.repeated += [
        f"{name} was both trained and dropped by step {step.version}"
        for name in sorted(set(step.trained) & step.dropped.keys())
    ]
    account.lost += [
        f"{name} was offered to step {step.version}, which neither trained nor dropped it"
        for name in sorted(set(offered) - accounted)
    ]
    account.unexplained += [
        f"{name} is in the record of step {step.version} and not in its journal"
        for name in sorted(accounted - set(offered))
    ]


def _check_bound(
    account: StageAccount, step: Step, rows: Sequence[OfferedRow], segments: Sequence[Segment], bound: int
) -> None:
    """No trained token is of weights more than ``bound`` versions older than those the step began with."""
    survivors = {segment.lineage: segment for segment in segments}
    trained = set(step.trained)
    for row in rows:
        if str(row.id) not in trained:
            continue
        for version in row.versions:
            lag = step.version.step - 1 - version.step
            segment = survivors.get(version.lineage)
            if segment is None or not segment.holds(version.step):
                account.bound_broken.append(f"{row.id} has tokens of the abandoned weights {version}")
            elif not 0 <= lag <= bound:
                account.bound_broken.append(
                    f"{row.id} has tokens of {version}, {lag} versions before step {step.version} (bound {bound})"
                )


def _check_repeats(account: StageAccount, offers: _Offers) -> None:
    account.repeated += [f"{name} was trained {count} times" for name, count in offers.trained.items() if count > 1]
    account.repeated += [
        f"{name} was offered {count} times"
        for name, count in offers.offered.items()
        if count > 1 and offers.trained[name] < 2
    ]


def _check_issued(
    account: StageAccount,
    run: str,
    issues: Sequence[_Issue],
    offered: Mapping[int, Mapping[TrajectoryId, OfferedRow]],
    *,
    is_finished: bool,
) -> None:
    """Every group of a place was offered whole, those that were replaced too, as the lineage that issued the place last
    has them; and no place was passed over."""
    last = _last_issues(issues)
    account.issued = sum(len(issued) for issued in last.values())
    expected = {
        place: [name for issue in issued for name in issue.identities(run, account.stage)]
        for place, issued in last.items()
    }
    newest = max(offered, default=-1)
    for place, names in sorted(expected.items()):
        if place > newest and not is_finished:
            account.in_flight += len(last[place])
            continue
        missing = [name for name in names if name not in offered.get(place, {})]
        account.lost += [f"{name} was issued (place {place}) and never offered to a step" for name in missing]
    account.lost += [f"place {place} of the stream was passed over" for place in range(newest) if place not in offered]
    for place in sorted(offered):
        unknown = sorted(offered[place].keys() - set(expected.get(place, ())))
        account.unexplained += [f"{name} was offered (place {place}) and never issued" for name in unknown]


def _last_issues(issues: Sequence[_Issue]) -> dict[int, list[_Issue]]:
    """Place -> the groups that its last holder issued there: the first one, and those that replaced it."""
    last: dict[int, list[_Issue]] = {}
    for issue in issues:
        if issue.attempt == 0:
            last[issue.place] = []
        last.setdefault(issue.place, []).append(issue)
    return last


def _abandoned(folder: StageFolder, segments: Sequence[Segment]) -> dict[int, int]:
    """Steps that were rolled back, by lineage."""
    survivors = {segment.lineage: segment for segment in segments}
    counts: dict[int, int] = {}
    for path in sorted((folder.root / STEPS_FOLDER).glob("L*.jsonl")):
        versions = [WeightsVersion.parse(record["version"]) for record in read_lines(path)]
        gone = [v for v in versions if v.lineage not in survivors or not survivors[v.lineage].holds(v.step)]
        if gone:
            counts[gone[0].lineage] = len(gone)
    return counts


def shown(account: StageAccount) -> list[str]:
    """The account as lines for a person."""
    dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(account.dropped.items()))
    lines = [
        f"{account.stage}: {account.steps} steps; {account.issued} groups issued, {account.completed} trajectories "
        f"completed, {account.trained} trained, {account.dropped.total()} dropped"
        + (f" ({dropped})" if dropped else "")
    ]
    if account.in_flight:
        lines.append(f"  {account.in_flight} groups in flight, or to be issued again")
    lines += [
        f"  lineage L{lineage} was abandoned with {count} steps" for lineage, count in sorted(account.abandoned.items())
    ]
    lines.append(
        f"  {len(account.lost)} lost, {len(account.repeated)} repeated, "
        + (f"bound broken {len(account.bound_broken)} times" if account.bound_broken else "bound never broken")
        + (f", {len(account.unexplained)} unexplained" if account.unexplained else "")
    )
    for title in ("lost", "repeated", "unexplained", "bound_broken"):
        found: list[str] = getattr(account, title)
        lines += [f"  {title.replace('_', ' ')}: {what}" for what in found[:_SHOWN]]
        if len(found) > _SHOWN:
            lines.append(f"  {title.replace('_', ' ')}: and {len(found) - _SHOWN} more")
    return lines
