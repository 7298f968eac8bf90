"""Actors of this run that Ray holds back because no node has room for them: said while they wait.

Room is checked before a run starts; later a node may be lost, or another job may take what a replacement needs.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import ray
from ray._private.worker import global_worker
from ray.autoscaler.v2.sdk import get_cluster_resource_state
from ray.exceptions import RayError

from cluster.placement import Bundle, actor_rows, cluster_nodes, place
from cluster.roster import Report

_LOOK_S = 10.0
_SAY_EVERY_S = 60.0


async def tell_who_waits(report: Report, look_s: float = _LOOK_S) -> None:
    """Consumes nothing; waits between looks; ends when cancelled. Who waits at two looks in a row is reported, and
    again every minute."""
    seen: set[str] = set()
    said: dict[str, float] = {}
    while True:
        await asyncio.sleep(look_s)
        waiting = await asyncio.to_thread(waiting_actors)
        for actor, (kind, reason) in waiting.items():
            if actor in seen and time.monotonic() - said.get(actor, float("-inf")) >= _SAY_EVERY_S:
                said[actor] = time.monotonic()
                report(kind, "waits for room", reason)
        seen = set(waiting)


def waiting_actors() -> dict[str, tuple[str, str]]:
    """Ray's id of each actor of this job that has no place yet -> its class, and why in one sentence.

    To Ray an actor is pending until its process has started. Only those count whose resources are still demanded of
    the cluster: a process that starts slowly has its place. None are found where the head does not answer.
    """
    own, worker = ray.get_runtime_context(), cast(Any, global_worker)
    try:
        demands = get_cluster_resource_state(worker.gcs_client).pending_resource_requests
        demanded = [dict(demand.request.resources_bundle) for demand in demands]
        rows = actor_rows("PENDING_CREATION") if demanded else []
        nodes = cluster_nodes() if rows else []
    except RayError:  # the head is busy, or gone: who depends on it says so
        return {}
    waiting: dict[str, tuple[str, str]] = {}
    for row in rows:
        resources = dict(row.required_resources)
        if row.job_id.hex() == own.get_job_id() and resources in demanded:
            (found,) = place([Bundle(row.class_name, resources)], nodes)
            waiting[row.actor_id.hex()] = row.class_name, found.reason or "a node has room; Ray has not placed it yet"
    return waiting
