"""Labelled maps of one model in memory are those of the engine and of a cube, and every door takes them."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr

from pipeline import gradmaps, load_config, plot_map, strf_gradmaps, strf_summaries, summarise
from pipeline.run.driver import run_locally
from pipeline.store.reader import open_cube
from tests.run.lab import BANDS, NEURONS, LabModel, write_checkpoint, write_config

FREQUENCIES = [100.0 * 2**band for band in range(BANDS)]


@pytest.fixture
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LabModel().eval()


def spectrogram(seed=0, frames=20):
    return np.random.default_rng(seed).standard_normal((BANDS, frames)).astype("float32")


def test_values_are_the_engines_and_labels_those_given(model):
    maps = gradmaps(model, 6, frequencies_hz=FREQUENCIES, frame_ms=5.0, neuron_names=["a", "b", "c"])
    np.testing.assert_array_equal(maps.values, strf_gradmaps(model, 6))
    assert maps.dims == ("neuron", "frequency", "lag")
    assert list(maps.neuron.values) == ["a", "b", "c"]
    assert (maps.lag.attrs["units"], maps.frequency.attrs["units"]) == ("ms", "Hz")
    np.testing.assert_allclose(maps.lag, np.arange(6) * 5.0)
    assert (maps.attrs["kind"], maps.attrs["baseline"], maps.name) == ("strf", "null", "strf")


def test_several_sounds_are_an_axis(model):
    sounds = {"one": spectrogram(0), "two": spectrogram(1)}
    maps = gradmaps(model, 6, frequencies_hz=FREQUENCIES, frame_ms=5.0, around=sounds, neurons=["neuron0002"])
    assert maps.dims == ("stimulus", "neuron", "frequency", "lag")
    for name, sound in sounds.items():
        expected = strf_gradmaps(model, 6, neurons=[2], around=torch.from_numpy(sound))
        np.testing.assert_allclose(maps.sel(stimulus=name), expected, rtol=1e-5, atol=1e-7)
    alone = gradmaps(model, 6, frequencies_hz=FREQUENCIES, frame_ms=5.0, around=sounds["one"], objective={"frame": 9})
    np.testing.assert_allclose(
        alone, strf_gradmaps(model, 6, around=torch.from_numpy(sounds["one"]), objective={"frame": 9}), rtol=1e-5
    )


def test_a_labelled_sound_is_taken_by_its_labels(model):
    words = {"frequencies_hz": FREQUENCIES, "frame_ms": 5.0}
    sound = xr.DataArray(spectrogram(0, frames=BANDS), dims=("frequency", "time"), coords={"frequency": FREQUENCIES})
    expected = gradmaps(model, 4, around=sound.values, objective="peak", **words)
    turned = gradmaps(model, 4, around=sound.transpose("time", "frequency"), objective="peak", **words)
    np.testing.assert_array_equal(turned, expected)
    with pytest.raises(ValueError, match="in another order"):
        gradmaps(model, 4, around=sound.isel(frequency=slice(None, None, -1)), objective="peak", **words)


def test_every_door_takes_them(model):
    maps = gradmaps(model, 6, frequencies_hz=FREQUENCIES, frame_ms=5.0)
    table = summarise(maps)
    measures = strf_summaries(maps)
    xr.testing.assert_equal(table["strf_best_frequency"].drop_attrs(), measures["best_frequency"].drop_attrs())
    plot_map(maps.isel(neuron=0))
    plt.close("all")


def test_they_are_the_variable_of_a_cube(tmp_path, model):
    write_checkpoint(tmp_path / "checkpoints/lab-0", 0)
    run_locally(load_config(write_config(tmp_path)))
    stored = open_cube(tmp_path / "cube.zarr", "lab").strf.isel(checkpoint=0)
    maps = gradmaps(
        model,
        stored.sizes["lag"],
        frequencies_hz=stored.frequency.values,
        frame_ms=float(stored.lag[1]),
        neuron_names=list(stored.neuron.values),
    )
    np.testing.assert_array_equal(maps.values, stored.values)
    for dim in maps.dims:
        assert maps[dim].equals(stored[dim].reset_coords(drop=True)), dim
        assert maps[dim].attrs["long_name"] == stored[dim].attrs["long_name"]
    same = ("role", "long_name", "units", "kind", "objective", "baseline", "space", "neurons", "sign")
    assert {key: maps.attrs[key] for key in same} == {key: stored.attrs[key] for key in same}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"frequencies_hz": [1.0, 2.0]}, f"frequencies_hz has 2 bands, but the model has {BANDS}"),
        ({"around": np.zeros((BANDS + 1, 9))}, f"but around has {BANDS + 1}"),
        ({"around": {"a": np.zeros((BANDS, 9)), "b": np.zeros((BANDS, 8))}}, "all of one length"),
        ({"neuron_names": ["a"]}, f"1 names, but LabModel has {NEURONS} neurons"),
        ({"neuron_names": ["a"] * NEURONS}, "not all different"),
        ({"neurons": ["x"]}, "there is no neuron 'x'"),
        ({"objective": "first"}, "objective"),
    ],
)
def test_labels_that_do_not_fit_are_refused(model, words, told):
    with pytest.raises(ValueError, match=told):
        gradmaps(model, 6, **{"frequencies_hz": FREQUENCIES, "frame_ms": 5.0, **words})


class Heard(torch.nn.Module):
    """Neuron 0 hears a band now, neuron 1 the same band ``ahead`` frames later, neuron 2 nothing."""

    def __init__(self, ahead: int) -> None:
        super().__init__()
        self.ahead = ahead

    def forward(self, x):
        band = x[:, 0, :1]
        later = torch.nn.functional.pad(band, (0, self.ahead))[..., self.ahead :]
        return torch.stack([band, later, torch.zeros_like(band)], dim=1)


def test_a_model_that_says_nothing_of_itself_is_asked(model):
    maps = gradmaps(Heard(0).eval(), 4, frequencies_hz=[100.0, 200.0], frame_ms=5.0)
    assert list(maps.neuron.values) == ["neuron0000", "neuron0001", "neuron0002"]
    expected = np.zeros((2, 4))
    expected[0, 0] = 1.0
    np.testing.assert_array_equal(maps[0], expected)
    assert maps.attrs["not_checked"] == ["neuron0002"]


def test_a_model_that_hears_the_future_is_refused_unless_it_is_let_pass():
    words = {"frequencies_hz": [100.0, 200.0], "frame_ms": 5.0}
    with pytest.raises(ValueError, match=r"hears the future.*neuron 1 "):
        gradmaps(Heard(3).eval(), 12, **words)
    maps = gradmaps({"a": Heard(0).eval(), "b": Heard(3).eval()}, 12, causal=False, **words)
    assert maps.attrs["hears_future"] == ["neuron0001"]
    assert maps.attrs["not_checked"] == ["neuron0002"]


def test_several_models_are_an_axis(model):
    words = {"frequencies_hz": FREQUENCIES, "frame_ms": 5.0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        other = LabModel().eval()
    maps = gradmaps({"a": model, "b": other}, 6, **words)
    assert maps.dims == ("checkpoint", "neuron", "frequency", "lag")
    xr.testing.assert_equal(maps.sel(checkpoint="b", drop=True), gradmaps(other, 6, **words))
    assert summarise(maps)["strf_norm"].dims == ("checkpoint", "neuron")
    with pytest.raises(ValueError, match="no model among those given"):
        gradmaps({}, 6, **words)
