"""`verify_store` finds every kind of damage, names it, and marks it for the next run."""

import errno
import json
import random
import shutil
import sys
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import zarr

from pipeline.plan.axes import Block
from pipeline.plan.shard_reports import Problem, ShardReport
from pipeline.plan.shards import Shard
from pipeline.store.cube import create_or_extend
from pipeline.store.reader import open_cube
from pipeline.store.record import record
from pipeline.store.status import store_status
from pipeline.store.verify import verify_store
from pipeline.words import PENDING
from tests.store.conftest import compute
from tests.store.plans import HEALTH, done, numbers, pending_shards, write
from tests.store.test_cube import digests

OBJECT = "speech/strf/c/1/1/0/0"


def flip_bit(path, seed=0):
    """Turn over one bit somewhere in a file."""
    data = bytearray(path.read_bytes())
    place = random.Random(seed).randrange(len(data) * 8)
    data[place // 8] ^= 1 << place % 8
    path.write_bytes(data)


def assert_mended(plan, store, shards):
    """Requeue, run again, and get the same numbers as before."""
    again = verify_store(store, requeue=True)
    assert again.requeued == len(shards)
    assert pending_shards(plan) == shards
    compute(plan)
    found = verify_store(store)
    assert found.sound
    assert found.complete
    cube = open_cube(store)
    for shard in shards:
        region = shard.region(plan.cohorts[0].map_plan(shard.map))
        np.testing.assert_array_equal(cube[shard.map].isel(region)[0], numbers(plan, shard))


def test_a_finished_store_is_sound_and_complete(finished, store):
    found = verify_store(store)
    assert found.findings == ()
    assert found.sound
    assert found.complete
    assert (found.regions, found.done) == (15, 15)
    assert found.objects > 15
    assert found.lines() == [
        f"sound and complete: 15 of 15 regions done, {found.objects} objects decoded, nothing amiss"
    ]


def test_a_check_changes_nothing(laid_out, store):
    compute(laid_out, pending_shards(laid_out)[:4])
    before = digests(store)
    verify_store(store)
    assert digests(store) == before


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_is_found_and_mended(finished, store, seed):
    flip_bit(store / OBJECT, seed)
    found = verify_store(store)
    assert not found.sound
    (finding,) = found.findings
    assert (finding.kind, finding.name, finding.checkpoint) == ("damaged", "strf", "b")
    assert finding.neurons == ("n002", "n003")
    assert "damaged: speech: strf, b, neuron n002 to n003" in found.lines()[0]
    assert_mended(finished, store, [Shard("speech", 1, "strf", Block(2, 4), None)])


def test_a_truncated_object_is_found_and_mended(finished, store):
    path = store / "speech/waveform/c/2/1/0/0"
    path.write_bytes(path.read_bytes()[:-5])
    (finding,) = verify_store(store).findings
    assert (finding.kind, finding.checkpoint, finding.stimuli) == ("damaged", "c", ("word",))
    assert_mended(finished, store, [Shard("speech", 2, "waveform", Block(0, 5), Block(1, 2))])


def test_an_object_deleted_under_a_done_status_is_missing_and_mended(finished, store):
    (store / OBJECT).unlink()
    found = verify_store(store)
    assert not found.sound
    assert found.counts() == {"missing": 1}
    assert_mended(finished, store, [Shard("speech", 1, "strf", Block(2, 4), None)])


def test_what_is_amiss_with_an_array_is_told_in_one_line(finished, store):
    shutil.rmtree(store / "speech/strf/c")
    (store / "speech/waveform/c/1/0/0/0").unlink()
    found = verify_store(store)
    assert len(found.findings) == 10
    assert found.lines()[:-1] == [
        "missing: speech: strf, 9 times, first at a, neuron n000 to n001; a, neuron n002 to n003; a, neuron n004,"
        " recorded as done, but the object is not there",
        "missing: speech: waveform, b, neuron n000 to n004, stimulus hiss,"
        " recorded as done, but the object is not there",
    ]


def test_an_object_under_a_pending_status_is_unclaimed_and_computed_again(laid_out, store):
    first, second = pending_shards(laid_out)[:2]
    compute(laid_out, [first])
    write(laid_out, second)
    found = verify_store(store)
    assert found.sound
    assert not found.complete
    assert found.counts() == {"unclaimed": 1, "pending": 13}
    assert second in pending_shards(laid_out)
    compute(laid_out)
    assert verify_store(store).complete


def test_nan_inside_a_done_region_is_found_and_mended(finished, store):
    array = zarr.open_array(store, path="speech/strf", mode="r+")
    array[1, 2, 0, 0] = np.nan
    found = verify_store(store)
    assert found.counts() == {"non-finite": 1}
    assert not found.sound
    assert_mended(finished, store, [Shard("speech", 1, "strf", Block(2, 4), None)])


def test_a_copy_of_the_metadata_that_an_interrupted_record_left_behind_is_no_damage(laid_out, store, monkeypatch):
    first = pending_shards(laid_out)[0]
    write(laid_out, first)
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(sys.modules[record.__module__], "copy_attributes", Mock(side_effect=full))
    with pytest.raises(OSError, match="No space left"):
        record(laid_out, [replace(done(laid_out, first), route="plain")])
    monkeypatch.undo()
    found = verify_store(store)
    assert found.sound
    assert found.counts()["outdated"] == 1
    assert any("speech: zarr.json, tells more than the copy in the root" in line for line in found.lines())
    compute(laid_out)
    create_or_extend(laid_out, health_flags=HEALTH)
    assert verify_store(store).findings == ()


def test_failed_regions_are_told_and_requeued(laid_out, store):
    shards = pending_shards(laid_out)
    compute(laid_out, shards[1:])
    record(laid_out, [ShardReport(shards[0], Problem("crash", "killed"))])
    found = verify_store(store)
    assert found.sound
    assert not found.complete
    assert found.counts() == {"failed": 1}
    assert pending_shards(laid_out) == []
    assert_mended(laid_out, store, shards[:1])
    assert store_status(store)[0].failures == ()


def test_a_damaged_status_object_puts_its_regions_back(finished, store):
    flip_bit(store / "speech/strf_status/c/0/0", 3)
    found = verify_store(store)
    assert not found.sound
    assert any(finding.name == "strf_status" and finding.kind == "damaged" for finding in found.findings)
    assert any(finding.checkpoint == "a to c" for finding in found.findings)
    verify_store(store, requeue=True)
    assert (open_cube(store).strf_status == PENDING).all()
    assert {shard.map for shard in pending_shards(finished)} == {"strf"}
    compute(finished)
    assert verify_store(store).complete


def test_a_damaged_companion_puts_the_maps_beside_it_back(finished, store):
    flip_bit(store / "speech/strf_memory_90/c/0/0", 3)
    found = verify_store(store)
    assert [finding.name for finding in found.findings] == ["strf_memory_90"]
    verify_store(store, requeue=True)
    assert {shard.map for shard in pending_shards(finished)} == {"strf"}
    compute(finished)
    assert verify_store(store).complete
    assert (open_cube(store).strf_memory_90 == 40).all()


def test_a_damaged_probe_is_found_and_written_anew(finished, store):
    flip_bit(store / "speech/probe_response/c/0/0", 3)
    assert [finding.name for finding in verify_store(store).findings] == ["probe_response"]
    verify_store(store, requeue=True)
    assert verify_store(store).sound


def test_damaged_labels_are_found_and_nothing_is_guessed(finished, store):
    flip_bit(store / "speech/neuron/c/0", 9)
    found = verify_store(store)
    assert not found.sound
    assert not found.complete
    assert any(finding.name == "neuron" for finding in found.findings)


def test_a_lost_description_of_an_array_is_restored_from_the_copy(finished, store):
    path = store / "speech/strf_status/zarr.json"
    before = json.loads(path.read_text())
    path.unlink()
    found = verify_store(store)
    assert (found.findings[0].kind, found.findings[0].name) == ("missing", "strf_status")
    assert not found.sound
    verify_store(store, requeue=True)
    assert verify_store(store).complete
    assert json.loads(path.read_text()) == before


def test_a_stale_copy_of_the_metadata_is_found_and_made_new(finished, store):
    root = json.loads((store / "zarr.json").read_text())
    root["consolidated_metadata"]["metadata"]["speech/strf"]["shape"][0] = 2
    (store / "zarr.json").write_text(json.dumps(root))
    assert not verify_store(store).sound
    create_or_extend(finished, health_flags=HEALTH)
    assert verify_store(store).complete


def test_a_store_without_a_done_region_is_sound_and_not_complete(laid_out, store):
    found = verify_store(store)
    assert found.sound
    assert not found.complete
    assert found.counts() == {"pending": 15}
    assert len(found.lines(limit=1)) == 3  # one array, the number of the rest, and the verdict


def test_requeueing_twice_marks_nothing_more(finished, store):
    (store / OBJECT).unlink()
    assert verify_store(store, requeue=True).requeued == 1
    assert verify_store(store, requeue=True).requeued == 0
