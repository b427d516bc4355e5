import itertools
import math

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from onnxplain.engine import host as host_module
from onnxplain.engine import jit, product_kernels
from onnxplain.engine.host import Host
from onnxplain.engine.namespace import Namespace, Window

XP: Namespace = Host()
XP64: Namespace = Host(np.float64)
PROPERTY = settings(max_examples=60, deadline=None)


def run_node(op_type, *inputs, **attributes):
    names = [f"x{i}" for i in range(len(inputs))]
    infos = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, x.shape)
        for name, x in zip(names, inputs, strict=True)
    ]
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node(op_type, names, ["y"], **attributes)], "one", infos, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip(names, inputs, strict=True)))[0]


@st.composite
def windows(draw):
    """A window of one to three axes and a spatial size that it fits."""
    axes = draw(st.integers(1, 3))
    kernel, strides, dilations = (
        draw(st.tuples(*[st.integers(1, most)] * axes)) for most in (5 if axes < 3 else 3, 3, 3)
    )
    begin, end = (tuple(draw(st.integers(0, k - 1)) for k in kernel) for _ in range(2))
    least = [max(1, d * (k - 1) + 1 - b - e) for k, d, b, e in zip(kernel, dilations, begin, end, strict=True)]
    spatial = tuple(size + draw(st.integers(0, 6)) for size in least)
    return Window(kernel, strides, dilations, begin, end), spatial


@st.composite
def convolutions(draw):
    window, spatial = draw(windows())
    group, inputs, outputs = draw(st.sampled_from([(1, 3, 4), (1, 1, 3), (2, 3, 2), (3, 1, 1), (3, 1, 2)]))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    x = rng.standard_normal((draw(st.integers(1, 3)), group * inputs, *spatial))
    w = rng.standard_normal((group * outputs, inputs, *window.kernel))
    return x, w, window, group


def reads(window, spatial, position):
    """The input indices that one output position reads, in row-major order, padding left out."""
    axes = [
        [i for i in (o * s - b + k * d for k in range(size)) if 0 <= i < length]
        for o, size, s, d, b, length in zip(position, *window[:4], spatial, strict=True)
    ]
    return itertools.product(*axes)


