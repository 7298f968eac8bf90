"""Starts or joins Ray, and leaves nothing of ours behind."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import ray

from cluster.config import RayConfig
from cluster.errors import ClusterError

_OBJECT_STORE_BYTES = 1 << 30
_CONNECT_TIMEOUT_S = 10.0
SANDBOX_RESOURCE = "sandbox"


@contextmanager
def ray_session(config: RayConfig, *, num_cpus: int, num_sandboxes: int, memory_gb: float) -> Iterator[None]:
    """Joins the cluster named by ``config`` or by RAY_ADDRESS, or starts one with the logical resources asked for.

    ``num_cpus`` and ``num_sandboxes`` are what the run's actors reserve; ``memory_gb`` what they are estimated to need.
    Raises ClusterError in one sentence. A cluster that was started here is shut down on the way out.
    """
    address = os.environ.get("RAY_ADDRESS") or config.address
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address:
            _check_answers(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            _check_memory(memory_gb + config.memory_reserve_gb)
            ray.init(
                address="local",  # another cluster on this machine is not ours to join unasked
                num_cpus=max(num_cpus, os.cpu_count() or 1),
                resources={SANDBOX_RESOURCE: float(num_sandboxes)},
                include_dashboard=config.dashboard,
                object_store_memory=_OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except Exception as error:  # Ray raises bare ones too, such as for a start that takes too long
        where = f"the Ray cluster at {address}" if address else "a Ray cluster on this machine"
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ClusterError(f"{where} could not be {'joined' if address else 'started'}: {first_line}") from error
    signal.signal(signal.SIGTERM, on_sigterm)  # Ray has put its own in place, which would skip our way out
    try:
        _require_resources({"CPU": num_cpus, SANDBOX_RESOURCE: num_sandboxes})
        yield
    finally:
        ray.shutdown()


def _require_resources(needed: dict[str, float]) -> None:
    """Raises ClusterError if the cluster, as it stands, could never hold ``needed``; nothing waits in silence."""
    have = ray.cluster_resources()
    for name, amount in needed.items():
        if have.get(name, 0.0) < amount:
            raise ClusterError(
                f"the cluster has {have.get(name, 0.0):g} of resource {name!r} and this run needs {amount:g}; "
                "start a node with it (ray start --resources), or lower the counts in the recipe"
            )


def _check_answers(address: str) -> None:
    """Raises OSError if nothing listens at ``host:port``: Ray itself would try for minutes."""
    host, separator, port = address.rpartition(":")
    if separator and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()


def _check_memory(needed_gb: float) -> None:
    available_gb = psutil.virtual_memory().available / 2**30
    if available_gb < needed_gb:
        raise ClusterError(
            f"this run needs about {needed_gb:.1f} GB of memory and {available_gb:.1f} GB are available; "
            "lower generators.count, or end other programs"
        )


def start_actor(kind: type, *arguments: Any, **options: Any) -> Any:
    """Makes a Ray actor of a plain class. The handle is Any: its methods are made at run time."""
    return ray.remote(kind).options(**options).remote(*arguments)


def end_actor(handle: Any) -> None:
    """Ends an actor at once; one that is dead already stays so."""
    ray.kill(handle)
