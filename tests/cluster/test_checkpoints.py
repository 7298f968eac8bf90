"""A checkpoint is written while the next step trains, and counts when it is whole."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from cluster.checkpoints import Checkpoints, complete_checkpoints, latest_checkpoint
from cluster.config import PPOStage
from cluster.errors import ActorError
from cluster.ledger import Ledger
from cluster.run_folder import read_lines
from problems.identity import WeightsVersion


class FakeTrainer:
    """Copies at once; writes when it may. As the real one, a checkpoint gets its name last."""

    def __init__(self) -> None:
        self.version = WeightsVersion(0, 0)
        self.said: list[str] = []
        self.may_write = asyncio.Event()
        self.error: Exception | None = None
        self._begun: list[tuple[Path, dict[str, float]]] = []

    async def call(self, method: str, *arguments: Any, what: str) -> Any:
        assert (method, what) == ("begin_save", "copy its state for a checkpoint")
        folder, figures = arguments
        self._begun.append((Path(folder) / str(self.version), dict(figures or {})))
        self.said.append(f"copied {self.version}")
        return self.version

    async def call_beside(self, method: str, *arguments: Any, what: str) -> Any:
        assert (method, arguments, what) == ("finish_save", (), "write a checkpoint")
        folder, figures = self._begun.pop(0)
        aside = folder.with_name(f"{folder.name}.partial")
        aside.mkdir(parents=True, exist_ok=True)  # the real one sweeps what a kill left
        await self.may_write.wait()
        if self.error is not None:
            raise self.error
        (aside / "manifest.json").write_text(json.dumps({"figures": figures}))
        aside.rename(folder)
        self.said.append(f"wrote {folder.name}")

    def step(self) -> WeightsVersion:
        self.version = self.version.next()
        self.said.append(f"trained {self.version}")
        return self.version


def stage(**settings: Any) -> PPOStage:
    return PPOStage.model_validate(
        {"name": "ppo", "policy": "m", "problems": [{"spec": "synthetic"}], "checkpoint_every_steps": 2, **settings}
    )


@pytest.fixture
def trainer() -> FakeTrainer:
    return FakeTrainer()


def make(folder: Path, trainer: FakeTrainer, **settings: Any) -> Checkpoints:
    return Checkpoints(folder / "checkpoints", stage(**settings), trainer, Ledger(folder / "ledger.jsonl"))


def counted(folder: Path) -> list[str]:
    return [record["version"] for record in read_lines(folder / "ledger.jsonl")]


async def test_training_goes_on_while_it_is_written_and_it_counts_when_it_is_whole(tmp_path, trainer) -> None:
    checkpoints = make(tmp_path, trainer)
    assert await checkpoints.begin() == WeightsVersion(0, 0)
    trainer.step()
    await asyncio.sleep(0)
    await checkpoints.check()  # not done: nothing is waited for
    assert trainer.said == ["copied L0.S0", "trained L0.S1"]
    assert counted(tmp_path) == []
    assert latest_checkpoint(tmp_path / "checkpoints") is None  # a start from here would begin anew
    trainer.may_write.set()
    await checkpoints.finish()
    assert trainer.said[-1] == "wrote L0.S0"
    assert counted(tmp_path) == ["L0.S0"]
    assert latest_checkpoint(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "L0.S0"
    await checkpoints.finish()  # nothing is left to wait for


async def test_one_is_written_at_a_time_and_the_newest_stay(tmp_path, trainer) -> None:
    checkpoints = make(tmp_path, trainer, keep_checkpoints=1, keep_best_checkpoints=1, best_metric="pass")
    await checkpoints.begin({"pass": 0.9})
    trainer.step()
    second = asyncio.create_task(checkpoints.begin({"pass": 0.2}))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not second.done()
    assert trainer.said == ["copied L0.S0", "trained L0.S1"]
    trainer.may_write.set()
    await second
    trainer.step()
    await checkpoints.begin({"pass": 0.5})
    await checkpoints.finish()
    assert counted(tmp_path) == ["L0.S0", "L0.S1", "L0.S2"]
    assert [path.name for path in complete_checkpoints(tmp_path / "checkpoints")] == ["L0.S0", "L0.S2"]


async def test_a_trainer_lost_in_the_middle_of_a_write_leaves_the_one_before(tmp_path, trainer) -> None:
    checkpoints = make(tmp_path, trainer)
    trainer.may_write.set()
    await checkpoints.begin()
    await checkpoints.finish()
    trainer.may_write.clear()
    trainer.step()
    await checkpoints.begin()
    trainer.error = ActorError("trainer died")
    trainer.may_write.set()
    await asyncio.sleep(0.01)
    with pytest.raises(ActorError, match="trainer died"):
        await checkpoints.check()
    await checkpoints.abandon()
    assert counted(tmp_path) == ["L0.S0"]
    assert latest_checkpoint(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "L0.S0"
    trainer.error = None  # its successor
    await checkpoints.begin()
    await checkpoints.finish()
    assert counted(tmp_path) == ["L0.S0", "L0.S1"]


async def test_told_to_stop_while_it_waits_it_writes_all_the_same(tmp_path, trainer) -> None:
    checkpoints = make(tmp_path, trainer)
    await checkpoints.begin()
    waiting = asyncio.create_task(checkpoints.finish())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    trainer.may_write.set()
    await checkpoints.finish()
    assert counted(tmp_path) == ["L0.S0"]


async def test_a_stage_that_is_given_up_waits_for_no_write(tmp_path, trainer) -> None:
    checkpoints = make(tmp_path, trainer)
    await checkpoints.begin()
    await asyncio.wait_for(checkpoints.abandon(), 5)
    assert counted(tmp_path) == []
    await checkpoints.finish()


async def test_they_are_due_by_steps_by_minutes_and_at_the_end(tmp_path, trainer, monkeypatch) -> None:
    checkpoints = make(tmp_path, trainer, checkpoint_every_minutes=10.0, learner={"num_steps": 5})
    due = [step for step in range(1, 6) if checkpoints.is_due(WeightsVersion(0, step))]
    assert due == [2, 4, 5]
    begun = checkpoints._last
    monkeypatch.setattr("cluster.checkpoints.time.monotonic", lambda: begun + 601)
    assert checkpoints.is_due(WeightsVersion(0, 1))
