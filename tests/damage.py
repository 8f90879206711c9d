"""Files that storage has spoiled."""

from pathlib import Path
from random import Random

# Bits of a zstd frame's header that no number depends on: an unused one, and how the window of short content is told.
HARMLESS = {(4, 4), (4, 5)}


def damage(path: Path, how: str, random: Random) -> None:
    """Delete a file, cut it somewhere, or flip one of its bits on which its content depends."""
    data = bytearray(path.read_bytes())
    if how == "delete":
        path.unlink()
    elif how == "cut":
        path.write_bytes(data[: random.randrange(len(data))])
    else:
        place, bit = random.randrange(len(data)), random.randrange(8)
        data[place] ^= 1 << (0 if (place, bit) in HARMLESS else bit)
        path.write_bytes(data)
