"""Shards own every number of a run once, and whole objects of the store."""

from math import prod

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.plan.axes import Axis, blocks
from pipeline.plan.config import CheckpointsConfig, CohortConfig, RunConfig
from pipeline.plan.kinds.strf import StrfMapConfig
from pipeline.plan.map_config import CohortFacts, MapConfig, Stimuli
from pipeline.plan.map_layout import block_lengths, in_whole_chunks, inner_chunk_shape, lay_out_maps
from pipeline.plan.run_plan import Checkpoint, CheckpointSource, CohortPlan, RunPlan
from pipeline.plan.run_weight import weight_of
from pipeline.plan.shards import cut_shards, shards_of

counts = st.integers(1, 7)


def cohort_plan(n_checkpoints: int, n_neurons: int, n_stimuli: int, object_mib: float) -> CohortPlan:
    entry = CheckpointsConfig(path="x")
    checkpoints = tuple(
        Checkpoint(CheckpointSource(f"m{index}", "x", entry, "cohort c"), fingerprint="f")
        for index in range(n_checkpoints)
    )
    neurons = tuple(f"n{index}" for index in range(n_neurons))
    facts = CohortFacts("c", 5.0, 4, neurons, (1.0, 2.0, 3.0), checkpoints)
    maps = {
        "around": StrfMapConfig(kind="strf", baseline="stimuli", stimuli="a.npz"),
        "summed": StrfMapConfig(kind="strf", objective="sum", neurons="sum"),
    }
    stimuli = {"around": Stimuli(tuple(f"s{index}" for index in range(n_stimuli))), "summed": Stimuli()}
    return CohortPlan(
        name="c",
        frame_ms=5.0,
        lags=4,
        neurons=neurons,
        frequencies_hz=(1.0, 2.0, 3.0),
        checkpoints=checkpoints,
        maps=lay_out_maps(config(maps, object_mib), facts, maps, stimuli),
    )


def config(maps: dict[str, MapConfig], object_mib: float = 8.0) -> RunConfig:
    return RunConfig(
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
        maps=maps,
        storage={"object_mib": object_mib},
    )


def run_plan(cohort: CohortPlan) -> RunPlan:
    return RunPlan("x", (cohort,), config({entry.name: entry.settings for entry in cohort.maps}))


MAP_MIB = 4 * 3 * 4 / 2**20


@given(n_checkpoints=counts, n_neurons=counts, n_stimuli=counts, per_object=counts)
def test_shards_cover_every_number_once_and_share_no_object(n_checkpoints, n_neurons, n_stimuli, per_object):
    cohort = cohort_plan(n_checkpoints, n_neurons, n_stimuli, per_object * MAP_MIB)
    for entry in cohort.maps:
        (variable,) = entry.variables
        owners = np.zeros(entry.shape(variable, n_checkpoints), dtype=int)
        for shard in (shard for shard in cut_shards(cohort) if shard.map == entry.name):
            region = tuple(shard.region(entry)[dim] for dim in variable.dims)
            owners[region] += 1
            for size, owned, chunk in zip(owners.shape, region, variable.chunks, strict=True):
                assert owned.start % chunk == 0
                assert owned.stop % chunk == 0 or owned.stop == size
        assert (owners == 1).all()


def test_shards_of_one_checkpoint_follow_each_other():
    shards = shards_of(run_plan(cohort_plan(3, 4, 2, 2 * MAP_MIB)))
    positions = [shard.checkpoint for shard in shards]
    assert positions == sorted(positions)
    assert len({shard.key() for shard in shards}) == len(shards)


@given(size=st.integers(1, 50), length=st.integers(1, 60))
def test_blocks_cover_an_axis(size, length):
    covered = [position for block in blocks(size, length) for position in range(block.start, block.stop)]
    assert covered == list(range(size))


@given(
    n_neurons=st.integers(1, 12_000),
    n_stimuli=st.integers(1, 50),
    lags=st.integers(1, 300),
    object_mib=st.floats(0.01, 64),
)
def test_objects_keep_to_their_size_and_never_cut_a_map(n_neurons, n_stimuli, lags, object_mib):
    axes = {
        "stimulus": Axis("stimulus", ("s",) * n_stimuli),
        "neuron": Axis("neuron", ("n",) * n_neurons),
        "frequency": Axis("frequency", (1.0,) * 34),
        "lag": Axis("lag", (0.0,) * lags),
    }
    asked = StrfMapConfig(kind="strf", baseline="stimuli", stimuli="a.npz")
    lengths = block_lengths(asked, axes, asked.variables(axes), object_mib)
    assert set(lengths) == {"neuron", "stimulus"}
    assert all(1 <= length <= len(axes[axis]) for axis, length in lengths.items())
    one_map = 4 * 34 * lags
    assert one_map * prod(lengths.values()) <= max(one_map, object_mib * 2**20)


def test_inner_chunks_divide_an_object_evenly():
    extent = {"checkpoint": 1, "neuron": 100, "frequency": 34, "lag": 40}
    assert inner_chunk_shape(extent, 1) is None
    assert inner_chunk_shape(extent, 8) == (1, 20, 34, 40)
    assert inner_chunk_shape(extent | {"neuron": 7}, 4) is None


@given(n_neurons=st.integers(1, 3000))
def test_by_default_a_chunk_holds_at_most_64_neurons_and_an_object_whole_chunks(n_neurons):
    block = in_whole_chunks({"neuron": n_neurons})["neuron"]
    inner = inner_chunk_shape({"checkpoint": 1, "neuron": block, "lag": 3}, None)
    chunk = block if inner is None else inner[1]
    assert chunk <= 64
    assert block % chunk == 0
    assert n_neurons <= block < n_neurons + block // chunk
    assert (inner is None) == (n_neurons <= 64)


def test_the_weight_of_a_run_counts_its_bytes_and_objects():
    weight = weight_of(run_plan(cohort_plan(3, 4, 2, 2 * MAP_MIB)))
    assert weight.checkpoints == 3
    assert weight.map_bytes == 4 * (3 * 2 * 4 * 3 * 4 + 3 * 3 * 4)
    assert weight.shards == 3 * (2 * 2 + 1)
    assert weight.objects >= weight.shards
