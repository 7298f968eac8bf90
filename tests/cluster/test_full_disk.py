"""A disk that is full: one sentence, whole lines and whole files, and on it goes when there is room."""

import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from cluster.cli import _one_sentence
from cluster.journal import JournalEntry, read_journal, write_journal
from cluster.ledger import Ledger
from cluster.run_folder import read_lines
from learner.trajectory import FinishReason, Trajectory, Turn
from problems.identity import TrajectoryId, WeightsVersion
from tests.cluster.test_verify import Run


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path) -> Path:
    filler = disk / "filler"

    def write() -> None:
        with filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 512)

    with pytest.raises(OSError, match="No space left"):
        write()
    return filler


def issue(ledger: Ledger, places: range) -> None:
    for place in places:
        ledger.issued(WeightsVersion(1, 4), place=place, problem_id="p" * 40, epoch=0, num_samples=2)


def entries(count: int) -> list[JournalEntry]:
    import numpy as np

    rng = np.random.default_rng(1)
    made = []
    for index in range(count):
        ids = rng.integers(0, 30000, 400, dtype=np.int32)
        turn = Turn(ids, ids[:0], np.ones(0, np.bool_), np.zeros(0, np.float32), (), FinishReason.STOP)
        made.append(JournalEntry(Trajectory(TrajectoryId("run", "ppo", 0, "q", index), 8, (turn,))))
    return made


def test_what_was_written_before_the_disk_was_full_is_whole_and_the_run_goes_on_after(small_disk: Path) -> None:
    run = Run(small_disk / "run")
    filler = fill(small_disk)
    ledger = Ledger(run.ledger)
    before = read_lines(run.ledger)
    with pytest.raises(OSError, match="No space left") as full:
        issue(ledger, range(8, 500))
    assert full.value.errno == errno.ENOSPC
    assert full.value.filename == str(run.ledger)
    written = read_lines(run.ledger)
    assert written[: len(before)] == before
    assert run.ledger.read_bytes().endswith(b"\n")
    with pytest.raises(OSError, match="No space left"):
        write_journal(run.stage / "trajectories", WeightsVersion(1, 4), entries(40))
    assert not list((run.stage / "trajectories").glob(".*")), "a part of a journal is left, and fills the disk further"
    assert run.account().is_sound
    filler.unlink()
    path = write_journal(run.stage / "trajectories", WeightsVersion(1, 4), entries(40))
    assert len(read_journal(path)) == 40
    issue(ledger, range(500, 501))
    assert len(read_lines(run.ledger)) == len(written) + 1


def test_the_command_says_it_in_one_sentence(small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(small_disk)
    with pytest.raises(typer.Exit) as ended, _one_sentence(debug=False):
        issue(Ledger(small_disk / "ledger.jsonl"), range(200))
    assert ended.value.exit_code == 1
    told = capsys.readouterr().err
    assert told == (
        f"crucible: the disk is full at {small_disk}/ledger.jsonl; "
        "make room, and the same command goes on where this run stopped\n"
    )
