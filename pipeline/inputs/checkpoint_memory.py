"""What was learnt of checkpoints by building their modules, remembered as long as nothing that decides it changes."""

import hashlib
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter

from pipeline.plan.run_plan import Checkpoint, FrontEnd

T = TypeVar("T")

#: Source files whose content is compared at most; code spread over more is not remembered.
MOST_FILES = 5_000

#: Folders whose modules are known by the versions of the packages that are installed there.
INSTALLED = ("site-packages", "dist-packages")


@dataclass(frozen=True)
class Learnt:
    """What only building a checkpoint's module tells; everything else is read from its files each time."""

    model_class: str
    n_neurons: int
    n_bands: int
    n_channels: int
    n_parameters: int
    front_end: FrontEnd | None
    notes: tuple[str, ...]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "Learnt":
        """What was learnt of a checkpoint."""
        return cls(**{entry.name: getattr(checkpoint, entry.name) for entry in fields(cls)})


@dataclass
class Drawer(Generic[T]):
    """Things of one sort, each by a key that is made of all that decides it: as recalled, and as still asked for."""

    known: dict[str, T] = field(default_factory=dict)
    used: dict[str, T] = field(default_factory=dict)

    def take(self, key: str) -> T | None:
        """What is known under a key; None where nothing is."""
        if key in self.known:
            self.used[key] = self.known[key]
        return self.known.get(key)

    def keep(self, key: str, value: T) -> T:
        """What was learnt under a key, to be remembered."""
        self.used[key] = value
        return value


@dataclass
class Memory:
    """What was learnt of checkpoints: by fingerprint, by the digest of a file's content, or by its `stamp`.

    A fingerprint is made of the content of a checkpoint's files and of its entry of the config. What else decides a
    module is code: `recall` gives an empty memory where a source file, a package's version or Python's has changed.
    Nothing in it enters a map: the worker that computes one loads the checkpoint itself.
    """

    #: What building a module told.
    models: Drawer[Learnt] = field(default_factory=Drawer)
    #: Frames of the window that was found for a module.
    windows: Drawer[int] = field(default_factory=Drawer)
    #: Numbers per neuron that a file of tensors holds, by name.
    scores: Drawer[dict[str, list[float]]] = field(default_factory=Drawer)
    #: What a file says of the best of its training: which score, the name of the best file, after how many steps.
    callbacks: Drawer[list[tuple[str, str, float]]] = field(default_factory=Drawer)
    code: dict[str, str] = field(default_factory=dict)
    places: dict[str, str | None] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """Whether it differs from what was recalled."""
        return any(drawer.known != drawer.used for drawer in self._drawers().values())

    def written(self) -> dict[str, Any] | None:
        """The memory as JSON holds it, with the code that it was learnt with; None where that is too much code."""
        files = _files_of_modules()
        loaded = _loaded_code(files)
        # What was recalled was learnt with code that nothing may have imported this time.
        code = {**self.code, **loaded}
        if len(code) > MOST_FILES:
            return None
        return {
            "environment": _environment(),
            "code": code,
            "places": {**self.places, **_places(loaded, files)},
            **{name: dict(sorted(drawer.used.items())) for name, drawer in self._drawers().items()},
            "models": {key: asdict(learnt) for key, learnt in sorted(self.models.used.items())},
        }

    def _drawers(self) -> dict[str, Drawer[Any]]:
        return {"models": self.models, "windows": self.windows, "scores": self.scores, "callbacks": self.callbacks}


def recall(stored: Mapping[str, Any] | None) -> Memory:
    """What `Memory.written` gave, empty where it was learnt with other code or cannot be read."""
    try:
        if not stored or stored["environment"] != _environment():
            return Memory()
        if any(_digest(path) != digest for path, digest in stored["code"].items()):
            return Memory()
        if any(_place(name) != place for name, place in stored["places"].items()):
            return Memory()
        models = TypeAdapter(dict[str, Learnt]).validate_python(stored["models"])
        callbacks = TypeAdapter(dict[str, list[tuple[str, str, float]]]).validate_python(stored["callbacks"])
        windows, scores, code, places = (dict(stored[key]) for key in ("windows", "scores", "code", "places"))
        return Memory(Drawer(models), Drawer(windows), Drawer(scores), Drawer(callbacks), code, places)
    except (KeyError, TypeError, ValueError, AttributeError):
        return Memory()


def _environment() -> str:
    """What is installed: the versions of Python and of every package, by the names of their folders."""
    found = {sys.version, sys.prefix}
    for folder in sys.path:
        if os.path.basename(folder.rstrip("/")) in INSTALLED and os.path.isdir(folder):
            # Not only the names: a package that is installed anew under its version has a new folder.
            for entry in os.scandir(folder):
                if entry.name.endswith((".dist-info", ".egg-info", ".pth", ".egg-link")):
                    found.add(f"{entry.path} {entry.stat().st_mtime_ns}")
    return hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()


def _loaded_code(modules: Mapping[str, str]) -> dict[str, str]:
    """Digest of every source file of these modules that is not installed with a version of its own."""
    standard = {os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
    files = {path for path in modules.values() if path.endswith(".py")}
    own = sorted(path for path in files if not _is_installed(path, standard))[: MOST_FILES + 1]
    found = {path: _digest(path) for path in own}
    return {path: digest for path, digest in found.items() if digest is not None}


def _files_of_modules() -> dict[str, str]:
    """The file of each imported module, wherever links lead."""
    folders: dict[str, str] = {}
    found = {}
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if not isinstance(path, str):
            continue
        if not os.path.isabs(path) or os.path.islink(path):
            found[name] = os.path.realpath(path)
            continue
        folder, file = os.path.split(path)  # thousands of modules stand in a few hundred folders
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        found[name] = os.path.join(folders[folder], file)
    return found


def _is_installed(path: str, standard: Iterable[str]) -> bool:
    return not set(INSTALLED).isdisjoint(path.split(os.sep)) or any(
        path.startswith(f"{folder}/") for folder in standard
    )


def _digest(path: str) -> str | None:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return None


def _places(code: Mapping[str, str], modules: Mapping[str, str]) -> dict[str, str | None]:
    """Where Python finds each top-level module of that code: another file before it would be imported instead."""
    names = {name.partition(".")[0] for name, path in modules.items() if path in code}
    return {name: _place(name) for name in sorted(names - {"__main__", "__mp_main__"})}


def _place(name: str) -> str | None:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return None if spec is None else spec.origin
