"""Stimuli that maps are taken around: named spectrograms, and sounds."""

import hashlib
import math
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal

import numpy as np
import soundfile

from pipeline.inputs.files import FileTooLargeError, find, open_binary, split
from pipeline.plan.config import ConfigError
from pipeline.text import printable

#: Most bytes of spectrograms in one file, and longest sound in samples.
SPECTROGRAM_BYTES = 2**30
#: Samples of one sound, at most.
SOUND_SAMPLES = 2**28

#: What the header of a sound says of its bytes where they were written to a pipe, at least.
ENDLESS = 2**31 - 2**16

#: The axes of a spectrogram.
SPECTROGRAM = ("(frequency, time)",)


@dataclass(frozen=True)
class StoredArray:
    """An array on disk: its shape, the digest of its numbers, and the least and the greatest of them."""

    shape: tuple[int, ...]
    digest: str
    levels: tuple[float, float]


def describe_arrays(paths: Sequence[str], axes: Sequence[str] = SPECTROGRAM) -> dict[str, StoredArray]:
    """Shape and digest of every named array of .npz files, as `collect_arrays` takes them.

    One after the other is read, so that they need not fit into memory together.
    """

    def described(*member: Any) -> StoredArray:
        array = read_array(*member)
        return StoredArray(array.shape, samples_digest(array), _levels(array))

    with absence_refused():
        return collect_arrays(paths, described, axes)


def _levels(numbers: np.ndarray) -> tuple[float, float]:
    return float(numbers.min()), float(numbers.max())


@contextmanager
def absence_refused() -> Iterator[None]:
    """What cannot be read while a run is planned is the config's fault; later it is the storage's, which may mend."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{printable(error)}, so there is nothing to take maps around; mend the path (relative ones start at the"
            " config's folder) or copy the file there"
        ) from error


def samples_digest(samples: np.ndarray) -> str:
    """Fingerprint of a stimulus's numbers and shape, whatever file they came from."""
    little = np.ascontiguousarray(samples, dtype=samples.dtype.newbyteorder("<"))
    digest = hashlib.sha256(f"{little.dtype.str} {little.shape}".encode())
    digest.update(little.data.cast("B"))
    return digest.hexdigest()[:32]


def read_spectrograms(paths: Sequence[str]) -> dict[str, np.ndarray]:
    """The named spectrograms (frequency, time) of .npz files, in the units they were saved in.

    Parameters
    ----------
    paths
        Files, URLs or patterns of them. Every array in them is one stimulus, called as in ``numpy.savez``. Files are
        taken in the order given (sorted within a pattern), arrays in the order of the file.

    Returns
    -------
    dict
        float64 where the file holds float64, float32 otherwise.

    Raises
    ------
    ConfigError
        If a file is no .npz, an array is pickled, not (frequency, time), empty, more than
        1 GiB in one file, not of real numbers or not finite, or two arrays share a name.
    OSError
        If a file cannot be read, or is not there: trying again may help.
    """
    return collect_arrays(paths, read_array)


def collect_arrays(paths: Sequence[str], use: Callable[..., Any], axes: Sequence[str] = SPECTROGRAM) -> dict[str, Any]:
    """What is made of every named array of .npz files, by its name.

    ``use``: Takes the archive, a member and its path, the shape and the type, as `read_array` does. ``axes``: What an
    array's axes may be, in words.
    """
    collected: dict[str, Any] = {}
    owners: dict[str, str] = {}
    for path in _expand(paths, "spectrograms"):
        with _archive(path) as archive:
            for name, member, shape, dtype in _headers(archive, path, axes):
                if name in collected:
                    raise ConfigError(
                        f"the spectrogram {name!r} is in {owners[name]} and in {path}; the name is the stimulus's label"
                        " in the cube, so rename one"
                    )
                collected[name] = use(archive, (member, path), shape, dtype)
                owners[name] = path
    if not collected:
        raise ConfigError(
            f"{', '.join(map(str, paths))} holds no array, so there is no stimulus; save some with numpy.savez"
        )
    return collected


