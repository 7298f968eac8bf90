"""The handshake of the nccl transport, with sockets in the place of communicators: no GPU has seen it."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Sequence

import pytest
import torch

from actors.errors import WeightTransportError
from actors.nccl_weights import NcclFetcher, NcclSender
from problems.identity import WeightsVersion

TENSORS = [("a", torch.arange(6.0).reshape(2, 3)), ("b", torch.arange(4, dtype=torch.int64))]
TIMEOUT_S = 3.0
V1, V2 = WeightsVersion(0, 1), WeightsVersion(0, 2)


class SocketGroup:
    """The sender's end: waits at the port for the one engine of the group."""

    def __init__(self, address: str, port: int, world_size: int) -> None:
        self.world_size = world_size
        with socket.create_server((address, port)) as server:
            self.peer, _ = server.accept()

    def send(self, tensors: Sequence[tuple[str, torch.Tensor]], timeout_s: float) -> None:
        self.peer.settimeout(timeout_s)
        try:
            for _, tensor in tensors:
                self.peer.sendall(tensor.numpy().tobytes())
            assert self.peer.recv(1)
        except TimeoutError:
            raise WeightTransportError(f"an engine did not receive weights within {timeout_s:g} s") from None

    def close(self) -> None:
        self.peer.close()


class Engine:
    """The engine's end. ``stuck``: it takes nothing."""

    def __init__(self, stuck: bool = False) -> None:
        self.stuck = stuck
        self.groups = 0
        self.received: list[bytes] = []

    async def join_group(self, address: str, port: int, world_size: int, buffer_bytes: int) -> None:  # noqa: ARG002
        assert world_size == 3
        self.groups += 1
        for _ in range(200):
            try:
                self.reader, self.writer = await asyncio.open_connection(address, port)
                return
            except OSError:
                await asyncio.sleep(0.02)

    async def receive(self, names: list[str], dtype_names: list[str], shapes: list[list[int]]) -> None:
        if self.stuck:
            await asyncio.sleep(60)
        layout = zip(dtype_names, shapes, strict=True)
        sizes = [torch.empty(shape, dtype=getattr(torch, dtype_name)).nbytes for dtype_name, shape in layout]
        self.received = [await self.reader.readexactly(size) for size in sizes]
        assert names == ["a", "b"]
        self.writer.write(b"x")
        await self.writer.drain()


def serving() -> set[threading.Thread]:
    """The threads of connections, of whichever sender."""
    return {thread for thread in threading.enumerate() if thread.name.endswith("(_serve)")}


async def nobody_serves_but(others: set[threading.Thread]) -> None:
    deadline = time.monotonic() + 10
    while serving() - others:
        assert time.monotonic() < deadline, "a connection is still served"
        await asyncio.sleep(0.02)


@pytest.fixture
async def sender() -> AsyncIterator[NcclSender]:
    others = serving()
    made = NcclSender("127.0.0.1", timeout_s=TIMEOUT_S, open_group=SocketGroup, device="cpu")
    yield made
    made.close()
    await nobody_serves_but(others)


async def load(fetcher: NcclFetcher, ticket: dict[str, str], engine: Engine) -> None:
    await fetcher.join(ticket, engine)
    await fetcher.ask(ticket)
    await fetcher.receive(ticket, engine)


async def test_each_engine_asks_and_gets_the_version_as_it_was_published(sender: NcclSender) -> None:
    weights = [(name, tensor.clone()) for name, tensor in TENSORS]
    ticket = sender.publish(V1, [weights])
    weights[0][1].zero_()  # the trainer's next step
    engine, fetcher = Engine(), NcclFetcher(num_workers=2)
    await load(fetcher, ticket, engine)
    assert engine.received == [tensor.numpy().tobytes() for _, tensor in TENSORS]
    later = sender.publish(V2, [weights])
    await load(fetcher, later, engine)
    assert engine.received[0] == bytes(24)
    assert engine.groups == 1, "one communicator for all its updates"
    with pytest.raises(WeightTransportError, match=r"L0\.S1 are not published any more"):
        await fetcher.ask(ticket)
    joining = Engine()
    await load(NcclFetcher(num_workers=2), later, joining)
    assert joining.received == engine.received


async def test_a_stuck_engine_holds_up_no_other_and_is_given_up(sender: NcclSender) -> None:
    big = [("a", torch.zeros(40 << 20, dtype=torch.uint8)), TENSORS[1]]
    ticket = sender.publish(V1, [big])
    stuck, stuck_fetcher = Engine(stuck=True), NcclFetcher(num_workers=2)
    await stuck_fetcher.join(ticket, stuck)
    await stuck_fetcher.ask(ticket)
    begun = time.monotonic()
    other = Engine()
    await load(NcclFetcher(num_workers=2), ticket, other)
    assert len(other.received[0]) == 40 << 20
    assert time.monotonic() - begun < TIMEOUT_S, "it waited for the stuck one"
    with pytest.raises(WeightTransportError, match="did not receive weights within 3 s"):
        await stuck_fetcher._expect("sent")


async def test_who_does_not_know_the_token_gets_nothing(sender: NcclSender) -> None:
    others = serving()
    ticket = sender.publish(V1, [TENSORS]) | {"token": "guessed"}
    with pytest.raises(WeightTransportError, match="closed the connection"):
        await NcclFetcher(num_workers=2).join(ticket, Engine())
    await nobody_serves_but(others)


@pytest.mark.parametrize("hello", [b"", b"[1]\n", b"no JSON\n", b'{"token": ["guessed"]}\n'])
async def test_who_says_no_token_is_not_waited_for(sender: NcclSender, hello: bytes) -> None:
    others = serving()
    port = int(sender.publish(V1, [TENSORS])["port"])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(hello)
    assert b"port" not in await asyncio.wait_for(reader.read(), 4 * TIMEOUT_S)
    writer.close()
    await nobody_serves_but(others)
