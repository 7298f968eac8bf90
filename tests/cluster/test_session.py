import pytest
import ray
from ray.cluster_utils import Cluster

from cluster.config import RayConfig
from cluster.errors import ClusterError
from cluster.session import ray_session


def test_a_cluster_without_what_the_run_needs_is_refused_and_not_waited_for() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3})
    try:
        config = RayConfig(address=cluster.address)
        refused = pytest.raises(ClusterError, match="has 0 of resource 'sandbox' and this run needs 1")
        with refused, ray_session(config, num_cpus=3, num_sandboxes=1, memory_gb=1.0):
            pass
        assert not ray.is_initialized()
        cluster.add_node(num_cpus=1, resources={"sandbox": 1})
        with ray_session(config, num_cpus=3, num_sandboxes=1, memory_gb=1.0):
            assert ray.cluster_resources()["CPU"] == 4
    finally:
        cluster.shutdown()