def _expand(paths: Sequence[str], what: str) -> list[str]:
    """The files that paths and patterns name, each once."""
    if isinstance(paths, str):
        paths = [paths]
    files: list[str] = []
    for pattern in paths:
        matches = [match.path for match in find(pattern) if not match.folder]
        if not matches:
            raise FileNotFoundError(f"{pattern} matches no file with {what}")
        files += [path for path in matches if path not in files]
    return files


def _archive(path: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(open_binary(path))
    except (zipfile.BadZipFile, FileTooLargeError, ValueError, NotImplementedError) as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None  # the disk's error, which zipfile takes for a damaged archive
        raise ConfigError(
            f"the spectrograms {path} cannot be read as .npz ({printable(error)}); save them with"
            " numpy.savez(path, name=array, ...)"
        ) from error


def _headers(
    archive: zipfile.ZipFile, path: str, axes: Sequence[str]
) -> Iterator[tuple[str, zipfile.ZipInfo, tuple[int, ...], np.dtype]]:
    """Name, member, shape and type of every array, refused before any number is unpacked."""
    total = 0
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        where = f"{path}: the array {printable(name, 80)!r}"
        if not name or not name.isprintable() or len(name) > 200:
            raise ConfigError(f"{where} has no printable name of at most 200 characters to label a stimulus; rename it")
        shape, dtype, header = _header(archive, member, where)
        if dtype.hasobject or dtype.kind not in "fiu":
            raise ConfigError(
                f"{where} is of type {dtype}, not real numbers, which is not opened (objects could run code); save it"
                " as float32"
            )
        size = math.prod(shape) * dtype.itemsize
        total += size
        if total > SPECTROGRAM_BYTES or member.file_size != header + size:
            raise ConfigError(
                f"{where} of shape {shape} takes {size:,} bytes (the file says {member.file_size:,}; at most"
                f" {SPECTROGRAM_BYTES:,} of one file are read); it is damaged or no spectrogram, so cut it or save"
                " it again"
            )
        if len(shape) not in [words.count(",") + 1 for words in axes] or 0 in shape:
            raise ConfigError(
                f"{where} has shape {shape}, not {' or '.join(axes)} with at least one of each, so it cannot be read;"
                " save one such array per sound"
            )
        yield name, member, shape, dtype


def _header(archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str) -> tuple[tuple[int, ...], np.dtype, int]:
    try:
        with archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
            shape, _, dtype = read(file)
            return shape, dtype, file.tell()
    except OSError:
        raise
    except Exception as error:  # a damaged archive shows in many ways
        raise ConfigError(
            f"{where} cannot be read ({type(error).__name__}: {printable(error)}); save it again with numpy.savez"
        ) from error


def read_array(
    archive: zipfile.ZipFile, member: tuple[zipfile.ZipInfo, str], shape: tuple[int, ...], dtype: np.dtype
) -> np.ndarray:
    """One array of an archive, in float64 where it is saved so and in float32 otherwise."""
    info, path = member
    name = info.filename.removesuffix(".npy")
    try:
        with archive.open(info) as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{path}: the array {name!r} cannot be read ({type(error).__name__}: {printable(error)}); save it again"
            " with numpy.savez"
        ) from error
    array = np.ascontiguousarray(array, dtype=np.float64 if dtype == np.float64 else np.float32)
    _check_finite(array, f"{path}: the array {name!r}")
    return array


def _check_finite(array: np.ndarray, where: str) -> None:
    bad = int(array.size - np.isfinite(array).sum())
    if bad:
        raise ConfigError(
            f"{where} holds {bad} of {array.size} numbers that are NaN or infinite; no map can be taken around it,"
            " so mend or leave out that stimulus"
        )


@dataclass(frozen=True)
class SoundFile:
    """A sound on disk: its name (the file's, without the ending), rate in Hz, length in samples, digest of them, least
    and greatest of them.
    """

    name: str
    path: str
    sample_rate: float
    samples: int
    digest: str
    levels: tuple[float, float]


