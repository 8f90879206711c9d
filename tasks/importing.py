"""Where modules are looked for: this package and what is installed first, the folders of a lab last.

A lab's folder may hold a `tasks.py`, a `pipeline.py` or a `numpy.py` of its own. Ray has workers search the folder
where a command was given before all others, as `python -m` does; here it is put last, on the driver and on workers.
"""

import os
import pickle
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

#: Our packages, each with something in it that a lab's package of that name hardly has.
_OURS = {"pipeline": "gradients", "tasks": "importing.py"}


def put_last(folders: Iterable[str]) -> None:
    """Search these folders for modules, but after every other place; those given first come first."""
    last = [folder for folder in dict.fromkeys(map(os.path.realpath, folders)) if os.path.isdir(folder)]
    sys.path[:] = [*(entry for entry in sys.path if os.path.realpath(entry) not in last), *last]


def import_ours() -> None:
    """Import this project's packages, whatever lies under their names in the folders that are searched before."""
    searched = sys.path[:]
    for name in _OURS:
        if name in sys.modules and not _is_ours(name, getattr(sys.modules[name], "__path__", ())):
            _forget(name)
    sys.path[:] = [entry for entry in searched if not _offers_others(entry)]
    try:
        for name in _OURS:
            import_module(name)
    finally:
        sys.path[:] = searched


@contextmanager
def standing_in(folder: str) -> Iterator[None]:
    """A current folder without modules while Ray is joined, which has the workers search that one before all others.

    Deserialising a task's arguments imports numpy there, before anything of ours runs that could mend the order.
    """
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def searched_first(folders: Iterable[str]) -> str | None:
    """PYTHONPATH without these folders, which are searched last; None where nothing is left of it."""
    last = {os.path.realpath(folder) for folder in folders}
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(entry for entry in entries if entry and os.path.realpath(entry) not in last) or None


def compute_bundle(plan_ref: list[Any], order: bytes, device: str, folder: str, beside: str) -> Iterator[Any]:
    """What Ray runs on a worker; it arrives there by value, and finds this package before anything of it is unpickled.

    Parameters
    ----------
    plan_ref
        Ray's reference to the plan, in a list, so that it is not fetched before.
    order
        The assignment and the function that does the work, pickled.
    folder
        Where the driver was started.
    beside
        The config's folder.
    """
    here = os.getcwd()
    if os.path.isdir(folder):
        os.chdir(folder)
    import_ours()
    put_last([beside, *_moved(beside, folder, here), folder, here])
    assignment, work = pickle.loads(order)
    yield from import_module("tasks.on_ray").reports(plan_ref, assignment, device, work)


def _moved(beside: str, folder: str, here: str) -> list[str]:
    """Where the config's folder is on this machine, if it came along inside a submitted job's folder."""
    inside = os.path.relpath(beside, folder)
    return [] if inside.startswith(os.pardir) else [os.path.join(here, inside)]


def _offers_others(entry: str) -> bool:
    """Whether a folder holds something else under the name of one of our packages."""
    specs = {name: PathFinder.find_spec(name, [entry]) for name in _OURS}
    return any(
        spec is not None and not _is_ours(name, spec.submodule_search_locations or ()) for name, spec in specs.items()
    )


def _is_ours(name: str, folders: Iterable[str]) -> bool:
    return any(Path(folder, _OURS[name]).exists() for folder in folders)


def _forget(name: str) -> None:
    for loaded in [loaded for loaded in sys.modules if loaded == name or loaded.startswith(f"{name}.")]:
        del sys.modules[loaded]
