"""Maps whose bands run from high to low give the numbers of the same maps the other way round."""

import numpy as np
import xarray as xr

from pipeline import strf_summaries
from pipeline.numbers.strf import StrfSettings


def test_falling_bands_give_the_same_numbers():
    generator = np.random.default_rng(0)
    rising = xr.DataArray(
        generator.standard_normal((3, 8, 10)),
        dims=("neuron", "frequency", "lag"),
        coords={"frequency": np.geomspace(200.0, 6400.0, 8), "lag": np.arange(10) * 5.0},
    )
    falling = rising.isel(frequency=slice(None, None, -1))
    xr.testing.assert_identical(strf_summaries(falling), strf_summaries(rising))
    settings = StrfSettings(threshold=3)
    xr.testing.assert_identical(strf_summaries(falling, settings=settings), strf_summaries(rising, settings=settings))
