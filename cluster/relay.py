"""Published weights on several hosts: copied once to each node, through Ray's object store.

    trainer's node                           every other node that has generators
    publish -> files -> NodeCopy.read  ===>  NodeCopy.write -> the same files -> its generators load them

Each file is an object of its own, so that one travels while the next is read. The copy bears the publisher's manifest,
and a generator verifies it against the publisher's checksum before it is paused.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.errors import WeightsMissingError
from actors.weights import ShmSender, read_published
from cluster.calls import was_raised_as, within
from cluster.errors import ActorError
from cluster.session import close_actors, end_actor, start_actor

_END_TIMEOUT_S = 10.0


def of_this_node(ticket: dict[str, str]) -> dict[str, str]:
    """The ticket, saying that its files lie on this process's node."""
    return ticket | {"node": ray.get_runtime_context().get_node_id()} if ticket else ticket


async def _end(actor: Any) -> None:
    try:
        await within(actor.close.remote(), _END_TIMEOUT_S, "a node", "free its copies of weights")
    except ActorError:
        pass  # with its node, perhaps; a later run sweeps what has no owner
    finally:
        end_actor(actor)


class NodeCopy:
    """One node's end: reads what was published there, or writes what was published elsewhere."""

    def __init__(self) -> None:
        self._sender: ShmSender | None = None

    def read(self, ticket: dict[str, str]) -> Iterator[NDArray[np.uint8]]:
        """The manifest and each file, as ``num_returns`` objects."""
        for content in read_published(ticket):
            yield np.frombuffer(content, np.uint8)

    def write(self, ticket: dict[str, str], *contents: NDArray[np.uint8]) -> dict[str, str]:
        """Returns the ticket for this node."""
        if self._sender is None:
            self._sender = ShmSender("copy")
        return of_this_node(self._sender.copy(ticket, (content.data for content in contents)))

    def close(self) -> None:
        """Frees the copies."""
        if self._sender is not None:
            self._sender.close()


class Relay:
    """Finds for each node the ticket whose files lie there; copies them where none do.

    Args:
        timeout_s: of one copy.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._actors: dict[str, Any] = {}
        self._read: tuple[str, list[Any]] = ("", [])
        self._copies: dict[str, tuple[str, asyncio.Task[dict[str, str]]]] = {}
        self._users: defaultdict[str, set[str]] = defaultdict(set)  # node -> its generators
        self._source = ""  # the trainer's node
        self._ending: set[asyncio.Task[None]] = set()

    async def local(self, ticket: dict[str, str], node_id: str) -> dict[str, str]:
        """The ticket for a node: all who ask for the same version there wait for one copy. Raises ActorError."""
        if ticket.get("node", node_id) == node_id:
            return ticket
        digest, copying = self._copies.get(node_id, ("", None))
        has_failed = copying is not None and copying.done() and copying.exception() is not None
        if copying is None or has_failed or digest != ticket["digest"]:
            copying = asyncio.create_task(self._copy(ticket, node_id))
            self._copies[node_id] = ticket["digest"], copying
        return await asyncio.shield(copying)  # who gives up waiting does not end it for the others

    def enter(self, node_id: str, who: str) -> None:
        """A generator comes up on a node. Starts that node's end before the first copy, beside the start of its engine;
        on one node there is none."""
        self._users[node_id].add(who)
        if sum(node["Alive"] for node in ray.nodes()) > 1:
            self._actor(node_id)

    def leave(self, node_id: str, who: str) -> None:
        """The generator has gone. With a node's last one its copies are freed and its end ends: while an actor lives
        there, idle as it may be, no autoscaler takes the node away."""
        users = self._users[node_id]
        users.discard(who)
        if not users and node_id != self._source and node_id in self._actors:
            self.forget(node_id)
            ending = asyncio.create_task(_end(self._actors.pop(node_id)))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    def forget(self, node_id: str) -> None:
        """What was copied to a node is made again when it is asked for."""
        self._copies.pop(node_id, None)

    def close(self) -> None:
        """Ends all copying and frees the copies."""
        for _, copying in self._copies.values():
            copying.cancel()
        close_actors(list(self._actors.values()))
        self._actors, self._copies, self._read = {}, {}, ("", [])

    async def _copy(self, ticket: dict[str, str], node_id: str) -> dict[str, str]:
        what = f"copy weights {ticket['version']} from node {ticket['node'][:8]}"
        copied = self._actor(node_id).write.remote(ticket, *self._contents(ticket))
        try:
            return await within(copied, self._timeout_s, f"node {node_id[:8]}", what)
        except ActorError as error:
            # A version that was gone before it was read says nothing against either end, and is common where steps are
            # short: to begin anew would cost the next copy its time, and others on the same nodes theirs. Otherwise
            # either end may be broken.
            if not was_raised_as(error, WeightsMissingError):
                for node in (node_id, ticket["node"]):
                    if (actor := self._actors.pop(node, None)) is not None:
                        end_actor(actor)
            self._read = ("", [])
            raise ActorError(str(error)) from error

    def _contents(self, ticket: dict[str, str]) -> list[Any]:
        """References to the manifest and the files; read once for all nodes."""
        if self._read[0] != ticket["digest"]:
            self._source = ticket["node"]
            num_objects = 1 + int(ticket["files"])
            read = self._actor(ticket["node"]).read.options(num_returns=num_objects)
            references = read.remote(ticket)
            self._read = ticket["digest"], references if num_objects > 1 else [references]
        return self._read[1]

    def _actor(self, node_id: str) -> Any:
        if node_id not in self._actors:
            here = NodeAffinitySchedulingStrategy(node_id, soft=False)
            self._actors[node_id] = start_actor(NodeCopy, num_cpus=0, scheduling_strategy=here)
        return self._actors[node_id]
