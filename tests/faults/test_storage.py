"""Storage that fails for a moment is waited for; storage that stays away stops the run, which can be continued."""

import errno
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.run import driver
from pipeline.store.status import store_status
from pipeline.store.verify import verify_store
from tasks.cli import main
from tests.faults import flaky
from tests.faults.lab import LAGS, contents, write_lab, written
from tests.run.lab import write_checkpoint, write_config

STORE = "flaky://lab/cube.zarr"
SHARDS = 6
#: What the third try means, in seconds, and the room that a busy machine needs.
PAUSES = 2.5


@pytest.fixture
def lab(tmp_path):
    """A config whose store is the flaky one, and what an undisturbed run makes of it."""
    flaky.clear()
    config = write_lab(tmp_path, 2)
    config.write_text(config.read_text().replace('"cube.zarr"', f'"{STORE}"'))
    assert main(["run", "--local", str(config)]) == 0
    undisturbed = contents(STORE)
    flaky.clear()
    yield config, undisturbed
    flaky.clear()


def objects(calls, match="/strf/c/", what="write"):
    return {path: count for (kind, path), count in calls.items() if kind == what and match in path}


def test_an_object_that_fails_twice_is_written_the_third_time_and_no_other_is_touched_twice(lab):
    config, undisturbed = lab
    started = time.monotonic()
    with flaky.in_trouble(flaky.fails(OSError("no answer"), "/strf/c/1/0", times=2)) as calls:
        assert main(["run", "--local", str(config)]) == 0
    assert time.monotonic() - started > PAUSES
    tries = objects(calls)
    assert {path.removeprefix("/lab/cube.zarr/lab/strf/c/"): count for path, count in tries.items()} == {
        "0/0/0/0": 1, "0/1/0/0": 1, "0/2/0/0": 1, "1/0/0/0": 3, "1/1/0/0": 1, "1/2/0/0": 1,
    }  # fmt: skip
    assert contents(STORE) == undisturbed


@pytest.mark.parametrize("place", ["strf_status/c/0/0", "strf_memory_90/c/0/0", "zarr.json"])
def test_a_record_that_fails_twice_is_written_the_third_time(lab, place):
    config, undisturbed = lab
    path = f"/lab/cube.zarr/lab/{place}"
    after = 2 if place == "zarr.json" else 1  # the layout writes it as well
    with flaky.in_trouble(flaky.fails(OSError("no answer"), path, times=2, after=after)) as calls:
        assert main(["run", "--local", str(config)]) == 0
    assert objects(calls, path) == {path: 3 + after}
    assert set(objects(calls).values()) == {1}
    assert contents(STORE) == undisturbed


def test_weights_that_cannot_be_read_for_a_moment_are_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "KEPT_PARAMETERS", 0)  # as for modules that are too large to be kept
    flaky.clear()
    folder = write_checkpoint(tmp_path / "checkpoints/c00", 0)
    for path in folder.iterdir():
        flaky.Flaky().pipe_file(f"/weights/c00/{path.name}", path.read_bytes())
    config = write_lab(tmp_path, 1)
    config.write_text(config.read_text().replace("checkpoints/*", "flaky://weights/*"))
    # The first reading is the plan's; the next ones are the work's.
    silence = flaky.fails(OSError("no answer"), "model.safetensors", what="open", after=1, times=2)
    with flaky.in_trouble(silence) as calls:
        assert main(["run", "--local", str(config)]) == 0
    assert objects(calls, "model.safetensors", "open") == {"/weights/c00/model.safetensors": 4}
    assert verify_store(tmp_path / "cube.zarr").complete


def test_a_checkpoint_that_could_not_be_read_when_the_run_was_planned_is_taken_up_by_the_next_run(tmp_path):
    flaky.clear()
    config = write_lab(tmp_path, 2)
    for path in tmp_path.glob("checkpoints/*/*"):
        flaky.Flaky().pipe_file(f"/weights/{path.parent.name}/{path.name}", path.read_bytes())
    config.write_text(config.read_text().replace("checkpoints/*", "flaky://weights/*"))
    silence = flaky.fails(OSError("no answer"), "c01/model.safetensors", what="open")
    with flaky.in_trouble(silence):
        assert main(["run", "--local", str(config)]) == 3
    (status,) = store_status(tmp_path / "cube.zarr")
    assert (status.regions.done, status.regions.failed) == (3, 3)
    assert main(["run", "--local", str(config)]) == 0
    assert verify_store(tmp_path / "cube.zarr").complete


