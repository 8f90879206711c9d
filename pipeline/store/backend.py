"""Where a store lies: a folder or a URL as a Zarr store, and its plain objects."""

import asyncio
import json
import os
import re
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from zarr.abc.store import Store
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore

from pipeline.plan.config import ConfigError
from pipeline.plan.urls import refuse_secrets
from pipeline.text import printable

T = TypeVar("T")

#: Objects that are read, written or listed at one time.
SIDE_BY_SIDE = 16

#: Bytes of a file that are written at one time. For more, Linux looks for memory in pieces as large, which may take it
#: ten times as long as the writing.
WRITTEN_BYTES = 2**18

#: Name of the object that describes a group or an array.
METADATA = "zarr.json"

_S3 = ("s3://", "s3a://")
_BUCKETS = (*_S3, "gs://", "gcs://")

#: Packages whose exceptions mean that the storage did not answer.
_STORAGE_PACKAGES = ("botocore", "aiobotocore", "boto3", "aiohttp", "s3fs", "gcsfs", "google", "urllib3", "obstore")


_SECRETS = (
    (re.compile(r"(://)[^/@\s'\"]+@"), r"\1***@"),
    (
        re.compile(
            r"((?:aws_)?(?:secret_access_key|secret_key|session_token|access_key_id)|aws_secret\w*|password|"
            r"x-amz-(?:signature|credential|security-token))([\"']?\s*[=:]\s*)[\"']?[^\s&\"',}]+[\"']?",
            re.IGNORECASE,
        ),
        r"\1\2***",
    ),
)


class DamagedStoreError(ConfigError):
    """Something that a store needs is gone or cannot be read; nothing has been changed."""


def location_of(store: str | Path) -> str:
    """A store's location as it is compared and opened: an absolute folder, or a URL that is not ``file://``.

    Raises `ConfigError` if a URL carries credentials.
    """
    text = str(store)
    refuse_secrets(text, "store")
    if text.startswith(("file://", "local://")):
        text = unquote(urlsplit(text).path)
    return text.rstrip("/") if "://" in text else str(Path(text).expanduser().absolute())


def is_local(location: str) -> bool:
    """Whether a location is a folder of this machine's file system."""
    return "://" not in location


@lru_cache(maxsize=32)
def _opened(location: str, writable: bool, endpoint: str | None) -> Store:
    if is_local(location):
        return FolderStore(location, read_only=not writable)
    options: dict[str, Any] = {}
    if location.startswith(_BUCKETS):
        # A listing remembered from before another process wrote would hide what it wrote.
        options["use_listings_cache"] = False
    if location.startswith(_S3):
        # Zarr reads objects side by side already; more within one would cost a request for its size each time.
        options["max_concurrency"] = 1
    if endpoint is not None:
        options["endpoint_url"] = endpoint
    return FsspecStore.from_url(location, storage_options=options, read_only=not writable)


class FolderStore(LocalStore):
    """A folder that is written only as long as it is there: what was moved away or deleted is never begun anew."""

    async def _open(self, *, mode: Any = None) -> None:
        self._is_open = True  # only `make_folder` makes the folder

    def _ensure_open_sync(self) -> None:
        self._is_open = True

    async def _set(self, key: str, value: Buffer, exclusive: bool = False) -> None:
        self._check_writable()
        await asyncio.to_thread(_put, self.root, key, value, exclusive)

    def set_sync(self, key: str, value: Buffer) -> None:
        """As `set`."""
        self._check_writable()
        _put(self.root, key, value, False)


def _put(root: Path, key: str, value: Buffer, exclusive: bool) -> None:
    """Write a file beside its place and move it there, so that a reader or a crash finds the old one or the new one."""
    path = root / key
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        file = open(partial, "xb")  # noqa: SIM115  (closed below, after the folders that it may lack are made)
    except FileNotFoundError:
        _make_folders(root, path.parent)
        file = open(partial, "xb")  # noqa: SIM115
    try:
        with file:
            content = memoryview(value.as_buffer_like())
            for start in range(0, len(content), WRITTEN_BYTES):
                file.write(content[start : start + WRITTEN_BYTES])
        if exclusive:
            os.link(partial, path)
        else:
            os.replace(partial, path)
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()


def _make_folders(root: Path, folder: Path) -> None:
    """Make the folders below the root one by one; that fails where the root is gone."""
    for part in reversed([folder, *folder.parents]):
        if part.is_relative_to(root) and part != root:
            with suppress(FileExistsError):
                part.mkdir()


def make_folder(location: str) -> None:
    """Make a local store's own folder, with those above it."""
    if is_local(location):
        Path(location).mkdir(parents=True, exist_ok=True)


def _endpoint(location: str) -> str | None:
    """Where an S3-compatible storage answers, from the environment's own names; credentials stay with the client."""
    if not location.startswith(_S3):
        return None
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def open_store(store: str | Path, *, writable: bool = False) -> Store:
    """The Zarr store at a location. Nothing is created before the first write."""
    location = location_of(store)
    with storage_errors(location):
        try:
            return _opened(location, writable, _endpoint(location))
        except (ImportError, ValueError) as error:
            scheme = urlsplit(location).scheme
            raise ConfigError(
                f"the store {scrub(location)} cannot be opened: the package for {scheme}:// is not installed, or there"
                f" is no such scheme ({type(error).__name__}: {printable(error, 120)}); for s3:// run"
                " pip install 'gradmap-pipeline[s3]'"
            ) from error


