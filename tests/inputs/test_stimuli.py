"""Spectrograms and sounds: what is read, and what is refused."""

import io
import os
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.inputs import stimuli
from pipeline.inputs.stimuli import (
    SoundFile,
    describe_arrays,
    describe_sounds,
    read_sound,
    read_spectrograms,
    samples_digest,
)
from pipeline.plan.config import ConfigError


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# Spectrograms


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_spectrograms_come_back_by_name_in_the_order_of_the_file(tmp_path, save):
    arrays = {"b": noise(4, 10), "a": noise(4, 12, seed=1)}
    save(tmp_path / "s.npz", **arrays)
    paths = [str(tmp_path / "s.npz")]
    read = read_spectrograms(paths)
    described = describe_arrays(paths)
    assert {name: found.shape for name, found in described.items()} == {"b": (4, 10), "a": (4, 12)}
    assert {name: found.digest for name, found in described.items()} == {n: samples_digest(a) for n, a in read.items()}
    assert list(read) == ["b", "a"]
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)


def test_double_precision_is_kept_and_everything_else_is_single(tmp_path):
    arrays = {"d": noise(2, 3).astype(float), "h": noise(2, 3).astype("f2"), "i": np.ones((2, 3), "u1")}
    arrays["fortran"] = np.asfortranarray(noise(2, 3))
    np.savez(tmp_path / "s.npz", **arrays)
    read = read_spectrograms([str(tmp_path / "s.npz")])
    assert [array.dtype.name for array in read.values()] == ["float64", "float32", "float32", "float32"]
    np.testing.assert_array_equal(read["fortran"], arrays["fortran"])


def test_a_digest_tells_numbers_apart_and_not_the_files_they_come_from(tmp_path):
    array = noise(3, 4)
    np.savez(tmp_path / "a.npz", a=array)
    np.savez_compressed(tmp_path / "b.npz", a=np.asfortranarray(array))
    np.savez(tmp_path / "c.npz", a=np.where(np.arange(4) == 2, array + 1e-6, array))
    np.savez(tmp_path / "d.npz", a=array.reshape(4, 3))
    digests = [describe_arrays([str(tmp_path / f"{name}.npz")])["a"].digest for name in "abcd"]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_several_files_and_patterns_are_one_set(tmp_path):
    for name in ("x", "y"):
        np.savez(tmp_path / f"{name}.npz", **{name: noise(2, 3)})
    assert list(describe_arrays([str(tmp_path / "*.npz")])) == ["x", "y"]
    assert list(describe_arrays([str(tmp_path / "y.npz"), str(tmp_path / "*.npz")])) == ["y", "x"]
    assert list(describe_arrays(str(tmp_path / "x.npz"))) == ["x"]


def refusal(path, read=read_spectrograms) -> str:
    with pytest.raises(ConfigError) as error:
        read([str(path)])
    return str(error.value)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros(3), "has shape (3,), not (frequency, time)"),
        (np.zeros((2, 3, 4)), "has shape (2, 3, 4), not (frequency, time)"),
        (np.zeros((2, 0)), "has shape (2, 0), not (frequency, time)"),
        (np.zeros((2, 3), complex), "is of type complex128, not real numbers"),
        (np.array([["a"]]), "not real numbers"),
    ],
)
def test_an_array_that_is_no_spectrogram_is_refused(tmp_path, array, reason):
    np.savez(tmp_path / "s.npz", bad=array)
    for read in (read_spectrograms, describe_arrays):
        assert "the array 'bad'" in refusal(tmp_path / "s.npz", read)
        assert reason in refusal(tmp_path / "s.npz", read)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_spectrogram_that_is_not_finite_is_refused(tmp_path, value):
    np.savez(tmp_path / "s.npz", bad=np.array([[0.0, value]]))
    assert "the array 'bad' holds 1 of 2 numbers that are NaN or infinite" in refusal(tmp_path / "s.npz")


