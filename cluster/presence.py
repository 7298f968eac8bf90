"""Where an actor runs, and with which versions: a node that is installed otherwise is refused in one sentence."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import ray

from cluster.errors import ActorError
from cluster.nodes import versions


@dataclass(frozen=True, slots=True)
class Presence:
    """One process of the run. ``node``: for people; ``node_id``: Ray's."""

    node: str
    pid: int
    versions: Mapping[str, str]
    node_id: str = ""

    def __str__(self) -> str:
        return f"node {self.node}, process {self.pid}"


class Present:
    """Mixed into what becomes a Ray actor."""

    def presence(self) -> Presence:
        """Of this process."""
        context = ray.get_runtime_context()
        node_id = context.get_node_id()
        return Presence(f"{ray.util.get_node_ip_address()}/{node_id[:8]}", os.getpid(), versions(), node_id)


def refuse_other_versions(who: str, presence: Presence) -> None:
    """Raises ActorError if an actor's node has other versions than this process: it may have joined after the start."""
    for package, ours in versions().items():
        theirs = presence.versions.get(package, ours)
        if theirs != ours:
            raise ActorError(
                f"{who} ({presence}) has {package} {theirs} and the driver {ours}; install the same on every node"
            )