def positions(window, spatial):
    sizes = [(n + b + e - d * (k - 1) - 1) // s + 1 for n, k, s, d, b, e in zip(spatial, *window, strict=True)]
    return sizes, itertools.product(*map(range, sizes))


def pool(x, window, reduce, empty):
    sizes, places = positions(window, x.shape[2:])
    y = np.full((*x.shape[:2], *sizes), empty, x.dtype)
    for place in places:
        values = [x[(..., *index)] for index in reads(window, x.shape[2:], place)]
        if values:
            y[(..., *place)] = reduce(values, axis=0)
    return y


# convolution


@given(convolutions())
@PROPERTY
def test_conv_is_onnxruntimes(case):
    x, w, window, group = case
    x, w = x.astype(np.float32), w.astype(np.float32)
    expected = run_node(
        "Conv", x, w, group=group, strides=window.strides, dilations=window.dilations, pads=window.begin + window.end
    )
    y = XP.conv(x, w, window, group)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


WIDE = Window((1, 1), (1, 1), (1, 1), (0, 0), (0, 0))
LONG = Window((5, 4), (2, 1), (1, 2), (2, 3), (1, 3))


@pytest.mark.parametrize(
    ("window", "spatial", "group", "inputs", "outputs"),
    [(WIDE, (9, 11), 2, 6, 7), (WIDE, (3, 5), 1, 6, 7), (LONG, (9, 11), 2, 3, 4), (LONG, (9, 11), 3, 1, 2)],
)
def test_what_is_added_to_a_convolution_and_multiplied_with_its_adjoint(window, spatial, group, inputs, outputs):
    rng = np.random.default_rng(8)
    x = rng.standard_normal((3, group * inputs, *spatial))
    w = rng.standard_normal((group * outputs, inputs, *window.kernel))
    y = XP64.conv(x, w, window, group)
    for b in (
        rng.standard_normal((1, y.shape[1], 1, 1)),
        rng.standard_normal(y.shape),
        rng.standard_normal(y[:1].shape),
    ):
        np.testing.assert_allclose(XP64.conv(x, w, window, group, b), y + b, rtol=1e-12, atol=1e-12)
    dx = XP64.conv_input_grad(y, w, window, group, spatial)
    for factor in (x, x[:1]):
        scaled = XP64.conv_input_grad(y, w, window, group, spatial, factor)
        np.testing.assert_allclose(scaled, dx * factor, rtol=1e-12, atol=1e-12)


@given(convolutions(), st.integers(0, 99))
@PROPERTY
def test_conv_input_grad_is_the_adjoint(case, seed):
    x, w, window, group = case
    y = XP64.conv(x, w, window, group)
    g = np.random.default_rng(seed).standard_normal(y.shape)
    dx = XP64.conv_input_grad(g, w, window, group, x.shape[2:])
    assert dx.shape == x.shape
    assert dx.dtype == np.float64
    assert np.vdot(y, g) == pytest.approx(np.vdot(x, dx), rel=1e-10, abs=1e-10)


@given(convolutions(), st.sampled_from([1, 7, 20]), st.sampled_from([1, 3, 9]), st.sampled_from([1, 8]))
@PROPERTY
def test_tiles_change_nothing(case, columns, block, shares):
    x, w, window, group = case
    y, shape = XP64.conv(x, w, window, group), x.shape[2:]
    dx = XP64.conv_input_grad(y, w, window, group, shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host_module, "_COLUMNS", columns)
        patch.setattr(host_module, "_BLOCK", block)
        patch.setattr(product_kernels, "SHARES", shares)
        patch.setattr(jit, "SERIAL_BELOW", 0)
        np.testing.assert_array_equal(XP64.conv(x, w, window, group), y)
        tiled = XP64.conv_input_grad(y, w, window, group, shape)
    np.testing.assert_allclose(tiled, dx, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("outputs", [1, 7, 300])
@pytest.mark.parametrize("channels", [1, 30, 270])
def test_more_channels_than_a_block(channels, outputs):
    rng = np.random.default_rng(channels)
    x, w = (rng.standard_normal(shape) for shape in ((2, channels, 6, 5), (outputs, channels, 3, 2)))
    window = Window((3, 2), (1, 1), (1, 1), (1, 0), (1, 1))
    patches = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (0, 0), (1, 1), (0, 1))), (3, 2), (2, 3))
    expected = np.einsum("nchwij,mcij->nmhw", patches, w, optimize=True)
    y = XP64.conv(x, w, window)
    np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-10)
    assert np.vdot(y, y) == pytest.approx(np.vdot(x, XP64.conv_input_grad(y, w, window, 1, (6, 5))), rel=1e-10)


