"""One driver per store: a lease that a living driver keeps, and that a dead one loses."""

import hashlib
import os
import platform
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype

from pipeline.plan.config import ConfigError
from pipeline.store.backend import (
    METADATA,
    delete_below,
    delete_object,
    is_local,
    location_of,
    names_in,
    open_store,
    parse_json,
    read_json,
    scrub,
    write_json,
)
from pipeline.store.fence import FencedStore, LeaseLostError
from pipeline.store.groups import LEASE, claim_root

__all__ = ["Lease", "LeaseLostError", "StoreBusyError", "hold_lease"]

try:
    import fcntl
except ImportError:  # not a POSIX system: the heartbeat alone decides
    fcntl = None  # type: ignore[assignment]

_KEY = f"{LEASE}/{METADATA}"


class StoreBusyError(ConfigError):
    """Another driver holds the store."""


class Lease:
    """A held lease; what only the driver may write goes through its ``store``."""

    def __init__(self, location: str, token: str, opened: Store, *, locked: bool, trusted_s: float) -> None:
        self.location = location
        self.token = token
        self.lost_because: str | None = None
        self.confirmed = _now()
        self.store = FencedStore(opened, self._confirm)
        self._opened, self._trusted_s = opened, trusted_s
        # A lock of the system is never taken from a process that lives, also from one that sleeps.
        self._locked = locked and is_local(location)

    async def _confirm(self) -> None:
        self.check()
        if self._locked or _now() - self.confirmed < self._trusted_s:
            return
        data = await self._opened.get(_KEY, default_buffer_prototype())
        found = None if data is None else _record_in(parse_json(data.to_bytes(), _KEY))
        if found is None or found.get("token") != self.token:
            self.lost_because = f"it was taken over by {_named(found)}"
            self.check()

    @property
    def lost(self) -> bool:
        """Whether another driver may be writing the store now."""
        return self.lost_because is not None

    def check(self) -> None:
        """Raise `LeaseLostError` if the lease was lost, or the folder of the store is not there any more."""
        if self.lost_because is None and is_local(self.location) and not Path(self.location).is_dir():
            self.lost_because = "its folder was moved or deleted"
        if self.lost_because is not None:
            raise LeaseLostError(
                f"this run no longer holds the store {scrub(self.location)} ({self.lost_because}), so what it records"
                " could overwrite what another run has recorded since; start `gradmap run` again when no other one uses"
                " the store"
            )


@contextmanager
def hold_lease(
    store: str | Path,
    *,
    owner: str = "gradmap run",
    heartbeat_s: float = 10.0,
    stale_s: float = 60.0,
    on_wait: Callable[[str], None] | None = None,
) -> Iterator[Lease]:
    """Hold of a store by its one driver while the context lasts.

    A driver of this machine that has died is noticed at once, as the system dropped its lock. Of any other the
    heartbeat is watched on our own clock: it must change within ``stale_s``, or the lease is taken over. Times written
    by another machine are never compared with ours.

    Parameters
    ----------
    owner
        Who holds it, for messages.
    heartbeat_s
        Seconds between two heartbeats.
    stale_s
        Seconds without a heartbeat after which the lease of a driver elsewhere is taken over; at least three of its
        own heartbeats.
    on_wait
        Called with a message before the heartbeat of another driver is watched.

    Raises
    ------
    StoreBusyError
        If another driver holds the store.
    """
    location = location_of(store)
    opened = open_store(location, writable=True)
    made_root = claim_root(opened, location)
    with _machine_lock(location) as lock:
        if lock is None:
            raise _busy(location, _read(opened))
        token = uuid.uuid4().hex
        record = {
            "owner": scrub(owner),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "lock": lock,
            "heartbeat_s": heartbeat_s,
            "token": token,
            "beat": 0,
        }
        # On the condition that nobody else has written it meanwhile, where the storage knows conditions.
        kept = FencedStore(opened)
        try:
            _take(kept, location, record, stale_s, on_wait)
        except LeaseLostError as error:
            raise _busy(location, _read(opened)) from error
        lease = Lease(location, token, opened, locked=bool(lock), trusted_s=stale_s / 2.0)
        stop = threading.Event()
        beating = threading.Thread(target=_beat, args=(kept, record, lease, stop, stale_s), daemon=True)
        beating.start()
        try:
            yield lease
        finally:
            stop.set()
            beating.join(timeout=2.0)
            if not lease.lost:
                with suppress(OSError):
                    _release(opened, location, token, made_root)


