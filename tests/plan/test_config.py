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

#: MINIMAL's cohort under a name that differs in capitals alone.
ANOTHER_COHORT = MINIMAL[MINIMAL.index("[[cohort]]") : MINIMAL.index("[maps")].replace('"a"', '"A"')


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
        ("[maps.strf]", "[maps.strf_digest]", "used by the cube itself"),
        ("[maps.strf]", "[maps.b_stimulus]", "used by the cube itself"),
        ("[maps.strf]", "[maps.b_waveform_lag]", "used by the cube itself"),
        ("[maps.strf]", '[maps.STRF]\nkind = "strf"\n[maps.strf]', "differ in capitals alone"),
        ("[maps.strf]", '[maps."../x"]', "maps"),
        ('name = "a"', 'name = "a/b"', "cohort.0.name"),
        ('path = "x"', 'path = "x"\nfactory = "m:f"\nclass = "a.B"', "keep either"),
        ('path = "x"', 'path = "x"\nfactory = "m.f"', "factory"),
        ("frame_ms = 5.0", "frame_ms = -5.0", "frame_ms"),
        ("frame_ms = 5.0", "frame_ms = inf", "frame_ms"),
        ('store = "out.zarr"', 'store = "out.zarr"\nfolder = "x"', "folder: unknown key"),
        ('store = "out.zarr"', "store = ", "not valid TOML"),
        ('store = "out.zarr"', 'store = "a\\u0000b"', "control characters"),
        ('store = "out.zarr"', 'store = "~/out.zarr"', "write the path in full"),
        ('store = "out.zarr"', 'store = "$HOME/out.zarr"', "write the path in full"),
        ('store = "out.zarr"', 'store = "https://host/out.zarr"', "takes no objects"),
        ('store = "out.zarr"', 'store = "ZIP://out.zip"', "takes no objects"),
        ('store = "out.zarr"', 'store = "simplecache::s3://bucket/out.zarr"', "takes no objects"),
        ('store = "out.zarr"', f'store = "{"x" * 300}"', "255 bytes"),
        ("lags = 8", "lags = true", "lags = true is no number"),
        ("lags = 8", 'lags = "8"', 'lags = "8" is no number'),
        ("frame_ms = 5.0", 'frame_ms = "5"', 'frame_ms = "5" is no number'),
        ("[maps.strf]", f"{ANOTHER_COHORT}[maps.strf]", "cohorts 'a' and 'A' differ in capitals alone"),
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


def test_mel_values_are_those_of_the_formula_and_go_back_to_hz():
    np.testing.assert_allclose(mel_from_hz([0.0, 700.0, 6300.0]), [0.0, 2595.0 * np.log10(2.0), 2595.0])
    np.testing.assert_allclose(hz_from_mel([0.0, 2595.0 * np.log10(2.0), 2595.0]), [0.0, 700.0, 6300.0], atol=1e-9)


def test_mel_bands_are_the_centres_of_filters_between_the_limits():
    edges = hz_from_mel(np.linspace(mel_from_hz(80.0), mel_from_hz(3800.0), 34))
    np.testing.assert_allclose(band_centres_hz(80.0, 3800.0, 32, "mel"), edges[1:-1])


def test_log_and_linear_bands_include_their_limits():
    np.testing.assert_allclose(band_centres_hz(100.0, 800.0, 4, "log"), [100.0, 200.0, 400.0, 800.0])
    np.testing.assert_allclose(band_centres_hz(100.0, 400.0, 4, "linear"), [100.0, 200.0, 300.0, 400.0])


# One mistake, one line, with the cure


def mistakes(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(written(folder, text))
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("lags = 8", "lagz = 8\nlags = 8", "cohort.0.lagz: unknown key; did you mean 'lags'?"),
        ('path = "x"', 'path = "x"\nclas = "a.B"', "cohort.0.checkpoints.0.clas: unknown key; did you mean 'class'?"),
        (
            'path = "x"',
            'path = "x"\nframe_ms = 5.0',
            "cohort.0.checkpoints.0.frame_ms: unknown key; it belongs to [[cohort]], so move it there",
        ),
        (
            'kind = "strf"',
            'kind = "strf"\nwindow_ms = 50.0',
            "maps.strf.window_ms: unknown key; maps of kind waveform have it; known here: baseline, cohorts, kind,"
            " neurons, objective, route, silence_level, space, stimuli",
        ),
        (
            'kind = "strf"',
            'kind = "strf"\nbasline = "null"',
            "maps.strf.basline: unknown key; did you mean 'baseline'?",
        ),
        (
            'kind = "strf"',
            'kind = "strf"\nobjective = "lst"',
            'maps.strf.objective = \'lst\': give "last", "peak", "sum", "mean", {frame = 120} or'
            " {mean_over = [50, 80]}",
        ),
        (
            "lags = 8",
            'lags = "atuo"',
            "cohort.0.lags = 'atuo': give a whole number of frames from 1 to 65,536, or \"auto\"; a window beyond that"
            " fits no memory",
        ),
    ],
)
def test_one_mistake_gives_one_line_with_the_key_that_was_meant(tmp_path, old, new, line):
    assert mistakes(tmp_path, MINIMAL.replace(old, new, 1)) == [line]


