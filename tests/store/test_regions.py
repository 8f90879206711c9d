"""A region is written whole, where it belongs, or not at all."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.plan.axes import Block
from pipeline.plan.shards import Shard, cut_shards
from pipeline.store.backend import WRITTEN_BYTES, open_store, write_bytes
from pipeline.store.checkpoint_rows import align
from pipeline.store.cube import create_or_extend
from pipeline.store.reader import open_cube
from pipeline.store.record import record
from pipeline.store.regions import NonFiniteError, RegionError
from tests.store.plans import HEALTH, cohort, done, labelled, numbers, pending_shards, run_plan, strf, waveform, write
from tests.store.test_cube import digests


@pytest.fixture
def shard(laid_out) -> Shard:
    """The second block of neurons of the second checkpoint."""
    return Shard("speech", 1, "strf", Block(2, 4), None)


def refused(plan, shard, values, *words, error=RegionError):
    """Assert that nothing is written and that the message names these."""
    before = digests_of(plan)
    with pytest.raises(error) as caught:
        write(plan, shard, values)
    for word in words:
        assert word in str(caught.value)
    assert digests_of(plan) == before


def digests_of(plan):
    return digests(Path(plan.store))


def test_a_region_lands_at_its_labels(laid_out, shard, store):
    values = labelled(laid_out, shard)
    write(laid_out, shard, values)
    record(laid_out, [done(laid_out, shard)])
    cube = open_cube(store)
    np.testing.assert_array_equal(cube.strf.sel(checkpoint="b", neuron=["n002", "n003"]), values[0])
    assert int(cube.strf.notnull().sum()) == values.size


def test_zero_maps_are_stored_as_such(laid_out, shard, store):
    write(laid_out, shard, labelled(laid_out, shard, np.zeros((2, 4, 3), np.float32)))
    record(laid_out, [done(laid_out, shard)])
    assert (open_cube(store).strf.sel(checkpoint="b", neuron=["n002", "n003"]) == 0).all()
    assert (store / "speech/strf/c/1/1/0/0").exists()


def test_a_block_of_the_wrong_shape_cannot_be_labelled(laid_out, shard):
    with pytest.raises(RegionError, match=r"shape \(3, 4, 3\).*\(1, 2, 4, 3\)"):
        labelled(laid_out, shard, np.zeros((3, 4, 3), np.float32))


def test_transposed_axes_are_refused(laid_out, shard):
    values = labelled(laid_out, shard)
    refused(
        laid_out,
        shard,
        values.transpose("checkpoint", "neuron", "lag", "frequency"),
        "transposed",
        "'lag', 'frequency'",
    )


@pytest.mark.parametrize("dtype", ["float64", "float16", ">f4", "int32", "complex64", "object"])
def test_numbers_of_another_type_are_refused(laid_out, shard, dtype):
    values = labelled(laid_out, shard, numbers(laid_out, shard).astype(dtype))
    refused(laid_out, shard, values, "float32", ".astype('float32')")


@pytest.mark.parametrize("dim", ["checkpoint", "neuron", "frequency", "lag"])
def test_wrong_labels_are_refused(laid_out, shard, dim):
    values = labelled(laid_out, shard)
    wrong = values.coords[dim].values.copy()
    wrong[-1] = "x" if wrong.dtype == object else wrong[-1] + 1
    refused(laid_out, shard, values.assign_coords({dim: wrong}), f"labels along {dim}", "other names")
    refused(laid_out, shard, values.drop_vars(dim), f"no labels along {dim}")


def test_labels_in_another_order_are_refused(laid_out, shard):
    values = labelled(laid_out, shard)
    refused(laid_out, shard, values.isel(neuron=[1, 0]), "n003, n002", "n002, n003")


def test_wrong_stimulus_is_refused(laid_out):
    shard = Shard("speech", 0, "waveform", Block(0, 5), Block(1, 2))
    values = labelled(laid_out, shard)
    refused(laid_out, shard, values.assign_coords(stimulus=["hiss"]), "labels along stimulus", "hiss", "word")


def test_a_plan_in_another_order_than_the_store_is_refused(laid_out, store):
    other = run_plan(store, cohort(("b", "a", "c")))
    shard = Shard("speech", 0, "strf", Block(0, 2), None)
    refused(other, shard, labelled(other, shard), "labels along checkpoint", "align the plan")


@pytest.mark.parametrize("block", [Block(1, 3), Block(0, 1), Block(0, 3), Block(3, 5)])
def test_a_region_that_cuts_through_an_object_is_refused(laid_out, block):
    shard = Shard("speech", 1, "strf", block, None)
    values = labelled(laid_out, shard)
    refused(laid_out, shard, values, f"neuron={block.start}:{block.stop} cuts through", "plan_shards()")


def test_a_region_outside_of_the_store_is_refused(laid_out, shard):
    values = labelled(laid_out, shard)
    refused(laid_out, replace(shard, checkpoint=7), values, "checkpoint=7:8", "outside")
    refused(laid_out, replace(shard, checkpoint=-1), values, "checkpoint=-1:0", "outside")
    refused(laid_out, replace(shard, neurons=Block(4, 6)), values, "neuron=4:6", "outside")
    refused(laid_out, replace(shard, neurons=Block(2, 2)), values, "neuron=2:2", "outside")


def test_a_map_that_the_store_does_not_have_is_refused(laid_out, shard, store):
    usual = cohort()
    other = run_plan(store, replace(usual, maps=(strf(5, 4, 3, name="extra", block=2),)))
    foreign = replace(shard, map="extra")
    refused(other, foreign, labelled(other, foreign), "no map 'extra'", "create_or_extend")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_non_finite_number_is_refused_with_neuron_and_stimulus(laid_out, bad):
    shard = Shard("speech", 0, "waveform", Block(0, 5), Block(1, 2))
    block = numbers(laid_out, shard)
    block[0, 3, 2] = bad
    refused(
        laid_out,
        shard,
        labelled(laid_out, shard, block),
        "1 of 30 entries",
        "neuron n003",
        "stimulus word",
        error=NonFiniteError,
    )


def test_numbers_whose_sum_overflows_are_finite(laid_out, shard, store):
    block = np.full((2, 4, 3), np.finfo(np.float32).max, np.float32)
    write(laid_out, shard, labelled(laid_out, shard, block))
    record(laid_out, [done(laid_out, shard)])
    assert float(open_cube(store).strf.max()) == np.finfo(np.float32).max


def test_opposite_infinities_are_refused(laid_out, shard):
    block = numbers(laid_out, shard)
    block[0, 0, 0], block[1, 0, 0] = np.inf, -np.inf
    refused(laid_out, shard, labelled(laid_out, shard, block), "2 of 24", "n002, n003", error=NonFiniteError)


def test_a_process_that_opened_the_store_before_it_grew_writes_the_new_checkpoint(laid_out, store):
    first = pending_shards(laid_out)[0]
    write(laid_out, first)
    from pipeline.store import regions

    remembered = dict(regions._handles)
    plan = run_plan(store, cohort(("a", "b", "c", "d")))
    create_or_extend(plan, health_flags=HEALTH)
    regions._handles.update(remembered)
    plan = align(plan)
    shard = next(shard for shard in pending_shards(plan) if shard.checkpoint == 3)
    write(plan, shard)
    record(plan, [done(plan, shard)])
    assert open_cube(store).strf.sel(checkpoint="d", neuron="n000").notnull().all()


def test_the_same_shard_written_twice_gives_the_same_bytes(laid_out, shard, store):
    values = labelled(laid_out, shard)
    write(laid_out, shard, values)
    first = (store / "speech/strf/c/1/1/0/0").read_bytes()
    write(laid_out, shard, values)
    record(laid_out, [done(laid_out, shard), done(laid_out, shard)])
    assert (store / "speech/strf/c/1/1/0/0").read_bytes() == first


# Storage shards


@pytest.fixture
def sharded(store):
    """A cube whose objects hold two chunks each."""
    maps = [strf(6, 4, 3, block=4, inner=2)]
    plan = run_plan(store, cohort(n_neurons=6, maps=maps))
    create_or_extend(plan, health_flags=HEALTH)
    return align(plan)


def test_an_object_with_several_chunks_is_owned_whole(sharded, store):
    shards = pending_shards(sharded)
    assert [len(shard.neurons) for shard in shards[:2]] == [4, 2]
    for shard in shards:
        write(sharded, shard)
    record(sharded, [done(sharded, shard) for shard in shards])
    array = zarr.open_array(store, path="speech/strf", mode="r")
    assert array.shards == (1, 4, 4, 3)
    assert array.chunks == (1, 2, 4, 3)
    assert len([path for path in (store / "speech/strf/c").rglob("*") if path.is_file()]) == 6
    cube = open_cube(store)
    for shard in shards:
        np.testing.assert_array_equal(cube.strf[shard.checkpoint, shard.neurons.slice()], numbers(sharded, shard))
    half = Shard("speech", 0, "strf", Block(0, 2), None)
    refused(sharded, half, labelled(sharded, half), "objects of 4")


@pytest.mark.parametrize("block", [Block(0, 4), Block(4, 6)], ids=["interior", "edge"])
@pytest.mark.parametrize("kept", [0, 7, 100, -9])
def test_a_truncated_object_is_replaced_by_a_retry(sharded, store, block, kept):
    shard = Shard("speech", 1, "strf", block, None)
    values = labelled(sharded, shard)
    write(sharded, shard, values)
    path = store / f"speech/strf/c/1/{block.start // 4}/0/0"
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    write(sharded, shard, values)
    assert path.read_bytes() == whole


# The grid


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    n_checkpoints=st.integers(1, 3),
    n_neurons=st.integers(1, 9),
    per_object=st.integers(1, 9),
    n_stimuli=st.integers(1, 3),
    stimuli_per_object=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_shards_in_any_order_fill_the_cube_and_no_two_share_an_object(
    tmp_path_factory, n_checkpoints, n_neurons, per_object, n_stimuli, stimuli_per_object, seed
):
    store = tmp_path_factory.mktemp("grid") / "x.zarr"
    names = [f"m{i}" for i in range(n_checkpoints)]
    per_object, stimuli_per_object = min(per_object, n_neurons), min(stimuli_per_object, n_stimuli)
    sounds = [f"s{i}" for i in range(n_stimuli)]
    maps = [
        strf(n_neurons, 2, 2, block=per_object),
        waveform(sounds, n_neurons, 3, block=per_object, stimuli_block=stimuli_per_object),
    ]
    plan = run_plan(store, cohort(names, n_neurons=n_neurons, bands=2, lags=2, maps=maps))
    create_or_extend(plan, health_flags=HEALTH)
    plan = align(plan)
    shards = pending_shards(plan)
    assert shards == list(cut_shards(plan.cohorts[0]))
    order = np.random.default_rng(seed).permutation(len(shards))
    for index in order:
        before = set(digests_of(plan))
        write(plan, shards[index])
        assert len(set(digests_of(plan)) - before) == 1
    record(plan, [done(plan, shards[index]) for index in order])
    assert pending_shards(plan) == []
    cube = open_cube(store)
    for shard in shards:
        entry = plan.cohorts[0].map_plan(shard.map)
        np.testing.assert_array_equal(cube[shard.map].isel(shard.region(entry))[0], numbers(plan, shard))


@pytest.mark.parametrize("n_bytes", [0, 1, WRITTEN_BYTES - 1, WRITTEN_BYTES, 2 * WRITTEN_BYTES + 3])
def test_objects_of_any_size_are_written_whole(n_bytes, tmp_path):
    content = np.random.default_rng(0).bytes(n_bytes)
    write_bytes(open_store(tmp_path, writable=True), "folder/object", content)
    assert (tmp_path / "folder/object").read_bytes() == content
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["object"]
