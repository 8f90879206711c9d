"""Whether a gradmap can be trusted: its flags, and what each is decided by."""

from pipeline.gradients.health.assessment import Health, Maps, assess, map_flags
from pipeline.gradients.health.energy import memory_length, oldest_share
from pipeline.gradients.health.flags import FLAGS, TABLE, Flag

__all__ = [
    "FLAGS",
    "TABLE",
    "Flag",
    "Health",
    "Maps",
    "assess",
    "map_flags",
    "memory_length",
    "oldest_share",
]
