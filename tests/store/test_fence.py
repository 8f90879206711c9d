"""A driver that was given up for dead changes nothing of what its follower has written, wherever it was stopped."""

import json
import time

import pytest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from pipeline.store.backend import open_store, read_bytes
from pipeline.store.checkpoint_rows import align
from pipeline.store.cube import create_or_extend
from pipeline.store.fence import FencedStore, LeaseLostError
from pipeline.store.lease import hold_lease
from pipeline.store.reader import open_cube
from pipeline.store.record import record
from pipeline.store.verify import verify_store
from tests.buckets import s3_bucket
from tests.store.conftest import compute
from tests.store.plans import HEALTH, done, pending_shards, run_plan, write

KEY = "speech/strf_health/c/0/0"
LEASE = "_lease/zarr.json"


@pytest.fixture(scope="module")
def bucket():
    with s3_bucket("fenced", "key", "secret") as url:
        yield url


def content(data: bytes):
    return default_buffer_prototype().buffer.from_bytes(data)


def test_an_object_is_put_only_in_place_of_the_one_that_was_read(bucket):
    opened = open_store(f"{bucket}/objects", writable=True)
    one, other = FencedStore(opened), FencedStore(opened)
    sync(one.set("a", content(b"first")))
    sync(other.get("a", default_buffer_prototype()))
    sync(one.set("a", content(b"second")))
    with pytest.raises(LeaseLostError, match="a was written by another driver"):
        sync(other.set("a", content(b"late")))
    assert read_bytes(opened, "a") == b"second"
    sync(one.set("a", content(b"third")))  # the follower goes on
    assert read_bytes(opened, "a") == b"third"


def test_an_object_that_was_not_there_is_not_put_over_one_that_came(bucket):
    opened = open_store(f"{bucket}/absent", writable=True)
    one, other = FencedStore(opened), FencedStore(opened)
    assert sync(one.get("a", default_buffer_prototype())) is None
    sync(other.set("a", content(b"came")))
    with pytest.raises(LeaseLostError):
        sync(one.set("a", content(b"late")))
    assert read_bytes(opened, "a") == b"came"


def test_a_put_whose_answer_was_lost_is_made_once_more(bucket):
    opened = open_store(f"{bucket}/again", writable=True)
    fenced = FencedStore(opened)
    sync(fenced.set("a", content(b"first")))
    sync(fenced.get("a", default_buffer_prototype()))
    sync(opened.set("a", content(b"second")))  # the first try, which the storage took
    sync(fenced.set("a", content(b"second")))
    sync(fenced.set("a", content(b"third")))
    assert read_bytes(opened, "a") == b"third"


def take_over(store) -> None:
    """Write a lease of another machine, as its driver does after it has waited long enough."""
    opened = open_store(store, writable=True)
    document = json.loads(read_bytes(opened, LEASE))
    document["attributes"]["lease"] |= {"token": "another", "host": "elsewhere"}
    sync(opened.set(LEASE, content(json.dumps(document).encode())))


@pytest.mark.parametrize("place", ["bucket", "memory"])
def test_a_driver_that_slept_past_its_lease_records_nothing(place, request, tmp_path):
    url = f"{request.getfixturevalue('bucket')}/slept" if place == "bucket" else f"memory://{tmp_path.name}/slept"
    plan = run_plan(url)
    with hold_lease(url, heartbeat_s=60.0, stale_s=0.4) as lease:
        create_or_extend(plan, health_flags=HEALTH, held=lease.store)
        plan = align(plan)
        shards = pending_shards(plan)
        write(plan, shards[0])
        take_over(url)
        compute(plan, shards[1:])  # the follower's work
        opened = open_store(url)
        before = read_bytes(opened, KEY), read_bytes(opened, "speech/zarr.json")
        time.sleep(0.3)  # beyond the time for which a lease is trusted without asking
        with pytest.raises(LeaseLostError, match=r"taken over by .* on elsewhere"):
            record(plan, [done(plan, shards[0])], held=lease.store)
        assert (read_bytes(opened, KEY), read_bytes(opened, "speech/zarr.json")) == before
    assert verify_store(url).sound
    assert int((open_cube(url).strf_status == 1).sum()) == 15 - len(shards[0].neurons)


def test_a_lease_that_was_confirmed_lately_costs_no_request(bucket):
    url = f"{bucket}/lately"
    with hold_lease(url, heartbeat_s=60.0, stale_s=60.0) as lease:
        take_over(url)
        sync(lease.store.set("a", content(b"within the time that nobody can have taken it")))
        assert not lease.lost
