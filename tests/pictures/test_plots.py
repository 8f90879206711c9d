"""Pictures say what the numbers are: axes, signs, scales, and what is missing."""

import re
import sys
from itertools import combinations, pairwise

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from pipeline.pictures import plots
from pipeline.pictures.plots.maps import band_edges
from pipeline.pictures.style import GROUP_COLOURS, STANDING_COLOURS, frequency_ticks, plain, short_hertz, three_figures
from tests.pictures.cubes import planted_cube


@pytest.fixture(scope="module")
def cube() -> xr.Dataset:
    return planted_cube()


def texts(ax: Axes) -> str:
    """All words in the picture that ``ax`` belongs to."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    return "\n".join(found.get_text() for found in figure.findobj(Text) if found.get_visible())


def mesh(ax: Axes) -> QuadMesh:
    (found,) = [child for child in ax.collections if isinstance(child, QuadMesh)]
    return found


def one_map(values: np.ndarray, frequency: np.ndarray | None = None) -> xr.DataArray:
    frequency = np.geomspace(100, 6400, values.shape[0]) if frequency is None else frequency
    coords = {"frequency": frequency, "lag": np.arange(values.shape[1]) * 10.0}
    return xr.DataArray(values, dims=("frequency", "lag"), coords=coords, attrs={"units": "spikes/s per dB"})


def test_an_excitatory_point_is_red_and_lies_at_its_frequency_and_lag():
    values = np.zeros((7, 5))
    values[4, 3], values[1, 0] = 2.0, -1.0
    ax = plots.plot_map(one_map(values))
    drawn = mesh(ax)
    ax.get_figure(root=True).draw_without_rendering()
    colours = drawn.get_facecolors().reshape(7, 5, 4)
    red, _, blue, _ = colours[4, 3]
    assert red > blue
    assert colours[1, 0][2] > colours[1, 0][0]
    np.testing.assert_allclose(colours[0, 1][:3], 1.0, atol=0.05)  # zero is white
    corners = drawn.get_coordinates()  # (frequency edge, lag edge, xy)
    assert corners[4, 3, 0] < 30.0 < corners[4, 4, 0]
    assert corners[4, 3, 1] < 1600.0 < corners[5, 3, 1]
    left, right = ax.get_xlim()
    assert left < 0.0 < right
    assert ax.get_yscale() == "log"


def test_the_scale_is_symmetrical_and_written_with_units():
    values = np.full((4, 4), 0.1)
    values[2, 2] = -3.0
    ax = plots.plot_map(one_map(values))
    assert mesh(ax).get_clim() == (-3.0, 3.0)
    assert "spikes/s per dB" in texts(ax)
    assert "lag (ms" in texts(ax)
    assert "frequency (Hz)" in texts(ax)
    assert mesh(plots.plot_map(one_map(values), limit=7.0)).get_clim() == (-7.0, 7.0)


def test_a_map_whose_axes_are_turned_round_is_drawn_the_right_way():
    values = np.arange(12.0).reshape(3, 4)
    upright, turned = (
        one_map(values),
        one_map(values).isel(frequency=slice(None, None, -1), lag=slice(None, None, -1)).T,
    )
    np.testing.assert_array_equal(mesh(plots.plot_map(upright)).get_array(), mesh(plots.plot_map(turned)).get_array())


@pytest.mark.parametrize(
    ("standing", "words"),
    [(0, "not computed"), (2, "failed"), (1, "not computed")],
    ids=["pending", "failed", "all NaN"],
)
def test_a_map_that_is_not_there_is_a_hatched_panel_that_says_why(standing, words):
    ax = plots.plot_map(one_map(np.full((3, 3), np.nan)), standing=standing)
    assert words in texts(ax)
    assert ax.patch.get_hatch()
    assert not ax.collections


def test_a_map_not_to_be_trusted_says_why():
    ax = plots.plot_map(one_map(np.eye(3)), flags=("truncated window",))
    assert "truncated window" in texts(ax)


@pytest.mark.parametrize("values", [np.zeros((3, 3)), np.ones((1, 1)), np.ones((1, 5)), np.ones((5, 1))])
def test_degenerate_maps_are_drawn(values):
    assert plots.plot_map(one_map(values)).collections
    if not values.any():
        assert "zero everywhere" in texts(plots.plot_map(one_map(values)))


def test_a_band_at_0_hz_makes_the_axis_linear():
    ax = plots.plot_map(one_map(np.eye(3), np.array([0.0, 100.0, 200.0])))
    assert ax.get_yscale() == "linear"


def test_several_maps_at_once_are_refused(cube):
    with pytest.raises(ValueError, match=r"several.*\.sel\(checkpoint"):
        plots.plot_map(cube["strf"])
    with pytest.raises(ValueError, match=r"several.*\.sel\(checkpoint"):
        plots.plot_waveform(cube["waveform"])
    with pytest.raises(ValueError, match="positive end"):
        plots.plot_map(one_map(np.eye(3)), limit=0.0)


def test_a_grid_has_a_panel_per_map_and_marks_what_failed_what_is_missing_and_what_is_not_to_be_trusted(cube):
    ax = plots.plot_grid(cube, "strf", checkpoints=["linear-seed0", "gru-seed1", "gru-seed2"], neurons=["n001", "n005"])
    assert len(ax.child_axes) == 6
    words = texts(ax)
    assert words.count("failed") == 2
    assert words.count("not computed") == 1
    assert "all zero map\nroutes disagree" in words
    assert "linear-seed0" in words
    assert "n005" in words


def test_a_shared_scale_is_that_of_the_largest_map(cube):
    part = cube.isel(checkpoint=slice(2), neuron=slice(2))
    ax = plots.plot_grid(part, scale="shared")
    largest = float(np.abs(part["strf"]).max())
    assert {mesh(panel).get_clim() for panel in ax.child_axes} == {(-largest, largest)}
    own = {mesh(panel).get_clim() for panel in plots.plot_grid(part).child_axes}
    assert len(own) == 4


def test_waveforms_of_a_grid_have_the_scale_that_was_asked_for_and_say_it(cube):
    some = {"checkpoints": ["linear-seed0", "gru-seed1"], "neurons": ["n001", "n005"]}
    louder = cube.assign(waveform=cube["waveform"] * xr.where(cube["neuron"] == "n005", 3.0, 1.0))
    louder["waveform"].attrs = cube["waveform"].attrs
    drawn = louder["waveform"].isel(stimulus=0).sel(checkpoint=some["checkpoints"], neuron=some["neurons"])
    own = plots.plot_grid(louder, "waveform", **some).child_axes
    for panel, (n, c) in zip(own, [(n, c) for n in some["neurons"] for c in some["checkpoints"]], strict=True):
        peak = float(abs(drawn.sel(neuron=n, checkpoint=c)).max())
        assert panel.get_ylim() == pytest.approx((-1.1 * peak, 1.1 * peak))
        assert f"±{peak:.2g}" in [text.get_text() for text in panel.texts]
    shared = {panel.get_ylim() for panel in plots.plot_grid(louder, "waveform", scale="shared", **some).child_axes}
    assert shared == {(-1.1 * float(abs(drawn).max()), 1.1 * float(abs(drawn).max()))}


def test_a_grid_reads_only_the_maps_it_draws():
    dask = pytest.importorskip("dask.array")
    cube = planted_cube(waveform=False)
    read = []

    def block(values: np.ndarray, block_info: dict) -> np.ndarray:
        read.append(tuple(block_info[0]["chunk-location"][:2]))
        return values

    lazy = dask.from_array(cube["strf"].values, chunks=(1, 1, -1, -1)).map_blocks(
        block, dtype="float32", meta=np.empty((0,) * 4, "float32")
    )
    plots.plot_grid(
        cube.assign(strf=cube["strf"].copy(data=lazy)), checkpoints=["linear-seed1"], neurons=["n000", "n003"]
    )
    assert sorted(set(read)) == [(1, 0), (1, 3)]


def test_unknown_labels_and_too_many_panels_are_refused(cube):
    with pytest.raises(ValueError, match=r"no neuron is called 'n999'.*n000"):
        plots.plot_grid(cube, neurons=["n999"])
    with pytest.raises(ValueError, match=r"no map 'strff'.*'strf'"):
        plots.plot_grid(cube, "strff")
    with pytest.raises(ValueError, match="too small to be read"):
        plots.plot_grid(planted_cube(n_neurons=60, waveform=False))
    with pytest.raises(ValueError, match="scale is 'own'"):
        plots.plot_grid(cube, scale="own", neurons=["n000"])
    with pytest.raises(ValueError, match="no panel"):
        plots.plot_grid(cube, neurons=[])


def test_seeds_stand_beside_the_mean_of_their_shapes(cube):
    ax = plots.plot_seeds(cube, "n001")
    words = texts(ax)
    assert len(ax.child_axes) == 8  # two architectures of three seeds, and two means
    assert words.count("mean shape") == 1
    assert "failed" in words
    maps = cube["strf"].sel(neuron="n001", checkpoint=["linear-seed0", "linear-seed1", "linear-seed2"])
    shapes = maps / np.sqrt((maps**2).sum(["frequency", "lag"]))
    drawn = mesh(ax.child_axes[3]).get_array()
    np.testing.assert_allclose(drawn.reshape(24, 20), shapes.mean("checkpoint").values, rtol=1e-5, atol=1e-7)


def test_a_seed_that_arrives_as_a_float_reads_as_a_whole_number(cube):
    floats = cube.assign_coords(seed=cube["seed"].astype(float))
    words = texts(plots.plot_seeds(floats, "n001"))
    assert "seed 0" in words
    assert "seed 0." not in words
    words = texts(plots.plot_distribution(floats["cc_test"], by="seed"))
    assert re.search(r"^0: n = \d+", words, re.MULTILINE)


def test_a_population_map_without_neurons_is_one_row(cube):
    total = cube["waveform"].sum("neuron", skipna=False, keep_attrs=True)
    status = cube["waveform_status"].max("neuron", keep_attrs=True)
    lone = xr.Dataset({"waveform": total, "waveform_status": status})
    assert len(plots.plot_grid(lone, "waveform").child_axes) == 6
    assert plots.plot_standing(lone, "waveform").images[0].get_array().shape == (
        6 * 2,
        1,
    )  # a row for each of two sounds


def test_a_waveform_map_has_its_spectrogram_with_the_tone_at_its_frequency(cube):
    rate, tone = 8000.0, 1000.0
    lag = np.arange(800) * 1000.0 / rate
    burst = np.sin(2 * np.pi * tone * lag / 1000.0) * np.exp(-0.5 * ((lag - 60.0) / 8.0) ** 2)
    ax = plots.plot_waveform(xr.DataArray(burst, dims="waveform_lag", coords={"waveform_lag": lag}))
    trace, spectrogram = ax.child_axes
    np.testing.assert_allclose(trace.lines[-1].get_xdata(), lag)
    drawn = mesh(spectrogram)
    level = drawn.get_array()
    row, column = np.unravel_index(level.argmax(), level.shape)
    corners = drawn.get_coordinates()
    assert abs(corners[row, column, 1] - tone / 1000.0) < 0.1
    assert abs(corners[row, column, 0] - 60.0) < 8.0
    assert "gradient" in texts(ax)


@pytest.mark.parametrize("values", [np.zeros(100), np.ones(3), np.ones(1), np.full(50, np.nan)])
def test_degenerate_waveform_maps_are_drawn(values):
    lag = np.arange(values.size) * 0.125
    texts(plots.plot_waveform(xr.DataArray(values, dims="waveform_lag", coords={"waveform_lag": lag})))


def test_a_distribution_counts_maps_without_a_value_and_every_other_map_once():
    values = np.array([[100.0, 200.0, 400.0, np.nan], [200.0, 200.0, 800.0, 0.0]])
    coords = {"checkpoint": ["a", "b"], "architecture": ("checkpoint", ["x", "y"])}
    frequencies = xr.DataArray(values, dims=("checkpoint", "neuron"), coords=coords)
    ax = plots.plot_distribution(frequencies, log=True)
    shares, edges, _ = ax.patches[0].get_data()
    assert shares.sum() == pytest.approx(1.0)
    at_200 = shares[(edges[:-1] <= 200) & (edges[1:] > 200)]
    assert at_200 == pytest.approx(3 / 6)
    assert "n = 6, 2 without" in texts(ax)
    both = texts(plots.plot_distribution(frequencies, by="architecture", log=True))
    assert "x: n = 3, 1 without" in both
    assert "y: n = 3, 1 without" in both


@pytest.mark.parametrize("values", [[np.nan, np.nan], [5.0, 5.0], [0.0, 0.0], [1.0, 2.0], []])
def test_degenerate_distributions_are_drawn(values):
    array = xr.DataArray(np.array(values, dtype=float), dims="neuron")
    texts(plots.plot_distribution(array))
    texts(plots.plot_distribution(array, log=True))


def test_a_population_map_places_neurons_by_number_or_by_class(cube):
    best = xr.DataArray(
        [[500.0, 1000.0, np.nan], [500.0, 4000.0, np.nan]],
        dims=("checkpoint", "neuron"),
        coords={"depth_um": ("neuron", [100.0, 200.0, 300.0]), "site": ("neuron", ["b", "a", "a"])},
    )
    ax = plots.plot_population(best)
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[100.0, 500.0], [200.0, 2500.0]])
    assert "1 without" in texts(ax)
    assert "site" in texts(plots.plot_population(best, against="site"))
    with pytest.raises(ValueError, match=r"'layer'.*depth_um, site"):
        plots.plot_population(best, against="layer")


def test_a_ripple_transfer_function_keeps_both_signs_of_the_rate():
    rate, scale = np.linspace(-50, 50, 11), np.linspace(0, 2, 5)
    values = np.zeros((5, 11))
    values[1, 8] = 1.0
    transfer = xr.DataArray(values, dims=("scale", "rate"), coords={"scale": scale, "rate": rate})
    ax = plots.plot_ripple_transfer(transfer)
    corners = mesh(ax).get_coordinates()
    assert corners[1, 8, 0] < 30.0 < corners[1, 9, 0]
    with pytest.raises(ValueError, match="rate and scale"):
        plots.plot_ripple_transfer(transfer.expand_dims(neuron=2))


def test_the_standing_picture_has_a_row_for_each_sound_of_each_checkpoint(cube):
    status = cube["waveform_status"].copy(deep=True)
    status[0, 1, 2], status[1, 0, 3] = 0, 2
    ax = plots.plot_standing(cube.assign(waveform_status=status), "waveform")
    drawn = ax.images[0].get_array()
    assert drawn.shape == (6 * 2, 6)
    assert (drawn[1, 2], drawn[2, 3], drawn[0, 2], drawn[0, 0]) == (0, 2, 1, 1)
    assert "failed" in texts(ax)
    assert [label.get_text() for label in ax.get_yticklabels()][:2] == ["linear-seed0, bark", "linear-seed0, rain"]


def test_similarity_is_a_square_from_minus_1_to_1():
    names = ["a", "b"]
    matrix = xr.DataArray(np.eye(2), dims=("checkpoint", "other"), coords={"checkpoint": names, "other": names})
    assert plots.plot_similarity(matrix).images[0].get_clim() == (-1, 1)
    with pytest.raises(ValueError, match="equal length"):
        plots.plot_similarity(matrix[:1])


@pytest.mark.parametrize("hostile", ["$\\frac{", "a$b$c", "two\nlines\ttab", "神経", "\x00\x1b[31m", "x" * 500, ""])
def test_any_id_can_be_a_label(hostile):
    cube = planted_cube(waveform=False, n_neurons=2).isel(checkpoint=[0, 1])
    ids = {"checkpoint": np.array([hostile, "b"], dtype=object), "neuron": np.array([f"{hostile}.", "n"], dtype=object)}
    cube = cube.assign_coords(ids).assign_coords(architecture=("checkpoint", np.array([hostile, "b"], dtype=object)))
    texts(plots.plot_grid(cube))
    texts(plots.plot_standing(cube, "strf"))
    texts(plots.plot_seeds(cube, "n"))
    assert len(plain(hostile)) <= 42


def test_pictures_go_into_the_axes_they_are_given_and_open_no_window(cube):
    figure = Figure()
    ax = figure.add_subplot()
    drawn = [
        plots.plot_map(cube["strf"][0, 0], ax),
        plots.plot_grid(cube, "strf", figure.add_subplot(), neurons=["n000"]),
        plots.plot_seeds(cube, "n000", "strf", figure.add_subplot()),
    ]
    assert all(found.get_figure(root=True) is figure for found in drawn)
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def test_no_picture_changes_matplotlibs_settings(cube):
    before = dict(mpl.rcParams)
    texts(plots.plot_grid(cube, neurons=["n000"]))
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize(
    ("low", "high", "most"), [(20, 20000, 8), (100, 8000, 4), (440, 460, 5), (999, 1001, 8), (0.5, 3, 8), (100, 100, 4)]
)
def test_ticks_of_a_frequency_axis_are_few_and_inside(low, high, most):
    ticks = frequency_ticks(low, high, most)
    assert 1 <= len(ticks) <= most
    assert ticks == sorted(ticks)
    assert all(low * 0.9 <= tick <= high * 1.1 for tick in ticks)


def test_numbers_read_without_exponents():
    assert short_hertz(250) == "250"
    assert short_hertz(2500) == "2.5k"
    assert three_figures(1436.2) == "1436"
    assert three_figures(0.1234) == "0.123"
    assert three_figures(float("nan")) == ""


def test_band_edges_lie_half_way_in_octaves():
    low, high = band_edges(np.array([100.0, 200.0, 400.0]))
    np.testing.assert_allclose(high[:-1], [100 * 2**0.5, 200 * 2**0.5])
    np.testing.assert_allclose(low[1:], high[:-1])


#: How colours look without red or without green cones, in linear RGB (Machado, Oliveira and Fernandes, 2009).
SEEN = {
    "all cones": np.eye(3),
    "no red cones": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green cones": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
}


def cielab(colour: str, seen: np.ndarray) -> np.ndarray:
    """Lightness, red-green and yellow-blue of a colour as somebody sees it, for daylight D65."""
    encoded = np.array(to_rgb(colour))
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    ratios = to_xyz @ np.clip(np.asarray(seen) @ linear, 0, 1) / [0.95047, 1.0, 1.08883]
    x, y, z = np.where(ratios > 0.008856, np.cbrt(ratios), 7.787 * ratios + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("colours", [GROUP_COLOURS, tuple(STANDING_COLOURS.values())], ids=["groups", "standings"])
def test_any_two_colours_that_stand_together_can_be_told_apart(colours, seen):
    places = [cielab(colour, SEEN[seen]) for colour in colours]
    assert min(np.linalg.norm(one - other) for one, other in combinations(places, 2)) > 15


def test_groups_stand_in_rows_of_their_own():
    values = np.array([[1.0, 2.0, 2.0, 3.0], [1.0, 1.0, 1.0, 2.0]])
    coords = {"checkpoint": ["a", "b"], "architecture": ("checkpoint", ["x", "y"])}
    ax = plots.plot_distribution(xr.DataArray(values, dims=("checkpoint", "neuron"), coords=coords), by="architecture")
    tops, bases = zip(*((patch.get_data().values, patch.get_data().baseline) for patch in ax.patches[::2]), strict=True)
    heights = [(top - base).sum() for top, base in zip(tops, bases, strict=True)]
    assert heights == pytest.approx([1.0, 1.0])
    assert tops[1].max() < bases[0]


def test_one_bin_that_would_hide_the_rest_is_named_and_does_not_set_the_scale():
    values = np.random.default_rng(0).normal(0, 1, (20, 24))
    values[3, 4] = 100.0
    ax = plots.plot_map(one_map(values))
    top = np.percentile(np.abs(values), 99)
    assert mesh(ax).get_clim() == pytest.approx((-top, top))
    assert "largest 1e+02" in texts(ax)


def test_the_words_of_a_colour_bar_fit_beside_it():
    one = one_map(np.eye(6, 8)).assign_attrs(units="response per unit of the spectrogram as it was trained on")
    figure = plots.plot_dynamic_mean(one, one / 2)
    figure.draw_without_rendering()
    bar = figure.axes[2]
    words = bar.yaxis.label.get_window_extent()
    assert words.y0 >= 0
    assert words.y1 <= figure.bbox.height
    assert words.x1 <= figure.bbox.width


def test_sixty_names_of_neurons_do_not_touch():
    cube = planted_cube(n_neurons=60, n_bands=4, n_lags=3, waveform=False)
    ax = plots.plot_standing(cube, "strf")
    ax.figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in ax.get_xticklabels() if label.get_text()]
    assert len(boxes) == 60
    assert not any(one.overlaps(other) for one, other in pairwise(boxes))


def test_a_ripple_transfer_function_ends_where_its_magnitudes_do():
    rate, scale = np.arange(-50.0, 51.0, 5.0), np.arange(0.0, 4.0, 0.25)
    values = np.exp(-((rate / 6) ** 2)) * np.exp(-((scale / 0.5) ** 2))[:, None]
    ax = plots.plot_ripple_transfer(xr.DataArray(values, {"scale": scale, "rate": rate}, ("scale", "rate")))
    assert ax.get_xlim() == pytest.approx((-12.5, 12.5))
    assert ax.get_ylim() == pytest.approx((0.0, 0.875))
    faint = np.random.default_rng(0).rayleigh(0.01, values.shape)  # an eighth of it over 2 % of the largest
    noisy = plots.plot_ripple_transfer(xr.DataArray(values + faint, {"scale": scale, "rate": rate}, ("scale", "rate")))
    assert noisy.get_xlim() == pytest.approx((-12.5, 12.5))
    assert noisy.get_ylim() == pytest.approx((0.0, 0.875))
    flat = plots.plot_ripple_transfer(xr.DataArray(values * 0 + 1.0, {"scale": scale, "rate": rate}, ("scale", "rate")))
    assert flat.get_xlim() == pytest.approx((-52.5, 52.5))