@pytest.mark.parametrize(
    ("group", "w_shape"), [(1, (8, 6, 3, 3)), (2, (8, 3, 3, 3)), (6, (6, 1, 3, 3)), (1, (8, 6, 1, 1))]
)
def test_a_batch_equals_its_samples_bit_for_bit(group, w_shape):
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((9, 6, 13, 11), w_shape))
    side = w_shape[2]
    window = Window((side, side), (1, 1), (1, 1), (side // 2,) * 2, (side // 2,) * 2)
    y = XP.conv(x, w, window, group)
    dx = XP.conv_input_grad(y, w, window, group, x.shape[2:])
    for i in range(len(x)):
        one = slice(i, i + 1)
        np.testing.assert_array_equal(XP.conv(x[one], w, window, group), y[one])
        np.testing.assert_array_equal(XP.conv_input_grad(y[one], w, window, group, x.shape[2:]), dx[one])


@pytest.mark.parametrize("group", [1, 4])
def test_empty_batch(group):
    window = Window((3, 3), (2, 2), (1, 1), (1, 1), (1, 1))
    x, w = np.zeros((0, 4, 9, 9), np.float32), np.ones((4, 4 // group, 3, 3), np.float32)
    y = XP.conv(x, w, window, group)
    assert y.shape == (0, 4, 5, 5)
    assert XP.conv_input_grad(y, w, window, group, (9, 9)).shape == x.shape
    assert XP.max_pool(x, window).shape == y.shape
    assert XP.max_unpool(y, x, window).shape == x.shape
    assert XP.sum_pool(x, window).shape == y.shape
    assert XP.sum_unpool(y, window, (9, 9)).shape == x.shape
    assert XP.mask(x, x).shape == XP.ratio(x, x, 1e-6).shape == x.shape
    assert XP.sum_samples(x).shape == (0,)
    assert XP.matmul(np.zeros((0, 3)), np.zeros((3, 2))).shape == (0, 2)


def test_any_memory_layout_is_taken():
    rng = np.random.default_rng(2)
    x, w = rng.standard_normal((5, 7, 6, 4)).T, rng.standard_normal((3, 6, 3, 3))
    window = Window((3, 3), (1, 1), (1, 1), (0, 0), (0, 0))
    plain = XP64.conv(x.copy(order="C"), w, window)
    buffer = bytearray(x.nbytes + 1)
    shifted = np.frombuffer(buffer, np.float64, x.size, 1).reshape(x.shape)
    shifted[:] = x
    shifted.flags.writeable = False
    for variant in (x, np.broadcast_to(x.copy(order="C"), x.shape), shifted, x.astype(">f8")):
        np.testing.assert_array_equal(XP64.conv(variant, w, window), plain)


# pools


@given(windows(), st.integers(0, 99))
@PROPERTY
def test_pools_are_the_loops(case, seed):
    window, spatial = case
    x = np.random.default_rng(seed).standard_normal((2, 2, *spatial))
    np.testing.assert_allclose(XP64.sum_pool(x, window), pool(x, window, np.sum, 0), rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(XP64.max_pool(x, window), pool(x, window, np.max, -np.inf))


@given(windows(), st.integers(0, 99))
@PROPERTY
def test_sum_unpool_is_the_adjoint(case, seed):
    window, spatial = case
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, 3, *spatial))
    y = XP64.sum_pool(x, window)
    g = rng.standard_normal(y.shape)
    dx = XP64.sum_unpool(g, window, spatial)
    assert np.vdot(y, g) == pytest.approx(np.vdot(x, dx), rel=1e-10, abs=1e-10)


@given(windows(), st.integers(0, 99))
@PROPERTY
def test_max_unpool_is_the_derivative(case, seed):
    window, spatial = case
    rng = np.random.default_rng(seed)
    x = rng.permutation(math.prod(spatial)).reshape(1, 1, *spatial) * 1.0
    sizes, _ = positions(window, spatial)
    g = rng.standard_normal((1, 1, *sizes))
    finite = np.isfinite(pool(x, window, np.max, -np.inf))
    expected = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        step = np.zeros_like(x)
        step[index] = 0.25
        difference = [pool(x + sign * step, window, np.max, 0) for sign in (1, -1)]
        expected[index] = np.sum((difference[0] - difference[1])[finite] * g[finite]) / 0.5
    np.testing.assert_allclose(XP64.max_unpool(g, x, window), expected, rtol=1e-12, atol=1e-12)


def test_max_unpool_takes_the_first_of_equal_maxima():
    window = Window((2, 2), (2, 2), (1, 1), (0, 0), (0, 0))
    x = np.float32([[[[1, 3, 0, 0], [3, 3, 0, 0]]]])
    dx = XP.max_unpool(np.float32([[[[5, 7]]]]), x, window)
    np.testing.assert_array_equal(dx, np.float32([[[[0, 5, 7, 0], [0, 0, 0, 0]]]]))


def test_max_unpool_adds_where_windows_overlap():
    window = Window((3,), (1,), (1,), (0,), (0,))
    dx = XP.max_unpool(np.float32([[[1, 10, 100]]]), np.float32([[[0, 0, 9, 0, 0]]]), window)
    np.testing.assert_array_equal(dx, np.float32([[[0, 0, 111, 0, 0]]]))


def test_pools_survive_nan_and_windows_of_padding():
    window = Window((2,), (2,), (1,), (2,), (2,))
    x = np.float32([[[np.nan, 1, np.nan, np.nan]]])
    assert XP.max_pool(x, window)[0, 0, 0] == XP.max_pool(x, window)[0, 0, 3] == -np.inf
    dx = XP.max_unpool(np.ones((1, 1, 4), np.float32), x, window)
    np.testing.assert_array_equal(dx, np.float32([[[0, 1, 0, 0]]]))


def test_global_pools():
    x = np.random.default_rng(3).standard_normal((2, 3, 4, 5))
    window = Window((4, 5), (1, 1), (1, 1), (0, 0), (0, 0))
    np.testing.assert_allclose(XP64.sum_pool(x, window)[..., 0, 0], x.sum((2, 3)))
    g = x[:, :, :1, :1]
    np.testing.assert_array_equal(XP64.sum_unpool(g, window, (4, 5)), np.tile(g, (4, 5)))


# products


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((4,), (4,)), ((4,), (4, 5)), ((3, 4), (4,)), ((1, 300), (300, 5000)), ((4, 70), (70, 2048)),
        ((200, 300), (300, 100)), ((100, 300), (300, 200)),
        ((8, 1, 40, 64), (3, 64, 50)), ((1, 9, 40, 64), (6, 1, 64, 50)), ((2, 128, 96), (2, 96, 128)),
    ],
)  # fmt: skip
def test_matmul_is_numpys(a, b):
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal(a), rng.standard_normal(b)
    np.testing.assert_allclose(XP64.matmul(a, b), np.matmul(a, b), rtol=1e-12, atol=1e-12)


def test_few_rows_with_zeros_are_numpys():
    rng = np.random.default_rng(6)
    a, b = np.maximum(rng.standard_normal((3, 200)), 0), rng.standard_normal((200, 4099))
    np.testing.assert_allclose(XP64.matmul(a, b), a @ b, rtol=1e-12, atol=1e-12)


def test_matmul_of_transposed_views():
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal((300, 200)).T, rng.standard_normal((100, 300)).T
    np.testing.assert_allclose(XP64.matmul(a, b), a @ b, rtol=1e-12, atol=1e-12)


# element by element


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("abs", abs), ("exp", math.exp), ("tanh", math.tanh), ("erf", math.erf), ("round", round),
        ("sign", lambda v: (v > 0) - (v < 0)), ("sigmoid", lambda v: 1 / (1 + math.exp(-v))),
        ("positive", lambda v: max(v, 0)), ("negative", lambda v: min(v, 0)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("xp", [XP, XP64])
def test_functions(xp, name, function):
    x = np.array([-2.5, -1, -0.5, 0, 0.5, 1.5, 3], xp.dtype)
    y = getattr(xp, name)(x)
    assert y.dtype == xp.dtype
    np.testing.assert_allclose(y, [function(float(v)) for v in x], rtol=1e-6 if xp is XP else 1e-14)


def test_functions_of_two_operands():
    a, b = np.float32([1, 4, 9]), np.float32([[2], [4]])
    np.testing.assert_array_equal(XP.maximum(a, b), [[2, 4, 9], [4, 4, 9]])
    np.testing.assert_array_equal(XP.minimum(a, 4.0), [1, 4, 4])
    np.testing.assert_array_equal(XP.power(a, 0.5), [1, 2, 3])
    np.testing.assert_array_equal(XP.greater(a, 4.0), [False, False, True])
    np.testing.assert_array_equal(XP.less(a, b), [[True, False, False], [True, False, False]])
    np.testing.assert_array_equal(XP.equal(a, b), [[False, False, False], [False, True, False]])
    np.testing.assert_allclose(XP.log(a), [0, 2 * math.log(2), 2 * math.log(3)], rtol=1e-6)
    np.testing.assert_array_equal(XP.sqrt(a), [1, 2, 3])
    for y in (
        XP.maximum(a, b),
        XP.minimum(a, 4.0),
        XP.power(a, 0.5),
        XP.where(a > 3, 1.0, 0.0),
        XP.where(a > 3, a, 0.0),
    ):
        assert y.dtype == np.float32
    np.testing.assert_array_equal(XP.where(a > 3, a, 0.0), [0, 4, 9])


@pytest.mark.parametrize("xp", [XP, XP64])
def test_creation_takes_the_working_precision(xp):
    assert xp.const([0.5, 1.5]).dtype == xp.const(np.float16(2)).dtype == xp.ones((2,)).dtype == xp.dtype
    assert xp.cast(np.array([True, False])).dtype == xp.one_hot(np.array([[1]]), 1, 3).dtype == xp.dtype
    assert xp.const(np.array([3])).dtype == np.int64
    assert xp.const(np.array([True])).dtype == np.bool_
    x = xp.const([[0.5, 1.5]])
    np.testing.assert_array_equal(xp.zeros_like(x), [[0, 0]])
    np.testing.assert_array_equal(xp.ones_like(x), [[1, 1]])


@pytest.mark.parametrize(("low", "high"), [(0.0, None), (None, 1.0), (-1.0, 1.0), (None, None)])
def test_mask_keeps_what_lies_between(low, high):
    rng = np.random.default_rng(6)
    y = np.concatenate([rng.normal(size=40000), [0, -0.0, 1, -1, np.inf, -np.inf, np.nan]]).astype(np.float32)
    g = rng.normal(size=y.shape).astype(np.float32)
    keep = ((y > low) if low is not None else True) & ((y < high) if high is not None else True)
    np.testing.assert_array_equal(XP.mask(g, y, low, high), np.where(keep, g, 0))
    np.testing.assert_array_equal(XP.mask(g, y), np.where(y > 0, g, 0))


@pytest.mark.parametrize("size", [100, 40_000])
def test_positive_and_negative_parts_keep_what_is_not_a_number(size):
    x = np.random.default_rng(8).normal(size=size).astype(np.float32).reshape(5, -1)
    x[:, :6] = [np.nan, np.inf, -np.inf, 0, 1, -1]
    np.testing.assert_array_equal(XP.positive(x), np.maximum(x, 0))
    np.testing.assert_array_equal(XP.negative(x[:, ::-1]), np.minimum(x[:, ::-1], 0))


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 4, 1), (3, 1, 5), (20, 4000)])
def test_ratio_keeps_the_sign_of_the_denominator(shape):
    rng = np.random.default_rng(7)
    z = rng.normal(size=shape)
    z.reshape(-1)[0] = 0
    r = rng.normal(size=np.broadcast_shapes(shape, (3, 4, 5)) if len(shape) == 3 else shape)
    expected = r / np.where(z >= 0, z + 0.25, z - 0.25)
    np.testing.assert_allclose(XP64.ratio(r, z, 0.25), expected, rtol=1e-14)
    np.testing.assert_allclose(XP64.ratio(r, abs(z), 0.25, unsigned=True), r / (abs(z) + 0.25), rtol=1e-14)
    assert XP.ratio(np.float32([1]), np.float32([-0.0]), 0.5) == 2


