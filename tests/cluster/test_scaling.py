"""``crucible scale``: what it refuses in one sentence, and that a refusal changes nothing."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from cluster.actor_config import ExecutorsConfig, GeneratorsConfig
from cluster.autoscaler import ask_autoscaler, autoscaler_asked_for
from cluster.cli import app
from cluster.config import RunConfig
from cluster.control import ScaleRequest
from cluster.errors import ScaleError
from cluster.placement import Bundle, Node
from cluster.scaling import Control
from cluster.stage_config import EvaluateStage, ProblemSource


class Pool:
    def __init__(self, name: str, count: int) -> None:
        self.name = name
        self.count = count
        self.running = True

    def scale(self, count: int) -> None:
        self.count = count


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A run that somebody drives: its lock is held."""
    (tmp_path / "config.yaml").write_text("{}")
    return tmp_path


@contextmanager
def driven(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A driver whose cluster has one node with three CPUs, one of them free, and one sandbox, taken."""
    (root / "control").mkdir()
    stage = EvaluateStage(name="e", model="m", problems=(ProblemSource(spec="s"),))
    config = RunConfig(
        name="run", generators=GeneratorsConfig(count=2), executors=ExecutorsConfig(count=1), stages=(stage,)
    )
    context = SimpleNamespace(
        config=config,
        folder=SimpleNamespace(control=root / "control"),
        generators=Pool("generator", 2),
        executors=Pool("executor", 1),
        report=lambda *_: None,
        shares_gpu=False,
        asked=[],
    )
    node = Node("n", {"CPU": 3.0, "sandbox": 1.0}, {"CPU": 1.0, "sandbox": 0.0})
    monkeypatch.setattr("cluster.scaling.cluster_nodes", lambda: [node])
    monkeypatch.setattr("cluster.autoscaler.request_resources", lambda bundles: context.asked.append(len(bundles)))
    with (root / "driver.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield context


async def say(context: SimpleNamespace, *arguments: str) -> tuple[int, str]:
    """The command's exit code and what it says, with the driver's loop beside it."""
    serving = asyncio.create_task(Control(context).serve())
    result = await asyncio.to_thread(CliRunner().invoke, app, ["scale", *arguments])
    serving.cancel()
    return result.exit_code, " ".join(result.output.split())


async def test_within_the_cluster_it_is_done_and_beyond_it_nothing_is_changed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with driven(root, monkeypatch) as context:
        code, said = await say(context, str(root), "--generators", "3", "--wait", "0")
        assert (code, said) == (0, "generators 2 -> 3, executors 1 -> 1")
        code, said = await say(context, str(root), "--generators", "5", "--executors", "1", "--wait", "0")
        assert code == 6
        assert "the cluster has no room: generator-4 asks 1 of resource 'CPU'; n has 0 of 3 free" in said
        assert "nothing was changed" in said
        code, said = await say(context, str(root), "--executors", "2", "--wait", "0")
        assert code == 6
        assert "executor-1 asks 1 of resource 'sandbox'" in said
        assert (context.generators.count, context.executors.count) == (3, 1)
        assert context.asked == [4, 6, 4, 5, 4], "of what is not there the autoscaler is not asked any longer"
        assert await say(context, str(root), "--generators", "1", "--wait", "0") == (
            0,
            "generators 3 -> 1, executors 1 -> 1",
        )


async def test_a_request_that_is_none_harms_no_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with driven(root, monkeypatch) as context:
        (root / "control" / "1.request.json").write_bytes(b'\xff{"generators": ')
        (root / "control" / "2.request.json").symlink_to(root / "gone")  # as if its asker had just taken it back
        code, said = await say(context, str(root), "--generators", "1", "--wait", "0")
        assert (code, said) == (0, "generators 2 -> 1, executors 1 -> 1")
        assert "the request is malformed" in (root / "control" / "1.answer.json").read_text()


def test_what_was_asked_of_the_autoscaler_is_withdrawn_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr("cluster.autoscaler.request_resources", lambda bundles: asked.append(bundles))
    monkeypatch.setattr("cluster.autoscaler._cluster", lambda: "this one")
    with autoscaler_asked_for(tmp_path):
        pass
    assert asked == []
    for _ in range(2):
        with autoscaler_asked_for(tmp_path):
            ask_autoscaler([Bundle("generator-0", {"CPU": 1.0})])
            (note,) = tmp_path.iterdir()
            left = note.read_text()
    assert asked == 2 * [[{"CPU": 1.0}], []]
    assert list(tmp_path.iterdir()) == []

    note.write_text(left)  # as a driver leaves it that is killed: the run's next start withdraws what it asked for
    with autoscaler_asked_for(tmp_path):
        assert asked[4:] == []
    assert asked[4:] == [[]]
    note.write_text("another one")  # where somebody else's request may stand by now
    with autoscaler_asked_for(tmp_path):
        pass
    assert asked[4:] == [[]]
    assert list(tmp_path.iterdir()) == []


async def test_a_shared_gpu_has_one_generator(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with driven(root, monkeypatch) as context:
        context.shares_gpu = True
        code, said = await say(context, str(root), "--generators", "3", "--wait", "0")
        assert (code, context.generators.count) == (6, 2)
        assert "placement colocated is one GPU with one generator; nothing was changed" in said


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--generators", "0"], 1, "--generators is 0; a run needs at least one of them"),
        (["--executors", "-1"], 1, "--executors is -1; a run needs at least one of them"),
        ([], 1, "say how many there shall be"),
        (["--generators", "2"], 3, "is not running; set the counts in its recipe instead"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(root: Path, arguments: list[str], code: int, said: str) -> None:
    result = CliRunner().invoke(app, ["scale", str(root), *arguments])
    assert result.exit_code == code
    assert said in " ".join(result.output.split())


def test_a_folder_that_holds_no_run_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["scale", str(tmp_path), "--generators", "2"])
    assert result.exit_code == 3
    assert "holds no run" in " ".join(result.output.split())


async def test_in_a_stage_without_generators_there_must_be_room_for_all_that_come_later(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with driven(root, monkeypatch) as context:
        context.generators.running = False  # the one free CPU has to do for all three
        code, said = await say(context, str(root), "--generators", "3", "--wait", "0")
        assert code == 6
        assert "generator" in said
        assert "nothing was changed" in said
        assert context.generators.count == 2


async def test_a_request_beside_one_that_waits_for_room_is_refused_and_undoes_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with driven(root, monkeypatch) as context:
        control = Control(context)
        waiting = asyncio.create_task(control._scale(ScaleRequest(generators=5, wait_s=0.5)))
        await asyncio.sleep(0.1)
        with pytest.raises(ScaleError, match="another request waits for room"):
            await control._scale(ScaleRequest(executors=1))
        with pytest.raises(ScaleError, match="no room"):
            await waiting
        assert await control._scale(ScaleRequest(generators=1)) == "generators 2 -> 1, executors 1 -> 1"
