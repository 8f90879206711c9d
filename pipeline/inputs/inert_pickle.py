"""A stand-in for the pickle module that rebuilds tensors and containers, and nothing else.

`torch.load` takes it as ``pickle_module``. A class or function that a file names is never imported: an object without
content stands in its place.
"""

import pickle
from collections import OrderedDict
from typing import Any

import torch

#: What tensors and containers are made of, as torch's own weights_only loading allows it.
ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): torch._utils._rebuild_tensor_v3,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch", "Size"): torch.Size,
    ("torch.storage", "UntypedStorage"): torch.UntypedStorage,
    **{
        ("torch", name): value
        for name, value in vars(torch).items()
        if isinstance(value, torch.dtype) or name.endswith("Storage")
    },
}


class Inert:
    """Whatever a file names beside tensors: takes everything and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> "Inert":
        return self

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, _: Any, __: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        """Take an entry of a list."""

    def extend(self, _: Any) -> None:
        """Take entries of a list."""

    def add(self, _: Any) -> None:
        """Take an entry of a set."""


class Unpickler(pickle.Unpickler):
    """Rebuilds what is allowed."""

    def find_class(self, module: str, name: str) -> Any:
        """What is allowed under a name, or what does nothing."""
        return ALLOWED.get((module, name), Inert)


def load(file: Any, **_: Any) -> Any:
    """The content of a pickle of plain values."""
    return Unpickler(file).load()