def test_a_pickled_array_is_refused_and_nothing_in_it_runs(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    np.savez(tmp_path / "s.npz", bad=np.array([[Trap()]], dtype=object))
    assert "is of type object" in refusal(tmp_path / "s.npz")
    assert not (tmp_path / "sprung").exists()


def npz_with(path, shape: tuple[int, ...], body: bytes) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.npy", header.getvalue() + body)


def test_an_array_that_unpacks_beyond_the_limit_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(stimuli, "SPECTROGRAM_BYTES", 2**20)
    np.savez_compressed(tmp_path / "s.npz", a=np.zeros((512, 300), "f4"), bomb=np.zeros((512, 300), "f4"))
    assert os.path.getsize(tmp_path / "s.npz") < 10_000
    text = refusal(tmp_path / "s.npz", describe_arrays)
    assert "the array 'bomb' of shape (512, 300) takes 614,400 bytes" in text


def test_an_array_whose_header_lies_is_refused(tmp_path):
    npz_with(tmp_path / "s.npz", (2**20, 2**30), b"")
    assert "it is damaged or no spectrogram" in refusal(tmp_path / "s.npz")
    npz_with(tmp_path / "s.npz", (2, 3), b"\0" * 20)
    assert "it is damaged or no spectrogram" in refusal(tmp_path / "s.npz")


@pytest.mark.parametrize("content", [b"", b"noise" * 100, b"PK\x03\x04"])
def test_a_file_that_is_no_npz_is_refused(tmp_path, content):
    (tmp_path / "s.npz").write_bytes(content)
    assert "cannot be read as .npz" in refusal(tmp_path / "s.npz")


def test_a_damaged_npz_is_refused(tmp_path):
    np.savez(tmp_path / "s.npz", a=noise(8, 100))
    content = bytearray((tmp_path / "s.npz").read_bytes())
    content[1000] ^= 1
    (tmp_path / "s.npz").write_bytes(content)
    assert "the array 'a' cannot be read" in refusal(tmp_path / "s.npz")


def test_an_npz_with_something_else_in_it_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "s.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "'readme.txt' cannot be read" in refusal(tmp_path / "s.npz")


def test_an_empty_npz_and_a_path_without_a_file_are_refused(tmp_path):
    np.savez(tmp_path / "s.npz")
    assert "holds no array" in refusal(tmp_path / "s.npz")
    assert "matches no file with spectrograms" in refusal(tmp_path / "nowhere.npz", describe_arrays)


def test_one_name_in_two_files_is_refused(tmp_path):
    for name in ("x", "y"):
        np.savez(tmp_path / f"{name}.npz", same=noise(2, 3))
    text = refusal(tmp_path / "*.npz", describe_arrays)
    assert f"'same' is in {tmp_path / 'x.npz'} and in {tmp_path / 'y.npz'}" in text


def test_a_name_that_cannot_be_a_label_is_refused(tmp_path):
    np.savez(tmp_path / "s.npz", **{"a\nb": noise(2, 3)})
    assert "no printable name" in refusal(tmp_path / "s.npz")


# Sounds


def write(path, samples: np.ndarray, rate: int = 8000, subtype: str = "PCM_16") -> str:
    soundfile.write(path, samples, rate, subtype=subtype)
    return str(path)


def test_a_sound_keeps_its_scale_where_full_scale_is_one(tmp_path):
    samples = np.array([0, 2**14, -(2**15), 2**15 - 1], dtype=np.int16)
    path = write(tmp_path / "tone.wav", samples, rate=44100)
    waveform = read_sound(path)
    assert describe_sounds([path]) == (
        SoundFile("tone", path, 44100.0, 4, samples_digest(waveform), (float(waveform.min()), float(waveform.max()))),
    )
    assert waveform.dtype == np.float32
    np.testing.assert_array_equal(waveform, samples / 2**15)


def test_floating_point_sounds_beyond_full_scale_are_not_clipped(tmp_path):
    path = write(tmp_path / "loud.wav", np.array([0.0, 2.5, -3.0]), subtype="FLOAT")
    np.testing.assert_array_equal(read_sound(path), np.array([0.0, 2.5, -3.0], dtype=np.float32))


def test_sounds_come_sorted_within_a_pattern(tmp_path):
    for name in ("b.wav", "a.flac", "c.d.wav"):
        write(tmp_path / name, noise(50) * 0.1)
    assert [sound.name for sound in describe_sounds([str(tmp_path / "*")])] == ["a", "b", "c.d"]
    both = [str(tmp_path / "b.wav"), str(tmp_path / "*.wav")]
    assert [sound.name for sound in describe_sounds(both)] == ["b", "c.d"]


def test_a_stereo_sound_is_refused(tmp_path):
    path = write(tmp_path / "stereo.wav", noise(50, 2) * 0.1)
    for read in (describe_sounds, lambda paths: read_sound(paths[0])):
        assert "stereo.wav has 2 channels, but a model hears one; choose an ear or mix them" in refusal(path, read)


def test_an_empty_sound_is_refused(tmp_path):
    assert "has 0 samples" in refusal(write(tmp_path / "empty.wav", np.zeros(0)), describe_sounds)


def test_a_sound_beyond_the_limit_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(stimuli, "SOUND_SAMPLES", 40)
    assert "has 50 samples, where 1 to 40" in refusal(write(tmp_path / "long.wav", noise(50) * 0.1), describe_sounds)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_sound_that_is_not_finite_is_refused_when_it_is_described(tmp_path, value):
    path = write(tmp_path / "bad.wav", np.array([0.0, value]), subtype="FLOAT")
    assert "bad.wav holds 1 of 2 numbers that are NaN or infinite" in refusal(path, describe_sounds)


@pytest.mark.parametrize("content", [b"", b"RIFF....WAVEnoise", b"hello"])
def test_a_file_that_is_no_sound_is_refused(tmp_path, content):
    (tmp_path / "bad.wav").write_bytes(content)
    assert "bad.wav cannot be read" in refusal(tmp_path / "bad.wav", describe_sounds)


@pytest.mark.parametrize("ending", ["wav", "aiff"])
def test_a_sound_shorter_than_its_header_says_is_refused(tmp_path, ending):
    path = Path(write(tmp_path / f"cut.{ending}", noise(51) * 0.1))
    whole = path.read_bytes()
    assert describe_sounds([str(path)])[0].samples == 51
    path.write_bytes(whole[:-20])
    assert f"has {len(whole) - 20} bytes, but its header says {len(whole)}" in refusal(path, describe_sounds)
    streamed = whole[:4] + b"\xff" * 4 + whole[8:]
    path.write_bytes(streamed)
    assert describe_sounds([str(path)])[0].samples == 51


@pytest.mark.parametrize("describe", [describe_sounds, describe_arrays])
def test_a_pipe_is_not_waited_for(tmp_path, describe):
    os.mkfifo(tmp_path / "pipe.wav")
    assert "pipe.wav is no ordinary file" in refusal(tmp_path / "pipe.wav", describe)


def test_a_pattern_without_sounds_is_refused(tmp_path):
    assert "matches no file with sounds" in refusal(tmp_path / "*.wav", describe_sounds)


def test_two_sounds_of_one_name_are_refused(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "tone.wav", noise(50) * 0.1)
    assert "two sounds are called 'tone'" in refusal(tmp_path / "*" / "*.wav", describe_sounds)


def test_the_speech_stimuli_are_as_their_readme_says(speech):
    sounds = describe_sounds([f"{speech}/sounds/*.wav"])
    assert len(sounds) == 6
    assert {(sound.sample_rate, sound.samples) for sound in sounds} == {(8000.0, 24000)}
    spectrograms = describe_arrays([f"{speech}/spectrograms.npz"])
    assert {found.shape for found in spectrograms.values()} == {(32, 300)}
    assert len({found.digest for found in (*spectrograms.values(), *sounds)}) == 12
    assert sorted(spectrograms) == sorted(sound.name for sound in sounds)


# Away for a moment


def test_a_file_that_is_away_is_the_configs_fault_at_first_and_the_storages_later(tmp_path):
    np.savez(tmp_path / "spec.npz", a=np.ones((2, 3), "float32"))
    soundfile.write(tmp_path / "a.wav", np.zeros(8), 8000)
    paths = {"spec": str(tmp_path / "spec.npz"), "sound": str(tmp_path / "a.wav")}
    assert list(read_spectrograms([paths["spec"]])) == ["a"]
    for path in paths.values():
        Path(path).rename(f"{path}.away")
    with pytest.raises(ConfigError, match="matches no file"):
        describe_arrays([paths["spec"]])
    with pytest.raises(ConfigError, match="matches no file"):
        describe_sounds([paths["sound"]])
    for read in (lambda: read_spectrograms([paths["spec"]]), lambda: read_sound(paths["sound"])):
        with pytest.raises(FileNotFoundError):
            read()
    for path in paths.values():
        Path(f"{path}.away").rename(path)
    assert read_sound(paths["sound"]).size == 8


def test_an_error_of_the_disk_is_no_damage(tmp_path, monkeypatch):
    np.savez(tmp_path / "spec.npz", a=np.ones((2, 3), "float32"))

    class Failing(BytesIO):
        def read(self, *_):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(
        "pipeline.inputs.stimuli.open_binary", lambda path: Failing((tmp_path / "spec.npz").read_bytes())
    )
    with pytest.raises(OSError, match="Input/output error"):
        read_spectrograms([str(tmp_path / "spec.npz")])
