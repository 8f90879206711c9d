"""A run killed at any moment is finished by the next one, to the byte, and only what was in flight is repeated."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.run.driver import FLUSH_SECONDS
from pipeline.store.verify import verify_store
from tests.faults.lab import assert_done_is_true, contents, write_lab, written
from tests.faults.zygote import ROOT
from tests.run.lab import NEURONS


@dataclass
class Lab:
    """A config, the store that it names, what an undisturbed run makes of it and how long that takes."""

    config: Path
    store: Path
    undisturbed: dict[str, Any]
    shards: int
    seconds: float

    def clear(self) -> None:
        shutil.rmtree(self.store, ignore_errors=True)


@pytest.fixture(scope="module")
def lab(tmp_path_factory, zygote) -> Lab:
    return finished_lab(tmp_path_factory.mktemp("kills"), zygote, checkpoints=10, pause_ms=22.0)


@pytest.fixture(scope="module")
def quick_lab(tmp_path_factory, zygote) -> Lab:
    return finished_lab(tmp_path_factory.mktemp("quick"), zygote, checkpoints=3, pause_ms=0.0)


def finished_lab(folder: Path, zygote, checkpoints: int, pause_ms: float) -> Lab:
    config = write_lab(folder, checkpoints, pause_ms=pause_ms)
    store = folder / "cube.zarr"
    child = zygote.start("run", "--local", config)
    await_store(store)
    started = time.monotonic()
    assert zygote.wait(child) == 0
    seconds = time.monotonic() - started
    shards = checkpoints * NEURONS
    assert assert_done_is_true(store, folder / "checkpoints") == shards
    return Lab(config, store, contents(store), shards, seconds)


def await_store(store: Path) -> None:
    limit = time.monotonic() + 600
    while not store.exists():
        assert time.monotonic() < limit, "the run did not start"
        time.sleep(0.005)


def computed(zygote, lab: Lab) -> int:
    """Shards that one more run computes."""
    report = lab.store.parent / "report.json"
    status, said = zygote.run("run", "--local", lab.config, "--report", report)
    assert status == 0, said
    return json.loads(report.read_text())["computed"]


def recover(zygote, lab: Lab) -> tuple[int, int]:
    """Done and executed again after a kill; everything that is promised of the store is checked on the way."""
    before = written(lab.store)
    claimed, again = 0, []
    if "lab/zarr.json" in contents(lab.store):
        found = verify_store(lab.store)
        wrong = [finding for finding in found.findings if finding.kind in ("missing", "damaged", "non-finite")]
        assert {finding.name for finding in wrong} <= {"zarr.json"}, found.lines()  # a layout that was not finished
        claimed = found.done
        again = [finding for finding in found.findings if finding.kind == "unclaimed"]
        if not any("changing" in f.detail or "creating" in f.detail for f in found.findings):
            assert assert_done_is_true(lab.store, lab.config.parent / "checkpoints") == claimed
    assert len(before) == claimed + len(again)
    if again:
        # What is lost was computed since the last record but one, and a record is at most so long ago.
        times = sorted(before.values())[-len(again) :]
        assert (times[-1] - times[0]) / 1e9 < FLUSH_SECONDS + 2.0
    assert computed(zygote, lab) == lab.shards - claimed
    assert contents(lab.store) == lab.undisturbed
    rewritten = [key for key, when in written(lab.store).items() if key in before and before[key] != when]
    assert len(rewritten) == len(again)
    after = written(lab.store)
    assert computed(zygote, lab) == 0
    assert written(lab.store) == after
    return claimed, len(again)


def test_runs_killed_at_random_instants_end_with_the_bytes_of_an_undisturbed_one(lab, zygote):
    storm(lab, 4, lambda: zygote.start("run", "--local", lab.config), zygote.kill, zygote, lab.seconds)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twenty_processes_of_gradmap_run_killed_at_random_instants(lab, zygote):
    command = [sys.executable, "-m", "tasks", "run", "--local", str(lab.config)]

    def start():
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(process):
        process.kill()
        return process.wait()

    lab.clear()
    undisturbed = start()
    await_store(lab.store)
    started = time.monotonic()
    assert undisturbed.wait() == 0
    storm(lab, 20, start, kill, zygote, time.monotonic() - started)


def storm(lab: Lab, trials: int, start, kill, zygote, seconds: float) -> None:
    draw = random.Random(20)
    outcomes = []
    for trial in range(trials):
        lab.clear()
        # Spread over the run, each somewhere within its part.
        moment = seconds * (trial + draw.random()) / trials
        running = start()
        await_store(lab.store)
        time.sleep(moment)
        if kill(running) != -signal.SIGKILL:
            moment = float("inf")  # it was over before
        outcomes.append((round(moment, 2), *recover(zygote, lab)))
    print(f"\n{trials} of {trials} equal to the byte; (second of the kill, shards done, executed again): {outcomes}")
    assert any(moment < float("inf") and done + again > 0 for moment, done, again in outcomes), "no kill met the work"


# Killed where it hurts: the bytes are written, the file has not got its name yet.

PLACES = {
    "the lease": ("_lease/zarr.json", 1),
    "the layout": ("lab/strf/zarr.json", 1),
    "the copy of the metadata": ("cube.zarr/zarr.json", 2),
    "a map": ("strf/c/", 7),
    "a companion": ("strf_memory_90/c/", 1),
    "the status": ("strf_status/c/", 1),
    "the routes": ("lab/zarr.json", 3),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_run_killed_while_it_writes(quick_lab, zygote, place):
    lab = quick_lab
    lab.clear()
    match, number = PLACES[place]
    status, said = zygote.run("run", "--local", lab.config, die_at=number, match=match)
    assert status == -signal.SIGKILL, said
    orphans = list(lab.store.rglob("*.partial"))
    assert orphans
    print(place, recover(zygote, lab))
    assert not list(lab.store.rglob("*.partial"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_killed_at_every_third_write(quick_lab, zygote):
    lab = quick_lab
    outcomes = []
    for number in range(1, 1000, 3):
        lab.clear()
        status, said = zygote.run("run", "--local", lab.config, die_at=number)
        if status == 0:
            break
        assert status == -signal.SIGKILL, said
        outcomes.append(recover(zygote, lab))
    print(f"\nkilled at {len(outcomes)} writes, (done, executed again): {outcomes}")
    assert len(outcomes) > 10


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_killed_again_and_again_comes_to_its_end(lab, zygote):
    lab.clear()
    draw = random.Random(3)
    starts = 0
    while starts < 60:
        starts += 1
        child = zygote.start("run", "--local", lab.config)
        time.sleep(draw.uniform(1.0, FLUSH_SECONDS + 1.5))
        if zygote.kill(child) == 0:
            break
    assert contents(lab.store) == lab.undisturbed
    print(f"\n{starts} starts")
