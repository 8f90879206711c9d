"""Whether a gradmap can be trusted: its flags, and what each is decided by."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.gradients.health.assessment import EngineMaps, Health, assess, map_flags
    from pipeline.gradients.health.energy import memory_length, oldest_share
    from pipeline.gradients.health.flags import FLAGS, TABLE, FlagRule

__all__ = [
    "FLAGS",
    "TABLE",
    "EngineMaps",
    "FlagRule",
    "Health",
    "assess",
    "map_flags",
    "memory_length",
    "oldest_share",
]

_HOMES = {
    "flags": ("FLAGS", "TABLE", "FlagRule"),
    "assessment": ("Health", "EngineMaps", "assess", "map_flags"),
    "energy": ("memory_length", "oldest_share"),
}


def __getattr__(name: str) -> Any:
    # The table of flags is laid out in every cube, where nothing is computed too: it does not wait for torch.
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
