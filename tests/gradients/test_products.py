"""Products of matrices by oneDNN or MKL: the same numbers, whatever the sizes, the precision and the storage."""

import pytest
import torch

from pipeline.gradients.torch_state import products as library
from pipeline.gradients.torch_state.process_flags import full_precision, without_onednn
from pipeline.gradients.torch_state.products import product, product_less, products

SIZES = ((3, 5, 7), (140, 70, 136), (150, 70, 1360))


def drawn(size: tuple[int, int, int], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    n_rows, n_inner, n_columns = size
    shapes = (n_rows, n_inner), (n_inner, n_columns), (n_rows, n_columns)
    left, right, less = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)
    return left, right, less


def rounding(size: tuple[int, int, int], dtype: torch.dtype) -> float:
    """What sums of so many terms, each of a few units, may differ by."""
    return 16 * size[1] * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
def test_products_are_those_in_double_precision_up_to_rounding(size, dtype):
    left, right, less = drawn(size, dtype)
    exact = left.double() @ right.double()
    assert (product(left, right) - exact).abs().max() <= rounding(size, dtype)
    assert (product_less(left, right, less) - (exact - less)).abs().max() <= rounding(size, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
def test_many_products_are_each_pairs_own_in_a_room_of_the_callers_or_not(size, dtype):
    left, right, less = drawn(size, dtype)
    pairs = torch.stack([left, -left, 2 * left]), torch.stack([right, right, 3 * right])
    exact = torch.bmm(pairs[0].double(), pairs[1].double())
    out = less.new_empty((3, *less.shape))
    assert products(*pairs, out=out).data_ptr() == out.data_ptr()
    for got in (out, products(*pairs)):
        assert (got - exact).abs().max() <= 6 * rounding(size, dtype)
    alone = products(left, pairs[1])
    assert (alone - left.double() @ pairs[1].double()).abs().max() <= 6 * rounding(size, dtype)
    assert products(left, pairs[1][:0]).shape == (0, *less.shape)


def test_large_products_in_single_precision_go_to_onednn_where_that_is_quicker():
    assert library._is_large(*drawn(SIZES[-1], torch.float32)[:2]) == library._has_onednn()
    assert not library._is_large(*drawn(SIZES[-1], torch.float64)[:2])
    assert not library._is_large(*drawn(SIZES[0], torch.float32)[:2])


@pytest.mark.parametrize("stored", ["transposed", "cut", "every second"])
def test_products_of_matrices_stored_otherwise_are_the_same(stored):
    size = SIZES[-1]
    left, right, less = drawn(size, torch.float32)
    expected = left.double() @ right.double()
    right = {
        "transposed": lambda: right.t().contiguous().t(),
        "cut": lambda: torch.cat([right, right], dim=1)[:, : size[2]],
        "every second": lambda: right.repeat_interleave(2, dim=0)[::2],
    }[stored]()
    assert not library._is_large(left, right)
    assert (product(left, right) - expected).abs().max() <= rounding(size, torch.float32)
    assert (product_less(left, right, less) - (expected - less)).abs().max() <= rounding(size, torch.float32)


def test_oddities_come_through_as_they_do_through_mkl():
    left, right, _ = drawn(SIZES[-1], torch.float32)
    left[0, 0], right[1, 1], right[2, 2] = float("nan"), float("inf"), 1e-40
    got, expected = product(left, right), torch.mm(left, right)
    assert torch.equal(got.isnan(), expected.isnan())
    assert torch.equal(got.isinf(), expected.isinf())


def test_lowered_precision_of_onednn_does_not_reach_products_of_the_engine():
    left, right, _ = drawn(SIZES[-1], torch.float32)
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        with full_precision:
            got = product(left, right)
    finally:
        matmul.fp32_precision = before
    assert (got - left.double() @ right.double()).abs().max() <= rounding(SIZES[-1], torch.float32)


def test_large_products_go_to_mkl_where_onednn_is_switched_off():
    left, right, _ = drawn(SIZES[-1], torch.float32)
    with without_onednn:
        assert not library._is_large(left, right)
        assert torch.equal(product(left, right), torch.mm(left, right))
