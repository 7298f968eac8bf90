"""The watches over a stage's learned rewards, and what they are told of the steps before a restart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from actors.rewards import ProcessTermConfig, RewardModelTermConfig
from cluster.journal import JournalEntry, journal_path, read_journal
from cluster.ledger import surviving_steps
from cluster.run_folder import StageFolder
from cluster.stage_config import FilterChoiceConfig, PPOStage
from cluster.stages.learned_reward import RewardWatch
from cluster.stages.process_watch import ProcessWatch
from problems.identity import WeightsVersion


def watches_of(stage: PPOStage) -> tuple[RewardWatch | ProcessWatch, ...]:
    """One over each learned reward."""
    watches: list[RewardWatch | ProcessWatch] = []
    if any(isinstance(term, RewardModelTermConfig) for term in stage.rewards):
        watches.append(RewardWatch(stage.choose_filter or FilterChoiceConfig()))
    if any(isinstance(term, ProcessTermConfig) for term in stage.rewards):
        watches.append(ProcessWatch(stage.rewards))
    return tuple(watches)


def look_back(folder: StageFolder, watches: Sequence[RewardWatch | ProcessWatch]) -> None:
    """Tells watches that are new what those before them had seen of the surviving steps, from the journals."""
    for _, groups in surviving_groups(folder) if watches else ():
        for watch in watches:
            watch.recall(groups)


def surviving_groups(folder: StageFolder) -> Iterator[tuple[int, list[list[JournalEntry]]]]:
    """Each step that the last weights came of, with the groups that it was offered, without those that were replaced.

    A step whose journal somebody has taken away is passed over.
    """
    for step in surviving_steps(folder.ledger):
        path = journal_path(folder.trajectories, WeightsVersion(step.version.lineage, step.version.step - 1))
        offered: dict[int, list[JournalEntry]] = {}
        for entry in read_journal(path) if path.exists() else ():
            if entry.trajectory.drop_reason != "replaced":
                offered.setdefault(entry.trajectory.group, []).append(entry)
        if offered:
            yield step.version.step, list(offered.values())
