import errno
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import RunFolderError
from cluster.journal import JournalEntry, read_journal, write_journal
from cluster.ledger import Ledger, steps_file, surviving_steps
from cluster.run_folder import RunFolder, append_line, mend_torn_line, read_lines
from learner.trajectory import FinishReason, RewardEvent, Trajectory, Turn, VersionSpan
from problems.identity import TrajectoryId, WeightsVersion


def _hold(root: Path, held, release) -> None:
    with RunFolder(root).locked():
        held.set()
        release.wait(20)


def test_a_second_driver_is_refused_and_told_who_holds_the_run(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "run", held, release))
    other.start()
    assert held.wait(20)
    with (
        pytest.raises(RunFolderError, match=f"already driven by process {other.pid}"),
        RunFolder(tmp_path / "run").locked(),
    ):
        pass
    other.kill()
    other.join()
    with RunFolder(tmp_path / "run").locked():
        pass


def test_a_file_system_without_locks_is_not_taken_for_another_driver(tmp_path: Path, monkeypatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("cluster.run_folder.fcntl.flock", no_locks)
    with pytest.raises(RunFolderError, match=r"without locks .*--folder"), RunFolder(tmp_path / "run").locked():
        pass


def test_a_run_goes_on_only_with_the_config_it_began_with(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.save_config({"a": 1, "free": 1}, {"a": 1})
    folder.save_config({"a": 1, "free": 2}, {"a": 1})
    with pytest.raises(RunFolderError, match="another config"):
        folder.save_config({"a": 2}, {"a": 2})
    assert "free: 2" in (tmp_path / "config.yaml").read_text()


def test_a_torn_last_line_is_passed_over_and_mended_and_an_earlier_one_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    append_line(path, {"n": 1})
    with path.open("a") as file:
        file.write('{"n": 2, "x": ')
    assert read_lines(path) == [{"n": 1}]
    mend_torn_line(path)
    append_line(path, {"n": 3})
    assert read_lines(path) == [{"n": 1}, {"n": 3}]
    path.write_text('{"n": \n{"n": 2}\n')
    with pytest.raises(RunFolderError, match=r"lines.jsonl:1"):
        read_lines(path)


def test_a_line_that_did_not_fit_on_the_disk_leaves_nothing_of_itself(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "lines.jsonl"
    append_line(path, {"n": 1})
    whole, write = path.read_bytes(), os.write

    def full_after_five_bytes(file: int, data: bytes) -> int:
        if len(data) < 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[:5])

    monkeypatch.setattr(os, "write", full_after_five_bytes)
    with pytest.raises(OSError, match="No space"):
        append_line(path, {"n": 2})
    assert path.read_bytes() == whole


def test_lineages_are_never_used_twice(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert [folder.begin_lineage("a"), folder.begin_lineage("b"), RunFolder(tmp_path).begin_lineage("b")] == [0, 1, 2]


def _entry(index: int) -> JournalEntry:
    spans = (VersionSpan(WeightsVersion(0, 4), 0, 2), VersionSpan(WeightsVersion(0, 5), 2, 3))
    turn = Turn(
        np.array([1, 2], np.int32),
        np.array([5, 6, 7], np.int32),
        np.array([True, True, False]),
        np.array([-0.25, -1.5, 0.0], np.float32),
        spans,
        FinishReason.STOP,
    )
    events = (RewardEvent("test_share", 0.5), RewardEvent("process", -0.125, 1))
    trajectory = Trajectory(TrajectoryId("r", "s", 1, "p", index), 9, (turn,), events, passed=None if index else True)
    return JournalEntry(trajectory, b"def f(): pass\n", "passed", 0.5, ("hard-coded-values",))


def test_the_journal_gives_back_what_was_written(tmp_path: Path) -> None:
    entries = [_entry(0), _entry(1)]
    path = write_journal(tmp_path, WeightsVersion(2, 7), entries)
    assert path.name == "step-000007.L2.parquet"
    for written, read in zip(entries, read_journal(path), strict=True):
        assert read.trajectory.id == written.trajectory.id
        assert read.trajectory.events == written.trajectory.events
        assert read.trajectory.passed == written.trajectory.passed
        assert (read.program, read.outcome, read.cpu_s) == (written.program, written.outcome, written.cpu_s)
        for name in ("prompt_ids", "completion_ids", "loss_mask", "behaviour_logprobs"):
            ours, theirs = getattr(read.trajectory.turns[0], name), getattr(written.trajectory.turns[0], name)
            assert ours.dtype == theirs.dtype
            assert ours.tolist() == theirs.tolist()
        assert read.trajectory.turns[0].spans == written.trajectory.turns[0].spans


def test_the_surviving_lineage_leaves_out_what_was_rolled_back(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)

    def step(lineage: int, number: int, trained: str, **dropped: str) -> None:
        record = {"version": f"L{lineage}.S{number}", "trained": [trained], "dropped": dropped}
        append_line(steps_file(path, lineage), record)

    ledger.start(0, None)
    for number in (1, 2, 3):
        step(0, number, f"a{number}")
    ledger.start(2, WeightsVersion(0, 2))
    step(2, 3, "a3 again", x="filter:bw")
    ledger.start(5, WeightsVersion(2, 3))
    step(5, 4, "a4")
    survivors = surviving_steps(path)
    assert [str(step.version) for step in survivors] == ["L0.S1", "L0.S2", "L2.S3", "L5.S4"]
    assert [step.trained[0] for step in survivors] == ["a1", "a2", "a3 again", "a4"]
    assert survivors[2].dropped == {"x": "filter:bw"}
