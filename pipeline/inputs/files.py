"""The one place where files and objects are listed and read, on this machine or behind a URL."""

import glob
import json
import os
import stat
import time
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

from pipeline.plan.urls import ConfigError, is_url, refuse_secrets
from pipeline.text import printable

#: Files that are weights, by their ending.
SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")

#: Largest files that are read, in bytes: JSON beside the weights, the weights themselves, any other input.
JSON_BYTES = 16 * 2**20
#: Bytes of a file of weights that are read, at most.
WEIGHTS_BYTES = 16 * 2**30
#: Bytes of any other file that are read, at most.
INPUT_BYTES = 4 * 2**30


#: Seconds after which a file that was written has a time of its own.
SETTLED_S = 2.0

#: Most folders that ``**`` leads through.
FOLDERS = 200_000

#: Most files in the folder of one checkpoint.
FOLDER_FILES = 10_000


class CheckpointError(ValueError):
    """The files of one checkpoint cannot be used; the other checkpoints are not concerned."""


class FileTooLargeError(ValueError):
    """A file is larger than anything of its kind should be."""


@dataclass(frozen=True)
class Match:
    """One path that a pattern names, and whether it is a folder."""

    path: str
    folder: bool


def find(pattern: str) -> list[Match]:
    """What a path or glob pattern names, sorted by path; empty where it names nothing.

    Local paths come back absolute. A path that exists is taken as it stands, so that a name may hold brackets. A link
    that leads nowhere counts as a folder: it was meant to be one, or a file whose absence will be told.

    Raises `ConfigError` if a URL holds a password, or its store cannot be listed.
    """
    if is_url(pattern):
        return _find_url(pattern)
    names = [pattern] if os.path.lexists(pattern) else _matching(pattern)
    paths = sorted({os.path.abspath(name) for name in names})
    return [Match(path, not os.path.isfile(path) and not _special(path)) for path in paths]


def _matching(pattern: str) -> list[str]:
    """What a pattern matches on this machine; ``**`` enters every folder once, whatever links lead to it."""
    start, found, rest = pattern.partition("**")
    if not found or (start and not start.endswith(os.sep)) or (rest and not rest.startswith(os.sep)):
        return glob.glob(pattern)
    folders = [
        folder
        for top in (glob.glob(start) if start else [os.curdir])
        if os.path.isdir(top)
        for folder in _folders_below(top, pattern)
    ]
    below = rest.lstrip(os.sep)
    if not below:
        return [*folders, *(name for folder in folders for name in glob.glob(os.path.join(glob.escape(folder), "*")))]
    return [name for folder in folders for name in _matching(os.path.join(glob.escape(folder), below))]


