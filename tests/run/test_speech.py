"""The main job on real input: every trained speech checkpoint, both kinds of map, equal to deepSTRF's own methods."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import xarray as xr

from pipeline import open_cube
from tests.run.speech import deepstrf_model, speech_config

CLOSE = 1e-5


def gradmap(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "tasks", *arguments], capture_output=True, text=True, timeout=280)


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


@pytest.mark.parametrize(("name", "reduce"), [("waveform", "last"), ("waveform_peak", "peak"), ("waveform_sum", "sum")])
def test_waveform_gradmaps_equal_deepstrf(folder, speech, name, reduce):
    cube = open_cube(folder / "gradmaps.zarr", "speech_wav")
    maps = cube[name].load()
    lag_dim = maps.dims[-1]
    samples = maps.sizes[lag_dim]
    for checkpoint in maps.checkpoint.values[:2]:
        model = deepstrf_model(speech / "checkpoints" / checkpoint)
        for stimulus in maps.stimulus.values[:2]:
            sound, _ = soundfile.read(speech / "sounds" / f"{stimulus}.wav", dtype="float32")
            for index in (0, 7):
                theirs = model.waveform_gradmap(sound, neuron=index, reduce=reduce).numpy()
                at = {"checkpoint": checkpoint, "stimulus": stimulus, "neuron": maps.neuron.values[index]}
                last = (int(cube[f"{name}_frame"].sel(at)) + 1) * 80
                window = np.zeros(samples, dtype="float32")
                taken = theirs[max(0, last - samples) : last][::-1]
                window[: len(taken)] = taken
                assert relative_difference(maps.sel(at).values, window) < CLOSE


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
    assert "0 computed" in again.stdout
    local = gradmap("run", "--local", str(speech_config(speech, tmp_path)))
    assert local.returncode == 0, local.stdout + local.stderr
    for cohort in ("speech", "speech_wav"):
        with (
            xr.open_zarr(folder / "gradmaps.zarr", group=cohort) as ray,
            xr.open_zarr(tmp_path / "gradmaps.zarr", group=cohort) as one,
        ):
            for name in json.loads(ray.attrs["maps"]):
                assert ray[name].values.tobytes() == one[name].values.tobytes(), name