def read_json(store: Store, key: str) -> dict[str, Any] | None:
    """The JSON object stored under a key, None where there is none."""
    data = read_bytes(store, key)
    return None if data is None else parse_json(data, f"{key} in {store}")


def parse_json(data: bytes, what: str) -> dict[str, Any]:
    """The JSON object that bytes spell.

    Raises `DamagedStoreError` if they do not.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        value = error
    if not isinstance(value, dict):
        raise DamagedStoreError(
            f"{what} is not a JSON object ({str(value)[:80]}), so what it describes cannot be read; restore it from a"
            " copy, or delete the store and run again"
        )
    if not isinstance(value.get("attributes", {}), dict):
        raise DamagedStoreError(
            f"{what} has attributes that are no JSON object ({str(value['attributes'])[:80]}), so what it describes"
            " cannot be told; restore it from a copy, or delete the store and run again"
        )
    return value


def read_bytes(store: Store, key: str) -> bytes | None:
    """The bytes stored under a key, None where there are none."""
    return read_many(store, [key])[0]


def write_json(store: Store, key: str, value: dict[str, Any]) -> None:
    """Put a JSON object under a key, in one piece."""
    write_bytes(store, key, json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


def write_bytes(store: Store, key: str, data: bytes) -> None:
    """Put bytes under a key, in one piece: a reader sees the old object or the new one."""
    write_many(store, {key: data})


def write_many(store: Store, objects: Mapping[str, bytes]) -> None:
    """Put several objects, side by side."""

    async def put(key: str) -> None:
        await store.set(key, default_buffer_prototype().buffer.from_bytes(objects[key]))

    _side_by_side(store, put, objects)


def read_many(store: Store, keys: Sequence[str]) -> list[bytes | None]:
    """The bytes stored under several keys, read side by side; None where there are none."""

    async def get(key: str) -> bytes | None:
        try:
            buffer = await store.get(key, prototype=default_buffer_prototype())
        except FileNotFoundError:
            return None
        return None if buffer is None else buffer.to_bytes()

    return _side_by_side(store, get, keys)


def exist(store: Store, keys: Sequence[str]) -> list[bool]:
    """Whether there is an object under each of several keys, asked side by side."""
    return _side_by_side(store, store.exists, keys) if keys else []


def _side_by_side(store: Store, call: Callable[[str], Awaitable[T]], keys: Iterable[str]) -> list[T]:
    """What a call gives for each key, a few keys at a time."""

    async def gathered() -> list[T]:
        limit = asyncio.Semaphore(SIDE_BY_SIDE)

        async def one(key: str) -> T:
            async with limit:
                return await call(key)

        return list(await asyncio.gather(*map(one, keys)))

    with storage_errors(str(store)):
        return sync(gathered())


def delete_object(store: Store, key: str) -> None:
    """Remove one object; nothing happens where there is none."""
    with storage_errors(str(store)):
        sync(store.delete(key))


def delete_below(store: Store, prefix: str) -> None:
    """Remove every object below a prefix."""
    with storage_errors(str(store)):
        sync(store.delete_dir(prefix))


def keys_below(store: Store, prefix: str) -> list[str]:
    """Every key below a prefix."""
    return keys_below_each(store, [prefix])[0]


def keys_below_each(store: Store, prefixes: Sequence[str]) -> list[list[str]]:
    """Every key below each of several prefixes, listed side by side."""

    async def listing(prefix: str) -> list[str]:
        try:
            return [key async for key in store.list_prefix(prefix)]
        except FileNotFoundError:
            return []

    return _side_by_side(store, listing, prefixes)


def names_in(store: Store, prefix: str = "") -> list[str]:
    """Names of the objects and prefixes directly below a prefix."""

    async def collect() -> list[str]:
        return [name async for name in store.list_dir(prefix)]

    with storage_errors(str(store)):
        try:
            return sorted({name for name in sync(collect()) if name})
        except FileNotFoundError:
            return []


@contextmanager
def storage_errors(where: str) -> Iterator[None]:
    """Give errors of a storage client that are not `OSError` that type, so that they count as storage failing."""
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError):
        raise
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in _STORAGE_PACKAGES:
            raise
        raise OSError(f"the storage of {scrub(where)} did not answer: {scrub(str(error))}") from error


def scrub(text: str) -> str:
    """A text without the credentials that URLs and settings may carry."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def clean_partials(store: str | Path) -> int:
    """Number of half-written files removed, which a killed writer left behind in a local store.

    To be called by the driver that holds the store's lease, before any worker of its own writes.
    """
    location = location_of(store)
    if not is_local(location):
        return 0
    orphan = re.compile(r"\.[0-9a-f]{32}\.partial$")
    removed = 0
    for folder, _, names in os.walk(location):
        for name in names:
            if orphan.search(name):
                Path(folder, name).unlink(missing_ok=True)
                removed += 1
    return removed
