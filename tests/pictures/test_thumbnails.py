"""Small maps are the maps: means over bins, in steps of a known size, of as many as there is room for."""

import numpy as np
import pytest
import xarray as xr

from pipeline.pictures.sections.outcome import Outcome, outcomes
from pipeline.pictures.style import colour_ends
from pipeline.pictures.thumbnails import MISSING, thumbnails
from tests.pictures.cubes import planted_cube


def entry_of(cube: xr.Dataset, name: str) -> Outcome:
    (entry,) = [one for one in outcomes({"a": cube}) if one.name == name]
    return entry


def test_a_thumbnail_of_a_small_map_is_the_map_in_steps_of_its_scale():
    cube = planted_cube(n_neurons=3, waveform=False)
    small = thumbnails(entry_of(cube, "strf"), 10**6)
    assert small.codes.shape == (1, 5, 3, 24, 20)  # the checkpoint that failed has none
    kept = cube["strf"].isel(checkpoint=small.chosen.checkpoints).values
    found = np.where(small.codes == MISSING, np.nan, small.codes * (small.tops / 127)[..., None, None])[0]
    np.testing.assert_allclose(found, kept, atol=float(0.51 * small.tops.max() / 127))
    np.testing.assert_allclose(small.norms[0], np.linalg.norm(kept, axis=(2, 3)), rtol=1e-5)
    np.testing.assert_allclose(small.rows, cube["frequency"], rtol=1e-5)
    np.testing.assert_allclose(small.columns, cube["lag"])


def test_bins_of_a_large_map_are_averaged_in_blocks():
    cube = planted_cube(n_neurons=2, n_bands=64, n_lags=80, waveform=False)
    small = thumbnails(entry_of(cube, "strf"), 5 * 2 * 32 * 40 + 2 * 32 * 40)
    assert small.codes.shape[-2:] == (32, 40)
    blocks = cube["strf"].values[0, 1].reshape(32, 2, 40, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(small.codes[0, 0, 1] * small.tops[0, 0, 1] / 127, blocks, atol=0.01 * abs(blocks).max())
    assert small.rows[0] == pytest.approx(float(np.sqrt(cube["frequency"][0] * cube["frequency"][1])), rel=1e-5)
    assert small.columns[1] == pytest.approx(25.0)


@pytest.mark.parametrize("room", [4 * 320, 24 * 320, 100 * 320])
def test_as_many_maps_are_kept_as_there_is_room_for(room):
    cube = planted_cube(n_neurons=40, waveform=False)
    small = thumbnails(entry_of(cube, "strf"), room)
    assert 0 < small.codes.size <= room
    names = cube["architecture"].values[small.chosen.checkpoints]
    assert set(names) == {"linear", "gru"}
    assert f"of {40} neurons, evenly spaced" in small.chosen.how


def test_a_waveform_is_kept_as_the_smallest_and_the_largest_sample_of_each_column_and_as_a_sound():
    cube = planted_cube(n_neurons=2, seeds=1)
    small = thumbnails(entry_of(cube, "waveform"), 10**5)
    assert [layer["stimulus"] for layer in small.layers] == ["bark", "rain"]
    maps = cube["waveform"].transpose("stimulus", "checkpoint", "neuron", "waveform_lag").values[:, :1]
    starts = np.linspace(0, 400, 97).astype(int)[:-1]
    expected = np.stack([reduce.reduceat(maps, starts, axis=-1) for reduce in (np.minimum, np.maximum)], axis=-2)
    steps = small.tops[..., None, None] / 127
    np.testing.assert_allclose(small.codes * steps, expected, atol=0.51 * float(steps.max()))
    assert small.sounds.places == (0, 1, 2, 3)
    assert small.sounds.rate == 8000
    first = maps[0, 0, 0][::-1] / abs(maps[0, 0, 0]).max()
    np.testing.assert_allclose(small.sounds.samples[0] / 114, first, atol=0.51 / 114)


def test_one_bin_that_would_hide_the_rest_does_not_set_the_scale():
    maps = np.zeros((4, 20, 24))
    maps[0] = np.random.default_rng(0).normal(0, 1, (20, 24))
    maps[1] = maps[0]
    maps[1, 3, 4] = 100.0
    maps[2, 3, 4] = 5.0  # a map of one entry: nothing is hidden
    ends = colour_ends(maps)
    assert ends[0] == abs(maps[0]).max()
    assert ends[1] == pytest.approx(np.percentile(abs(maps[1]), 99))
    assert ends[2:].tolist() == [5.0, 0.0]