def test_storage_that_stays_away_stops_the_run_after_three_tries_and_the_next_run_finishes_it(lab, capsys):
    config, undisturbed = lab
    with flaky.in_trouble(flaky.fails(OSError("the storage is away"), "/strf/c/", after=2)) as calls:
        assert main(["run", "--local", str(config)]) == 4
    assert sorted(objects(calls).values()) == [1, 1, 3]
    said = capsys.readouterr().out
    assert "stopped: OSError: the storage is away" in said
    assert "2 shards done (2 of them now), 0 failed, 4 pending" in said.splitlines()[-1]
    (status,) = store_status(STORE)
    assert (status.regions.done, status.regions.failed, status.regions.pending) == (2, 0, 4)
    with flaky.in_trouble(lambda what, path: None) as calls:
        assert main(["run", "--local", str(config)]) == 0
    assert len(objects(calls)) == sum(objects(calls).values()) == 4
    assert contents(STORE) == undisturbed


def test_lost_permission_stops_the_run_without_a_storm_of_tries(lab, capsys):
    config, undisturbed = lab
    denied = PermissionError(errno.EACCES, "permission denied")
    gone = False

    def trouble(what, path):
        nonlocal gone
        gone = gone or (what == "write" and "/strf/c/1/0" in path)
        if gone and what == "write":
            raise denied

    started = time.monotonic()
    with flaky.in_trouble(trouble) as calls:
        assert main(["run", "--local", str(config)]) == 4
    assert time.monotonic() - started < 3 * PAUSES + 10
    assert objects(calls)["/lab/cube.zarr/lab/strf/c/1/0/0/0"] == 3
    assert set(objects(calls)) == {f"/lab/cube.zarr/lab/strf/c/{place}/0/0" for place in ("0/0", "0/1", "0/2", "1/0")}
    # The record is tried a few times as well, after the layout wrote it once; nothing is tried once per shard left.
    assert max(count for path, count in objects(calls, "c/0/0").items() if "/strf/" not in path) <= 4
    assert "PermissionError" in capsys.readouterr().out
    with flaky.in_trouble(lambda what, path: None) as calls:
        assert main(["run", "--local", str(config)]) == 0
    print("executed again:", sum(objects(calls).values()) - 3, "of 3 that were written and not recorded")
    assert contents(STORE) == undisturbed


# The kernel's own refusals: a disk that is full, a store that turns read-only.

BANDS, NEURONS = 64, 40
MAP_BYTES = NEURONS * BANDS * 5 * 4  # random, hence incompressible
CHECKPOINTS = 12


def write_heavy_lab(folder: Path, store: Path, pause_ms: float = 0.0) -> Path:
    """Checkpoints whose maps weigh more than everything else in the store."""
    for seed in range(CHECKPOINTS):
        write_checkpoint(folder / f"checkpoints/c{seed:02d}", seed, n_bands=BANDS, n_neurons=NEURONS)
    for path in folder.glob("checkpoints/*/config.json"):
        path.write_text(path.read_text().replace("LabModel", "Slow"))
    entries = (
        '[[cohort.checkpoints]]\npath = "checkpoints/*"\nclass = "tests.faults.lab.Slow"\n'
        f"arguments = {{pause_ms = {pause_ms}}}\n"
    )
    grid = f'{{min = 80.0, max = 3800.0, count = {BANDS}, scale = "mel"}}'
    config = write_config(folder, entries=entries, frequencies=grid, lags=str(LAGS))
    config.write_text(config.read_text().replace('"cube.zarr"', f'"{store}"'))
    return config


@pytest.fixture(scope="module")
def heavy(tmp_path_factory, zygote):
    """What an undisturbed run writes; only the maps and what stands beside them, as the config's text differs."""
    folder = tmp_path_factory.mktemp("heavy")
    assert zygote.run("run", "--local", write_heavy_lab(folder, folder / "cube.zarr"))[0] == 0
    return numbers(folder / "cube.zarr")


