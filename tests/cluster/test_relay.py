"""Weights on two Ray nodes: copied once to the node that lacks them, and verified there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.cluster_utils import Cluster
from ray.exceptions import RayActorError

from actors.errors import WeightsCorruptedError
from actors.weights import ShmSender, bucketed, verify_published
from cluster.errors import ActorError
from cluster.relay import Relay, of_this_node
from problems.identity import WeightsVersion
from tests.patient_ray import be_patient

VERSION = WeightsVersion(0, 3)
TENSORS = [(f"layer.{index}", torch.full((1000,), float(index))) for index in range(3)]


@pytest.fixture(scope="module")
def other_node() -> Iterator[str]:
    """Ray's id of a node that this process is not on."""
    be_patient()
    cluster = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    own = ray.get_runtime_context().get_node_id()
    (other,) = [node["NodeID"] for node in ray.nodes() if node["NodeID"] != own]
    yield other
    ray.shutdown()
    cluster.shutdown()


async def until_dead(actor: Any) -> None:
    """A kill is a message: until it has come, calls are answered."""
    with contextlib.suppress(RayActorError):
        while True:
            await actor.__ray_ready__.remote()


async def test_two_generators_of_a_node_share_one_copy_and_a_lost_one_is_made_again(
    other_node: str, tmp_path: Path
) -> None:
    relay = Relay(timeout_s=60.0)
    sender = ShmSender("relayed", root=tmp_path)
    ticket = of_this_node(sender.publish(VERSION, bucketed(TENSORS, bucket_bytes=4000)))
    try:
        assert await relay.local(ticket, ticket["node"]) is ticket
        one, other = await asyncio.gather(relay.local(ticket, other_node), relay.local(ticket, other_node))
        assert one == other
        assert one["node"] == other_node
        assert one["folder"] != ticket["folder"]
        assert one["digest"] == ticket["digest"]
        copied = verify_published(one)
        assert copied.version == VERSION
        originals = verify_published(ticket).files
        assert [file.read_bytes() for file in copied.files] == [file.read_bytes() for file in originals]
        copied.files[0].write_bytes(b"torn" + copied.files[0].read_bytes()[4:])
        with pytest.raises(WeightsCorruptedError, match="CRC"):
            verify_published(one)
        relay.forget(other_node)
        assert verify_published(await relay.local(ticket, other_node)).version == VERSION

        ray.kill(relay._actors[other_node])
        await until_dead(relay._actors[other_node])
        relay.forget(other_node)
        with pytest.raises(ActorError, match=r"could not copy weights L0\.S3 from node"):
            await relay.local(ticket, other_node)
        assert verify_published(await relay.local(ticket, other_node)).version == VERSION  # whoever asks again

        sender.retire(VERSION)
        copies = Path((await relay.local(ticket, other_node))["folder"]).parent
        assert copies.exists()
        relay.close()
        assert not copies.exists()
        with pytest.raises(ActorError, match=r"weights L0\.S3 are not at .*retired"):
            await relay.local(ticket, other_node)

        ends = dict(relay._actors)  # a version that is gone says nothing against those who copy
        relay.forget(other_node)
        with pytest.raises(ActorError, match=r"weights L0\.S3 are not at .*retired"):
            await relay.local(ticket, other_node)
        assert relay._actors == ends
        newer = of_this_node(sender.publish(VERSION.next(), bucketed(TENSORS, bucket_bytes=4000)))
        assert verify_published(await relay.local(newer, other_node)).version == VERSION.next()
        assert relay._actors == ends

        for who in ("generator-0", "generator-1"):
            relay.enter(other_node, who)
            relay.enter(ticket["node"], who)
        copies = Path((await relay.local(newer, other_node))["folder"]).parent
        relay.leave(other_node, "generator-0")
        assert relay._actors == ends
        relay.leave(other_node, "generator-1")  # the last one: an idle actor would hold the node for good
        await until_dead(ends[other_node])
        assert not copies.exists()
        for who in ("generator-0", "generator-1"):
            relay.leave(ticket["node"], who)
        assert list(relay._actors) == [ticket["node"]], "the trainer still publishes there"
        assert verify_published(await relay.local(newer, other_node)).version == VERSION.next()
    finally:
        relay.close()
        sender.close()
