"""Weights from the trainer's GPU into the engines' GPUs by NCCL, one communicator an engine. Never run with a GPU.

    trainer:  publish -> a copy on the device          a thread for each engine: communicator, broadcast
                         |                                     ^
    ticket: address, version, names, shapes                    | "version L0.S3, please" (TCP)
                         v                                     |
    generator:  start -> update(ticket) -----------------------+----> vLLM's backend ``nccl`` receives -> finish

It is the engine that asks: one that joins is served at any time, whatever the trainer computes. Each engine has a
communicator, a thread and a stream of its own, so that a stuck one holds up nobody; it is given up after ``timeout_s``.
vLLM's own trainer side (0.32, ``NCCLTrainerWeightTransferEngine``) drives all engines through one group and one pair of
streams: one that is stuck would stop the others. The engine's side is vLLM's, unchanged.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from actors.errors import WeightTransportError
from problems.identity import WeightsVersion

if TYPE_CHECKING:
    import torch

    from actors.weights import Bucket

TRANSPORT = "nccl"
_BUFFER_BYTES = 256 << 20  # of a broadcast; both sides cut the stream of parameters at the same places
_POLL_S = 0.001
_LINE_BYTES = 4096


class Group(Protocol):
    """The sender's end of one engine's communicator."""

    def send(self, tensors: Sequence[tuple[str, torch.Tensor]], timeout_s: float) -> None:
        """Broadcasts all of them. Raises WeightTransportError when the time is up."""
        ...

    def close(self) -> None: ...


OpenGroup = Callable[[str, int, int], Group]
"""(address, port, world size) -> the group, once all of it have come."""


class VllmGroup:
    """A communicator of vLLM's making, with a stream of its own."""

    def __init__(self, address: str, port: int, world_size: int) -> None:
        import torch
        from vllm.distributed.weight_transfer.nccl_common import trainer_init

        place = {"master_address": address, "master_port": port, "world_size": world_size}
        self._communicator: Any = trainer_init(place)
        self._stream = torch.cuda.Stream()

    def send(self, tensors: Sequence[tuple[str, torch.Tensor]], timeout_s: float) -> None:
        import torch
        from vllm.distributed.weight_transfer.packed_tensor import pack_tensors

        deadline = time.monotonic() + timeout_s
        left = iter(tensors)
        with torch.cuda.stream(self._stream):
            while (chunk := pack_tensors(left, lambda named: named[1], _BUFFER_BYTES)) is not None:
                self._communicator.broadcast(chunk.packed_tensor, src=0, stream=self._stream)
                while not self._stream.query():  # a peer that never comes would hold a synchronize for good
                    if time.monotonic() > deadline:
                        raise WeightTransportError(f"an engine did not receive weights within {timeout_s:g} s")
                    time.sleep(_POLL_S)

    def close(self) -> None:
        self._communicator.destroy()


