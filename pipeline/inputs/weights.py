"""Weights as a checkpoint's file holds them: plain tensors, every number finite."""

import re
import zipfile
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor

from pipeline.inputs import inert_pickle as inert
from pipeline.inputs.files import SUFFIXES, CheckpointError
from pipeline.text import printable

#: Largest header of a safetensors file, in bytes.
HEADER_BYTES = 16 * 2**20


def read_weights(content: bytes, path: str) -> Mapping[str, Any]:
    """What a weights file holds, by name; nothing in it is executed.

    A .safetensors file gives tensors; a torch file gives what ``torch.load(weights_only=True)`` accepts. Every tensor
    is plain: dense, on the CPU, and held by the file in full.

    Raises `CheckpointError` if the file is damaged, is of another kind, or holds pickled objects other than tensors and
    containers.
    """
    if not content:
        raise CheckpointError(f"{path} is empty, so there are no weights to load; copy or train the checkpoint again")
    held = _read_safetensors(content, path) if path.endswith(".safetensors") else _read_torch(content, path)
    _check_plain(held, path, len(content))
    return held


def read_for_comparison(content: bytes, path: str) -> Mapping[str, Any] | None:
    """What a file of any kind holds that could be weights, None where it is no kind that can be read safely.

    Objects in a torch file that are neither tensors nor containers come back without content; no class of theirs is
    imported.

    Raises `CheckpointError` if it is a weights file that is damaged.
    """
    if path.endswith(".safetensors"):
        return read_weights(content, path)
    if not content.startswith(b"PK\x03\x04") or not path.endswith(SUFFIXES):
        return None
    check_archive(content, path)
    try:
        value = torch.load(BytesIO(content), map_location="cpu", weights_only=False, pickle_module=inert)
    except Exception as error:
        raise CheckpointError(
            f"{path} is no readable torch file ({type(error).__name__}); it is cut off, damaged or something else, so"
            " copy or train the checkpoint again"
        ) from error
    held = value if isinstance(value, Mapping) else {"": value}
    _check_plain(held, path, len(content))
    return held


def read_records(content: bytes, path: str) -> Mapping[str, Any]:
    """What a weights file holds beside its weights; nothing in it is imported, and one that cannot be read has none."""
    try:
        check_archive(content, path)
        value = torch.load(BytesIO(content), map_location="cpu", weights_only=False, pickle_module=inert)
    except Exception:  # damage takes many forms, and is told when the checkpoint itself is read
        return {}
    return value if isinstance(value, Mapping) else {}


def _read_safetensors(content: bytes, path: str) -> dict[str, Tensor]:
    header = int.from_bytes(content[:8], "little")
    if len(content) < 8 or header > min(HEADER_BYTES, len(content) - 8):
        raise CheckpointError(
            f"{path} is no readable safetensors file: its header claims {header:,} bytes where the file has"
            f" {len(content):,} (and a header may have {HEADER_BYTES:,}); it is cut off, damaged or something else,"
            " so copy or train the checkpoint again"
        )
    try:
        return dict(load_safetensors(content))
    except Exception as error:  # the library reports damage as several kinds of exception
        raise CheckpointError(
            f"{path} is no readable safetensors file ({printable(error)}); it is cut off, damaged or something else, so"
            " copy or train the checkpoint again"
        ) from error


def _read_torch(content: bytes, path: str) -> Mapping[str, Any]:
    check_archive(content, path)
    try:
        value = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(_refusal(error, path)) from None  # the original text advises to unpickle anything
    if not isinstance(value, Mapping):
        raise CheckpointError(
            f"{path} holds a {type(value).__name__}, not a state_dict of names and tensors, so it cannot be loaded into"
            " a model; save model.state_dict() with torch.save"
        )
    # An OrderedDict of torch also carries the versions of its modules, which their load hooks ask for.
    return value if all(isinstance(name, str) for name in value) else {str(name): value[name] for name in value}


def _refusal(error: Exception, path: str) -> str:
    text = str(error)
    named = re.search(r"(?:GLOBAL|class|function|type)\s+`?([A-Za-z_][\w.]*\.[\w.]*\w)", text)
    if "nsupported" in text or named:
        what = f" ({named.group(1)})" if named else ""
        return (
            f"{path} holds a pickled object{what}, not tensors alone; unpickling it could run any code, so it is not"
            " done; save model.state_dict() with torch.save, or the model with save_pretrained, or name a `factory` of"
            " your own that reads the file"
        )
    return (
        f"{path} is no readable torch file ({type(error).__name__}); it is cut off, damaged or something else, so copy"
        " or train the checkpoint again"
    )


def check_archive(content: bytes, path: str) -> None:
    """Refuse what torch.save does not write: other pickles, TorchScript, and archives that grow when unpacked."""
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError) as error:
        raise CheckpointError(
            f"{path} is no archive of torch.save ({printable(error)}); it is cut off, damaged, a bare pickle or of a"
            " version before torch 1.6, none of which is opened here; save model.state_dict() again with torch.save"
        ) from error
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise CheckpointError(
            f"{path} is a TorchScript program, not weights; running a program out of a checkpoint is not done;"
            " save model.state_dict() with torch.save"
        )
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > len(content):
        raise CheckpointError(
            f"{path} unpacks to {unpacked:,} bytes from {len(content):,}, which torch.save never writes and which could"
            " exhaust the memory; save model.state_dict() again with torch.save"
        )


def _check_plain(held: Any, path: str, size: int) -> None:
    """Refuse tensors that are not plain, which a few bytes could blow up to any size."""
    for name, tensor in named_tensors(held):
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if not plain or tensor.numel() * tensor.element_size() > size:
            raise CheckpointError(
                f"{path}: {name} is a tensor of shape {tuple(tensor.shape)} that the file ({size:,} bytes) does not"
                " hold in full (sparse, quantised, repeated or without data); save model.state_dict() of ordinary"
                " tensors"
            )


def named_tensors(held: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a file by its place in it."""
    if isinstance(held, Tensor):
        yield prefix or "the tensor", held
    elif isinstance(held, Mapping):
        for key, value in held.items():
            yield from named_tensors(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(held, list | tuple):
        for index, value in enumerate(held):
            yield from named_tensors(value, f"{prefix}[{index}]")
