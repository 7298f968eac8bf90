"""Starts or joins Ray, and leaves nothing of ours behind."""

from __future__ import annotations

import functools
import inspect
import logging
import math
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import AuthenticationError

from cluster import secrets
from cluster.autoscaler import autoscaler_asked_for
from cluster.config import RayConfig
from cluster.errors import ClusterError
from cluster.nodes import require_nodes
from cluster.placement import SANDBOX_RESOURCE, Bundle, require_room

_OBJECT_STORE_BYTES = 1 << 30
_CONNECT_TIMEOUT_S = 10.0
_CLOSE_TIMEOUT_S = 2.0
_AGENT_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
_CHOOSES = "chooses_ports"
TOKEN_HINT = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN) to the cluster's own"


@contextmanager
def ray_session(
    config: RayConfig, *, bundles: Sequence[Bundle], folder: Path, say: Callable[[str], None] = print
) -> Iterator[None]:
    """Joins the cluster named by ``config`` or by RAY_ADDRESS, or starts one with the logical resources asked for.

    A cluster that was joined must see the run's ``folder`` from every node. None is used that cannot hold all
    ``bundles``: nothing waits in silence for a place, see ``require_room``. Raises ClusterError in one sentence. A
    cluster that was started here is shut down on the way out.
    """
    address = cluster_address(config)
    with joined(address) if address else _started(config, bundles):
        if address:
            require_nodes(folder)
        with autoscaler_asked_for(folder):
            require_room(bundles, config.wait_for_resources_s, say)
            yield


def cluster_address(config: RayConfig) -> str | None:
    """Where the run's cluster is; None if it starts its own. A submitted Ray job's own cluster comes first."""
    return os.environ.get("RAY_ADDRESS") or config.address


@contextmanager
def joined(address: str) -> Iterator[None]:
    """Joins a cluster and leaves it. Raises ClusterError."""
    with _connected(f"the Ray cluster at {address} could not be joined"):
        check_answers(address)
        with _native_errors() as written:
            try:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            except Exception as error:
                # Ray's core tries for 20 s, says so on standard error only, and then speaks of the connection.
                if b"InvalidAuthToken" in written():
                    raise AuthenticationError(str(error)) from error
                raise
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _started(config: RayConfig, bundles: Sequence[Bundle]) -> Iterator[None]:
    num_cpus = sum(bundle.resources.get("CPU", 0.0) for bundle in bundles)
    choose_agent_ports()
    with _connected("a Ray cluster on this machine could not be started"), secrets.hidden():
        ray.init(
            address="local",  # another cluster on this machine is not ours to join unasked
            num_cpus=max(math.ceil(num_cpus), os.cpu_count() or 1),
            resources={SANDBOX_RESOURCE: sum(bundle.resources.get(SANDBOX_RESOURCE, 0.0) for bundle in bundles)},
            include_dashboard=config.dashboard,
            object_store_memory=_OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
            # Ray's own 15 gives its workers a thirtieth of what any other program gets: engines beside one compile
            # were seen not to come up within five minutes.
            # And it gives a node up that answers five looks in a row too late: its own, on a machine that is busy.
            _system_config={"worker_niceness": 0, "health_check_failure_threshold": 20},
        )
    try:
        yield
    finally:
        ray.shutdown()


def choose_agent_ports() -> None:
    """From now on nodes that this process starts are told the ports of their agents.

    Ray (2.60) ends a node whose agents have not told it their ports within 15 s, which no setting changes
    (ray-project/ray#65983): on a machine with a load of ten on each core they do not. It reads one of them from the
    agent's file in any case, so that this file is there before.
    """
    from ray._private import services

    start: Any = services.start_raylet
    if getattr(start, _CHOOSES, False):
        return

    @functools.wraps(start)
    def start_with_ports(*arguments: Any, **options: Any) -> Any:
        node = inspect.signature(start).bind(*arguments, **options).arguments
        ports = {name: free_port() for name in _AGENT_PORTS}
        for name, port in ports.items():
            (Path(node["session_dir"]) / f"{name}_{node['node_id']}").write_text(str(port))
        return start(*arguments, **(options | ports))

    setattr(start_with_ports, _CHOOSES, True)
    services.start_raylet = start_with_ports


def free_port() -> int:
    """One that nobody listens at now."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return listener.getsockname()[1]


@contextmanager
def _connected(what: str) -> Iterator[None]:
    """Around ray.init: its errors become one sentence, and the handler of SIGTERM stays ours."""
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except AuthenticationError:
        raise ClusterError(f"{what}: it refused the token; {TOKEN_HINT}") from None
    except Exception as error:  # Ray raises bare ones too, such as for a start that takes too long
        if isinstance(error.__cause__, AuthenticationError) or "authentication" in str(error).lower():
            raise ClusterError(f"{what}: it refused the token; {TOKEN_HINT}") from None
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ClusterError(f"{what}: {first_line}") from error
    finally:
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray has put its own in place, which would skip our way out


@contextmanager
def _native_errors() -> Iterator[Callable[[], bytes]]:
    """Keeps standard error, which Ray's core writes to past Python, from the terminal; gives what was written."""
    sys.stderr.flush()
    ours = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)

        def written() -> bytes:
            return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)

        try:
            yield written
        finally:
            sys.stderr.flush()
            os.dup2(ours, 2)
            os.close(ours)


def check_answers(address: str) -> None:
    """Raises OSError if nothing listens at ``host:port``: Ray itself would try for minutes."""
    host, separator, port = address.rpartition(":")
    if separator and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()


def start_actor(kind: type, *arguments: Any, **options: Any) -> Any:
    """Makes a Ray actor of a plain class. The handle is Any: its methods are made at run time."""
    return ray.remote(**options)(kind).remote(*arguments)


def end_actor(handle: Any) -> None:
    """Ends an actor at once; one that is dead already stays so."""
    ray.kill(handle)


def close_actors(handles: Sequence[Any], **options: Any) -> None:
    """Ends actors that hold more than their process: each is asked to ``close`` before, and not waited for for long.

    ``options``: Ray's, of that call.
    """
    closing = [handle.close.options(**options).remote() for handle in handles]
    if closing:
        ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_TIMEOUT_S)
    for handle in handles:
        end_actor(handle)
