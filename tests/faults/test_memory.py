"""Too little memory, on the device or on the machine: smaller blocks, a few more tries, and the run ends."""

import json
import os
import subprocess
import sys

import pytest

from pipeline import open_cube
from pipeline.store.status import store_status
from tasks.cli import main
from tests.faults.lab import assert_done_is_true, write_lab
from tests.faults.zygote import ROOT
from tests.run.lab import NEURONS, entry

MODELS = {"LabModel": "tests.run.lab.LabModel", "Cramped": "tests.faults.lab.Cramped"}

#: Ray's monitor finds the memory used up from the start, and looks often.
TAKEN = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "50"}


def test_a_run_in_too_little_device_memory_takes_smaller_blocks_records_them_and_writes_the_same_maps(tmp_path):
    replicated = '[maps.strf]\nkind = "strf"\nroute = "replicated"\n'
    blocks = {}
    for model in ("LabModel", "Cramped"):
        config = write_lab(tmp_path / model, 1, more="", maps=replicated, entries=entry(model_class=MODELS[model]))
        for path in config.parent.glob("checkpoints/*/config.json"):
            path.write_text(path.read_text().replace("LabModel", model))
        assert main(["run", "--local", str(config)]) == 0
        assert assert_done_is_true(config.parent / "cube.zarr", config.parent / "checkpoints") == NEURONS
        blocks[model] = json.loads(open_cube(config.parent / "cube.zarr").attrs["blocks"])["strf"]
    assert blocks == {"LabModel": {"c00": NEURONS}, "Cramped": {"c00": 1}}


@pytest.mark.slow
def test_tasks_that_are_ended_for_their_memory_are_retried_a_few_times_and_then_given_up(tmp_path):
    config = write_lab(tmp_path, 1, pause_ms=300.0)
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "tasks", "run", str(config), "--report", str(report)]
    found = subprocess.run(command, cwd=ROOT, env=os.environ | TAKEN, capture_output=True, text=True, timeout=900)
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
    again = subprocess.run([*command, "--local"], cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert again.returncode == 0, again.stdout