def describe_sounds(patterns: Sequence[str]) -> tuple[SoundFile, ...]:
    """The sounds that paths or patterns name, in the order given, sorted by path within a pattern.

    Raises `ConfigError` if a pattern matches nothing, a file is no sound, is empty, has more than one channel, more
    than 2**28 samples or a number that is not finite, or two sounds share a name.
    """
    sounds: dict[str, SoundFile] = {}
    with absence_refused():
        for path in _expand(patterns, "sounds"):
            sound = _describe_sound(path)
            if sound.name in sounds:
                raise ConfigError(
                    f"two sounds are called {sound.name!r}: {sounds[sound.name].path} and {path}; the name is the"
                    " stimulus's label in the cube, so rename one"
                )
            sounds[sound.name] = sound
    return tuple(sounds.values())


def _describe_sound(path: str) -> SoundFile:
    name = split(path)[1].rpartition(".")[0]
    if not name or not name.isprintable():
        raise ConfigError(f"the sound {path!r} has no printable name to label a stimulus; rename the file")
    with _open_sound(path) as file:
        rate = file.samplerate
    waveform = read_sound(path)
    return SoundFile(name, path, float(rate), waveform.size, samples_digest(waveform), _levels(waveform))


def _open_sound(path: str) -> soundfile.SoundFile:
    try:
        source = open_binary(path)
        if isinstance(source, str):
            os.stat(source)  # the library reports a file that is not there as one that is damaged
        opened = soundfile.SoundFile(source)
    except (soundfile.SoundFileError, FileTooLargeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"the sound {path} cannot be read ({printable(error)}); give WAV or FLAC files, or leave it out of the"
            " pattern"
        ) from error
    try:
        _refuse_cut(source, path)
        _check_sound(opened, path)
    except ConfigError:
        opened.close()
        raise
    return opened


def _refuse_cut(source: BytesIO | str, path: str) -> None:
    """Refuse a WAV or AIFF file that is shorter than it says: the library would take what is there for the sound."""
    if isinstance(source, str):
        with open(source, "rb") as file:
            head, size = file.read(8), os.path.getsize(source)
    else:
        head, size = source.getvalue()[:8], len(source.getvalue())
    order: dict[bytes, Literal["little", "big"]] = {b"RIFF": "little", b"FORM": "big"}
    if head[:4] not in order:
        return
    said = int.from_bytes(head[4:], order[head[:4]]) + 8
    if size + 1 < said < ENDLESS:  # the last byte may be one that only fills up
        raise ConfigError(
            f"the sound {path} has {size:,} bytes, but its header says {said:,}; it is cut off or damaged, so copy it"
            " again"
        )


def _check_sound(file: soundfile.SoundFile, path: str) -> None:
    if file.channels != 1:
        raise ConfigError(
            f"the sound {path} has {file.channels} channels, but a model hears one; choose an ear or mix them"
            " (sox in.wav out.wav remix 1)"
        )
    if not 0 < file.frames <= SOUND_SAMPLES:
        raise ConfigError(
            f"the sound {path} has {file.frames:,} samples, where 1 to {SOUND_SAMPLES:,} can be a stimulus;"
            " cut it, or leave it out of the pattern"
        )


def read_sound(path: str) -> np.ndarray:
    """A sound (sample,) in float32, where 1.0 is full scale.

    Raises `ConfigError` if the file is no sound, is empty, has more than one channel, or a number that is not finite,
    and `OSError` if it cannot be read, or is not there: trying again may help.
    """
    with _open_sound(path) as file:
        try:
            waveform = file.read(dtype="float32", always_2d=True)[:, 0]
        except soundfile.SoundFileError as error:
            raise ConfigError(
                f"the sound {path} cannot be read to its end ({printable(error)}); it is cut off or damaged, so copy it"
                " again"
            ) from error
        if len(waveform) != file.frames:
            raise ConfigError(
                f"the sound {path} has {len(waveform):,} samples, but its header says {file.frames:,}; it is cut off or"
                " damaged, so copy it again"
            )
    _check_finite(waveform, f"the sound {path}")
    return np.ascontiguousarray(waveform)
