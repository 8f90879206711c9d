"""What a process of ours does with memory: freed blocks are kept, and what is loaded is not searched for garbage."""

import ctypes
import gc
import sys

# Numbers of the settings in the C library's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3

#: Bytes of one block of memory, up to which it is kept: as far as glibc goes by itself, one freed block at a time.
KEPT_BLOCK = 32 * 2**20
#: Bytes that are kept at most at the end of what the process has taken.
KEPT_BYTES = 256 * 2**20


def keep_freed_memory() -> None:
    """Let the C library keep what is freed, where it can: each shard takes and frees the same tens of megabytes.

    A page that is taken from the system anew costs as much as the arithmetic on its numbers.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # which only glibc has
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, KEPT_BLOCK)
        mallopt(_TRIM_THRESHOLD, KEPT_BYTES)


class Collecting:
    """Python's search for garbage in cycles, put off while packages are imported, and then without what they hold.

    Each full search goes through every object of the process, hundreds of thousands of them the packages' own.
    """

    def __enter__(self) -> "Collecting":
        self._wanted = gc.isenabled()
        gc.disable()
        return self

    def resume(self) -> None:
        """Search again, as often as before, among what is made from now on."""
        if self._wanted:
            gc.freeze()
            gc.enable()

    def __exit__(self, *_: object) -> None:
        if self._wanted:
            gc.unfreeze()
            gc.enable()