def _folders_below(top: str, pattern: str) -> list[str]:
    """A folder and all below it: real ones first, then those that links lead to, none twice."""
    found, seen, waiting = [], set(), [top]
    while waiting:
        folder = waiting.pop(0)
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        found.append(folder)
        if len(found) > FOLDERS:
            raise ConfigError(
                f"{pattern} leads through more than {FOLDERS:,} folders, which takes too long to search; name the"
                " folder that holds the checkpoints"
            )
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        inside = [entry for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
        links = [entry.path for entry in inside if entry.is_symlink()]
        waiting = [entry.path for entry in inside if not entry.is_symlink()] + waiting + links
    return found


def _special(path: str) -> bool:
    """Whether a path is a pipe, a socket or a device."""
    return os.path.exists(path) and not os.path.isdir(path) and not os.path.isfile(path)


def _find_url(pattern: str) -> list[Match]:
    try:
        filesystem, path = _open_filesystem(pattern)
        filesystem.invalidate_cache()  # another process may have written since the last listing
        if any(mark in path for mark in "*?["):
            found = filesystem.glob(path, detail=True)
        else:
            found = {path: filesystem.info(path)} if filesystem.exists(path) else {}
    except ConfigError:
        raise
    except Exception as error:
        # Messages of storage clients may quote parts of a request; the class says enough.
        raise ConfigError(
            f"{pattern} cannot be listed ({type(error).__name__}); check the bucket's name, the network, and the"
            " credentials in the environment of this process"
        ) from None
    matches = [
        Match(str(filesystem.unstrip_protocol(name)).rstrip("/"), info["type"] == "directory")
        for name, info in found.items()
    ]
    return sorted(set(matches), key=lambda match: match.path)


def _open_filesystem(url: str) -> tuple[Any, str]:
    refuse_secrets(url)
    try:
        from fsspec.core import url_to_fs

        filesystem, path = url_to_fs(url)
    except (ImportError, ValueError) as error:
        scheme = urlsplit(url).scheme
        raise ConfigError(
            f"{url} cannot be opened: the package for {scheme}:// paths is not installed, or the scheme is not known"
            f" ({type(error).__name__}); for s3:// run pip install 'gradmap-pipeline[s3]'"
        ) from error
    return filesystem, str(path)


def join(folder: str, name: str) -> str:
    """A file's path inside a folder."""
    return f"{folder.rstrip('/')}/{name}" if is_url(folder) else os.path.join(folder, name)


def split(path: str) -> tuple[str, str]:
    """The folder of a path, and the name in it."""
    folder, _, name = path.rstrip("/").rpartition("/")
    return folder, name


def list_names(folder: str) -> set[str]:
    """Names of the entries of a folder."""
    if not is_url(folder):
        return set(os.listdir(folder))
    with _storage_errors():
        filesystem, inner = _open_filesystem(folder)
        filesystem.invalidate_cache()
        return {split(str(name))[1] for name in filesystem.ls(inner, detail=False)}


def is_folder(location: str) -> bool:
    """Whether a location is a folder: on a disk, or a prefix of objects behind a URL."""
    if not is_url(location):
        return os.path.isdir(location)
    with _storage_errors():
        filesystem, inner = _open_filesystem(location)
        return bool(filesystem.isdir(inner))


def list_files(folder: str) -> dict[str, str]:
    """Every ordinary file below a folder, by its name from there; links to folders are not followed."""
    if is_url(folder):
        with _storage_errors():
            filesystem, inner = _open_filesystem(folder)
            filesystem.invalidate_cache()
            names = [str(name) for name in filesystem.find(inner)]
        start = len(inner.rstrip("/")) + 1
        return {name[start:]: join(folder, name[start:]) for name in names}
    found = {}
    for base, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(base, name)
            if os.path.isfile(path):
                found[os.path.relpath(path, folder)] = path
            if len(found) > FOLDER_FILES:
                raise CheckpointError(
                    f"{folder} holds more than {FOLDER_FILES:,} files, which no checkpoint has; give the folder of one"
                    " checkpoint, or its weights file"
                )
    return found


def read_inside(folder: str, name: str, limit: int) -> bytes:
    """A file of a checkpoint's folder.

    Raises `CheckpointError` if it is a link that leads out of the folder: a checkpoint must not decide which files of a
    machine are read, and `OSError` and `FileTooLargeError` as `read_file` does.
    """
    path = join(folder, name)
    if not is_url(folder):
        root, target = os.path.realpath(folder), os.path.realpath(path)
        if os.path.commonpath([root, target]) != root:
            raise CheckpointError(
                f"{path} is a link that leads out of its folder; a checkpoint folder must not choose other files of"
                " this machine to be read, so put a copy of the file in its place, or give its real path as `path`"
            )
    return read_file(path, limit)


def read_file(path: str, limit: int = INPUT_BYTES) -> bytes:
    """The content of a file or an object.

    Raises `OSError` if it cannot be read; ``FileNotFoundError`` where it is not there, and `FileTooLargeError` if it
    has more than ``limit`` bytes.
    """
    if is_url(path):
        return _read_url(path, limit)
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(f"{path} is a folder, not a file")
    _refuse_special(path)
    _refuse_large(path, status.st_size, limit)
    with open(path, "rb") as file:
        content = file.read(min(status.st_size, limit) + 1)  # a buffer of the whole limit would be taken at once
    _refuse_large(path, len(content), limit)
    return content


def _read_url(path: str, limit: int) -> bytes:
    with _storage_errors():
        filesystem, inner = _open_filesystem(path)
        with filesystem.open(inner, "rb") as file:
            size = getattr(file, "size", None)
            if isinstance(size, int):
                _refuse_large(path, size, limit)
            content = bytes(file.read(limit + 1))
    _refuse_large(path, len(content), limit)
    return content


def _refuse_large(path: str, size: int, limit: int) -> None:
    if size > limit:
        raise FileTooLargeError(
            f"{path} has {size:,} bytes, more than the {limit:,} that a file of its kind may have;"
            " it is not read, as it could exhaust the memory"
        )


class _storage_errors:  # noqa: N801  (reads as a statement)
    """Errors of a storage client as OSError, which callers may retry, without the text of the client."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, OSError | ConfigError | FileTooLargeError):
            return
        if isinstance(error, Exception):
            raise OSError(f"the storage did not answer ({type(error).__name__})") from None


def stamp(path: str) -> str | None:
    """What the storage says of a file that changes whenever its content does; None where that is not sure.

    A file that was written in the last seconds has none: the clock of a file system is coarse, so it could be written
    once more without a trace.
    """
    if is_url(path):
        with _storage_errors():
            filesystem, inner = _open_filesystem(path)
            about = filesystem.info(inner)
        marks = [str(about[name]) for name in ("ETag", "etag", "md5Hash") if about.get(name)]
        return f"{path} {marks[0]} {about.get('size')}" if marks else None
    try:
        status = os.stat(path)
    except OSError:
        return None
    if time.time() - max(status.st_ctime, status.st_mtime) < SETTLED_S:
        return None
    # ctime moves with every change and cannot be set, whatever a copy or an archive does to mtime.
    return f"{os.path.realpath(path)} {status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def json_object(content: bytes, name: str) -> dict[str, Any]:
    """A JSON object.

    Raises `CheckpointError` if the content is not one, or nested too deeply to be read.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise CheckpointError(
            f"{name} is not readable JSON ({printable(reason)}), so the model cannot be rebuilt from it;"
            " write it again with save_pretrained"
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{name} holds a JSON {type(value).__name__}, not an object of names and values, so it says nothing about"
            " the model; write it again with save_pretrained"
        )
    return value


def open_binary(path: str) -> BytesIO | str:
    """Something that a reader of sounds or archives can open: the path itself, or the bytes behind a URL."""
    if is_url(path):
        return BytesIO(read_file(path, INPUT_BYTES))
    _refuse_special(path)
    return path


def _refuse_special(path: str) -> None:
    if _special(path):
        raise OSError(f"{path} is no ordinary file")  # opening a pipe would wait for ever
