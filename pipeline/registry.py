"""Entries found by name: each stands in a file of its own, and all these files in one folder."""

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Generic, TypeVar

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """What the modules of one folder have registered, by name; they are imported when a name is looked up.

    The module of that very name is imported first, and all others where it does not register the entry.

    ``folder``: Name of the package whose modules register their entries when they are imported. ``what``: What an entry
    is, for messages.
    """

    def __init__(self, folder: str, what: str) -> None:
        self._folder, self._what = folder, what
        self._entries: dict[str, T] = {}
        self._found, self._tried = False, set[str]()

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that makes an entry known under a name, also from outside of the folder.

        Raises `ValueError` if another entry has that name.
        """

        def add(entry: T) -> T:
            known = self._entries.get(name)
            if known is not None and _origin(known) != _origin(entry):
                raise ValueError(
                    f"the {self._what} {name!r} of {_origin(known)} and that of {_origin(entry)} have one name, so"
                    " neither would be found for sure; rename one"
                )
            self._entries[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> T:
        if name not in self._tried:
            self._try(name)
        if name not in self._entries:
            self._find()
        if name not in self._entries:
            raise KeyError(f"there is no {self._what} {name!r}; known are {', '.join(sorted(self._entries))}")
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        self._find()
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        self._find()
        return len(self._entries)

    def _try(self, name: str) -> None:
        """Import the module of that name, if there is one; later look-ups of the name take what it registered."""
        if name in self._modules():
            import_module(f"{self._folder}.{name}")
        self._tried.add(name)

    def _modules(self) -> list[str]:
        return [module.name for module in iter_modules(import_module(self._folder).__path__)]

    def _find(self) -> None:
        if self._found:
            return
        self._found = True
        try:
            for name in self._modules():
                import_module(f"{self._folder}.{name}")
        except BaseException:
            self._found = False  # or the next look-up would say that there is no such entry
            raise


def _origin(entry: object) -> str:
    named = entry if isinstance(entry, type) or callable(entry) else type(entry)
    return f"{named.__module__}.{getattr(named, '__qualname__', named)}"
