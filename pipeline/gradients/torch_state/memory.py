"""How many rows go through one backward pass, and what happens when memory runs out."""

import gc
import math
import os
from collections.abc import Callable

import numpy
import torch
from torch import Tensor

#: Bytes that temporary tensors take on the CPU, at most, where nothing else was asked for.
HOST_BYTES = 512 * 2**20
#: Share of a GPU's memory that they take where nothing else was asked for.
SHARE_OF_DEVICE = 1 / 8
#: Share of the machine's memory that they take on the CPU, at most.
SHARE_OF_HOST = 1 / 16
#: Rows in one backward pass, at most.
LARGEST_BLOCK = 4096
#: Bytes at whose multiples torch begins its tensors.
ALIGNMENT = 64


def budget(device: torch.device, memory_bytes: int | None = None) -> int:
    """Bytes that temporary tensors may take: what was asked for, or a share of the device's memory.

    The share is of all the memory, not of what is free now: how much others use must not change the blocks, and with
    them the last bits of the result.
    """
    if memory_bytes is not None:
        check_memory(memory_bytes)
        return int(memory_bytes)
    if device.type == "cuda":
        return int(SHARE_OF_DEVICE * torch.cuda.mem_get_info(device)[1])
    return int(min(HOST_BYTES, SHARE_OF_HOST * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")))


def check_memory(memory_bytes: int | None) -> None:
    """Refuse what is not a number of bytes that something fits in."""
    if memory_bytes is not None and (isinstance(memory_bytes, bool) or memory_bytes <= 0):
        raise ValueError(
            f"memory_bytes = {memory_bytes!r} leaves no room for even one row; give a positive number of bytes,"
            " or None for a share of the device's memory"
        )


def rows_that_fit(n_rows: int, bytes_per_row: int, budget_bytes: int) -> int:
    """The largest block of rows, at most ``n_rows`` and at least 1, that stays within the budget."""
    return max(1, min(n_rows, LARGEST_BLOCK, budget_bytes // max(1, bytes_per_row)))


def in_blocks(n_rows: int, block: int, run: Callable[[int, int], None]) -> int:
    """Size of block at the end of ``run(start, stop)`` over all rows in blocks, halved after every out-of-memory error.

    Returns the size of block at the end. An out-of-memory error for a single row is raised as it came.
    """
    start = 0
    while start < n_rows:
        stop = min(start + block, n_rows)
        failed = False
        try:
            run(start, stop)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or stop - start == 1:
                raise
            failed = True
        # Outside the except clause: there, the traceback would keep the failed attempt's tensors alive.
        if failed:
            block = max(1, (stop - start) // 2)
            release()
            continue
        start = stop
    return block


def room(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """An uninitialised tensor of the dtype and on the device of ``like``, for results that may be large."""
    if like.device.type != "cpu":
        return like.new_empty(shape)
    # NumPy asks the kernel for huge pages and torch does not: writing for the first time to small pages takes longer
    # than the products. The last bits of a product depend on how its output is aligned, so that is as torch does it.
    n_bytes = math.prod(shape) * like.element_size()
    pages = numpy.empty(n_bytes + ALIGNMENT, dtype=numpy.uint8)
    start = -pages.ctypes.data % ALIGNMENT
    return torch.from_numpy(pages[start : start + n_bytes]).view(like.dtype).view(shape)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that memory ran out, on a GPU or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    # cuBLAS, cuDNN and cuFFT ask for memory past torch's allocator and end their error's name so.
    return "out of memory" in text.lower() or "DefaultCPUAllocator" in text or "ALLOC_FAILED" in text


def release() -> None:
    """Give freed memory back before the next, smaller attempt."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
