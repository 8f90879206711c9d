"""Planted architectures, one with one shape of map and one with two, are told apart by the numbers of their maps."""

import numpy as np
import pytest
import xarray as xr

from pipeline.numbers import dynamic
from pipeline.numbers.agreement import reliability
from pipeline.numbers.comparing import compare_numbers

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