def numbers(store: Path):
    return {key: value for key, value in contents(store).items() if not key.endswith(".json")}


def counts(said: str) -> tuple[int, int, int]:
    """Done, failed and pending in the last line."""
    found = re.search(r"(\d+) shards? done .*?(\d+) failed, (\d+) pending", said.splitlines()[-1])
    assert found, said
    return int(found[1]), int(found[2]), int(found[3])


def test_a_limit_on_the_size_of_files_stops_the_run_and_a_higher_one_lets_it_finish(tmp_path, zygote, heavy):
    store = tmp_path / "cube.zarr"
    config = write_heavy_lab(tmp_path, store)
    status, said = zygote.run("run", "--local", config, file_bytes=MAP_BYTES // 2)
    assert status == 4, said
    assert "stopped: OSError: [Errno 27] File too large" in said
    assert counts(said) == (0, 0, CHECKPOINTS)
    assert not list(store.rglob("*.partial"))
    assert zygote.run("run", "--local", config)[0] == 0
    assert numbers(store) == heavy


def mount(*words: object) -> None:
    found = subprocess.run(["mount", *map(str, words)], capture_output=True, text=True)
    if found.returncode:
        pytest.skip(f"mounting is not allowed here: {found.stderr.strip()}")


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own."""
    if sys.platform != "linux" or os.getuid() != 0:
        pytest.skip("mounting a file system needs root on Linux")
    place = tmp_path / "disk"
    place.mkdir()
    mount("-t", "tmpfs", "-o", "size=500k", "gradmap-test", place)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_stops_the_run_with_status_4_and_more_room_lets_it_finish(tmp_path, disk, zygote, heavy):
    store = disk / "cube.zarr"
    config = write_heavy_lab(tmp_path, store)
    status, said = zygote.run("run", "--local", config)
    assert status == 4, said
    assert "No space left on device" in said
    assert "can be continued" in said.splitlines()[-1]
    there = written(store)
    assert 1 < len(there) < CHECKPOINTS
    mount("-o", "remount,size=4m", disk)
    found = verify_store(store)
    assert found.sound
    report = tmp_path / "report.json"
    status, said = zygote.run("run", "--local", config, "--report", report)
    assert status == 0, said
    assert counts(said) == (CHECKPOINTS, 0, 0)
    again = [key for key, when in written(store).items() if key in there and there[key] != when]
    print(f"{len(there)} written, {found.done} recorded, {len(again)} executed again")
    assert len(again) == len(there) - found.done
    assert numbers(store) == heavy
    assert not list(store.rglob("*.partial"))


def test_a_store_that_turns_read_only_stops_the_run_with_status_4_and_without_a_storm(tmp_path, disk, zygote, heavy):
    mount("-o", "remount,size=4m", disk)
    store = disk / "cube.zarr"
    config = write_heavy_lab(tmp_path, store, pause_ms=30.0)
    child = zygote.start("run", "--local", config)
    turned = threading.Thread(target=turn_read_only, args=(disk, store))
    turned.start()
    status = zygote.wait(child)
    turned.join()
    ended = time.time()
    said = child.said
    assert status == 4, said
    assert "Read-only file system" in said
    there = written(store)
    assert ended - max(there.values()) / 1e9 < 3 * PAUSES + 10
    # Whoever starts again before it is mended is told so, and nothing is computed.
    status, said = zygote.run("run", "--local", config)
    assert status == 4, said
    assert "Read-only file system" in said
    mount("-o", "remount,rw", disk)
    assert verify_store(store).sound
    status, said = zygote.run("run", "--local", config)
    assert status == 0, said
    assert numbers(store) == heavy


def turn_read_only(disk: Path, store: Path) -> None:
    limit = time.monotonic() + 600
    while time.monotonic() < limit and len(list(store.glob("lab/strf/c/*/*/*/*"))) < 3:
        time.sleep(0.005)
    while subprocess.run(["mount", "-o", "remount,ro", str(disk)], capture_output=True).returncode:
        time.sleep(0.002)  # a file is open for writing just now
