"""The writing that only the holder of a lease can do: a driver that was given up for dead changes nothing any more."""

import errno
from collections.abc import Awaitable, Callable
from typing import Any

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.storage import FsspecStore, WrapperStore

#: What a storage answers to a condition that it does not know.
_UNKNOWN_CONDITION = (errno.ENOSYS, errno.EOPNOTSUPP)


class LeaseLostError(RuntimeError):
    """Another driver took the store over, or the storage did not take our heartbeat for too long."""


async def _unasked() -> None:
    """Nothing to confirm."""


class FencedStore(WrapperStore[Store]):
    """A store as its one driver writes it.

    Before each write the lease is confirmed. On S3 each object is put on the condition, which the storage itself
    decides, that it still is the one that this driver has read or written last. So what another driver has written
    since is never lost, however long this one slept and wherever it was stopped. Two windows remain. On S3, a request
    that is on its way while the lease is taken over may still land on an object that nobody has written since; what it
    says was true when it was sent. On storages without conditions such a request lands on any object.

    ``confirm``: Raises `LeaseLostError` where the lease is not held any more.
    """

    def __init__(self, store: Store, confirm: Callable[[], Awaitable[None]] = _unasked) -> None:
        super().__init__(store)
        self._confirm = confirm
        self._conditional = isinstance(store, FsspecStore) and "s3" in _protocols(store)
        self._seen: dict[str, str | None] = {}

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The content of an object; which one it was is remembered."""
        if self._conditional:
            # Before the content: what is written between the two makes the next write fail, and not pass.
            self._seen[key] = await self._tag(key)
        return await self._store.get(key, prototype, byte_range)

    async def set(self, key: str, value: Buffer) -> None:
        """Put an object in one piece.

        Raises
        ------
        LeaseLostError
            If this driver does not hold the store any more; the object is as the other one left it.
        """
        if self._conditional and key not in self._seen:
            self._seen[key] = await self._tag(key)
        await self._confirm()  # after the object was looked at: what was taken over before that is known now
        if not self._conditional:
            await self._store.set(key, value)
            return
        try:
            await self._put_if_unchanged(key, value)
        except OSError as error:
            if error.errno in _UNKNOWN_CONDITION:
                self._conditional = False
                await self.set(key, value)
            elif not _is_refused_condition(error):
                raise
            elif not await self._holds(key, value):  # it may be our own, of a request whose answer was lost
                raise LeaseLostError(f"{key} was written by another driver since this one has read it") from error

    async def delete(self, key: str) -> None:
        """Remove an object."""
        await self._confirm()
        self._seen.pop(key, None)
        await self._store.delete(key)

    async def delete_dir(self, prefix: str) -> None:
        """Remove every object below a prefix."""
        await self._confirm()
        self._seen = {key: tag for key, tag in self._seen.items() if not key.startswith(f"{prefix}/")}
        await self._store.delete_dir(prefix)

    async def _put_if_unchanged(self, key: str, value: Buffer) -> None:
        filesystem, path = self._place(key)
        tag = self._seen.pop(key)
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        answer = await filesystem._pipe_file(path, value.to_bytes(), **condition)
        if isinstance(answer, dict) and "ETag" in answer:
            self._seen[key] = answer["ETag"]

    async def _holds(self, key: str, value: Buffer) -> bool:
        found = await self._store.get(key, default_buffer_prototype())
        return found is not None and found.to_bytes() == value.to_bytes()

    async def _tag(self, key: str) -> str | None:
        """What tells one content of an object from another, None where there is no object."""
        filesystem, path = self._place(key)
        try:
            return str((await filesystem._info(path, refresh=True))["ETag"])
        except (FileNotFoundError, KeyError):
            return None

    def _place(self, key: str) -> tuple[Any, str]:
        assert isinstance(self._store, FsspecStore)
        return self._store.fs, f"{self._store.path.rstrip('/')}/{key}"


def _protocols(store: FsspecStore) -> tuple[str, ...]:
    protocol = store.fs.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def _is_refused_condition(error: OSError) -> bool:
    """Whether a storage refused a write because the object is not the one that was meant, or not there any more."""
    if isinstance(error, (FileExistsError, FileNotFoundError)):
        return True
    response = getattr(error.__cause__, "response", None) or {}
    return response.get("Error", {}).get("Code") in ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