def _take(
    store: Store, location: str, record: dict[str, Any], stale_s: float, on_wait: Callable[[str], None] | None
) -> None:
    found = _read(store)
    if found is not None and not (record["lock"] and found.get("lock") == record["lock"]):
        patience = max(stale_s, 3.0 * float(found.get("heartbeat_s", 0.0)))
        if on_wait is not None:
            on_wait(
                f"{scrub(location)} is held by {_named(found)}; watching its heartbeat for {patience:.0f} s before"
                " taking over"
            )
        _watch(store, location, found, patience)
    _write(store, record)
    if not is_local(location) or not record["lock"]:
        # Where no lock decides, two drivers may write at the same moment: the one written last has it.
        time.sleep(min(1.0, float(record["heartbeat_s"])))
        winner = _read(store)
        if winner is None or winner.get("token") != record["token"]:
            raise _busy(location, winner)


def _watch(store: Store, location: str, found: dict[str, Any], patience: float) -> None:
    """Wait until the heartbeat has not changed for so long by our own clock; refuse as soon as it does."""
    started = time.monotonic()
    while time.monotonic() - started < patience:
        time.sleep(min(patience / 8.0, 2.0))
        now = _read(store)
        if now is None:
            return
        if (now.get("token"), now.get("beat")) != (found.get("token"), found.get("beat")):
            raise _busy(location, now)


def _beat(store: Store, record: dict[str, Any], lease: Lease, stop: threading.Event, stale_s: float) -> None:
    answered = time.monotonic()
    while not stop.wait(record["heartbeat_s"]):
        begun = _now()
        try:
            found = _read(store)
            if found is None or found.get("token") != lease.token:
                lease.lost_because = f"it was taken over by {_named(found)}"
                return
            record["beat"] += 1
            _write(store, record)
            lease.confirmed, answered = begun, time.monotonic()
        except LeaseLostError as error:
            lease.lost_because = str(error)
            return
        except Exception as error:  # whatever it is, a heart that stops without a word would lose the store
            if time.monotonic() - answered > stale_s:
                lease.lost_because = f"its heartbeat could not be written: {scrub(str(error))}"
                return


def _now() -> float:
    """Seconds on a clock that goes on while a process is stopped and while the machine sleeps."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


def _release(store: Store, location: str, token: str, made_root: bool) -> None:
    found = _read(store)
    if found is None or found.get("token") != token:
        return
    delete_below(store, LEASE)
    if made_root and names_in(store) == [METADATA]:
        # Nothing was laid out, so nothing should be left behind.
        delete_object(store, METADATA)
        if is_local(location):
            Path(location).rmdir()


def _read(store: Store) -> dict[str, Any] | None:
    document = read_json(store, _KEY)
    return None if document is None else _record_in(document) or None


def _record_in(document: dict[str, Any]) -> dict[str, Any]:
    return document.get("attributes", {}).get("lease") or {}


def _write(store: Store, record: dict[str, Any]) -> None:
    write_json(store, _KEY, {"zarr_format": 3, "node_type": "group", "attributes": {"lease": record}})


def _busy(location: str, found: dict[str, Any] | None) -> StoreBusyError:
    return StoreBusyError(
        f"the store {scrub(location)} is held by {_named(found)}, and two drivers would overwrite each other's records;"
        " wait until that run is over, or stop it"
    )


def _named(record: dict[str, Any] | None) -> str:
    if not record:
        return "another driver"
    return f"{record.get('owner')} (process {record.get('pid')} on {record.get('host')})"


@contextmanager
def _machine_lock(location: str) -> Iterator[str | None]:
    """A lock that the system drops when its process dies: its identity, "" where there are none, None where it is held.

    The identity names the file behind the lock and the boot of the machine, so that equal identities mean that the
    lock which was held and the lock which we hold now are one.
    """
    if fcntl is None:
        yield ""
        return
    descriptor = None
    try:
        identity: str | None
        try:
            descriptor = _lock_file(location)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            about = os.fstat(descriptor)
            identity = f"{_boot()}:{about.st_dev}:{about.st_ino}"
        except BlockingIOError:
            identity = None
        except OSError:
            # Network file systems may not lock folders.
            identity = ""
        yield identity
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _lock_file(location: str) -> int:
    if is_local(location):
        return os.open(location, os.O_RDONLY)
    digest = hashlib.sha256(location.encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir(), f"gradmap-{os.getuid()}-{digest}.lock")
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return platform.node()
