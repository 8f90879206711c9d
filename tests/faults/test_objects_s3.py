"""A whole run over an S3 API: checkpoints, stimuli and store in a bucket, every command, and no credential anywhere."""

import json
import logging
import os
import signal
import time

import numpy as np
import pytest
import xarray as xr

from pipeline import open_cube
from pipeline.store.backend import delete_below, delete_object, keys_below, open_store, read_bytes
from tasks.cli import main
from tests.faults.conftest import KEY, SECRET
from tests.faults.lab import LAGS, contents, truth
from tests.run.lab import BANDS, NEURONS, entry, write_checkpoint, write_config, write_spectrograms

MAPS = """
[maps.strf]
kind = "strf"
[maps.around]
kind = "strf"
baseline = "stimuli"
stimuli = "{bucket}/lab/spectrograms.npz"
"""
PER_CHECKPOINT = 1 + 2  # one around null, and one for each spectrogram

#: All neurons of one map in an object.
STORAGE = f"[storage]\nobject_mib = {NEURONS * BANDS * LAGS * 4 / 2**20}\n"


def upload(bucket, folder, below):
    import boto3

    client = boto3.client("s3")
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            key = f"{below}/{path.relative_to(folder)}"
            client.put_object(Bucket=bucket.removeprefix("s3://"), Key=key, Body=path.read_bytes())


@pytest.fixture(scope="module")
def lab(tmp_path_factory, bucket):
    """A config on this machine whose every path leads into the bucket; and the same files on this machine."""
    folder = tmp_path_factory.mktemp("s3")
    for seed in range(2):
        write_checkpoint(folder / f"up/checkpoints/c{seed:02d}", seed)
    write_spectrograms(folder / "up/spectrograms.npz")
    upload(bucket, folder / "up", "lab")
    config = write_config(
        folder, entries=entry(f"{bucket}/lab/checkpoints/*"), maps=MAPS.format(bucket=bucket), more=STORAGE
    )
    config.write_text(config.read_text().replace('"cube.zarr"', f'"{bucket}/out/cube.zarr"'))
    return config


@pytest.fixture
def said(capsys, caplog):
    """Everything that commands said, in print and in the log."""
    for name in ("pipeline", "tasks"):  # the clients' own logs are theirs, and quote requests at this level
        caplog.set_level(logging.DEBUG, logger=name)
    everything = []

    def listen() -> str:
        captured = capsys.readouterr()
        everything.append(captured.out + captured.err)
        return everything[-1]

    yield listen
    listen()
    for text in [*everything, caplog.text]:
        assert KEY not in text
        assert SECRET not in text


def report_of(config, tmp_path, status=0):
    file = tmp_path / "report.json"
    assert main(["run", "--local", str(config), "--report", str(file)]) == status
    text = file.read_text()
    assert KEY not in text
    assert SECRET not in text
    return json.loads(text)


def test_a_run_in_a_bucket_from_the_first_checkpoint_to_an_extension(lab, bucket, tmp_path, said):
    store = f"{bucket}/out/cube.zarr"
    assert report_of(lab, tmp_path)["computed"] == 2 * PER_CHECKPOINT
    cube = open_cube(store).load()
    up = lab.parent / "up/checkpoints"
    for name in ("c00", "c01"):
        np.testing.assert_allclose(cube.strf.sel(checkpoint=name), truth(up / name), atol=1e-6)
        for stimulus in ("one", "two"):
            np.testing.assert_allclose(cube.around.sel(checkpoint=name, stimulus=stimulus), truth(up / name), atol=1e-6)
    assert main(["verify", store]) == 0
    assert "sound and complete" in said()
    assert report_of(lab, tmp_path)["computed"] == 0

    # The same run on this machine writes the same numbers.
    local = lab.with_name("local.toml")
    local.write_text(lab.read_text().replace(f"{bucket}/lab/", "up/").replace(store, "local.zarr"))
    assert main(["run", "--local", str(local)]) == 0
    here = contents(lab.parent / "local.zarr")
    there = contents(store)
    maps = [key for key in here if "/c/" in key]
    assert {key: there[key] for key in maps} == {key: here[key] for key in maps}

    # One more checkpoint.
    write_checkpoint(lab.parent / "more/c02", 2)
    write_checkpoint(lab.parent / "more/a-first", 3)
    upload(bucket, lab.parent / "more", "lab/checkpoints")
    assert report_of(lab, tmp_path)["computed"] == 2 * PER_CHECKPOINT
    after = contents(store)
    objects = [key for key in there if "/strf/c/" in key or "/around/c/" in key]
    assert {key: after[key] for key in objects} == {key: there[key] for key in objects}
    cube = open_cube(store)
    assert list(cube.checkpoint.values) == ["c00", "c01", "a-first", "c02"]
    np.testing.assert_allclose(cube.strf.sel(checkpoint="a-first"), truth(lab.parent / "more/a-first"), atol=1e-6)
    assert xr.open_zarr(store, group="lab").sizes["checkpoint"] == 4

    # Objects that disappear are found, and come back as they were.
    opened = open_store(store, writable=True)
    for key in ("lab/strf/c/1/0/0/0", "lab/around/c/0/1/0/0/0"):
        assert key in after
        delete_object(opened, key)
    assert main(["verify", store]) == 3
    assert said().count("missing: lab: ") == 2
    assert main(["run", "--local", str(lab)]) == 0  # the record says done, so a run alone has nothing to do
    assert "(0 of them now)" in said()
    assert main(["verify", "--requeue", store]) == 4
    assert main(["status", store]) == 4
    assert report_of(lab, tmp_path)["computed"] == 2
    assert contents(store) == after
    assert main(["verify", store]) == 0

    for key in keys_below(opened, ""):
        data = read_bytes(opened, key)
        assert KEY.encode() not in data, key
        assert SECRET.encode() not in data, key


def maps_in(store):
    """Keys of the objects that hold maps."""
    opened = open_store(store)
    return [key for name in ("strf", "around") for key in keys_below(opened, f"lab/{name}/c/")]


@pytest.mark.slow
def test_a_run_killed_in_a_bucket_is_finished_by_the_next_at_once(lab, bucket, zygote, tmp_path):
    config = lab.with_name("killed.toml")
    store = f"{bucket}/killed/cube.zarr"
    config.write_text(lab.read_text().replace(f"{bucket}/out/cube.zarr", store))
    report = tmp_path / "report.json"
    assert main(["run", "--local", str(config), "--report", str(report)]) == 0
    total = json.loads(report.read_text())["computed"]
    undisturbed = contents(store)
    delete_below(open_store(store, writable=True), "")
    cloud = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    child = zygote.start("run", "--local", config, env=cloud)
    limit = time.monotonic() + 600
    while not (there := maps_in(store)):
        assert time.monotonic() < limit, child.said
        time.sleep(0.05)
    assert zygote.kill(child) == -signal.SIGKILL, child.said
    there = maps_in(store)
    started = time.monotonic()
    assert main(["run", "--local", str(config), "--report", str(report)]) == 0
    assert time.monotonic() - started < 45.0
    computed = json.loads(report.read_text())["computed"]
    print(f"{len(there)} objects written before the kill, {computed} of {total} shards computed after it")
    assert computed <= total
    assert contents(store) == undisturbed


def test_a_run_without_access_is_refused_or_stopped_with_a_message_and_no_secret(lab, monkeypatch, said):
    config = lab.with_name("nowhere.toml")
    config.write_text(lab.read_text().replace("s3://faults/out/", "s3://no-such-bucket/out/"))
    status = main(["run", "--local", str(config)])
    text = said()
    assert status in (2, 4), text
    assert "bucket" in text
