"""Nodes that die and join while a run goes on, on a cluster of several Ray nodes of this machine."""

import threading
import time
from collections import Counter

import pytest

from tasks.dispatch import Dispatcher, Limits
from tasks.ledger import Ledger
from tasks.on_ray import RayExecutor
from tests.tasks.conftest import forget_ray
from tests.tasks.test_dispatch import Record, a_plan, begun, shards_of, slow

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(monkeypatch):
    """A head without slots, to which a test adds nodes."""
    from ray.cluster_utils import Cluster

    from tasks.session import _environment

    settings = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "5" * 64, "RAY_USAGE_STATS_ENABLED": "0"}
    with _environment(settings):
        import ray

        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
        try:
            yield nodes
        finally:
            ray.shutdown()
            nodes.shutdown()
    forget_ray()


def run(tmp_path, shards, *, gpus=0.0, **settings):
    """The dispatcher in a thread of its own, so that the test can disturb it."""
    plan, record = a_plan(tmp_path), Record()
    ledger = Ledger(shards)
    dispatcher = Dispatcher(RayExecutor(plan, slow, gpus=gpus), ledger, record, **settings)
    finished = []
    thread = threading.Thread(target=lambda: finished.append(dispatcher.run()))
    thread.start()
    return plan, record, ledger, thread, finished


def wait_until(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_node_that_is_lost_costs_only_what_it_had_in_hand_and_no_shard_is_charged(cluster, tmp_path):
    first, second = cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)
    shards = [shard for checkpoint in range(4) for shard in shards_of(checkpoint, 4)]
    plan, record, ledger, thread, finished = run(tmp_path, shards)
    wait_until(lambda: len({entry[2] for entry in begun(plan)}) == 2 and len(record.reports) >= 2)
    cluster.remove_node(second, allow_graceful=False)
    thread.join(timeout=600)
    assert finished == [True]
    assert {report.shard for report in record.reports} == set(shards)
    assert all(report.done for report in record.reports)
    assert len(record.reports) == 16
    assert set(ledger.faults) <= {"infrastructure", "crash"}
    assert sum(ledger.faults.values()) <= 2
    assert sum(Counter(entry[:2] for entry in begun(plan)).values()) <= 16 + 2
    assert first in cluster.list_all_nodes()


def test_when_the_last_gpu_node_goes_the_run_says_so_and_goes_on_when_another_joins(cluster, tmp_path):
    node = cluster.add_node(num_cpus=1, num_gpus=1)
    sentences = []
    _, record, _, thread, finished = run(
        tmp_path, shards_of(0, 6), gpus=1.0, limits=Limits(silence_s=3.0), say=sentences.append
    )
    wait_until(lambda: len(record.reports) >= 1)
    cluster.remove_node(node, allow_graceful=False)
    wait_until(lambda: any("0 CPU, 0 GPU on 1 node(s)" in sentence for sentence in sentences))
    assert "1 CPU and 1 GPU" in sentences[-1]
    cluster.add_node(num_cpus=1, num_gpus=1)
    thread.join(timeout=600)
    assert finished == [True]
    assert len(record.reports) == 6
    assert all(report.done for report in record.reports)
