"""A Ray of our own: who can join it, and what it leaves behind."""

import ipaddress
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pipeline.plan.config import ConfigError
from tasks.session import attached_ray, cluster_address, local_ray
from tests.tasks.conftest import forget_ray

JOIN = """
import ray
ray.init(address={address!r}, logging_level=50, log_to_driver=False)
print("joined")
"""


def join(address, home, **environment):
    """What another process achieves that tries to join."""
    unset = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    # One try instead of twenty: the answer does not change.
    environment |= {"RAY_NUM_REDIS_GET_RETRIES": "1", "HOME": str(home)}
    code = JOIN.format(address=address)
    done = subprocess.run([sys.executable, "-c", code], env=inherited | environment, capture_output=True, text=True)
    return done.stdout.strip(), done.stderr


def listening():
    """The addresses at which this process and those it started take connections, with the process of each."""
    everything = [psutil.Process(), *psutil.Process().children(recursive=True)]
    sockets = [(process.name(), one) for process in everything for one in process.net_connections("tcp")]
    return [(name, one.laddr.ip) for name, one in sockets if one.status == psutil.CONN_LISTEN]


@pytest.fixture(scope="module")
def visit(tmp_path_factory):
    """A Ray of our own, started, visited by friends and strangers, and stopped; what was seen."""
    home = tmp_path_factory.mktemp("home")
    temporary = Path("/tmp")
    before = {name: os.environ.get(name) for name in ("HOME", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
    there = set(temporary.glob(f"gradmap-{os.getpid()}-*"))
    seen = {"home": home, "before": before}
    os.environ["HOME"] = str(home)
    try:
        with local_ray(1):
            import ray

            token = os.environ["RAY_AUTH_TOKEN"]
            address = ray.get_runtime_context().gcs_address
            seen["token"] = token
            seen["listening"] = listening()
            seen["during"] = set(temporary.glob(f"gradmap-{os.getpid()}-*")) - there
            seen["friend"] = join(address, home, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token)
            seen["wrong token"] = join(address, home, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64)
            seen["no token"] = join(address, home, RAY_AUTH_MODE="disabled")
    finally:
        os.environ["HOME"] = before["HOME"]
    forget_ray()
    seen["after"] = set(temporary.glob(f"gradmap-{os.getpid()}-*")) - there
    return seen


def test_a_process_with_the_token_joins(visit):
    assert visit["friend"][0] == "joined"


@pytest.mark.parametrize("who", ["wrong token", "no token"])
def test_a_process_without_the_token_is_refused(visit, who):
    out, error = visit[who]
    assert out == ""
    assert "Failed to connect" in error


def test_nothing_of_it_listens_outside_loopback(visit):
    names = {name for name, _ in visit["listening"]}
    assert {"gcs_server", "raylet"} <= names
    outside = [(name, ip) for name, ip in visit["listening"] if not is_loopback(ip)]
    assert outside == []


def is_loopback(ip):
    address = ipaddress.ip_address(ip)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def test_the_home_folder_stays_as_it_was(visit):
    assert list(visit["home"].rglob("*")) == []


def test_the_environment_and_the_temporary_folder_are_as_before(visit):
    after = {name: os.environ.get(name) for name in visit["before"]}
    assert after == visit["before"]
    assert len(visit["during"]) == 1
    assert visit["after"] == set()


def test_the_token_is_long_and_random(visit):
    assert len(visit["token"]) == 64
    assert len(set(visit["token"])) > 4


def test_a_cluster_that_is_not_there_is_refused_with_what_is_missing(monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:1 cannot be used.*RAY_AUTH_MODE"), attached_ray("127.0.0.1:1"):
        pass


def test_inside_a_job_its_own_cluster_is_used(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert cluster_address(None) == "10.0.0.1:6379"
    assert cluster_address("head:1") == "head:1"
    monkeypatch.delenv("RAY_ADDRESS")
    assert cluster_address(None) is None
