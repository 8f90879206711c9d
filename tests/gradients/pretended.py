"""A device "cuda" that is no device: its tensors live on the CPU, and keep apart from the CPU's as a GPU's do.

``install()`` changes torch for the whole process and for good; call it in a process of its own. A program that works
on this device makes no tensor on the wrong one. It says nothing about the arithmetic of a GPU.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

# What torch's own code in C++ takes the device for, and what a program is told.
_NAME = "pretended"
_REGISTER = "_setup_privateuseone_for_python_backend"
_TOLD = torch.device("cuda:0")

# CUDA moves positions on the CPU to where the tensor is that they point into.
_INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put")
_KERNELS = torch.library.Library("aten", "IMPL")
_MOVING = ("copy_", "_to_copy")
_JOINING = ("cat", "stack")


class Pretended(Tensor):
    """A tensor that says it is on the device, around the tensor on the CPU that it really is."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> "Pretended":
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(_NAME, 0),
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    @property
    def device(self) -> torch.device:
        return _TOLD

    @property
    def is_cuda(self) -> bool:
        return True

    def tolist(self) -> Any:
        return self.held.tolist()

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Pretended":
        copied = memo[id(self)] = Pretended(self.held.clone())
        return copied

    def __repr__(self) -> str:
        return f"Pretended({self.held!r})"


class _Everywhere(TorchDispatchMode):
    """New tensors, too, are on the device that they are asked for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def can_install() -> bool:
    """Whether this version of torch lets Python be a device."""
    return hasattr(backend_registration, _REGISTER)


def install() -> None:
    """Make torch believe in the device, in this process."""
    if torch.cuda.is_available():
        raise RuntimeError("this machine has a GPU, which a pretended one would stand before; use the GPU")
    getattr(backend_registration, _REGISTER)(_NAME)
    # Python's numbers and lists become tensors in C++, past the mode.
    for name, kernel, key in (
        ("empty_strided", _empty, "CUDA"),
        ("empty_strided", _empty, "PrivateUse1"),
        ("copy_", _copied, "PrivateUse1"),
    ):
        _KERNELS.impl(name, kernel, key)
    # A device has threads of its own for backward passes, which would leave the mode behind.
    torch.autograd.set_multithreading_enabled(False).__enter__()
    driver: Any = torch.cuda
    driver._lazy_init = lambda: None
    # A build for CUDA asks a driver, which is not there, and lays weights out for a library that needs one.
    driver._exchange_device = driver._maybe_exchange_device = lambda index: -1
    driver.current_device = lambda: 0
    driver.get_device_name = lambda device=None: "Pretended"
    built: Any = torch._C
    built._has_cudnn = False
    driver.mem_get_info = lambda device=None: (2**32, 2**33)
    driver.get_rng_state = lambda device=None: torch.zeros(16, dtype=torch.uint8)
    driver.set_rng_state = lambda state, device=None: None
    _Everywhere().__enter__()


def _empty(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return Pretended(torch.empty_strided(size, stride, dtype=dtype))


def _copied(onto: Pretended, other: Tensor, non_blocking: bool = False) -> Tensor:
    onto.held.copy_(_held(other))
    return onto


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What an operation gives, on the device where it gives it; what CUDA would refuse raises."""
    values = (*args, *kwargs.values())
    given = [
        each
        for value in values
        for each in (value if isinstance(value, (list, tuple)) else (value,))
        if isinstance(each, Tensor)
    ]
    mine = [tensor for tensor in given if isinstance(tensor, Pretended)]
    device = kwargs.get("device")
    onto_cpu = device is not None and torch.device(device).type == "cpu"
    if not mine and (device is None or onto_cpu):
        return func(*args, **kwargs)
    name = func.overloadpacket.__name__
    _check(name, func, args, mine, given)
    if kwargs.get("generator") is not None:
        raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' in {func}")
    if device is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    compute = _INSTEAD.get(name, func)
    named = {key: _each(_held, value) for key, value in kwargs.items()}
    answer = compute(*(_each(_held, value) for value in args), **named)
    if onto_cpu:
        return answer
    # An operation in place, or with out=, gives the very tensor that it was given.
    known = {id(_held(tensor)): tensor for tensor in given}

    def placed(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return known[id(value)] if id(value) in known else Pretended(value)

    answer = _each(placed, answer)
    if torch.Tag.inplace_view in func.tags:
        return return_and_correct_aliasing(func, args, kwargs, answer)
    return answer


def _each(act: Callable[[Any], Any], value: Any) -> Any:
    """Operations take and give nothing deeper than a list of tensors."""
    if isinstance(value, (list, tuple)):
        return type(value)(act(one) for one in value)
    return act(value)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, Pretended) else value


