"""A filesystem in memory that fails on command, and counts what it is asked."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

#: What one call is: "write", "read", "list" or "delete", and the path.
Trouble = Callable[[str, str], None]


class Flaky(MemoryFileSystem):
    """Objects under ``flaky://``."""

    protocol = "flaky"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    trouble: ClassVar[list[Trouble]] = []
    calls: ClassVar[Counter[tuple[str, str]]] = Counter()

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("flaky://"))

    @classmethod
    def _called(cls, what: str, path: str) -> None:
        path = cls._strip_protocol(path)
        cls.calls[what, path] += 1
        for trouble in list(cls.trouble):
            trouble(what, path)

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        self._called("write", path)
        return super().pipe_file(path, value, mode=mode, **kwargs)

    def cat_file(self, path, start=None, end=None, **kwargs):
        self._called("read", path)
        return super().cat_file(path, start=start, end=end, **kwargs)

    def open(self, path, mode="rb", **kwargs):
        if mode == "rb":
            self._called("open", path)
        return super().open(path, mode, **kwargs)

    def rm_file(self, path):
        self._called("delete", path)
        return super().rm_file(path)


@contextmanager
def in_trouble(trouble: Trouble) -> Iterator[Counter[tuple[str, str]]]:
    """The calls that are made while every call is first given to ``trouble``, which may raise."""
    Flaky.calls.clear()
    Flaky.trouble.append(trouble)
    try:
        yield Flaky.calls
    finally:
        Flaky.trouble.remove(trouble)


def fails(error: Exception, match: str, *, times: float = float("inf"), after: int = 0, what: str = "write") -> Trouble:
    """Raises at calls whose path holds ``match``: so many times, after so many that go well."""
    seen = 0

    def trouble(kind: str, path: str) -> None:
        nonlocal seen
        if kind == what and match in path:
            seen += 1
            if after < seen <= after + times:
                raise error

    return trouble


def clear() -> None:
    """Forget every object."""
    Flaky.store.clear()
    Flaky.pseudo_dirs[:] = [""]
    Flaky.calls.clear()
    Flaky.trouble.clear()


fsspec.register_implementation("flaky", Flaky, clobber=True)
