"""Maps whose axes bear the map's own name are compared like the others."""

import numpy as np
import xarray as xr

from pipeline.numbers.agreement import mean_map, reliability, variance_components


def test_an_axis_named_after_its_map_holds_entries_of_the_map():
    values = np.random.default_rng(0).normal(size=(4, 2, 30))
    plain = xr.DataArray(values, dims=("checkpoint", "neuron", "waveform_lag"))
    plain = plain.assign_coords(architecture=("checkpoint", ["a", "a", "b", "b"]))
    own = plain.rename(waveform_lag="whole_waveform_lag")
    for measure in (
        lambda maps: variance_components(maps, "architecture"),
        lambda maps: reliability(maps, "architecture", n_null=20),
    ):
        xr.testing.assert_allclose(measure(own), measure(plain))
    assert mean_map(own).sizes == {**mean_map(plain).rename(waveform_lag="whole_waveform_lag").sizes}