# reductions and moves


def test_reductions():
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    np.testing.assert_array_equal(XP.sum(x, (0, 2)), x.sum((0, 2)))
    assert XP.sum(x, (1,), keepdims=True).shape == (2, 1, 4)
    np.testing.assert_array_equal(XP.max(x, (1, 2)), [11, 23])
    assert XP.max(x, (0, 1), keepdims=True).shape == (1, 1, 4)
    tied = np.float32([[2, 7, 7], [5, 5, 1]])
    np.testing.assert_array_equal(XP.argmax(tied, 1), [[1], [0]])
    assert XP.argmax(tied, 1).dtype == np.int64
    np.testing.assert_array_equal(XP.one_hot(XP.argmax(tied, 1), 1, 3), [[0, 1, 0], [1, 0, 0]])


def test_sum_samples_adds_in_float64():
    x = np.ones((2, 3, 2), np.float32)
    x[0, 0, 0] = 1e8
    assert XP.sum_samples(x).tolist() == [1e8 + 5, 6]


def test_moves():
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    assert XP.reshape(x, (-1, 12)).tolist() == x.reshape(2, 12).tolist()
    assert XP.transpose(x, (2, 0, 1)).shape == (4, 2, 3)
    assert XP.expand(x[:, :1], (-1, 5, 4)).shape == (2, 5, 4)
    assert XP.expand(x[0], (7, -1, -1)).shape == (7, 3, 4)
    assert XP.concat([x, x[:, :1]], 1).shape == (2, 4, 4)
    assert XP.slice(x, 2, 1, 4, 2)[0, 0].tolist() == [1, 3]
    assert XP.flip(x, 2)[0, 0].tolist() == [3, 2, 1, 0]
    padded = XP.pad(x, (0, 1, 0), (0, 0, 2), -1)
    assert padded.shape == (2, 4, 6)
    assert padded[0, 0].tolist() == [-1] * 6
    assert padded[1, 3].tolist() == [20, 21, 22, 23, -1, -1]