def test_two_mistakes_give_two_lines(tmp_path):
    text = MINIMAL.replace("lags = 8", "lags = 0").replace("frame_ms = 5.0", "frame_ms = 0.0")
    assert len(mistakes(tmp_path, text)) == 2


# Absurd sizes


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("lags = 8", "lags = 1000000000", "fits no memory"),
        ("lags = 8", f"lags = 1{'0' * 400}", "fits no memory"),
        ("frame_ms = 5.0", "frame_ms = 1e12", "at most a minute"),
        (
            "frequencies_hz = [100.0, 200.0]",
            "frequencies_hz = {min = 1, max = 2, count = 9000000000}",
            "at most 65,536 bands",
        ),
        ('kind = "strf"', 'kind = "waveform"\nstimuli = "a.wav"\nwindow_ms = 1e15', "fits no memory"),
        ('kind = "strf"', 'kind = "strf"\nobjective = {frame = 99999999999}', "{frame = 120}"),
        ("[maps.strf]", "[storage]\nobject_mib = 1e9\n[maps.strf]", "32 bits"),
        ("[maps.strf]", "[storage]\nchunks_per_object = 99999999\n[maps.strf]", "more than it saves"),
        ("[maps.strf]", "[engine]\nmemory_mib = 99999999999999\n[maps.strf]", "no machine has more"),
        ('name = "a"', f'name = "{"a" * 1000}"', "cohort.0.name"),
        ('store = "out.zarr"', f'store = "out.zarr"\nx = {"[" * 5000}{"]" * 5000}', "nested too deeply"),
    ],
)
def test_absurd_sizes_are_refused_at_once_with_the_reason(tmp_path, old, new, told):
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, MINIMAL.replace(old, new, 1)))
    assert told in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_more_numbers_in_one_map_than_a_machine_holds_are_refused(tmp_path):
    text = MINIMAL.replace("lags = 8", "lags = 60000").replace(
        "frequencies_hz = [100.0, 200.0]", "frequencies_hz = {min = 100, max = 9000, count = 60000}"
    )
    config = load_config(written(tmp_path, text))
    with pytest.raises(ConfigError, match=r"3,600,000,000 numbers in the map of one neuron"):
        read_frequencies(config, config.cohort[0])


def test_a_config_that_is_no_ordinary_file_is_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "run.toml")
    with pytest.raises(ConfigError, match="no ordinary file"):
        load_config(tmp_path / "run.toml")


# Credentials


@pytest.mark.parametrize(
    "url",
    [
        "s3://KEY:SECRET@bucket/x",
        "s3://SECRET@bucket/x",
        "s3://KEY:SEC/RET@bucket/x",
        "simplecache::s3://KEY:SECRET@bucket/x",
        "https://host/x?X-Amz-Signature=SECRET",
        "abfs://box@host/x?sig=SECRET",
        "gs://bucket/x?access_token=SECRET",
    ],
)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('store = "out.zarr"', 'store = "URL"'),
        ('path = "x"', 'path = "URL"'),
        ('path = "x"', 'path = "x"\nneurons = "URL"'),
        ('path = "x"', 'path = "x"\nclass = "a.B"\narguments = {url = ["URL"]}'),
        ('kind = "strf"', 'kind = "strf"\nbaseline = "stimuli"\nstimuli = ["URL"]'),
    ],
)
def test_credentials_in_any_url_are_refused_and_not_repeated(tmp_path, url, old, new):
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, MINIMAL.replace(old, new.replace("URL", url), 1)))
    assert "through the environment" in str(caught.value) or "into the environment" in str(caught.value)
    assert "SEC" not in str(caught.value)


@pytest.mark.parametrize("url", ["s3://bucket/a@b.npz", "gs://bucket/x", "s3://host:9000/a@b", "http://host:80/x"])
def test_urls_without_credentials_are_taken(tmp_path, url):
    load_config(written(tmp_path, MINIMAL.replace('path = "x"', f'path = "{url}"')))
