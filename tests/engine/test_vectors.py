"""Products in registers: every element is the sum of its terms in their order, wherever it lies in a tile."""

import numpy as np
import pytest

from onnxplain.engine.product_kernels import STEP, _multiply
from onnxplain.engine.vectors import VECTOR_BYTES, VECTORS

rng = np.random.default_rng(5)
ROOM = 7.0
"""What stands around the sums, and is to stand there afterwards."""


def products(w, panel, sums, transposed=False, width=None, at=0):
    """``sums`` with the products added, in an array with room around it."""
    rows, terms = w.shape
    width = panel.shape[1] - at if width is None else width
    flat = np.full((rows + 2, sums.shape[1] + 3), ROOM, w.dtype)
    flat[1 : rows + 1, : sums.shape[1]] = sums
    step = flat.shape[1]
    weights = np.ascontiguousarray(w.T if transposed else w).reshape(-1)
    steps = (1, rows) if transposed else (terms, 1)
    _multiply(
        weights, 0, *steps, rows, terms, panel.reshape(-1), at, panel.shape[1], flat.reshape(-1), step, step, width
    )
    assert (flat[[0, -1]] == ROOM).all()
    assert (flat[:, sums.shape[1] :] == ROOM).all()
    return flat[1 : rows + 1, : sums.shape[1]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [1, 3, STEP, STEP + 1, 3 * STEP + 2])
@pytest.mark.parametrize("terms", [1, 2, 37])
def test_any_size_is_the_product(dtype, rows, terms):
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    for width in {1, 5, lanes - 1, lanes, lanes + 1, 2 * lanes, 2 * lanes + 3, 5 * lanes + lanes // 2}:
        w, panel = rng.standard_normal((rows, terms)).astype(dtype), rng.standard_normal((terms, width)).astype(dtype)
        sums = rng.standard_normal((rows, width)).astype(dtype)
        wanted = sums + w.astype(np.float64) @ panel.astype(np.float64)
        for transposed in (False, True):
            found = products(w, panel, sums, transposed)
            np.testing.assert_allclose(found, wanted, rtol=0, atol=50 * np.finfo(dtype).eps * terms)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_bit_is_the_same_wherever_it_lies(dtype):
    """Alone among few rows and columns, or amid many."""
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    width = (2 * VECTORS + 1) * lanes + 5
    w = rng.standard_normal((2 * STEP + 3, 300)).astype(dtype)
    panel = rng.standard_normal((300, width)).astype(dtype)
    sums = rng.standard_normal((len(w), width)).astype(dtype)
    whole = products(w, panel, sums)
    for row in (0, STEP - 1, 2 * STEP, len(w) - 1):
        np.testing.assert_array_equal(products(w[row : row + 1], panel, sums[row : row + 1]), whole[row : row + 1])
    for at, columns in ((5, 3), (0, lanes), (3, lanes), (lanes, width - lanes), (width - lanes - 4, lanes + 4)):
        part = np.ascontiguousarray(panel[:, at : at + columns])
        found = products(w, part, np.ascontiguousarray(sums[:, at : at + columns]))
        np.testing.assert_array_equal(found, whole[:, at : at + columns])
    first = products(w[:, :100], panel[:100], sums)
    np.testing.assert_array_equal(products(w[:, 100:], panel[100:], first), whole)
