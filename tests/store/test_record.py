"""What became of the shards stands in the cube, the status last."""

import json

import numpy as np
import pytest
import xarray as xr

from pipeline.plan.shard_reports import Problem, ShardReport
from pipeline.plan.shards import cut_shards
from pipeline.store.backend import open_store
from pipeline.store.checkpoint_rows import align
from pipeline.store.cube import create_or_extend
from pipeline.store.failures import MAX_ENTRIES, MAX_MESSAGE
from pipeline.store.groups import is_consolidated
from pipeline.store.reader import open_cube
from pipeline.store.record import record
from pipeline.store.status import backlog, store_status
from pipeline.words import DONE, FAILED, PENDING
from tests.store.conftest import compute
from tests.store.plans import HEALTH, cohort, companions, done, pending_shards, probe, run_plan, write


def failed(shard, cause="compute", message="it broke"):
    return ShardReport(shard, Problem(cause, message))


def test_only_what_is_recorded_is_shown(laid_out, store):
    shards = pending_shards(laid_out)
    for shard in shards:
        write(laid_out, shard)
    assert open_cube(store).strf.isnull().all()
    assert open_cube(store).waveform.isnull().all()
    assert xr.open_zarr(store, group="speech").strf.notnull().all()
    record(laid_out, [done(laid_out, shards[0])])
    cube = open_cube(store)
    assert cube.strf.sel(checkpoint="a", neuron=["n000", "n001"]).notnull().all()
    assert int(cube.strf.notnull().sum()) == 2 * 12


def test_a_reader_that_opened_before_sees_what_is_done_since(laid_out, store):
    cube = open_cube(store)
    compute(laid_out)
    assert cube.strf.notnull().all()


def test_companions_and_probe_stand_beside_the_status(laid_out, store):
    shards = pending_shards(laid_out)
    compute(laid_out, shards[:1])
    cube = open_cube(store)
    some = {"checkpoint": "a", "neuron": ["n000", "n001"]}
    for ending, values in companions(laid_out, shards[0]).items():
        np.testing.assert_array_equal(cube[f"strf_{ending}"].sel(some), values)
    np.testing.assert_allclose(cube.probe_response.sel(checkpoint="a"), probe(laid_out, shards[0]))
    assert cube.probe_response.sel(checkpoint=["b", "c"]).isnull().all()
    assert cube.strf_memory_90.isnull().sum() == 13
    assert (cube.strf_frame == -1).sum() == 13
    assert cube.strf_frame.dtype == np.int32


def test_companions_of_failed_shards_are_hidden(laid_out, store):
    compute(laid_out)
    record(laid_out, [failed(_first(laid_out))])
    cube = open_cube(store)
    some = {"checkpoint": "a", "neuron": ["n000", "n001"]}
    assert cube.strf.sel(some).isnull().all()
    assert cube.strf_memory_90.sel(some).isnull().all()
    assert (cube.strf_frame.sel(some) == -1).all()
    assert (cube.strf_status.sel(some) == FAILED).all()


def _first(plan):
    return next(cut_shards(plan.cohorts[0]))


def test_a_companion_of_another_shape_or_name_is_refused(laid_out):
    shard = pending_shards(laid_out)[0]
    with pytest.raises(ValueError, match=r"health has the shape \(3,\) for a shard of \(2,\)"):
        record(laid_out, [ShardReport(shard, companions={"health": np.zeros(3)})])
    with pytest.raises(ValueError, match="'mood', which the cube has no place for"):
        record(laid_out, [ShardReport(shard, companions={"mood": np.zeros(2)})])


def test_a_report_of_an_unaligned_plan_is_refused(laid_out, store):
    other = run_plan(store, cohort(("b", "a", "c")))
    with pytest.raises(ValueError, match="align the plan"):
        record(other, [done(other, _first(other))])


def test_failures_are_kept_with_cause_count_and_message(laid_out, store):
    shards = pending_shards(laid_out)
    of_a = [shard for shard in shards if shard.checkpoint == 0]
    record(laid_out, [failed(shard, "load", f"model.safetensors is truncated ({shard.map})") for shard in of_a])
    record(laid_out, [failed(shard, "non-finite", "x" * 5000) for shard in shards if shard.checkpoint == 1][:1])
    (status,) = store_status(store)
    assert status.causes == {"load": 5, "non-finite": 1}
    assert [(entry.checkpoint, entry.map, entry.cause, entry.shards) for entry in status.failures] == [
        ("a", "strf", "load", 3),
        ("a", "waveform", "load", 2),
        ("b", "strf", "non-finite", 1),
    ]
    assert "truncated" in status.failures[0].message
    assert len(status.failures[2].message) == MAX_MESSAGE
    assert json.loads(xr.open_zarr(store, group="speech").attrs["failures"])["counts"] == status.causes
    counted = backlog(laid_out)
    assert (len(counted.pending), counted.done, counted.failed) == (9, 0, 6)
    assert {shard.checkpoint for shard in counted.pending} == {1, 2}


