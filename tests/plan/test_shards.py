"""Shards own every number of a run once, and whole objects of the store."""

from math import prod

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.plan.axes import blocks
from pipeline.plan.config import CheckpointsConfig, CohortConfig, RunConfig, StrfMapConfig
from pipeline.plan.shards import (
    Checkpoint,
    CheckpointSource,
    CohortPlan,
    MapPlan,
    RunPlan,
    cut_shards,
    inner_chunk_shape,
    object_shape,
    plan_shards,
    weigh,
)

counts = st.integers(1, 7)


def cohort_plan(n_checkpoints: int, n_neurons: int, n_stimuli: int, neurons_per_object: int) -> CohortPlan:
    entry = CheckpointsConfig(path="x")
    dims = ("checkpoint", "stimulus", "neuron", "frequency", "lag")
    shape = (n_checkpoints, n_stimuli, n_neurons, 3, 4)
    around_sounds = MapPlan(
        name="around",
        kind="strf",
        objective="last",
        baseline="stimuli",
        space="spectrogram",
        over_neurons="each",
        route="auto",
        dims=dims,
        shape=shape,
        chunks=(1, 1, min(neurons_per_object, n_neurons), 3, 4),
        stimuli=tuple(f"s{index}" for index in range(n_stimuli)),
    )
    summed = MapPlan(
        name="summed",
        kind="strf",
        objective="sum",
        baseline="null",
        space="spectrogram",
        over_neurons="sum",
        route="auto",
        dims=("checkpoint", "frequency", "lag"),
        shape=(n_checkpoints, 3, 4),
        chunks=(1, 3, 4),
    )
    return CohortPlan(
        name="c",
        frame_ms=5.0,
        lags=4,
        neurons=tuple(f"n{index}" for index in range(n_neurons)),
        frequencies_hz=(1.0, 2.0, 3.0),
        checkpoints=tuple(
            Checkpoint(CheckpointSource(f"m{index}", "x", entry, "cohort c"), fingerprint="f")
            for index in range(n_checkpoints)
        ),
        maps=(around_sounds, summed),
    )


def run_plan(cohort: CohortPlan) -> RunPlan:
    config = RunConfig(
        store="x",
        cohort=(
            CohortConfig(
                name="c",
                frame_ms=5.0,
                lags=4,
                frequencies_hz=(1.0, 2.0, 3.0),
                checkpoints=(CheckpointsConfig(path="x"),),
            ),
        ),
        maps={"around": StrfMapConfig(kind="strf", baseline="stimuli", stimuli="a.npz")},
    )
    return RunPlan("x", (cohort,), config)


@given(n_checkpoints=counts, n_neurons=counts, n_stimuli=counts, per_object=counts)
def test_shards_cover_every_number_once_and_share_no_object(n_checkpoints, n_neurons, n_stimuli, per_object):
    cohort = cohort_plan(n_checkpoints, n_neurons, n_stimuli, per_object)
    for entry in cohort.maps:
        owners = np.zeros(entry.shape, dtype=int)
        objects = np.full(entry.shape, -1)
        for number, shard in enumerate(shard for shard in cut_shards(cohort) if shard.map == entry.name):
            region = tuple(shard.region(entry)[dim] for dim in entry.dims)
            owners[region] += 1
            objects[region] = number
            for dim, owned in zip(entry.dims, region, strict=True):
                assert owned.start % entry.chunk(dim) == 0
                assert owned.stop % entry.chunk(dim) == 0 or owned.stop == entry.size(dim)
        assert (owners == 1).all()


def test_shards_of_one_checkpoint_follow_each_other():
    shards = plan_shards(run_plan(cohort_plan(3, 4, 2, 2)))
    positions = [shard.checkpoint for shard in shards]
    assert positions == sorted(positions)
    assert len({shard.key() for shard in shards}) == len(shards)


@given(size=st.integers(1, 50), length=st.integers(1, 60))
def test_blocks_cover_an_axis(size, length):
    covered = [position for block in blocks(size, length) for position in range(block.start, block.stop)]
    assert covered == list(range(size))


@given(
    n_checkpoints=st.integers(1, 400),
    n_neurons=st.integers(1, 12_000),
    n_stimuli=st.integers(1, 50),
    lags=st.integers(1, 300),
    object_mib=st.floats(0.01, 64),
)
def test_objects_keep_to_their_size_and_never_cut_a_map(n_checkpoints, n_neurons, n_stimuli, lags, object_mib):
    dims = ("checkpoint", "stimulus", "neuron", "frequency", "lag")
    shape = (n_checkpoints, n_stimuli, n_neurons, 34, lags)
    chunks = object_shape(dims, shape, object_mib)
    assert chunks[0] == 1
    assert chunks[3:] == shape[3:]
    assert all(1 <= chunk <= size for chunk, size in zip(chunks, shape, strict=True))
    one_map = 4 * 34 * lags
    assert 4 * prod(chunks) <= max(one_map, object_mib * 2**20)


def test_inner_chunks_divide_an_object_evenly():
    dims = ("checkpoint", "neuron", "frequency", "lag")
    assert inner_chunk_shape(dims, (1, 100, 34, 40), 1) is None
    assert inner_chunk_shape(dims, (1, 100, 34, 40), 8) == (1, 20, 34, 40)
    assert inner_chunk_shape(dims, (1, 7, 34, 40), 4) is None


def test_the_weight_of_a_run_counts_its_bytes_and_objects():
    weight = weigh(run_plan(cohort_plan(3, 4, 2, 2)))
    assert weight.checkpoints == 3
    assert weight.map_bytes == 4 * (3 * 2 * 4 * 3 * 4 + 3 * 3 * 4)
    assert weight.shards == 3 * (2 * 2 + 1)
    assert weight.objects >= weight.shards
