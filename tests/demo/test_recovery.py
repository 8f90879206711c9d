"""Planted truth beside what the maps show."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.demo import recovery
from pipeline.demo.simulate import lags_ms, plant_population, planted_strfs

POPULATION = plant_population()
BANDS = np.geomspace(160.0, 3600.0, 24)
LAGS = lags_ms()
TRUTH = planted_strfs(POPULATION, BANDS, LAGS)


def test_the_planted_fields_recover_themselves():
    for row, neuron in zip(recovery(POPULATION, TRUTH, BANDS, LAGS), POPULATION.neurons, strict=True):
        assert row.neuron == neuron.label
        assert row.correlation == pytest.approx(1.0)
        assert row.recovered_polarity == row.planted_polarity == neuron.polarity
        assert abs(np.log2(row.recovered_best_frequency_hz / neuron.best_frequency_hz)) < np.log2(BANDS[1] / BANDS[0])
        assert abs(row.recovered_latency_ms - neuron.latency_ms) < 10.0


@settings(deadline=None)
@given(scale=st.floats(1e-6, 1e6), seed=st.integers(0, 100))
def test_a_maps_scale_changes_no_number_and_its_sign_flips_polarity_and_correlation(scale, seed):
    maps = TRUTH + 0.02 * np.random.default_rng(seed).standard_normal(TRUTH.shape)
    rows = recovery(POPULATION, maps, BANDS, LAGS)
    for row, same, flipped in zip(
        rows, recovery(POPULATION, scale * maps, BANDS, LAGS), recovery(POPULATION, -maps, BANDS, LAGS), strict=True
    ):
        assert same.correlation == pytest.approx(row.correlation)
        assert same.recovered_best_frequency_hz == flipped.recovered_best_frequency_hz
        assert flipped.correlation == pytest.approx(-row.correlation)
        assert flipped.recovered_polarity == -row.recovered_polarity


def test_correlation_is_numpys():
    maps = np.random.default_rng(0).standard_normal(TRUTH.shape)
    for row, truth, gradmap in zip(recovery(POPULATION, maps, BANDS, LAGS), TRUTH, maps, strict=True):
        assert row.correlation == pytest.approx(np.corrcoef(truth.ravel(), gradmap.ravel())[0, 1])


@pytest.mark.parametrize("nothing", [0.0, np.nan])
def test_a_map_that_shows_nothing_recovers_nan(nothing):
    row = recovery(POPULATION, np.full_like(TRUTH, nothing), BANDS, LAGS)[0]
    assert np.isnan([row.recovered_best_frequency_hz, row.recovered_latency_ms, row.correlation]).all()
    assert np.isnan(row.recovered_polarity)


@pytest.mark.parametrize("maps", [TRUTH[:3], TRUTH.transpose(0, 2, 1), TRUTH[0]])
def test_maps_that_do_not_fit_are_refused(maps):
    with pytest.raises(ValueError, match="in that order"):
        recovery(POPULATION, maps, BANDS, LAGS)
