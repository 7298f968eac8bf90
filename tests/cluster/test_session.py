"""Joining a cluster: what it lacks is said and not waited for, and every node is looked at before the start."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from cluster.config import RayConfig
from cluster.errors import ClusterError
from cluster.nodes import NodeReport, complaint, probe_nodes, versions
from cluster.placement import Bundle, cluster_nodes, place, require_room
from cluster.session import joined, ray_session
from tests.patient_ray import be_patient

RUN = [Bundle("trainer", {"CPU": 1.0}), Bundle("generator-0", {"CPU": 2.0}), Bundle("executor-0", {"sandbox": 1.0})]
RAY = str(Path(sys.executable).with_name("ray"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    be_patient()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3})
    yield cluster
    cluster.shutdown()


def test_what_a_cluster_lacks_is_said_at_once_or_waited_for_aloud(cluster: Cluster, tmp_path: Path) -> None:
    config = RayConfig(address=cluster.address)
    refused = pytest.raises(ClusterError, match="executor-0 asks 1 of resource 'sandbox' and the cluster has 0")
    with refused, ray_session(config, bundles=RUN, folder=tmp_path):
        pass
    assert not ray.is_initialized()
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 1:
            cluster.add_node(num_cpus=1, resources={"sandbox": 1})

    config = RayConfig(address=cluster.address, wait_for_resources_s=60)
    with ray_session(config, bundles=RUN, folder=tmp_path, say=say):
        assert ray.cluster_resources()["CPU"] == 4
        assert probe_nodes(tmp_path) == []
        assert [path.name for path in tmp_path.iterdir()] == ["autoscaler_request"], "a probe takes its files away"
        holder = ray.remote(_Holder).options(num_cpus=2, name="somebody-else").remote()
        ray.get(holder.ready.remote())
        _wait_until(lambda: sum(node.free.get("CPU", 0) for node in cluster_nodes()) == 2)
        *_, last = place([*RUN, Bundle("generator-1", {"CPU": 2.0})], cluster_nodes())
        assert last.node is None
        assert "somebody-else of job" in last.reason
        begun = time.monotonic()
        with pytest.raises(ClusterError, match=r"cannot hold this run: generator-0 asks 2 of resource 'CPU'; .* free"):
            require_room([*RUN, Bundle("generator-1", {"CPU": 2.0})], 0.0, said.append)
        assert time.monotonic() - begun < 5
    assert list(tmp_path.iterdir()) == []
    assert "waiting for room in the cluster (0 of at most 60 s): executor-0 asks" in said[0]


def test_actors_of_a_cluster_of_our_own_are_as_urgent_as_its_driver(tmp_path: Path) -> None:
    with ray_session(RayConfig(), bundles=RUN, folder=tmp_path):
        assert ray.get(ray.remote(lambda: os.nice(0)).remote()) == os.nice(0)


class _Holder:
    def ready(self) -> bool:
        return True


def _wait_until(condition, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.skipif(
    subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0,
    reason="a node with another view of the files needs a mount namespace",
)
def test_a_node_that_does_not_see_the_runs_folder_is_named(cluster: Cluster, tmp_path: Path) -> None:
    hidden = f"mount -t tmpfs none {tmp_path} && exec {RAY} start --address={cluster.address} --num-cpus=1 --block"
    environment = os.environ | {"RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "disabled")}
    with joined(cluster.address):
        before = {node["NodeID"] for node in ray.nodes()}
        node = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", hidden], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        try:
            _wait_until(lambda: len(ray.nodes()) > len(before), 120)
            (late,) = {node["NodeID"] for node in ray.nodes()} - before
            (found,) = probe_nodes(tmp_path)
        finally:
            node.terminate()
            node.wait(60)
    assert f"({late[:6]}) cannot read the run's folder {tmp_path}" in found


OWN = {"python": "3.11", "crucible-rl": "0.1.0", "vllm": "0.32.0"}


def test_a_node_of_executors_alone_needs_no_folder() -> None:
    assert complaint("n", NodeReport(None, False, OWN), None, Path("/runs/x"), OWN) == ""
    assert "has vllm 1" in complaint("n", NodeReport(None, False, {**OWN, "vllm": "1"}), None, Path("/runs/x"), OWN)


def test_nodes_with_and_without_gpus_have_the_same_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """One cluster has nodes of both locks: their torch and their vLLM differ in the build alone."""
    found = [_versions_of_lock(name, monkeypatch) for name in ("cpu", "gpu")]
    assert found[0]["torch"] == found[1]["torch"]
    both = found[0].keys() & found[1].keys()
    assert {name: found[0][name] for name in both} == {name: found[1][name] for name in both}
    assert "vllm" in both


def _versions_of_lock(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What a node says that was installed by one of the locks."""
    lock = (Path(__file__).resolve().parents[2] / "requirements" / f"{name}.lock").read_text()
    pinned = dict(re.findall(r"^([a-z-]+)==(\S+)", lock, re.MULTILINE))  # the last pin of torch is that of Linux

    def version(package: str) -> str:
        if package not in pinned:
            raise PackageNotFoundError
        return pinned[package]

    monkeypatch.setattr("cluster.nodes.version", version)
    return versions()


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (NodeReport("token", True, OWN), ""),
        (NodeReport("token", True, {**OWN, "vllm": "0.31.0"}), "node n has vllm 0.31.0 and the driver 0.32.0"),
        (NodeReport("token", True, {**OWN, "crucible-rl": "0.2"}), "node n has crucible-rl 0.2 and the driver 0.1.0"),
        (NodeReport("token", True, {"python": "3.11"}), "node n has no Crucible installed"),
        (NodeReport("other", True, OWN), "node n cannot read the run's folder /runs/x"),
        (NodeReport("token", False, OWN), "node n can read the run's folder /runs/x but not write to it"),
    ],
)
def test_what_is_wrong_with_a_node_is_one_sentence(report: NodeReport, said: str) -> None:
    found = complaint("n", report, "token", Path("/runs/x"), OWN)
    assert found.startswith(said)
    assert bool(found) == bool(said)
