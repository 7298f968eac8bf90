"""Publishing and verifying, without an engine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from actors.errors import WeightsCorruptedError, WeightsMissingError, WeightTransportError
from actors.weights import ShmSender, bucketed, sweep, verify_published
from problems.identity import WeightsVersion

_V1, _V2, _V3 = (WeightsVersion(0, step) for step in (1, 2, 3))


def _weights(value: float = 1.0) -> list[tuple[str, torch.Tensor]]:
    return [(f"layer.{index}", torch.full((10, 10), value + index)) for index in range(5)]


def test_buckets_keep_the_order_and_hold_at_most_their_bytes_unless_one_tensor_is_larger() -> None:
    sizes = [100, 100, 300, 1000, 50]
    buckets = list(bucketed(((str(n), torch.zeros(n, dtype=torch.uint8)) for n in sizes), bucket_bytes=250))
    assert [[name for name, _ in bucket] for bucket in buckets] == [["100", "100"], ["300"], ["1000"], ["50"]]


def test_what_is_published_is_what_is_read(tmp_path: Path) -> None:
    sender = ShmSender("a run/with: odd name", root=tmp_path)
    ticket = sender.publish(_V1, bucketed(_weights(), 500))
    published = verify_published(ticket)
    assert published.version == _V1
    assert len(published.files) == 5
    read = {name: tensor for file in published.files for name, tensor in load_file(file).items()}
    assert all(torch.equal(read[name], tensor) for name, tensor in _weights())


def test_the_newest_versions_stay_and_older_ones_are_retired(tmp_path: Path) -> None:
    sender = ShmSender("run", root=tmp_path, keep=2)
    tickets = [sender.publish(version, bucketed(_weights())) for version in (_V1, _V2, _V3)]
    with pytest.raises(WeightsMissingError, match=r"L0\.S1"):
        verify_published(tickets[0])
    assert [verify_published(ticket).version for ticket in tickets[1:]] == [_V2, _V3]


def test_a_version_published_again_replaces_itself(tmp_path: Path) -> None:
    sender = ShmSender("run", root=tmp_path, keep=1)
    sender.publish(_V1, bucketed(_weights()))
    ticket = sender.publish(_V1, bucketed(_weights(7.0)))
    assert load_file(verify_published(ticket).files[0])["layer.0"][0, 0] == 7


def test_an_open_version_may_be_retired_under_its_reader(tmp_path: Path) -> None:
    from safetensors import safe_open

    sender = ShmSender("run", root=tmp_path)
    (file,) = verify_published(sender.publish(_V1, bucketed(_weights()))).files
    with safe_open(file, framework="pt") as tensors:
        sender.retire(_V1)
        assert tensors.get_tensor("layer.4")[0, 0] == 5


@pytest.mark.parametrize("damage", ["one bit", "cut short", "two files swapped"])
def test_damaged_files_are_named(tmp_path: Path, damage: str) -> None:
    ticket = ShmSender("run", root=tmp_path).publish(_V1, bucketed(_weights(), 500))
    first, second, *_ = sorted(Path(ticket["folder"]).glob("*.safetensors"))
    content = first.read_bytes()
    if damage == "one bit":
        first.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "cut short":
        first.write_bytes(content[:-100])
    else:
        shutil.copy(second, first)
    with pytest.raises(WeightsCorruptedError, match=first.name):
        verify_published(ticket)


def test_a_manifest_of_another_publication_is_refused(tmp_path: Path) -> None:
    sender = ShmSender("run", root=tmp_path)
    ticket = sender.publish(_V1, bucketed(_weights()))
    sender.publish(_V1, bucketed(_weights(2.0)))
    with pytest.raises(WeightsCorruptedError, match="manifest"):
        verify_published(ticket)


@pytest.mark.parametrize("ticket", [{}, {"transport": "nccl", "version": "L0.S1"}])
def test_a_ticket_of_another_transport_is_refused(ticket: dict[str, str]) -> None:
    with pytest.raises(WeightTransportError, match="not a ticket"):
        verify_published(ticket)


def test_weights_that_do_not_fit_are_refused_and_nothing_partial_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = ShmSender("run", root=tmp_path)
    ticket = sender.publish(_V1, bucketed(_weights()))
    full = shutil._ntuple_diskusage(100, 100, 0)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(WeightTransportError, match="do not fit"):
        sender.publish(_V2, bucketed(_weights()))
    assert verify_published(ticket).version == _V1
    assert not list(tmp_path.rglob("*partial*"))


def test_a_trainer_that_fails_in_the_middle_publishes_nothing(tmp_path: Path) -> None:
    def failing():
        yield _weights()
        raise RuntimeError("a rank died")

    sender = ShmSender("run", root=tmp_path)
    with pytest.raises(RuntimeError, match="a rank died"):
        sender.publish(_V1, failing())
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_missing_root_is_named() -> None:
    with pytest.raises(WeightTransportError, match="/no/such/folder"):
        ShmSender("run", root=Path("/no/such/folder"))


def test_what_a_killed_sender_left_is_swept_and_a_living_one_is_not_touched(tmp_path: Path) -> None:
    living = ShmSender("living", root=tmp_path)
    ticket = living.publish(_V1, bucketed(_weights()))
    script = (
        "import sys, time, pathlib; from actors.weights import ShmSender\n"
        "sender = ShmSender('dead', root=pathlib.Path(sys.argv[1])); print('up', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert sweep(tmp_path) == 0
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
    assert sweep(tmp_path) == 1
    assert verify_published(ticket).version == _V1
    assert len(list(tmp_path.iterdir())) == 1


def test_closing_a_sender_frees_everything(tmp_path: Path) -> None:
    sender = ShmSender("run", root=tmp_path)
    sender.publish(_V1, bucketed(_weights()))
    sender.close()
    assert not list(tmp_path.iterdir())
