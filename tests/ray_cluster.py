"""A Ray cluster on this machine's loopback, whose nodes have a core each and can be killed."""

import os
from contextlib import contextmanager

# Ray reads these when it is imported, here and in the processes that it starts.
os.environ.update(RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", RAY_USAGE_STATS_ENABLED="0", RAY_BACKEND_LOG_LEVEL="fatal")

import ray
from ray.cluster_utils import Cluster

STORE_BYTES = 80 * 1024 * 1024
HERE = {"node_ip_address": "127.0.0.1", "object_store_memory": STORE_BYTES}


@contextmanager
def cluster(n_nodes):
    """Start nodes of one core, each on a core of its own as far as there are; give the cluster and its nodes."""
    cores = sorted(os.sched_getaffinity(0))
    it = Cluster(initialize_head=True, head_node_args={**HERE, "num_cpus": 0, "include_dashboard": False})
    nodes = []
    try:
        for i in range(n_nodes):
            os.sched_setaffinity(0, {cores[i % len(cores)]})
            nodes.append(it.add_node(num_cpus=1, **HERE))
        os.sched_setaffinity(0, cores)
        it.wait_for_nodes()
        yield it, nodes
    finally:
        os.sched_setaffinity(0, cores)
        ray.shutdown()
        it.shutdown()
