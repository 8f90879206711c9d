"""Exact arithmetic for one computation, whatever the caller's context, with everything put back at the end."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pipeline.gradients.torch_state.copies import Inventory
from pipeline.gradients.torch_state.process_flags import full_precision, without_cudnn

_FACTORIES = (torch.ones, torch.zeros, torch.empty, torch.linspace, torch.eye)
_RANDOM = (torch.rand, torch.randn)
_FACTORIES_OF_VALUES = (torch.full, torch.tensor, torch.arange)
_CASTS = (Tensor.float, Tensor.half, Tensor.bfloat16)
_TO = (Tensor.to, Tensor.type)
_LOWER = (torch.float32, torch.float16, torch.bfloat16)


@contextmanager
def quiet(inventory: Inventory, dtype: torch.dtype) -> Iterator[None]:
    """Exact arithmetic with gradients on, whatever the caller's context; everything is put back at the end.

    Reduced-precision products, autocast, inference mode and no_grad are off inside. cuDNN is off where the model
    has recurrent layers, which cuDNN cannot differentiate in eval mode. The random state is the caller's again at
    the end.
    """
    device = inventory.device
    with ExitStack() as stack:
        # Entering a context costs as much as a small layer, so those that would change nothing are not entered.
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if not torch.is_grad_enabled():
            stack.enter_context(torch.enable_grad())
        if torch.is_autocast_enabled(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        forked = [device] if device.type == "cuda" else []
        stack.enter_context(torch.random.fork_rng(forked, device_type=device.type))
        stack.enter_context(full_precision)
        if device.type == "cuda" and inventory.recurrent:
            stack.enter_context(without_cudnn)
        if dtype == torch.float64:
            stack.enter_context(_DoubleByDefault())
        yield


def undisturbed(model: nn.Module, dtype: torch.dtype) -> AbstractContextManager[None]:
    """The engine's exact arithmetic for this model, with everything put back at the end."""
    return quiet(Inventory.of(model), dtype)


class _DoubleByDefault(TorchFunctionMode):
    """Numbers stay float64 where the model's code asks for a lower precision; new ones are float64 where it names none.

    Unlike the global default this is per thread.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _CASTS and args and not kwargs:
            return args[0].double()
        if func in _RANDOM and not (kwargs.get("dtype") or kwargs.get("out") is not None):
            # A seed gives other numbers in another precision, which would make another model of this one.
            drawn: Tensor = func(*args, **kwargs)
            return drawn.double()
        unnamed = kwargs.get("dtype") is None
        makes_floats = func in _FACTORIES or (func in _FACTORIES_OF_VALUES and any(map(_holds_float, args)))
        if _is_lower(kwargs.get("dtype")) or (unnamed and makes_floats):
            kwargs["dtype"] = torch.float64
        if func in _TO and len(args) > 1:
            args = (args[0], *(torch.float64 if _is_lower(value) else value for value in args[1:]))
        return func(*args, **kwargs)


def _is_lower(value: Any) -> bool:
    return isinstance(value, torch.dtype) and value in _LOWER


def _holds_float(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_holds_float, value))
    return isinstance(value, float)
