"""A machine whose memory is taken: Ray ends every task, and the run ends all the same."""

import json
import os
import subprocess
import sys

import pytest

from pipeline.store import store_status
from tests.faults.lab import write_lab
from tests.faults.zygote import ROOT

#: Ray's monitor finds the memory used up from the start, and looks often.
TAKEN = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "50"}


@pytest.mark.slow
def test_tasks_that_are_ended_for_their_memory_are_retried_a_few_times_and_then_given_up(tmp_path):
    config = write_lab(tmp_path, 1, pause_ms=300.0)
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "tasks", "run", str(config), "--report", str(report)]
    found = subprocess.run(command, cwd=ROOT, env=os.environ | TAKEN, capture_output=True, text=True, timeout=280)
    assert found.returncode == 3, found.stdout + found.stderr
    told = json.loads(report.read_text())
    print(told)
    assert (told["done"], told["failed"], told["pending"]) == (0, 3, 0)
    assert set(told["by_cause"]) == {"out of memory"}
    assert sum(told["faults"].values()) <= 3 * 3
    (status,) = store_status(tmp_path / "cube.zarr")
    assert status.regions.failed == 3
    # With its memory back it needs only to be told so.
    assert subprocess.run([sys.executable, "-m", "tasks", "verify", "--requeue", str(config)], cwd=ROOT).returncode == 4
    again = subprocess.run([*command, "--local"], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert again.returncode == 0, again.stdout
