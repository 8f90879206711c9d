"""Products of two matrices by the quickest library that torch carries."""

from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.gradients.torch_state.memory import room

#: Multiplications in one product from which on oneDNN pays, which takes longer to start.
LARGE = 2**20


def product(left: Float[Tensor, "row inner"], right: Float[Tensor, "inner column"]) -> Float[Tensor, "row column"]:
    """Product of two matrices, as `torch.mm` gives it up to rounding.

    Large ones in float32 go to oneDNN where the processor has registers of 512 bits: MKL, which `torch.mm` goes to,
    uses those of one maker's processors only, and takes twice the time on others.
    """
    if not _is_large(left, right):
        return torch.mm(left, right)
    done: Tensor = _onednn()(left, right.t(), None, "none", [], "")
    return done


def product_less(
    left: Float[Tensor, "row inner"], right: Float[Tensor, "inner column"], less: Float[Tensor, "row column"]
) -> Float[Tensor, "row column"]:
    """The same less a third matrix, which is taken off before the product is written."""
    if not _is_large(left, right):
        return torch.mm(left, right).sub_(less)
    done: Tensor = _onednn().binary(left, less, right.t(), None, "sub")
    return done


def products(
    left: Float[Tensor, "*pair row inner"], right: Float[Tensor, "pair inner column"], out: Tensor | None = None
) -> Float[Tensor, "pair row column"]:
    """Products of pairs of matrices, or of one with many, as `torch.matmul` gives them up to rounding."""
    lefts = left.expand(len(right), *left.shape[-2:])
    if not len(right) or not _is_large(lefts[0], right[0]):
        return torch.matmul(left, right, out=out)
    if out is None:
        out = room((len(right), left.shape[-2], right.shape[2]), right)
    for done, one, other in zip(out, lefts, right, strict=True):
        done.copy_(product(one, other))
    return out


def _is_large(left: Tensor, right: Tensor) -> bool:
    """Whether oneDNN is quicker for these two, by their shapes alone: the last bits must not change between runs."""
    return (
        left.dtype == right.dtype == torch.float32
        and left.device.type == "cpu"
        and left.shape[0] * right.numel() >= LARGE
        # Of matrices that are stored otherwise oneDNN may have a reference implementation only.
        and left.is_contiguous()
        and right.is_contiguous()
        and not (torch.is_grad_enabled() and (left.requires_grad or right.requires_grad))
        and _has_onednn()
        and bool(torch.backends.mkldnn.enabled)
    )


@cache
def _has_onednn() -> bool:
    """Whether torch was built with oneDNN and its products, and the processor has registers that MKL may leave."""
    known = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return known and torch.backends.cpu.get_cpu_capability() == "AVX512"


def _onednn() -> Any:
    return torch.ops.mkldnn._linear_pointwise
