"""Everything that works in a folder works in a bucket, and no credential is written anywhere."""

import re
import subprocess
import sys
import time

import numpy as np
import pytest
import xarray as xr

from pipeline.plan.axes import Block
from pipeline.plan.shard_reports import Problem, ShardReport
from pipeline.plan.shards import Shard
from pipeline.store.backend import clean_partials, delete_object, keys_below, open_store, read_bytes, write_bytes
from pipeline.store.checkpoint_rows import align
from pipeline.store.cube import create_or_extend
from pipeline.store.lease import StoreBusyError, hold_lease
from pipeline.store.reader import open_cube
from pipeline.store.record import record
from pipeline.store.regions import forget
from pipeline.store.status import store_status
from pipeline.store.summaries import write_summaries
from pipeline.store.verify import verify_store
from tests.buckets import s3_bucket
from tests.store.conftest import compute
from tests.store.plans import HEALTH, cohort, labelled, numbers, pending_shards, run_plan, write

KEY, SECRET = "key-of-the-test", "secret-of-the-test"
OBJECT = "speech/strf/c/1/1/0/0"


@pytest.fixture(scope="module")
def bucket():
    """An S3-compatible server on loopback with one bucket."""
    with s3_bucket("lab", KEY, SECRET) as url:
        yield url


@pytest.fixture(params=["s3", "memory"])
def url(request) -> str:
    name = re.sub(r"\W", "_", request.node.name)
    root = request.getfixturevalue("bucket") if request.param == "s3" else "memory://lab"
    return f"{root}/{name}/gradmaps.zarr"


def laid_out(url):
    plan = run_plan(url, cohort(stimuli=()))
    create_or_extend(plan, health_flags=HEALTH)
    return align(plan)


def test_a_run_from_the_layout_to_the_summaries(url):
    plan = laid_out(url)
    shards = pending_shards(plan)
    compute(plan, shards[:-1])
    record(plan, [ShardReport(shards[-1], Problem("storage", "no answer"))])
    (status,) = store_status(url)
    assert (status.regions.done, status.regions.failed) == (8, 1)
    assert status.causes == {"storage": 1}
    cube = open_cube(url)
    shard = Shard("speech", 1, "strf", Block(2, 4), None)
    np.testing.assert_array_equal(cube.strf.sel(checkpoint="b", neuron=["n002", "n003"]), numbers(plan, shard))
    assert verify_store(url, requeue=True).requeued == 1
    compute(plan)
    found = verify_store(url)
    assert found.sound
    assert found.complete
    write_summaries(url, {"speech": cube[["strf"]].max(("frequency", "lag")).rename(strf="strf_peak").compute()})
    plain = xr.open_zarr(url, group="speech")
    assert plain.strf_peak.shape == (3, 5)
    assert plain.strf.notnull().all()
    assert list(xr.open_datatree(url, engine="zarr").children) == ["speech"]
    assert clean_partials(url) == 0


def test_a_cohort_grows_in_a_bucket(url):
    compute(laid_out(url))
    store = open_store(url)
    before = {key: read_bytes(store, key) for key in keys_below(store, "speech/strf/c/")}
    plan = run_plan(url, cohort(("d", "a"), stimuli=()))
    create_or_extend(plan, health_flags=HEALTH)
    plan = align(plan)
    assert {shard.checkpoint for shard in pending_shards(plan)} == {3}
    compute(plan)
    assert {key: read_bytes(store, key) for key in before} == before
    assert verify_store(url).complete
    assert list(open_cube(url).checkpoint.values) == ["a", "b", "c", "d"]


def test_damage_in_a_bucket_is_found_and_mended(url):
    plan = laid_out(url)
    compute(plan)
    store = open_store(url, writable=True)
    data = bytearray(read_bytes(store, OBJECT))
    data[len(data) // 2] ^= 4
    write_bytes(store, OBJECT, bytes(data))
    (finding,) = verify_store(url).findings
    assert (finding.kind, finding.checkpoint) == ("damaged", "b")
    verify_store(url, requeue=True)
    assert pending_shards(plan) == [Shard("speech", 1, "strf", Block(2, 4), None)]
    compute(plan)
    assert verify_store(url).complete


@pytest.mark.parametrize("lost", [OBJECT, "speech/strf_status/c/0/0"])
def test_a_reader_of_a_bucket_is_refused_what_is_gone(url, lost):
    plan = laid_out(url)
    compute(plan, pending_shards(plan)[:-1])
    assert open_cube(url).strf.isnull().any()  # what is pending was never there
    delete_object(open_store(url, writable=True), lost)
    with pytest.raises(ValueError, match=rf"{lost} .* is gone .*verify --requeue"):
        open_cube(url).strf.load()


def test_one_driver_per_bucket_prefix(url):
    laid_out(url)
    with hold_lease(url, owner="first", heartbeat_s=0.2) as lease:
        with pytest.raises(StoreBusyError, match="held by first"), hold_lease(url, owner="second"):
            pass
        lease.check()
    with hold_lease(url, owner="third", heartbeat_s=0.2):
        pass


def test_a_killed_driver_of_this_machine_is_followed_at_once(bucket):
    url = f"{bucket}/killed/gradmaps.zarr"
    laid_out(url)
    code = (
        "import sys, time\nfrom pipeline.store.lease import hold_lease\n"
        "with hold_lease(sys.argv[1], owner='other', heartbeat_s=0.2):\n"
        "    print('ready', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    with pytest.raises(StoreBusyError, match="other"), hold_lease(url, owner="x"):
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    started = time.monotonic()
    with hold_lease(url, owner="x", stale_s=60.0, heartbeat_s=0.1):
        assert time.monotonic() - started < 10.0


def test_no_credential_is_written_anywhere(bucket):
    url = f"{bucket}/secrets/gradmaps.zarr"
    plan = laid_out(url)
    record(
        plan, [ShardReport(pending_shards(plan)[0], Problem("storage", f"PUT failed: aws_secret_access_key={SECRET}"))]
    )
    compute(plan)
    with hold_lease(url, owner="x", heartbeat_s=0.1):
        store = open_store(url)
        for key in keys_below(store, ""):
            data = read_bytes(store, key)
            assert KEY.encode() not in data, key
            assert SECRET.encode() not in data, key


def test_a_bucket_that_is_not_there_is_an_error_of_the_storage(bucket):
    with pytest.raises(OSError, match="bucket"):
        create_or_extend(run_plan("s3://nowhere/gradmaps.zarr"), health_flags=HEALTH)
    with pytest.raises(ValueError, match="no store of gradmaps at s3://nowhere"):
        open_cube("s3://nowhere/gradmaps.zarr")


def test_a_storage_that_does_not_answer_raises_an_os_error(bucket, monkeypatch):
    url = f"{bucket}/silent/gradmaps.zarr"
    plan = laid_out(url)
    shard = pending_shards(plan)[0]
    values = labelled(plan, shard)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    forget(url)
    with pytest.raises(OSError, match=r"did not answer|connect|endpoint"):
        write(plan, shard, values)
