"""Switches of the whole process that a computation needs in one position, whoever else computes at the same time."""

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

# Each of these may let float32 products be rounded to TF32 or bfloat16.
_PRECISIONS: tuple[Any, ...] = tuple(
    getattr(getattr(torch.backends, backend), operation)
    for backend, operation in (
        ("mkldnn", "matmul"),
        ("mkldnn", "conv"),
        ("mkldnn", "rnn"),
        ("cuda", "matmul"),
        ("cudnn", "conv"),
        ("cudnn", "rnn"),
    )
)


class Shared:
    """A context that the first thread to need it enters, and the last one to need it leaves."""

    def __init__(self, make: Callable[[], AbstractContextManager[object]]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._users = 0
        self._entered: AbstractContextManager[object] | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._entered = self._make()
                self._entered.__enter__()
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._entered is not None:
                self._entered.__exit__(None, None, None)


@contextmanager
def _off(backend: Any) -> Iterator[None]:
    # Not by the backend's ``flags``, which for cuDNN move the switches for TF32 too.
    before = backend.enabled
    # Where the user froze torch's switches it stays on: slower, or refused by torch itself where that cannot work.
    with suppress(RuntimeError):
        backend.enabled = False
    try:
        yield
    finally:
        with suppress(RuntimeError):
            backend.enabled = before


@contextmanager
def _full_precision() -> Iterator[None]:
    settings = [(backend, backend.fp32_precision) for backend in _PRECISIONS]
    lowered = [backend for backend, value in settings if value not in ("none", "ieee")]
    if not lowered:
        yield
        return
    cudnn: Any = torch.backends.cudnn
    # Torch's older switches are moved as well: a product on a GPU may raise where they say otherwise than these. They
    # cannot be read, and are left alone, where the caller's own settings disagree already.
    matmul, convolution = None, None
    with suppress(RuntimeError):
        matmul = torch.get_float32_matmul_precision()
    with suppress(RuntimeError):
        convolution = cudnn.allow_tf32
    try:
        if matmul is not None:
            torch.set_float32_matmul_precision("highest")
        if convolution is not None:
            cudnn.allow_tf32 = False
        for backend in lowered:
            backend.fp32_precision = "ieee"
        yield
    finally:
        if matmul is not None:
            torch.set_float32_matmul_precision(matmul)
        if convolution is not None:
            cudnn.allow_tf32 = convolution
        for backend, value in settings:
            backend.fp32_precision = value


@contextmanager
def _attention_in_steps() -> Iterator[None]:
    fast = torch.backends.mha.get_fastpath_enabled()
    with sdpa_kernel(SDPBackend.MATH):
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def _slow_batching() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")
        yield


full_precision = Shared(_full_precision)
"""No product of float32 numbers is rounded to less."""

without_cudnn = Shared(lambda: _off(torch.backends.cudnn))
without_onednn = Shared(lambda: _off(torch.backends.mkldnn))
attention_in_steps = Shared(_attention_in_steps)

slow_batching = Shared(_slow_batching)
"""Operations that ``vmap`` takes row by row are taken so without a warning."""
