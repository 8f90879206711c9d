"""A waveform map is heard in the sound's own order of time."""

import numpy as np
import pytest
import soundfile
import xarray as xr

from pipeline.pictures.sound import PEAK, write_sound


def waveform_map(values: np.ndarray, rate: float = 8000.0) -> xr.DataArray:
    lag = np.arange(values.size) * 1000.0 / rate
    return xr.DataArray(values, dims="waveform_lag", coords={"waveform_lag": lag})


def test_the_oldest_sample_is_heard_first_at_the_maps_own_rate(tmp_path):
    values = np.zeros(400)
    values[0], values[390] = -0.002, 0.001
    path = write_sound(waveform_map(values), tmp_path / "sounds" / "n001.wav")
    heard, rate = soundfile.read(path)
    assert rate == 8000
    assert heard.shape == (400,)
    assert heard[-1] == pytest.approx(-PEAK, abs=1e-4)
    assert heard[9] == pytest.approx(PEAK / 2, abs=1e-4)
    assert soundfile.info(path).subtype == "PCM_16"


@pytest.mark.parametrize("rate", [8000.0, 16000.0, 22050.0, 44100.0])
def test_the_rate_is_recovered_from_the_lags(tmp_path, rate):
    path = write_sound(waveform_map(np.sin(np.arange(999.0)), rate).astype(np.float32), tmp_path / "a.wav")
    assert soundfile.info(path).samplerate == rate


def test_a_map_of_zeros_is_silence(tmp_path):
    heard, _ = soundfile.read(write_sound(waveform_map(np.zeros(10)), tmp_path / "a.wav"))
    assert not heard.any()


def test_a_rate_can_be_given(tmp_path):
    path = write_sound(waveform_map(np.ones(1)), tmp_path / "a.wav", sample_rate=16000)
    assert soundfile.info(path).samplerate == 16000


@pytest.mark.parametrize(
    ("gradmap", "words"),
    [
        (waveform_map(np.array([0.0, np.nan])), r"1 of 2 samples .* not finite"),
        (waveform_map(np.zeros(0)), "no samples"),
        (waveform_map(np.ones(1)), "sample_rate="),
        (xr.DataArray(np.eye(2), dims=("neuron", "waveform_lag")), "one dimension"),
        (
            xr.DataArray([1.0, 2.0, 3.0], dims="waveform_lag", coords={"waveform_lag": [0.0, 1.0, 5.0]}),
            "one sample rate",
        ),
    ],
    ids=["NaN", "empty", "one sample", "two maps", "uneven"],
)
def test_what_cannot_be_heard_is_refused(tmp_path, gradmap, words):
    with pytest.raises(ValueError, match=words):
        write_sound(gradmap, tmp_path / "a.wav")
    assert not (tmp_path / "a.wav").exists()