def _check(name: str, func: Any, args: Any, mine: list[Tensor], given: list[Tensor]) -> None:
    """CUDA's rule: all tensors on one device, but for numbers in tensors without axes, positions, and moves."""
    if not mine or name in _MOVING:
        return
    if name in _INDEXING and isinstance(args[0], Pretended):
        given = [tensor for tensor in given if all(tensor is not index for index in args[1])]
    strangers = [
        tuple(tensor.shape)
        for tensor in given
        if not isinstance(tensor, Pretended) and (tensor.dim() > 0 or name in _JOINING)
    ]
    if strangers:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but {func} got tensors of shape {strangers} on cpu beside"
            " others on cuda:0"
        )


def _gru_cell(from_input: Tensor, from_hidden: Tensor, before: Tensor, *biases: Tensor | None) -> tuple[Tensor, Tensor]:
    """As CUDA's fused cell, which the CPU has not; the workspace is laid out otherwise."""
    if biases and biases[0] is not None and biases[1] is not None:
        from_input, from_hidden = from_input + biases[0], from_hidden + biases[1]
    (reset, update, new), (to_reset, to_update, recalled) = from_input.chunk(3, -1), from_hidden.chunk(3, -1)
    reset, update = torch.sigmoid(reset + to_reset), torch.sigmoid(update + to_update)
    new = torch.tanh(new + reset * recalled)
    return new + update * (before - new), torch.cat([reset, update, new, before, recalled], -1)


def _gru_cell_backward(gradient: Tensor, workspace: Tensor, has_bias: bool) -> tuple[Tensor | None, ...]:
    reset, update, new, before, recalled = workspace.chunk(5, -1)
    to_new = gradient * (1 - update) * (1 - new * new)
    to_update = gradient * (before - new) * update * (1 - update)
    to_reset = to_new * recalled * reset * (1 - reset)
    at_input = torch.cat([to_reset, to_update, to_new], -1)
    at_hidden = torch.cat([to_reset, to_update, to_new * reset], -1)
    biases = (at_input.sum(0), at_hidden.sum(0)) if has_bias else (None, None)
    return at_input, at_hidden, gradient * update, *biases


def _lstm_cell(
    from_input: Tensor, from_hidden: Tensor, before: Tensor, *biases: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    gates = from_input + from_hidden
    for bias in biases:
        gates = gates if bias is None else gates + bias
    enter, forget, new, out = gates.chunk(4, -1)
    enter, forget, new, out = torch.sigmoid(enter), torch.sigmoid(forget), torch.tanh(new), torch.sigmoid(out)
    cell = forget * before + enter * new
    return out * torch.tanh(cell), cell, torch.cat([enter, forget, new, out], -1)


def _lstm_cell_backward(
    to_hidden: Tensor | None, to_cell: Tensor | None, before: Tensor, cell: Tensor, workspace: Tensor, has_bias: bool
) -> tuple[Tensor | None, ...]:
    enter, forget, new, out = workspace.chunk(4, -1)
    seen = torch.tanh(cell)
    to_hidden = torch.zeros_like(cell) if to_hidden is None else to_hidden
    at_cell = to_hidden * out * (1 - seen * seen)
    at_cell = at_cell if to_cell is None else at_cell + to_cell
    at_gates = torch.cat(
        [
            at_cell * new * enter * (1 - enter),
            at_cell * before * forget * (1 - forget),
            at_cell * enter * (1 - new * new),
            to_hidden * seen * out * (1 - out),
        ],
        -1,
    )
    return at_gates, at_cell * forget, at_gates.sum(0) if has_bias else None


_INSTEAD = {
    # Zeros, conjugates and negatives that are only marked as such: the mark is out of sight under the wrapping.
    "_efficientzerotensor": torch.zeros,
    "_conj": torch.conj_physical,
    "_neg_view": torch.neg,
    "_thnn_fused_gru_cell": _gru_cell,
    "_thnn_fused_gru_cell_backward": _gru_cell_backward,
    "_thnn_fused_lstm_cell": _lstm_cell,
    "_thnn_fused_lstm_cell_backward_impl": _lstm_cell_backward,
}
