"""What a config may say, and what it is told where it may not."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.plan.axes import band_centres_hz, hz_from_mel, mel_from_hz
from pipeline.plan.config import ConfigError, load_config, read_frequencies

DESIGN_EXAMPLE = """
store = "gradmaps.zarr"

[[cohort]]
name = "speech"
frame_ms = 10.0
lags = 40
frequencies_hz = "frequencies.txt"
neurons = "neurons.csv"

[[cohort.checkpoints]]
path = "checkpoints/linear-*"

[[cohort]]
name = "speech_wav"
frame_ms = 10.0
lags = "auto"
frequencies_hz = {min = 80.0, max = 3800.0, count = 32, scale = "mel"}

[[cohort.checkpoints]]
path = "checkpoints/wav_mel_statenet-*"
[cohort.checkpoints.modules.output_activation]
class = "torch.nn.Identity"
[cohort.checkpoints.modules.wav2spec]
class = "deepSTRF.models.wav2spec.CausalMelSpectrogram"
audio_fs = 8000
hop_ms = 10.0

[maps.strf]
kind = "strf"

[maps.strf_speech]
kind = "strf"
baseline = "stimuli"
stimuli = "spectrograms.npz"
objective = {frame = 120}
space = "spectrogram"

[maps.waveform]
kind = "waveform"
cohorts = ["speech_wav"]
stimuli = "sounds/*.wav"
objective = {mean_over = [50, 80]}
window_ms = 200.0
"""

MINIMAL = """
store = "out.zarr"
[[cohort]]
name = "a"
frame_ms = 5.0
lags = 8
frequencies_hz = [100.0, 200.0]
[[cohort.checkpoints]]
path = "x"
[maps.strf]
kind = "strf"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text)
    return path


def test_the_whole_vocabulary_of_a_config_is_read(tmp_path):
    config = load_config(written(tmp_path, DESIGN_EXAMPLE))
    assert [cohort.name for cohort in config.cohort] == ["speech", "speech_wav"]
    wav = config.cohort[1].checkpoints[0]
    assert wav.modules["wav2spec"].class_name == "deepSTRF.models.wav2spec.CausalMelSpectrogram"
    assert wav.modules["wav2spec"].arguments == {"audio_fs": 8000, "hop_ms": 10.0}
    assert config.maps["strf"].objective == "last"
    assert config.maps["strf_speech"].engine_objective() == {"frame": 120}
    assert config.maps["waveform"].engine_objective() == {"mean_over": [50, 80]}
    assert list(config.maps_of("speech")) == ["strf", "strf_speech"]
    assert config.store_location() == str(tmp_path / "gradmaps.zarr")
    assert config.text == DESIGN_EXAMPLE


def test_a_url_is_left_as_it_is(tmp_path):
    config = load_config(written(tmp_path, MINIMAL.replace("out.zarr", "s3://bucket/out.zarr")))
    assert config.store_location() == "s3://bucket/out.zarr"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("lags = 8", "lagz = 8", "cohort.0.lagz: unknown key"),
        ("lags = 8", "lags = 0", "cohort.0.lags"),
        ("lags = 8\n", "", "cohort.0.lags: missing"),
        ('path = "x"', 'path = "x"\nclas = "y"', "clas: unknown key"),
        ('kind = "strf"', 'kind = "sta"', "maps.strf"),
        ('kind = "strf"', 'kind = "strf"\nbaseline = "silence"', "silence_level"),
        ('kind = "strf"', 'kind = "strf"\nbaseline = "stimuli"', "needs stimuli"),
        ('kind = "strf"', 'kind = "strf"\nstimuli = "a.npz"', "would not use them"),
        ('kind = "strf"', 'kind = "strf"\nobjective = {frame = 3}', "named frame"),
        ('kind = "strf"', 'kind = "strf"\nobjective = "first"', "maps.strf"),
        ('kind = "strf"', 'kind = "strf"\ncohorts = ["b"]', "names 'b'"),
        ('kind = "strf"', 'kind = "waveform"', "stimuli: missing"),
        ("[maps.strf]", "[maps.lag]", "used by the cube itself"),
        ("[maps.strf]", "[maps.strf_status]", "used by the cube itself"),
        ("[maps.strf]", '[maps."../x"]', "maps"),
        ('name = "a"', 'name = "a/b"', "cohort.0.name"),
        ('path = "x"', 'path = "x"\nfactory = "m:f"\nclass = "a.B"', "keep either"),
        ('path = "x"', 'path = "x"\nfactory = "m.f"', "factory"),
        ("frame_ms = 5.0", "frame_ms = -5.0", "frame_ms"),
        ("frame_ms = 5.0", "frame_ms = inf", "frame_ms"),
        ('store = "out.zarr"', 'store = "out.zarr"\nfolder = "x"', "folder: unknown key"),
        ('store = "out.zarr"', "store = ", "not valid TOML"),
    ],
)
def test_what_cannot_be_run_is_refused_with_its_place(tmp_path, old, new, told):
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, MINIMAL.replace(old, new, 1)))
    assert told in str(caught.value)


def test_two_cohorts_of_one_name_are_refused(tmp_path):
    second = MINIMAL[MINIMAL.index("[[cohort]]") : MINIMAL.index("[maps")]
    with pytest.raises(ConfigError, match="two cohorts are called 'a'"):
        load_config(written(tmp_path, MINIMAL + second))


def test_a_missing_config_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("[]", "positive numbers"),
        ("[200.0, 100.0, 150.0]", "increase"),
        ("[100.0, 100.0]", "increase"),
        ("[-1.0, 5.0]", "positive"),
        ('"none.txt"', "cannot be read"),
    ],
)
def test_frequencies_that_cannot_label_bands_are_refused(tmp_path, given, told):
    config = load_config(written(tmp_path, MINIMAL.replace("[100.0, 200.0]", given)))
    with pytest.raises(ConfigError, match=told):
        read_frequencies(config, config.cohort[0])


def test_frequencies_come_from_a_file(tmp_path):
    (tmp_path / "f.txt").write_text("100\n200.5\n400\n")
    config = load_config(written(tmp_path, MINIMAL.replace("[100.0, 200.0]", '"f.txt"')))
    assert read_frequencies(config, config.cohort[0]) == (100.0, 200.5, 400.0)


def test_mel_bands_are_the_centres_of_filters_between_the_limits():
    edges = hz_from_mel(np.linspace(mel_from_hz(80.0), mel_from_hz(3800.0), 34))
    np.testing.assert_allclose(band_centres_hz(80.0, 3800.0, 32, "mel"), edges[1:-1])


def test_log_and_linear_bands_include_their_limits():
    np.testing.assert_allclose(band_centres_hz(100.0, 800.0, 4, "log"), [100.0, 200.0, 400.0, 800.0])
    np.testing.assert_allclose(band_centres_hz(100.0, 400.0, 4, "linear"), [100.0, 200.0, 300.0, 400.0])