class NcclSender:
    """The trainer's side: a WeightSender.

    Args:
        address: of this node, as the engines' nodes see it.
        timeout_s: for an engine to join, and for one transfer.
        open_group: makes the communicators.
        device: where the copy lies.
    """

    def __init__(
        self, address: str, timeout_s: float = 60.0, open_group: OpenGroup = VllmGroup, device: str = "cuda"
    ) -> None:
        self._address = address
        self._device = device
        self._timeout_s = timeout_s
        self._open_group = open_group
        self._token = os.urandom(16).hex()
        self._published: tuple[str, list[tuple[str, torch.Tensor]]] = ("", [])
        self._connections: set[socket.socket] = set()
        self._server = socket.create_server(("", 0))
        threading.Thread(target=self._listen, daemon=True).start()

    def publish(self, version: WeightsVersion, buckets: Iterable[Bucket]) -> dict[str, str]:
        """Copies the weights aside on their device: the trainer goes on, and whoever asks gets this version.

        A transfer in progress keeps the copy that it began with.
        """
        tensors = [(name, tensor.detach().to(self._device, copy=True)) for bucket in buckets for name, tensor in bucket]
        self._published = str(version), tensors
        return {
            "transport": TRANSPORT,
            "version": str(version),
            "address": self._address,
            "port": str(self._server.getsockname()[1]),
            "token": self._token,
            "names": json.dumps([name for name, _ in tensors]),
            "dtype_names": json.dumps([str(tensor.dtype).removeprefix("torch.") for _, tensor in tensors]),
            "shapes": json.dumps([list(tensor.shape) for _, tensor in tensors]),
        }

    def retire(self, version: WeightsVersion) -> None:
        """Frees a version's copy."""
        if self._published[0] == str(version):
            self._published = ("", [])

    def close(self) -> None:
        """No engine is served any more."""
        self._published = ("", [])
        for waiting in (self._server, *list(self._connections)):
            with suppress(OSError):
                waiting.shutdown(socket.SHUT_RDWR)  # or its thread would wait for good
        self._server.close()

    def _listen(self) -> None:
        """Consumes connections, each of one engine; ends when the server is closed."""
        with suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                self._connections.add(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        """One engine: consumes its wishes, each a line; waits for the next; ends with the connection or an error."""
        group: Group | None = None
        with connection, connection.makefile("rw", encoding="utf-8", newline="\n") as lines:
            try:
                connection.settimeout(self._timeout_s)  # who has shown no token is not waited for
                hello = json.loads(lines.readline(_LINE_BYTES) or "{}")
                if not isinstance(hello, dict) or hello.get("token") != self._token:
                    return
                connection.settimeout(None)
                port = _free_port()
                _say(lines, {"port": port})
                group = self._open_group(self._address, port, int(hello["world_size"]))
                while wish := lines.readline(_LINE_BYTES):
                    version, tensors = self._published
                    if json.loads(wish)["version"] != version:
                        _say(lines, {"error": f"weights {json.loads(wish)['version']} are not published any more"})
                        continue
                    _say(lines, {"sending": version})
                    group.send(tensors, self._timeout_s)
                    _say(lines, {"sent": version})
            except (OSError, ValueError, WeightTransportError) as error:
                with suppress(OSError):
                    _say(lines, {"error": str(error)})
            finally:
                self._connections.discard(connection)
                if group is not None:
                    group.close()


class Receiving(Protocol):
    """What a generator's engine does of a transfer."""

    async def join_group(self, address: str, port: int, world_size: int, buffer_bytes: int) -> None: ...

    async def receive(self, names: list[str], dtype_names: list[str], shapes: list[list[int]]) -> None: ...


class NcclFetcher:
    """A generator's side: keeps one connection and one communicator to the sender of the latest ticket."""

    def __init__(self, num_workers: int) -> None:
        self._world_size = num_workers + 1
        self._sender = ("", "")
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, ticket: dict[str, str]) -> None:
        """The sender begins to send the ticket's version. Raises WeightTransportError; nothing has changed then."""
        await self._write({"version": ticket["version"]})
        await self._expect("sending")

    async def receive(self, ticket: dict[str, str], engine: Receiving) -> None:
        """What was asked for goes into the engine's weights."""
        layout = [json.loads(ticket[part]) for part in ("names", "dtype_names", "shapes")]
        await engine.receive(*layout)
        await self._expect("sent")

    async def join(self, ticket: dict[str, str], engine: Receiving) -> None:
        """Makes the communicator with the ticket's sender, where it is not that of the last one."""
        if (ticket["address"], ticket["port"]) == self._sender:
            return
        if self._writer is not None:
            self._writer.close()
        try:
            self._reader, self._writer = await asyncio.open_connection(ticket["address"], int(ticket["port"]))
        except OSError as error:
            raise WeightTransportError(f"the trainer at {ticket['address']} cannot be reached ({error})") from error
        await self._write({"token": ticket["token"], "world_size": self._world_size})
        port = await self._expect("port")
        await engine.join_group(ticket["address"], port, self._world_size, _BUFFER_BYTES)
        self._sender = ticket["address"], ticket["port"]

    async def _write(self, message: dict[str, Any]) -> None:
        assert self._writer is not None
        self._writer.write(json.dumps(message).encode() + b"\n")
        await self._writer.drain()

    async def _expect(self, key: str) -> Any:
        assert self._reader is not None
        line = await self._reader.readline()
        answer = json.loads(line) if line else {"error": "the trainer has closed the connection"}
        if key not in answer:
            self._sender = ("", "")  # the next fetch begins with a new communicator
            raise WeightTransportError(answer.get("error", f"the trainer said {answer} where {key} was due"))
        return answer[key]


def _say(lines: Any, message: dict[str, Any]) -> None:
    lines.write(json.dumps(message) + "\n")
    lines.flush()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
