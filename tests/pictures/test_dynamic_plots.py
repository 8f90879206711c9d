"""Pictures of dynamic STRFs: what is drawn is what the arrays hold."""

import doctest
import importlib

import numpy as np
import pytest
import xarray as xr

from pipeline.pictures.plots import plot_components, plot_dynamic_mean, plot_film, plot_gain, plot_nonlinearity

FREQUENCY, LAG = np.geomspace(200.0, 3200.0, 8), 10.0 * np.arange(6)


def maps(*leading, seed=0, **coords):
    sizes = {"component": 4, "kept": 3}
    shape = [sizes[dim] for dim in leading] + [8, 6]
    values = np.random.default_rng(seed).standard_normal(shape)
    return xr.DataArray(
        values, dims=(*leading, "frequency", "lag"), coords={"frequency": FREQUENCY, "lag": LAG, **coords}
    )


def meshes(figure):
    return [mesh for ax in figure.axes for mesh in ax.collections if hasattr(mesh, "get_array")]


def test_mean_and_deviation_share_a_scale():
    mean, sd = maps(), abs(maps(seed=1))
    figure = plot_dynamic_mean(mean, sd)
    left, right = (ax.collections[0] for ax in figure.axes[:2])
    assert left.get_clim() == right.get_clim()
    np.testing.assert_allclose(left.get_array().reshape(8, 6), mean.values)
    np.testing.assert_allclose(right.get_array().reshape(8, 6), sd.values)


def test_components_stand_under_their_deviations_and_the_floor_is_a_deviation():
    sd = xr.DataArray([3.0, 2.0, 0.5, 0.1], dims="component")
    figure = plot_components(maps("component"), sd, noise_floor=0.25, most=3)
    above = figure.axes[0]
    np.testing.assert_allclose(above.lines[0].get_ydata(), sd.values)
    assert set(above.lines[1].get_ydata()) == {0.5}
    assert [ax.get_title() for ax in figure.axes[1:]] == ["component 1", "component 2", "component 3"]


def test_gain_lies_under_the_sound_it_belongs_to():
    time = 10.0 * np.arange(40)
    gain = xr.DataArray(np.linspace(1, 2, 40), dims="time", coords={"time": time})
    heard = xr.DataArray(np.ones((8, 40)), dims=("frequency", "time"), coords={"frequency": FREQUENCY, "time": time})
    alone = plot_gain(gain)
    np.testing.assert_allclose(alone.lines[0].get_xydata(), np.stack([time, gain.values], axis=1))
    upper, below = plot_gain(gain, heard).child_axes
    assert upper.get_shared_x_axes().joined(upper, below)
    np.testing.assert_allclose(below.lines[0].get_ydata(), gain.values)


def test_a_film_strip_names_sound_and_frame():
    kept = maps("kept", kept_stimulus=("kept", ["a", "a", "b"]), kept_frame=("kept", [12, 40, 7]))
    figure = plot_film(kept)
    assert [ax.get_title() for ax in figure.axes] == ["a, frame 12", "a, frame 40", "b, frame 7"]
    assert len({ax.collections[0].get_clim() for ax in figure.axes}) == 1
    with pytest.raises(ValueError, match="13 maps side by side"):
        plot_film(xr.concat([kept.isel(kept=[0])] * 13, "kept"))


def test_neurons_without_a_number_are_counted_not_drawn():
    complexity = xr.DataArray([1.0, 2.0, np.nan, 4.0], dims="neuron")
    ax = plot_nonlinearity(complexity, complexity - 1, groups=["a", "b", "b", "b"])
    drawn = {line.get_label(): line.get_xdata().tolist() for line in ax.lines if line.get_label() in ("a", "b")}
    assert drawn == {"a": [1.0], "b": [2.0, 4.0]}
    assert any("1 without a number" in text.get_text() for text in ax.texts)


def test_examples():
    found = doctest.testmod(importlib.import_module("pipeline.pictures.plots.dynamic_maps"))
    assert found.attempted > 0
    assert found.failed == 0
