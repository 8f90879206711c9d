"""The head of a cluster dies under a run: it ends with the reason, and the next one computes what is missing."""

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress

import psutil
import pytest

from pipeline.store.verify import verify_store
from tasks.dispatch import Limits
from tests.faults.lab import assert_done_is_true, write_lab, written
from tests.faults.zygote import ROOT
from tests.run.lab import NEURONS
from tests.tasks.test_job import RAY, environment_of_a_head, free_ports

pytestmark = pytest.mark.slow

CHECKPOINTS = 20


@pytest.fixture
def head():
    """A head with two slots: its process, its address, and the environment of those who may join it."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    (port,) = free_ports(1)
    environment = environment_of_a_head(folder)
    command = [RAY, "start", "--head", "--block", "--num-cpus=2", f"--temp-dir={folder}/ray", f"--port={port}"]
    command += ["--node-ip-address=127.0.0.1", "--include-dashboard=false", "--object-store-memory=100000000"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    everything = []
    try:
        until = time.monotonic() + 600
        while not listening(port):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.2)
        time.sleep(2.0)  # the slots follow the port
        everything = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        yield process, f"127.0.0.1:{port}", environment
    finally:
        for one in everything:
            kill(one)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()


def run(config, report, *words, **how):
    command = [sys.executable, "-m", "tasks", "run", str(config), "--report", str(report), *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **how)


@pytest.mark.parametrize("dying", ["its control process", "the machine"])
def test_a_run_whose_head_dies_ends_with_the_reason_and_the_next_one_computes_what_is_missing(tmp_path, head, dying):
    process, address, environment = head
    config, report = write_lab(tmp_path, CHECKPOINTS, pause_ms=100.0), tmp_path / "report.json"
    store = tmp_path / "cube.zarr"
    driver = run(config, report, "--address", address, env=environment)
    until = time.monotonic() + 600
    while not store.exists() or len(written(store)) < 5:
        assert driver.poll() is None, driver.stdout.read()
        assert time.monotonic() < until
        time.sleep(0.05)
    died = time.monotonic()
    everything = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in everything:
        if dying == "the machine" or one.name() == "gcs_server":
            kill(one)
    said, _ = driver.communicate(timeout=900)
    seconds = time.monotonic() - died
    assert driver.returncode == 4, said
    assert Limits().head_s < seconds < 60.0  # after which Ray would have ended it without a word
    assert "has not answered for" in said
    assert said.splitlines()[-1].startswith("gradmap: stopped, and can be continued:")
    told = json.loads(report.read_text())
    assert (told["exit_status"], told["failed"]) == (4, 0)
    assert "Ray's head at" in told["reason"]
    # Everything that came back was recorded, nothing is claimed that is not there, and nobody is blamed.
    shards = CHECKPOINTS * NEURONS
    done = assert_done_is_true(store, tmp_path / "checkpoints")
    assert done == told["done"] == shards - told["pending"]
    found = verify_store(store)
    assert found.sound
    unclaimed = len(written(store)) - done
    assert unclaimed <= 2  # what the two workers had in hand
    again = run(config, report, "--local")
    assert again.wait(timeout=900) == 0, again.stdout.read()
    again.stdout.close()
    assert json.loads(report.read_text())["computed"] == shards - done
    assert assert_done_is_true(store, tmp_path / "checkpoints") == shards
    print(f"\nended after {seconds:.0f} s, {done} done, {unclaimed} executed again")