def test_the_record_of_failures_is_bounded(store):
    names = [f"m{i:03d}" for i in range(MAX_ENTRIES + 20)]
    plan = run_plan(store, cohort(names, n_neurons=1, block=1, stimuli=()))
    create_or_extend(plan, health_flags=HEALTH)
    plan = align(plan)
    record(plan, [failed(shard, "crash") for shard in pending_shards(plan)])
    (status,) = store_status(store)
    assert len(status.failures) == MAX_ENTRIES
    assert status.causes == {"crash": MAX_ENTRIES + 20}


def test_a_failure_that_is_mended_is_no_longer_told(laid_out, store):
    shard, other = pending_shards(laid_out)[:2]
    record(laid_out, [failed(shard), failed(other)])
    compute(laid_out, [shard])
    assert store_status(store)[0].causes == {"compute": 2}  # the other shard of that checkpoint and map still fails
    compute(laid_out, [other])
    assert store_status(store)[0].failures == ()
    assert store_status(store)[0].causes == {}


def test_credentials_in_messages_are_struck_out(laid_out, store):
    shard = pending_shards(laid_out)[0]
    record(laid_out, [failed(shard, "storage", "PUT https://KEY:hidden@host/x?X-Amz-Signature=hidden&y=1 failed")])
    message = store_status(store)[0].failures[0].message
    assert "hidden" not in message
    assert "y=1" in message


def test_another_answer_to_the_probe_fails_the_shard_and_names_the_checkpoint(laid_out, store):
    first, second, *_ = pending_shards(laid_out)
    compute(laid_out, [first])
    near = done(laid_out, second)
    record(laid_out, [ShardReport(second, probe=near.probe * (1 + 5e-5))])
    assert store_status(store)[0].causes == {}
    third = pending_shards(laid_out)[0]
    record(laid_out, [ShardReport(third, probe=near.probe * 1.01)])
    (failure,) = store_status(store)[0].failures
    assert failure.cause == "load"
    assert failure.message.startswith("a answers the fixed probe otherwise")
    status = open_cube(store).strf_status.sel(checkpoint="a")
    assert status.values.tolist() == [DONE, DONE, DONE, DONE, FAILED]
    np.testing.assert_allclose(open_cube(store).probe_response.sel(checkpoint="a"), probe(laid_out, first))


def test_a_probe_on_which_no_done_map_relies_is_replaced(laid_out, store):
    first = pending_shards(laid_out)[0]
    compute(laid_out, [first])
    record(laid_out, [failed(first)])
    record(laid_out, [ShardReport(first, probe=np.arange(5, dtype=np.float32))])
    assert store_status(store)[0].regions.done == 1
    np.testing.assert_array_equal(open_cube(store).probe_response.sel(checkpoint="a"), np.arange(5))


def test_two_routes_of_one_checkpoint_are_both_named(laid_out, store):
    first, second, *_ = pending_shards(laid_out)
    record(laid_out, [ShardReport(first, route="rows"), ShardReport(second, route="factored")])
    assert json.loads(open_cube(store).attrs["routes"])["strf"] == {"a": "factored, rows"}


def test_the_smallest_block_of_a_checkpoint_is_kept(laid_out, store):
    first, second, third, *_ = pending_shards(laid_out)
    record(laid_out, [ShardReport(first, block=32), ShardReport(second, block=8)])
    record(laid_out, [ShardReport(third, block=32)])
    assert json.loads(open_cube(store).attrs["blocks"])["strf"] == {"a": 8}


def test_the_copy_of_the_metadata_follows_the_record(laid_out, store):
    compute(laid_out, pending_shards(laid_out)[:3])
    record(laid_out, [failed(pending_shards(laid_out)[0])])
    assert is_consolidated(open_store(store))


def test_status_counts_regions_and_single_maps(laid_out, store):
    shards = pending_shards(laid_out)
    compute(laid_out, shards[:4])
    record(laid_out, [failed(shards[6])])
    (status,) = store_status(store)
    strf, waveform = status.maps
    assert (strf.regions.done, strf.regions.failed, strf.regions.pending) == (3, 1, 5)
    assert (strf.entries.done, strf.entries.failed, strf.entries.pending) == (5, 2, 8)
    assert (waveform.regions.done, waveform.regions.failed, waveform.regions.pending) == (1, 0, 5)
    assert strf.by_checkpoint["a"].done == 3
    assert strf.by_checkpoint["b"].failed == 1
    assert status.regions.total == 15
    assert not status.complete
    assert (open_cube(store).strf_status == PENDING).sum() == 8


def test_recording_nothing_does_nothing(laid_out):
    record(laid_out, [])
