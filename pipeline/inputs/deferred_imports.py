"""Modules that another one imports and hardly ever calls, loaded when they are called."""

import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

#: One import at a time: a lab's module that is imported beside this would be given what stands for the modules.
_ALONE = threading.RLock()


@contextmanager
def put_off(*names: str) -> Iterator[None]:
    """While something is imported: functions that it takes from these modules load them when they are first called.

    Modules that are there already, and everybody else's imports afterwards, are left as they are.
    """
    with _ALONE:
        later = {name: _Later(name) for name in names if name not in sys.modules}
        sys.modules.update(later)
        try:
            yield
        finally:
            for name, module in later.items():
                module.__dict__["waits"] = False
                if sys.modules.get(name) is module:
                    del sys.modules[name]


class _Later(ModuleType):
    """What stands for a module until it is needed."""

    waits = True

    def __getattr__(self, name: str) -> Any:
        whole = f"{self.__name__}.{name}"
        if not self.waits:
            return getattr(importlib.import_module(self.__name__), name)
        if name.startswith("__"):
            raise AttributeError(f"{whole} is not known before its module is loaded")
        return sys.modules[whole] if whole in sys.modules else _called_later(self.__name__, name)


def _called_later(module: str, name: str) -> Callable[..., Any]:
    def later(*arguments: Any, **named: Any) -> Any:
        return getattr(importlib.import_module(module), name)(*arguments, **named)

    later.__name__ = name
    return later
