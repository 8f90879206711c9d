"""What the commands print, and how they end."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.cli import main
from tests.tasks.trouble import files_of, write_lab

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def gradmap(capsys):
    """Run a command in this process; its exit status, lines of output and lines of errors."""

    def call(*words):
        try:
            status = main([str(word) for word in words])
        except SystemExit as exit_request:
            status = exit_request.code
        captured = capsys.readouterr()
        return status, captured.out.splitlines(), captured.err.splitlines()

    return call


def test_a_run_ends_with_a_line_that_says_so_with_counts(tmp_path, gradmap):
    config = write_lab(tmp_path)
    status, out, _ = gradmap("run", "--local", config)
    assert status == 0
    assert out[-1].startswith("gradmap: everything written: 9 shards done (9 of them now), 0 failed, 0 pending")
    assert out[-1].endswith("(exit status 0)")
    status, out, _ = gradmap("run", "--local", config)
    assert status == 0
    assert "9 shards done (0 of them now)" in out[-1]


def test_failures_are_listed_with_their_cause_and_end_with_status_3(tmp_path, gradmap):
    config = write_lab(tmp_path, {"cut": "cut", "raising": "raise"}, healthy=1)
    status, out, _ = gradmap("run", "--local", config, "--report", tmp_path / "run.json")
    assert status == 3
    assert any("lab/raising strf: compute (3 shards): RuntimeError: this model always fails" in line for line in out)
    assert out[-1].startswith("gradmap: finished, with failures: 3 shards done (3 of them now), 6 failed, 0 pending")
    report = json.loads((tmp_path / "run.json").read_text())
    assert (report["exit_status"], report["done"], report["failed"], report["pending"]) == (3, 3, 6, 0)
    assert report["by_cause"] == {"load": 3, "compute": 3}
    status, out, _ = gradmap("status", config, "--json", tmp_path / "status.json")
    assert status == 3
    assert any("raising strf: compute" in line for line in out)
    assert any("cut strf: load" in line for line in out)
    cohorts = json.loads((tmp_path / "status.json").read_text())["cohorts"]
    assert {entry["cause"] for entry in cohorts[0]["failures"]} == {"load", "compute"}


def test_shards_that_were_slow_are_listed_at_the_end_and_in_the_report(tmp_path, gradmap, monkeypatch):
    monkeypatch.setattr("pipeline.plan.stragglers.LEAST_S", 0.25)
    config = write_lab(tmp_path, {"even-0": "", "even-1": "", "late": "slow"}, healthy=0)
    status, out, _ = gradmap("run", "--local", config, "--report", tmp_path / "run.json")
    assert status == 0
    slow = [line for line in out if line.startswith("slow: ")]
    # Not its first: that is compared with the first ones of other checkpoints, of which one was the first of all.
    named = [line.partition(":")[2].partition(":")[0] for line in slow]
    assert named[-2:] == [" lab/late strf, neuron n1", " lab/late strf, neuron n2"]
    listed = json.loads((tmp_path / "run.json").read_text())["stragglers"]
    assert [entry["checkpoint"] for entry in listed] == ["late"] * len(named)
    assert [entry["neurons"] for entry in listed][-2:] == [["n1"], ["n2"]]
    assert all(entry["seconds"] > max(0.25, 4 * entry["median_s"]) for entry in listed)


def test_a_run_and_a_status_say_in_one_line_how_many_maps_carry_which_flag(tmp_path, gradmap):
    short = write_lab(tmp_path, healthy=2, lags="3")  # of kernels that are five frames long
    _, run, _ = gradmap("run", "--local", short)
    _, status, _ = gradmap("status", short, "--json", tmp_path / "status.json")
    lines = {line for line in (*run, *status) if line.startswith("health: ")}
    assert len(lines) == 1
    assert lines.pop() == "health: 6 incomplete of 6 maps (truncated_window 6)"
    (cohort,) = json.loads((tmp_path / "status.json").read_text())["cohorts"]
    assert cohort["maps"][0]["flags"] == {"truncated_window": 6}
    assert cohort["maps"][0]["flagged"] == {"incomplete": 6}
    attributes = json.loads((tmp_path / "cube.zarr/lab/strf_health/zarr.json").read_text())["attributes"]
    assert "more lags" in json.loads(attributes["flag_table"])["truncated_window"]["remedy"]


def test_verify_requeues_what_failed_for_the_next_run(tmp_path, gradmap):
    config = write_lab(tmp_path, {"raising": "raise"}, healthy=1)
    gradmap("run", "--local", config)
    status, out, _ = gradmap("verify", tmp_path / "cube.zarr", "--json", tmp_path / "verify.json")
    assert status == 3
    assert json.loads((tmp_path / "verify.json").read_text())["counts"] == {"failed": 3}
    status, out, _ = gradmap("verify", "--requeue", tmp_path / "cube.zarr")
    assert status == 4
    assert "3 regions marked" in out[-1]
    status, out, _ = gradmap("status", tmp_path / "cube.zarr")
    assert (status, "3 pending" in out[-1]) == (4, True)
    status, out, _ = gradmap("run", "--local", config)
    assert (status, "3 failed" in out[-1]) == (3, True)


def test_a_sound_and_complete_store_verifies_with_status_0(tmp_path, gradmap):
    gradmap("run", "--local", write_lab(tmp_path, healthy=1))
    status, out, _ = gradmap("verify", tmp_path / "cube.zarr")
    assert status == 0
    assert "sound and complete: 3 of 3 regions done" in out[-1]


def test_plan_refuses_a_place_for_its_store_and_tells_units_that_look_wrong(tmp_path, gradmap):
    config = write_lab(tmp_path, healthy=1, frequencies="[0.1, 0.2, 0.4, 0.8]")
    text = config.read_text().replace("frame_ms = 10.0", "frame_ms = 0.01")
    config.write_text(text)
    status, out, _ = gradmap("plan", config)
    assert status == 0
    assert [line.rpartition("; ")[2] for line in out if line.startswith("note:")] == [
        "is it in seconds?",
        "are they in kHz?",
    ]
    for store, reason in (
        (".", "is not empty"),
        ("run.toml/cube.zarr", "which is a file"),
        ("none://x", "not installed"),
    ):
        config.write_text(text.replace('store = "cube.zarr"', f'store = "{store}"'))
        status, _, error = gradmap("plan", config)
        assert status == 2
        assert reason in "\n".join(error)


def test_plan_prints_what_a_run_would_be_and_writes_nothing(tmp_path, gradmap):
    config = write_lab(tmp_path, {"cut": "cut"})
    status, out, _ = gradmap("plan", config, "--json", tmp_path / "plan.json")
    text = "\n".join(out)
    assert status == 3
    assert "lab: 4 checkpoints" in text
    assert "3 neurons, 4 bands, 6 frames of 10 ms" in text
    assert any(line.startswith("cannot be loaded: lab/cut:") for line in out)
    for name in ("checkpoints", "shards", "bytes of maps", "objects in the store", "requests", "memory per task"):
        assert any(line.startswith(name) for line in out), name
    weight = json.loads((tmp_path / "plan.json").read_text())["weight"]
    assert (weight["checkpoints"], weight["shards"], weight["map_bytes"]) == (4, 12, 4 * 3 * 4 * 6 * 4)
    assert not (tmp_path / "cube.zarr").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "nowhere.toml"), "cannot be read"),
        (("plan", "nowhere.toml"), "cannot be read"),
        (("status", "nowhere.toml"), "cannot be read"),
        (("status", "nowhere.zarr"), "nowhere.zarr"),
        (("verify", "nowhere.zarr"), "nowhere.zarr"),
        (("report", "nowhere.zarr"), "nowhere.zarr"),
        (("summarise", "nowhere.zarr"), "nowhere.zarr"),
    ],
)
def test_what_is_not_there_is_refused_with_status_2(gradmap, words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, errors = gradmap(*words)
    assert status == 2
    assert said in "\n".join(errors)
    assert errors[-1] == "gradmap: refused, nothing was computed (exit status 2)"


@pytest.mark.parametrize("words", [("dance",), ("run",), ("run", "--local", "--address", "x", "run.toml"), ()])
def test_commands_that_are_not_understood_end_with_status_2(gradmap, words):
    status, _, errors = gradmap(*words)
    assert status == 2
    assert any(line.startswith("usage: gradmap") for line in errors)
    assert errors[-1] == "gradmap: refused, nothing was computed (exit status 2)"


def test_status_of_a_config_whose_store_is_not_there_yet_is_unfinished(tmp_path, gradmap):
    status, out, _ = gradmap("status", write_lab(tmp_path, healthy=1))
    assert status == 4
    assert "nothing has been computed yet" in out[0]


def test_version_is_printed(gradmap):
    status, out, _ = gradmap("--version")
    assert status == 0
    assert out[0].startswith("gradmap 0.")


def test_status_waits_for_neither_torch_nor_ray():
    code = (
        "import sys, tasks.cli; tasks.cli.main(['status', 'nowhere.zarr']); print({'torch', 'ray'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "set()"


def start(config, *options):
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks", "run", str(config), *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    return process


def wait_for_map(store, process):
    """Wait until the first region of a map is written."""
    until = time.monotonic() + 150
    while not list(store.glob("lab/strf/c/*/*/*/*")) and time.monotonic() < until:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)


@pytest.mark.parametrize(
    "options", [pytest.param(("--local",), id="local", marks=pytest.mark.slow), pytest.param((), id="ray")]
)
def test_sigterm_ends_a_run_with_status_4_within_three_seconds_and_the_next_one_finishes(tmp_path, options, gradmap):
    troubles = {f"slow-{number}": "slow" for number in range(3)}
    config = write_lab(tmp_path, troubles, healthy=0)
    process = start(config, *options)
    wait_for_map(tmp_path / "cube.zarr", process)
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=300)
    seconds = time.monotonic() - started
    assert process.returncode == 4, out
    assert seconds < 3.4, out  # three, and some for a machine that other tests keep busy
    last = out.splitlines()[-1]
    assert last.startswith("gradmap: stopped, and can be continued:")
    assert last.endswith("(exit status 4)")
    status, lines, _ = gradmap("run", "--local", config)
    assert status == 0
    assert "9 shards done" in lines[-1]


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--local",), ()], ids=["local", "ray"])
def test_a_driver_killed_at_any_moment_leaves_a_store_that_the_next_run_finishes_to_the_byte(
    tmp_path, options, gradmap
):
    undisturbed, disturbed = tmp_path / "a", tmp_path / "b"
    troubles = {f"slow-{number}": "slow" for number in range(4)}
    gradmap("run", "--local", write_lab(undisturbed, troubles))
    config = write_lab(disturbed, troubles)
    for seconds in (0.2, 1.1, 0.5):
        process = start(config, *options)
        wait_for_map(disturbed / "cube.zarr", process)
        time.sleep(seconds)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    status, _, _ = gradmap("run", "--local", config)
    assert status == 0
    assert files_of(disturbed / "cube.zarr") == files_of(undisturbed / "cube.zarr")
    _, lines, _ = gradmap("run", "--local", config)
    assert "(0 of them now)" in lines[-1]


def test_checkpoints_that_are_one_model_are_named(tmp_path, gradmap):
    config = write_lab(tmp_path, healthy=3)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tmp_path / "checkpoints/good-0" / name, tmp_path / "checkpoints/good-2" / name)
    for words in (
        ("plan", config),
        ("run", "--local", config),
        ("reliability", tmp_path / "cube.zarr", "--shuffles", 5),
    ):
        status, out, _ = gradmap(*words)
        assert status == 0
        told = [line for line in out if line.startswith("note: good-0, good-2 are one and the same model (2 ")]
        assert len(told) == (words[0] != "run")


def test_what_code_of_a_lab_leaves_behind_decides_neither_the_status_nor_the_end(tmp_path):
    process = start(write_lab(tmp_path, {"lingers": "linger", "raising": "raise"}, healthy=0), "--local")
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 3, out
    assert out.splitlines()[-1].startswith("gradmap: finished, with failures: 3 shards done")
