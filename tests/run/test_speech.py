"""The main job on real input: every trained speech checkpoint, both kinds of map, equal to deepSTRF's own methods."""

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
import xarray as xr

from pipeline import open_cube, waveform_gradmaps
from tests.run.speech import deepstrf_model, speech_config

CLOSE = 1e-5

# Behind the logarithm of a quiet band float32 costs more: deepSTRF's own waveform gradmaps of these sounds are up to
# 3e-5 away from the same method in float64.
CLOSE_IN_SOUND = 5e-5


def gradmap(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "tasks", *arguments], capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def folder(speech, tmp_path_factory):
    folder = tmp_path_factory.mktemp("speech")
    config = speech_config(speech, folder)
    first = gradmap("run", str(config))
    assert first.returncode == 0, first.stdout + first.stderr
    return folder


def relative_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def test_strf_gradmaps_equal_deepstrf_on_every_checkpoint(folder, speech):
    for cohort in ("speech", "speech_wav"):
        maps = open_cube(folder / "gradmaps.zarr", cohort)["strf"].load()
        for checkpoint in maps.checkpoint.values:
            theirs = -deepstrf_model(speech / "checkpoints" / checkpoint).STRF_gradmap(T=40)[:, 0].flip(-1).numpy()
            assert relative_difference(maps.sel(checkpoint=checkpoint).values, theirs) < CLOSE, checkpoint


OBJECTIVES = {
    "last": lambda response: response[-1],
    "peak": lambda response: response.max(),
    "sum": lambda response: response.sum(),
}


def waveform_gradient(model: torch.nn.Module, sound: np.ndarray, neuron: int, reduce: str) -> np.ndarray:
    """What deepSTRF's method computes, in float64, which the method itself does not offer."""
    exact = copy.deepcopy(model).double()
    heard = torch.as_tensor(sound, dtype=torch.float64)[None, None].requires_grad_(True)
    (gradient,) = torch.autograd.grad(OBJECTIVES[reduce](exact(heard)[0, neuron, 0]), heard)
    return gradient.reshape(-1).numpy()


def window_of(gradient: np.ndarray, last: int, samples: int) -> np.ndarray:
    """The samples before ``last``, the newest first; 0 before the sound began."""
    window = np.zeros(samples, dtype=gradient.dtype)
    taken = gradient[max(0, last - samples) : last][::-1]
    window[: len(taken)] = taken
    return window


@pytest.mark.parametrize(("name", "reduce"), [("waveform", "last"), ("waveform_peak", "peak"), ("waveform_sum", "sum")])
def test_waveform_gradmaps_equal_deepstrf(folder, speech, name, reduce):
    cube = open_cube(folder / "gradmaps.zarr", "speech_wav")
    maps = cube[name].load()
    samples = maps.sizes[maps.dims[-1]]
    for checkpoint in maps.checkpoint.values[:2]:
        model = deepstrf_model(speech / "checkpoints" / checkpoint)
        for stimulus in maps.stimulus.values[:2]:
            sound, _ = soundfile.read(speech / "sounds" / f"{stimulus}.wav", dtype="float32")
            for index in (0, 7):
                at = {"checkpoint": checkpoint, "stimulus": stimulus, "neuron": maps.neuron.values[index]}
                last = (int(cube[f"{name}_frame"].sel(at)) + 1) * 80
                ours = maps.sel(at).values
                assert np.isfinite(ours).all()
                theirs = window_of(model.waveform_gradmap(sound, neuron=index, reduce=reduce).numpy(), last, samples)
                # In a digital silence deepSTRF's gradient is NaN.
                heard = np.isfinite(theirs)
                assert relative_difference(ours[heard], theirs[heard]) < CLOSE_IN_SOUND, at


@pytest.mark.parametrize("reduce", list(OBJECTIVES))
def test_waveform_gradmaps_in_double_precision_equal_deepstrf_as_closely_as_silence_allows(speech, reduce):
    model = deepstrf_model(speech / "checkpoints" / "wav_mel_statenet-seed0-fold0")
    sound, _ = soundfile.read(speech / "sounds" / "stim01.wav", dtype="float32")
    ours = waveform_gradmaps(model, torch.as_tensor(sound), neurons=[7], objective=reduce, dtype=torch.float64)
    exact = waveform_gradient(model, sound, 7, reduce)
    with torch.no_grad():
        response = copy.deepcopy(model).double()(torch.as_tensor(sound, dtype=torch.float64)[None, None])[0, 7, 0]
    last = (int(response.argmax()) + 1) * 80 if reduce == "peak" else len(exact)
    theirs = window_of(exact, last, len(exact))
    heard = np.isfinite(theirs)
    # What is left is the noise of 1e-12 in place of digital silence.
    assert relative_difference(ours[0].numpy()[heard], theirs[heard]) < 1e-6


def test_the_cube_opens_labelled_with_xarray_alone(folder):
    with xr.open_zarr(folder / "gradmaps.zarr", group="speech") as cube:
        assert cube.strf.dims == ("checkpoint", "neuron", "frequency", "lag")
        assert cube.strf.dtype == np.float32
        assert (cube.strf_status == 1).all()
        assert cube.frequency.attrs["units"] == "Hz"
        assert cube.lag.attrs["units"] == "ms"
        assert list(cube.lag.values[:3]) == [0.0, 10.0, 20.0]
        assert set(cube.architecture.values) == {"linear", "ln", "nrf", "dnet", "statenet_gru", "transformer"}
        assert cube.area.sel(neuron="ch7") == "belt"
        assert cube.cc_test.dims == ("checkpoint", "neuron")
        assert set(json.loads(cube.attrs["fingerprints"])) == set(cube.checkpoint.values)
    with xr.open_datatree(folder / "gradmaps.zarr", engine="zarr") as tree:
        assert {"speech", "speech_wav"} <= set(tree.children)


def test_a_second_run_computes_nothing_and_one_process_writes_the_same_bytes(folder, speech, tmp_path):
    again = gradmap("run", str(folder / "run.toml"))
    assert again.returncode == 0
    assert "(0 of them now)" in again.stdout
    local = gradmap("run", "--local", str(speech_config(speech, tmp_path)))
    assert local.returncode == 0, local.stdout + local.stderr
    for cohort in ("speech", "speech_wav"):
        with (
            xr.open_zarr(folder / "gradmaps.zarr", group=cohort) as ray,
            xr.open_zarr(tmp_path / "gradmaps.zarr", group=cohort) as one,
        ):
            for name in json.loads(ray.attrs["maps"]):
                assert ray[name].values.tobytes() == one[name].values.tobytes(), name
