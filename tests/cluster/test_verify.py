"""``crucible verify`` on runs written by hand: two lineages, a sound one, and one planted fault at a time."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from actors.lines import append_line
from cluster.cli import app
from cluster.errors import RunFolderError
from cluster.journal import JournalEntry, journal_path, read_journal, write_journal
from cluster.ledger import Ledger, steps_file
from cluster.run_folder import read_lines
from cluster.verify import StageAccount, verify_run
from learner.trajectory import FinishReason, Trajectory, Turn, VersionSpan
from problems.identity import TrajectoryId, WeightsVersion

PLACES_PER_STEP = 2
SAMPLES = 2
NUM_STEPS = 4
BOUND = 1


class Run:
    """L0 made steps 1 to 3 and was rolled back to 2; L1 made 3 and 4. Step 4 trains tokens of L1.S2 and L1.S3.

    place  0 1 | 2 3 | 4 5 (abandoned)
                     | 4 5 | 6 7
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stage = root / "stages" / "ppo"
        self.ledger = self.stage / "ledger.jsonl"
        stage = {"kind": "ppo", "name": "ppo", "max_staleness": BOUND, "learner": {"num_steps": NUM_STEPS}}
        root.mkdir()
        (root / "config.yaml").write_text(yaml.safe_dump({"name": "run", "stages": [{"kind": "sft"}, stage]}))
        Ledger(self.ledger).start(0, None)
        for step in (1, 2, 3):
            self.step(0, step)
        Ledger(self.ledger).start(1, WeightsVersion(0, 2))
        for step in (3, 4):
            self.step(1, step)

    def finish(self) -> None:
        (self.stage / "manifest.json").write_text("{}")

    def ids(self, place: int) -> list[TrajectoryId]:
        return [TrajectoryId("run", "ppo", place // 5, f"p{place % 5}", index) for index in range(SAMPLES)]

    def entry(self, identity: TrajectoryId, place: int, versions: Sequence[WeightsVersion]) -> JournalEntry:
        spans = tuple(VersionSpan(version, at, at + 1) for at, version in enumerate(versions))
        ids, logprobs = np.arange(len(spans), dtype=np.int32), np.zeros(len(spans), np.float32)
        turn = Turn(ids, ids, np.ones(len(spans), np.bool_), logprobs, spans, FinishReason.STOP)
        return JournalEntry(Trajectory(identity, place, (turn,)))

    def step(self, lineage: int, step: int) -> None:
        before = WeightsVersion(lineage, step - 1)
        places = range((step - 1) * PLACES_PER_STEP, step * PLACES_PER_STEP)
        for place in places:
            Ledger(self.ledger).issued(
                before, place=place, problem_id=f"p{place % 5}", epoch=place // 5, num_samples=SAMPLES
            )
        oldest = WeightsVersion(lineage, max(0 if lineage == 0 else 2, step - 1 - BOUND))
        entries = [self.entry(identity, place, [oldest, before]) for place in places for identity in self.ids(place)]
        write_journal(self.stage / "trajectories", before, entries)
        names = [str(identity) for place in places for identity in self.ids(place)]
        record = {"version": str(before.next()), "trained": names[:-1], "dropped": {names[-1]: "filter:bw"}}
        append_line(steps_file(self.ledger, lineage), record)

    def journal(self, lineage: int, step: int, change: Callable[[list[JournalEntry]], list[JournalEntry]]) -> None:
        """Changes what stands in the journal of a step."""
        before = WeightsVersion(lineage, step - 1)
        entries = read_journal(journal_path(self.stage / "trajectories", before))
        write_journal(self.stage / "trajectories", before, change(entries))

    def record(self, lineage: int, index: int, change: Callable[[dict], dict | None]) -> None:
        """Changes or removes what a trainer wrote of one step."""
        path = steps_file(self.ledger, lineage)
        records: list[dict | None] = list(read_lines(path))
        records[index] = change(records[index] or {})
        path.write_text("".join(json.dumps(record) + "\n" for record in records if record is not None))

    def account(self) -> StageAccount:
        (account,) = verify_run(self.root)
        return account


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def only(account: StageAccount, kind: str) -> list[str]:
    """What was found of one kind; of the others nothing may have been found."""
    others = {"lost", "repeated", "unexplained", "bound_broken"} - {kind}
    assert {other: getattr(account, other) for other in others} == {other: [] for other in others}
    return getattr(account, kind)


def test_a_sound_run_is_sound_and_its_abandoned_lineage_is_told_apart(run: Run) -> None:
    account = run.account()
    assert account.is_sound, account
    assert (account.steps, account.issued, account.completed) == (4, 8, 16)
    assert (account.trained, dict(account.dropped)) == (12, {"filter:bw": 4})
    assert account.abandoned == {0: 1}
    assert account.in_flight == 0


def test_what_is_in_flight_is_not_lost_until_the_stage_is_done(run: Run) -> None:
    Ledger(run.ledger).issued(WeightsVersion(1, 4), place=8, problem_id="p3", epoch=1, num_samples=SAMPLES)
    assert run.account().is_sound
    assert run.account().in_flight == 1
    run.finish()
    assert only(run.account(), "lost") == [
        f"run/ppo/1/p3/{index}/0 was issued (place 8) and never offered to a step" for index in range(SAMPLES)
    ]


def test_a_trajectory_that_was_offered_and_neither_trained_nor_dropped_is_lost(run: Run) -> None:
    run.record(1, 0, lambda record: record | {"trained": record["trained"][1:]})
    assert only(run.account(), "lost") == [
        "run/ppo/0/p4/0/0 was offered to step L1.S3, which neither trained nor dropped it"
    ]


def test_a_trajectory_that_was_issued_and_never_offered_is_lost(run: Run) -> None:
    run.journal(0, 2, lambda entries: entries[1:])
    run.record(0, 1, lambda record: record | {"trained": record["trained"][1:]})
    assert only(run.account(), "lost") == ["run/ppo/0/p2/0/0 was issued (place 2) and never offered to a step"]


def test_a_group_that_was_never_issued_again_after_a_rollback_is_lost(run: Run) -> None:
    run.journal(1, 3, lambda entries: [entry for entry in entries if entry.trajectory.group != 4])
    run.record(1, 0, lambda record: record | {"trained": [name for name in record["trained"] if "p4" not in name]})
    lines = [record for record in read_lines(run.ledger) if record.get("place") != 4]
    run.ledger.write_text("".join(json.dumps(record) + "\n" for record in lines))
    assert only(run.account(), "lost") == ["place 4 of the stream was passed over"]


def test_a_missing_step_and_a_missing_journal_are_lost(run: Run) -> None:
    run.record(0, 0, lambda _: None)
    lost = only(run.account(), "lost")
    assert "step L0.S1 has no record" in lost
    assert "run/ppo/0/p0/0/0 was issued (place 0) and never offered to a step" in lost
    journal_path(run.stage / "trajectories", WeightsVersion(1, 3)).unlink()
    assert any("step-000003.L1.parquet" in what for what in run.account().lost)


def test_a_damaged_journal_is_named(run: Run) -> None:
    path = journal_path(run.stage / "trajectories", WeightsVersion(1, 3))
    path.write_bytes(path.read_bytes()[:-40])
    assert any("step-000003.L1.parquet" in what and "cannot be read" in what for what in run.account().lost)


def test_a_trajectory_that_was_trained_in_two_steps_is_repeated(run: Run) -> None:
    again = run.ids(0)[0]
    run.journal(1, 4, lambda entries: [*entries, run.entry(again, 0, [WeightsVersion(1, 3)])])
    run.record(1, 1, lambda record: record | {"trained": [*record["trained"], str(again)]})
    assert only(run.account(), "repeated") == ["run/ppo/0/p0/0/0 was trained 2 times"]


def test_a_trajectory_that_was_offered_again_is_repeated_even_if_it_is_dropped(run: Run) -> None:
    again = run.ids(0)[0]
    run.journal(1, 4, lambda entries: [*entries, run.entry(again, 0, [WeightsVersion(1, 3)])])
    run.record(1, 1, lambda record: record | {"dropped": record["dropped"] | {str(again): "filter:bw"}})
    assert only(run.account(), "repeated") == ["run/ppo/0/p0/0/0 was offered 2 times"]


def test_a_step_that_was_recorded_twice_is_repeated(run: Run) -> None:
    append_line(steps_file(run.ledger, 1), read_lines(steps_file(run.ledger, 1))[0])
    assert any("L1.S3 was recorded again" in what for what in run.account().repeated)


def test_what_was_trained_without_having_been_sampled_is_unexplained(run: Run) -> None:
    run.record(1, 1, lambda record: record | {"trained": [*record["trained"], "run/ppo/9/p9/0/0"]})
    assert only(run.account(), "unexplained") == [
        "run/ppo/9/p9/0/0 is in the record of step L1.S4 and not in its journal"
    ]


@pytest.mark.parametrize(
    ("version", "why"),
    [
        (WeightsVersion(0, 1), "tokens of L0.S1, 2 versions before step L1.S4 (bound 1)"),
        (WeightsVersion(0, 3), "tokens of the abandoned weights L0.S3"),
        (WeightsVersion(7, 3), "tokens of the abandoned weights L7.S3"),
        (WeightsVersion(1, 4), "tokens of L1.S4, -1 versions before step L1.S4 (bound 1)"),
    ],
)
def test_a_token_of_weights_that_are_too_old_or_abandoned_breaks_the_bound(
    run: Run, version: WeightsVersion, why: str
) -> None:
    def older(entries: list[JournalEntry]) -> list[JournalEntry]:
        trajectory = entries[0].trajectory
        planted = run.entry(trajectory.id, trajectory.group, [version, WeightsVersion(1, 3)])
        return [replace(entries[0], trajectory=planted.trajectory), *entries[1:]]

    run.journal(1, 4, older)
    (found,) = only(run.account(), "bound_broken")
    assert found.endswith(why)


def test_a_stage_that_says_it_is_done_too_early_has_lost_steps(run: Run) -> None:
    run.finish()
    assert run.account().is_sound
    run.record(1, 1, lambda _: None)
    assert any("done after 3 of 4" in what for what in run.account().lost)


def test_a_ledger_that_is_not_there_hides_nothing(run: Run) -> None:
    run.finish()
    run.ledger.unlink()
    assert "ledger.jsonl is not there" in run.account().lost
    assert CliRunner().invoke(app, ["verify", str(run.root)]).exit_code == 1
    (run.stage / "manifest.json").unlink()
    assert "ledger.jsonl is not there" in run.account().lost


def test_records_that_were_cut_off_are_missed_by_what_the_driver_wrote(run: Run) -> None:
    """The newest journal may be of a step in progress; the one before it, and a checkpoint, may not."""
    run.record(1, 1, lambda _: None)
    assert run.account().lost == []
    Ledger(run.ledger).checkpoint(WeightsVersion(0, 9))  # of an abandoned lineage
    assert run.account().lost == []
    run.record(1, 0, lambda _: None)
    assert run.account().lost == ["step L1.S3 has no record"]
    steps_file(run.ledger, 1).unlink()
    Ledger(run.ledger).checkpoint(WeightsVersion(1, 4))
    assert run.account().lost == ["step L1.S3 has no record", "step L1.S4 has no record"]


def test_the_command_says_it_in_lines_and_by_its_exit_code(run: Run) -> None:
    sound = CliRunner().invoke(app, ["verify", str(run.root)])
    assert sound.exit_code == 0
    assert "0 lost, 0 repeated, bound never broken" in sound.output
    assert "L0 was abandoned with 1 steps" in sound.output
    run.record(1, 0, lambda record: record | {"trained": record["trained"][1:]})
    broken = CliRunner().invoke(app, ["verify", str(run.root)])
    assert broken.exit_code == 1
    assert "lost: run/ppo/0/p4/0/0" in broken.output


def test_a_folder_that_holds_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="holds no run"):
        verify_run(tmp_path)


def test_a_group_that_was_replaced_is_accounted_with_the_one_in_its_place(run: Run) -> None:
    """Place 7 (lineage 1, step 4): its own group had no signal and was dropped for another."""
    substitutes = [TrajectoryId("run", "ppo", 0, "p1", index, 1) for index in range(SAMPLES)]
    version = WeightsVersion(1, 3)
    run.journal(1, 4, lambda entries: [*entries, *(run.entry(one, 7, [version]) for one in substitutes)])
    names = [str(identity) for identity in run.ids(7)]
    run.record(
        1,
        -1,
        lambda record: {
            **record,
            "trained": [name for name in record["trained"] if name not in names] + [str(one) for one in substitutes],
            "dropped": dict.fromkeys(names, "replaced"),
        },
    )
    never = [f"{one} was offered (place 7) and never issued" for one in substitutes]
    assert only(run.account(), "unexplained") == never
    issue = {"place": 7, "problem_id": "p1", "epoch": 0, "num_samples": SAMPLES, "attempt": 1}
    Ledger(run.ledger).issued(version, **issue)
    account = run.account()
    assert account.is_sound
    assert account.dropped["replaced"] == SAMPLES
    assert (account.issued, account.completed) == (9, 18)
    # A second replacement that never came back is lost; once the place is issued anew, only what came after counts.
    Ledger(run.ledger).issued(version, **(issue | {"problem_id": "p2"}))
    assert only(run.account(), "lost") == [
        f"run/ppo/0/p2/{index}/1 was issued (place 7) and never offered to a step" for index in range(SAMPLES)
    ]
    Ledger(run.ledger).issued(version, place=7, problem_id="p2", epoch=1, num_samples=SAMPLES)
    Ledger(run.ledger).issued(version, **issue)
    assert run.account().is_sound
