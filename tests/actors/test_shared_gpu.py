"""A GPU that trainer and generator share in turns, without a GPU: the order of the engine's calls, and the handles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from actors.config import GeneratorConfig
from actors.errors import WeightPhaseError, WeightsLostError
from actors.generator import Generator
from actors.ipc_weights import IpcSender
from actors.weights import ShmSender
from problems.identity import WeightsVersion

V0, V1, V2 = (WeightsVersion(0, step) for step in range(3))
TENSORS = [("a", torch.arange(6.0).reshape(2, 3)), ("b", torch.arange(4, dtype=torch.int64))]


class Engine:
    """Writes down what it is asked for."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.mapped: tuple[Any, ...] = ()

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any, **_: Any) -> None:
            self.calls.append(name)
            if name == "map_memory":
                self.mapped = arguments

        return call


def generator(**config: Any) -> tuple[Generator, Engine]:
    made, engine = Generator(GeneratorConfig(device="cuda", sleep_mode=True, **config)), Engine()
    made._engine_or_none = engine  # type: ignore[assignment]
    made._version = V0
    return made, engine


async def push(made: Generator, ticket: dict[str, str], version: WeightsVersion) -> None:
    await made.verify(ticket)
    await made.start(version)
    await made.update(ticket)
    await made.finish(version)


async def test_weights_wake_before_they_are_loaded_and_the_cache_after(tmp_path: Path) -> None:
    sender = ShmSender("run", tmp_path)
    made, engine = generator()
    await made.sleep()
    await made.sleep()  # a second turn of the trainer without a push between: the critic's warm-up, then a lost step
    await push(made, sender.publish(V1, [TENSORS]), V1)
    assert engine.calls == ["sleep", "wake_weights", "begin_update", "load", "commit_update", "wake_cache", "resume"]
    assert made.version == V1
    engine.calls.clear()
    await push(made, sender.publish(V2, [TENSORS]), V2)  # one that is awake is paused as ever
    assert engine.calls == ["pause", "begin_update", "load", "commit_update", "resume"]
    sender.close()


async def test_one_that_is_asleep_has_no_old_weights_to_go_on_with(tmp_path: Path) -> None:
    sender = ShmSender("run", tmp_path)
    made, engine = generator()
    await made.sleep()
    await made.start(V2)
    with pytest.raises(WeightPhaseError, match="belongs to 'serving'"):
        await made.sleep()
    with pytest.raises(WeightsLostError, match=r"given a ticket of L0\.S1"):
        await made.update(sender.publish(V1, [TENSORS]))
    assert "resume" not in engine.calls
    with pytest.raises(WeightsLostError):
        await made.check_health()
    sender.close()


async def test_a_ticket_of_handles_is_what_vllms_engine_side_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    exported: list[torch.Tensor] = []

    def export(tensor: torch.Tensor) -> dict[str, tuple[Any, ...]]:
        exported.append(tensor)
        return {"GPU-1": (torch.Tensor, tensor.shape, 0)}

    weights = [(name, tensor.clone()) for name, tensor in TENSORS]
    sender = IpcSender(export, device="cpu")
    ticket = sender.publish(V1, [weights[:1], weights[1:]])
    weights[0][1].zero_()  # the trainer's next step
    assert torch.equal(exported[0], TENSORS[0][1]), "the copy is the trainer's own memory"
    assert all(isinstance(value, str) for value in ticket.values())
    made, engine = generator(weight_transport="ipc")
    await made.sleep()
    await push(made, ticket, V1)
    assert engine.calls.index("wake_weights") < engine.calls.index("map_memory") < engine.calls.index("wake_cache")

    vllm = pytest.importorskip("vllm.distributed.weight_transfer.ipc_engine")
    names, dtype_names, shapes, handles = engine.mapped
    info = {"names": names, "dtype_names": dtype_names, "shapes": shapes, "ipc_handles_pickled": handles}
    with pytest.raises(ValueError, match="VLLM_ALLOW_INSECURE_SERIALIZATION"):
        vllm.IPCWeightTransferUpdateInfo(**info)
    monkeypatch.setenv("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")
    taken = vllm.IPCWeightTransferUpdateInfo(**info)
    assert taken.ipc_handles == [{"GPU-1": (torch.Tensor, tensor.shape, 0)} for _, tensor in TENSORS]
    assert (taken.names, taken.dtype_names, taken.shapes) == (["a", "b"], ["float32", "int64"], [[2, 3], [4]])


def test_what_is_published_is_freed_before_the_next_copy() -> None:
    sender = IpcSender(lambda _: {}, device="cpu")
    sender.publish(V1, [TENSORS])

    def buckets() -> Any:
        assert sender._published[1] == [], "two copies at a time"
        yield TENSORS

    sender.publish(V2, buckets())
    sender.retire(V1)
    assert sender._published[0] == str(V2)
    sender.retire(V2)
    assert sender._published == ("", [])
