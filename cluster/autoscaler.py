"""What this process has asked of Ray's autoscaler.

A request stands in the cluster, not in the process: nodes are kept for it, and paid for, until it is withdrawn. Where
there is no autoscaler nothing comes of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ray.autoscaler.sdk import request_resources

if TYPE_CHECKING:
    from cluster.placement import Bundle

_standing: list[Bundle] = []


def ask_autoscaler(bundles: Sequence[Bundle]) -> None:
    """For nodes that hold these, in place of what was asked before."""
    _standing[:] = bundles
    request_resources(bundles=[dict(bundle.resources) for bundle in bundles])


def withdraw() -> None:
    """Lets go of the nodes.

    A process that asked for nothing leaves the request as it is: the cluster has one for all its users.
    """
    if _standing:
        with contextlib.suppress(Exception):  # the cluster may be gone, and the request with it
            ask_autoscaler([])