def test_resize_matrix_of_nearest_neighbours():
    attributes = {"mode": b"nearest", "coordinate_transformation_mode": b"asymmetric", "nearest_mode": b"floor"}
    matrix = XP.resize_matrix(attributes, 2, 4, 2.0, None)
    np.testing.assert_array_equal(matrix, [[1, 0], [1, 0], [0, 1], [0, 1]])


@given(st.integers(0, 2), st.lists(st.integers(0, 4), max_size=12), st.integers(1, 3), st.integers(0, 99))
@PROPERTY
def test_scatter_add_is_the_adjoint_of_gather(axis, chosen, rank, seed):
    indices = np.array(chosen[: len(chosen) // rank * rank], np.int64).reshape(*[1] * (rank - 1), -1)
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((5, 5, 5))
    y = XP64.gather(x, indices, axis)
    np.testing.assert_array_equal(y, np.take(x, indices, axis))
    g = rng.standard_normal(y.shape)
    dx = XP64.scatter_add(g, indices, axis, 5)
    expected = np.zeros_like(x)
    np.add.at(expected, (slice(None),) * axis + (indices,), g)
    np.testing.assert_allclose(dx, expected, rtol=1e-12, atol=1e-12)
    assert np.vdot(y, g) == pytest.approx(np.vdot(x, dx), rel=1e-10, abs=1e-10)


def test_gather_of_one_index_drops_the_axis():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    y = XP.gather(x, np.int64(1), 1)
    assert y.tolist() == [1, 4]
    assert XP.scatter_add(y, np.int64(1), 1, 3).tolist() == [[0, 1, 0], [0, 4, 0]]
    assert XP.gather(x, [2, 0], 1).tolist() == [[2, 0], [5, 3]]


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (2, 7), (3, 4, 6)])
@pytest.mark.parametrize("whole_bias", [False, True])
@pytest.mark.parametrize("unsigned", [False, True])
def test_shares_come_with_the_sums_of_what_is_lost(shape, whole_bias, unsigned):
    rng = np.random.default_rng(0)
    r, z = (rng.standard_normal(shape) for _ in range(2))
    z[rng.random(shape) < 0.3] = 0
    b = rng.standard_normal(shape[1:] if whole_bias else (1, shape[1]) + (1,) * (len(shape) - 2))
    sign = np.where(unsigned | (z >= 0), 1, -1)
    s = r / (z + 0.25 * sign)
    axes = tuple(range(1, len(shape)))
    shares, stabilizer, zero, bias = XP64.shares(r, z, b, 0.25, unsigned)
    np.testing.assert_allclose(shares, s, rtol=1e-12)
    np.testing.assert_allclose(stabilizer, (s * 0.25 * sign * (z != 0)).sum(axes), rtol=1e-10)
    np.testing.assert_allclose(zero, np.where(z == 0, r, 0).sum(axes), rtol=1e-12)
    np.testing.assert_allclose(bias, (s * b).sum(axes), rtol=1e-10)
    assert XP64.shares(r, z, None, 0.25, unsigned)[3] is None
