"""Copies of a model that share what they may and write nothing back, and what tensors it has."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_HOOKS = tuple(name for name in vars(nn.Module()) if "_hooks" in name)


def twin_of(model: nn.Module, replace: Mapping[str, nn.Module] | None = None, *, light: bool = False) -> nn.Module:
    """A copy of the module tree that shares torch's own layers' weights, as constants; some children replaced.

    Hooks and attributes set on the copy, and what its forward pass writes into buffers, do not reach the model, so
    that two threads may use one model. A module that occurs twice in the model is one module in the copy too. A
    ``light`` copy shares torch's own layers, which write nothing in eval mode; hooks must not be put on its parts.
    """
    twin = _twin(getattr(model, "_orig_mod", model), {}, {}, light)
    for name, module in (replace or {}).items():
        twin._modules[name] = module
    return twin


def _twin(module: nn.Module, seen: dict[int, nn.Module], constants: dict[int, Tensor], light: bool) -> nn.Module:
    if light and not module._modules and type(module).__module__.startswith("torch.nn.modules."):
        return module
    if isinstance(module, torch.jit.ScriptModule):
        return module  # compiled: it takes no hooks and no other weights
    twin = seen.get(id(module))
    if twin is not None:
        return twin
    # copy.copy would go through __setstate__, which some modules use to build their weights anew.
    twin = object.__new__(type(module))
    seen[id(module)] = twin
    state = dict(vars(module))
    for name in () if light else _HOOKS:
        hooks = state.get(name)
        if hooks is not None:
            state[name] = hooks.copy() if hooks else type(hooks)()

    own_code = not type(module).__module__.startswith("torch.nn.")

    def constant(weight: Tensor) -> Tensor:
        # The same object for weights tied to each other; detached, autograd keeps nothing for them. A part that is
        # not torch's own may finish a weight in place when it first hears something, as S4's does.
        if id(weight) not in constants:
            constants[id(weight)] = weight.detach().clone() if own_code else weight.detach()
        return constants[id(weight)]

    state["_parameters"] = {
        key: None if value is None else constant(value) for key, value in module._parameters.items()
    }
    if isinstance(state.get("_flat_weights"), list):
        state["_flat_weights"] = [None if value is None else constant(value) for value in state["_flat_weights"]]
    state["_buffers"] = {key: None if value is None else value.clone() for key, value in module._buffers.items()}
    state["_modules"] = {
        key: None if child is None else _twin(child, seen, constants, light) for key, child in module._modules.items()
    }
    vars(twin).update(state)
    return twin


def parts_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The parts of a model that hooks can be put on, by name; not the model itself."""
    for name, part in model.named_modules():
        if part is not model and not isinstance(part, torch.jit.ScriptModule):
            yield name, part


@dataclass(frozen=True)
class Inventory:
    """The parts and tensors of a model, looked up once."""

    parts: tuple[nn.Module, ...]
    tensors: tuple[Tensor, ...]

    @staticmethod
    def of(model: nn.Module) -> "Inventory":
        parts = tuple(model.modules())
        tensors = tuple(
            tensor
            for part in parts
            for tensor in (*part._parameters.values(), *part._buffers.values())
            if tensor is not None
        )
        return Inventory(parts, tensors)

    @property
    def device(self) -> torch.device:
        """Where the model lives; a model without weights lives on the CPU."""
        return self.tensors[0].device if self.tensors else torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """float64 for a model in float64, float32 for every other."""
        floats = {tensor.dtype for tensor in self.tensors if tensor.is_floating_point()}
        return torch.float64 if floats == {torch.float64} else torch.float32

    @property
    def recurrent(self) -> bool:
        """Whether the model has recurrent layers of torch's own."""
        return any(isinstance(part, nn.RNNBase) for part in self.parts)


def converted(model: nn.Module, inventory: Inventory, dtype: torch.dtype) -> nn.Module:
    """The model in ``dtype``: itself where it is that already, a converted deep copy otherwise."""
    if all(
        (tensor.dtype == dtype or not tensor.is_floating_point()) and not tensor.is_inference()
        for tensor in inventory.tensors
    ):
        return model
    return copied(model, inventory, dtype)


def copied(model: nn.Module, inventory: Inventory, dtype: torch.dtype) -> nn.Module:
    """A deep copy of the model in ``dtype``.

    What cannot be copied deeply, as a lock or an open file that a part holds, is shared with the model; its weights and
    buffers never are.
    """
    tensors = inventory.tensors
    original = getattr(model, "_orig_mod", model)
    with torch.inference_mode(False):
        memo: dict[int, Any] = {id(tensor): _plain_copy(tensor, dtype) for tensor in tensors}
        try:
            with _ConvertedCopies(dtype):
                return copy.deepcopy(original, memo)
        except (TypeError, RuntimeError, NotImplementedError, copy.Error):
            twin = twin_of(original)
            for part in twin.modules():
                tensors_of: tuple[dict[str, Any], ...] = (part._parameters, part._buffers)
                for held in tensors_of:
                    held.update({name: one if one is None else _plain_copy(one, dtype) for name, one in held.items()})
            return twin


class _ConvertedCopies(TorchFunctionMode):
    """Deep copies of plain tensors are converted ones, also of tensors that follow others by autograd's graph.

    Such a tensor, as the weight that an older weight normalisation keeps beside its two parameters, torch refuses to
    copy.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.__deepcopy__ and not isinstance(args[0], nn.Parameter):
            tensor, memo = args
            if id(tensor) not in memo:
                memo[id(tensor)] = _plain_copy(tensor, self._dtype)
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))


def _plain_copy(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        # A tensor made in inference mode can be neither saved for backward nor deep-copied; a clone made outside can.
        data = tensor.detach().clone()
        if data.is_complex():
            data = data.to(torch.complex128 if dtype == torch.float64 else torch.complex64)
        elif data.is_floating_point():
            data = data.to(dtype)
        return nn.Parameter(data, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else data


def in_double(model: nn.Module) -> nn.Module:
    """The model in float64: itself where it is that already, a converted copy otherwise."""
    return converted(model, Inventory.of(model), torch.float64)


def home_of(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """The device that the model lives on, and its own precision."""
    inventory = Inventory.of(model)
    return inventory.device, inventory.dtype
