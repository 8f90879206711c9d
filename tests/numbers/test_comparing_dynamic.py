"""Planted architectures, one with one shape of map and one with two, are told apart by the numbers of their maps."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from pipeline.numbers import dynamic
from pipeline.numbers.agreement import reliability
from pipeline.numbers.agreement.number_agreement import number_reliability
from pipeline.numbers.comparing import compare_numbers
from pipeline.numbers.counted_maps import choose_numbers, numbers_per_neuron, variable_of_map

FRAMES, LAGS, BANDS, NEURONS, SEEDS = 60, 6, 5, 12, 6
MEASURES = {"complexity": dynamic.complexity, "gain_change": dynamic.gain_change}


def dynamic_strfs(shapes: int, rng: np.random.Generator) -> np.ndarray:
    """Maps (neuron, time, lag, frequency) that take one or two orthogonal shapes of equal norm in turn.

    The shapes are each neuron's own whatever the checkpoint; the norm changes alike in both architectures.
    """
    own = np.random.default_rng(9)
    shape = np.linalg.qr(own.standard_normal((NEURONS, LAGS * BANDS, 2)))[0].transpose(0, 2, 1)
    norm = 1.0 + 0.3 * np.sin(np.arange(FRAMES))
    maps = norm[None, :, None] * shape[:, np.arange(FRAMES) % shapes]
    maps += 1e-3 * rng.standard_normal(maps.shape)
    return maps.reshape(NEURONS, FRAMES, LAGS, BANDS)


@pytest.fixture(scope="module")
def cube():
    rng = np.random.default_rng(0)
    architectures = ["one_state"] * SEEDS + ["two_states"] * SEEDS
    each = [dynamic_strfs(1 if name == "one_state" else 2, rng) for name in architectures]
    numbers = {
        f"dstrf_{name}": (("checkpoint", "neuron", "stimulus"), np.stack([measure(one) for one in each])[..., None])
        for name, measure in MEASURES.items()
    }
    mean = np.stack([one.mean(axis=1).transpose(0, 2, 1) for one in each])
    return xr.Dataset(
        {**numbers, "dstrf_mean": (("checkpoint", "neuron", "frequency", "lag"), mean)},
        coords={
            "checkpoint": [f"{name}-{number}" for number, name in enumerate(architectures)],
            "architecture": ("checkpoint", np.array(architectures, dtype=object)),
            "neuron": [f"n{number}" for number in range(NEURONS)],
            "site": ("neuron", np.array([f"s{number // 2}" for number in range(NEURONS)], dtype=object)),
        },
    )


def test_the_architecture_of_two_shapes_is_more_complex_and_changes_its_gain_no_more(cube):
    table = compare_numbers(cube[["dstrf_complexity", "dstrf_gain_change"]], "one_state", "two_states")
    table = table.set_index("measure")
    complexity, gain = table.loc["dstrf_complexity"], table.loc["dstrf_gain_change"]
    assert complexity["reference"] == pytest.approx(1.0, abs=0.15)
    assert complexity["difference"] == pytest.approx(1.0, abs=0.1)
    assert complexity["p_value"] < 0.05
    assert complexity["low"] > 0.8
    assert gain["difference"] == pytest.approx(0.0, abs=1e-3)
    assert gain["p_value"] > 0.05
    assert (table["neurons"] == NEURONS).all()


def test_neurons_count_as_independent_where_no_site_is_known(cube):
    table = compare_numbers(cube[["dstrf_complexity"]].drop_vars("site"), "one_state", "two_states", site=None)
    assert table["n"].item() == NEURONS
    with pytest.raises(ValueError, match="which of them were recorded together"):
        compare_numbers(cube[["dstrf_complexity"]].drop_vars("site"), "one_state", "two_states")


def test_mean_maps_of_the_seeds_of_one_architecture_agree(cube):
    found = reliability(cube["dstrf_mean"], "architecture", n_null=100)
    assert (found["reliability"] > 0.95).all()
    assert (found["p_value"] < 0.05).all()


def test_what_is_no_number_of_each_neuron_is_refused(cube):
    with pytest.raises(ValueError, match="frames"):
        compare_numbers(xr.Dataset({"frames": ("stimulus", [1.0])}), "one_state", "two_states")
    with pytest.raises(ValueError, match="nothing"):
        compare_numbers(cube[[]], "one_state", "two_states")


def test_several_cohorts_without_sites_are_a_site_each(cube):
    numbers = cube[["dstrf_complexity"]].drop_vars("site")
    halves = {"north": numbers.isel(neuron=slice(6)), "south": numbers.isel(neuron=slice(6, None))}
    row = compare_numbers(halves, "one_state", "two_states").iloc[0]
    assert row["n"] == 2
    values = numbers["dstrf_complexity"].mean("stimulus").values
    change = values[SEEDS:].mean(axis=0) - values[:SEEDS].mean(axis=0)
    assert row["difference"] == pytest.approx(np.mean([change[:6].mean(), change[6:].mean()]))


def test_seeds_agree_on_a_number_of_their_neurons_as_a_direct_loop_over_pairs_says():
    rng = np.random.default_rng(4)
    own = rng.exponential(size=15)
    numbers = np.stack([own + 0.3 * rng.standard_normal(15) for _ in range(3)])
    numbers[1, 4] = np.nan
    unrelated = rng.standard_normal((3, 15))
    labels = {"architecture": ("checkpoint", np.array(["gru"] * 3, dtype=object))}
    dims = ("checkpoint", "neuron")
    found = number_reliability(xr.Dataset({"gain": (dims, numbers), "noise": (dims, unrelated)}, labels), n_null=200)
    known = np.delete(numbers, 4, axis=1)
    pairs = [stats.spearmanr(known[a], known[b]).statistic for a, b in ((0, 1), (0, 2), (1, 2))]
    gain, noise = found.iloc[0], found.iloc[1]
    assert gain["r"] == pytest.approx(np.mean(pairs))
    assert gain["ceiling"] == pytest.approx(np.sqrt(3 * np.mean(pairs) / (1 + 2 * np.mean(pairs))))
    assert (gain["checkpoints"], gain["neurons"]) == (3, 14)
    assert gain["p_value"] == pytest.approx(1 / 201)
    assert noise["p_value"] > 0.05


def test_one_checkpoint_or_a_number_alike_for_all_neurons_has_no_reliability():
    labels = {"architecture": ("checkpoint", np.array(["gru", "gru", "ln"], dtype=object))}
    cube = xr.Dataset({"hold": (("checkpoint", "neuron"), np.zeros((3, 8)))}, labels)
    found = number_reliability(cube).set_index("architecture")
    assert found["r"].isna().all()
    assert found["p_value"].isna().all()
    assert found["checkpoints"].to_dict() == {"gru": 2, "ln": 1}


def test_numbers_of_maps_that_do_not_count_are_left_out(cube):
    words = {"role": "measure", "map": "dstrf"}
    marked = cube.copy()
    marked["dstrf_mean"].attrs = {"role": "map", "map": "dstrf"}
    marked["dstrf_complexity"].attrs = words
    marked["dstrf_sd"] = cube["dstrf_mean"].assign_attrs(words)
    health = np.zeros((2 * SEEDS, NEURONS), dtype=np.uint16)
    health[3, 5] = 4
    marked["dstrf_health"] = (("checkpoint", "neuron"), health)
    assert numbers_per_neuron(marked) == {"dstrf": ("dstrf_complexity",)}
    assert variable_of_map(marked, "dstrf") == "dstrf_mean"
    chosen = choose_numbers(marked, "dstrf", ["dstrf_complexity"])
    left_out = np.isnan(chosen.numbers["dstrf_complexity"].values[..., 0])
    assert np.argwhere(left_out).tolist() == [[3, 5]]
    assert (chosen.kept, chosen.total) == (2 * SEEDS * NEURONS - 1, 2 * SEEDS * NEURONS)
    assert choose_numbers(marked, "dstrf", ["dstrf_complexity"], untrusted=True).kept == 2 * SEEDS * NEURONS
