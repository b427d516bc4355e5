"""What the recording namespace leaves out: nothing that changes a value."""

from __future__ import annotations

from pathlib import Path

import nets
import numpy as np
import pytest

import onnxplain
from onnxplain.engine.emitter import Emitter
from onnxplain.engine.namespace import Window
from onnxplain.engine.recorder import Sym

SHAPE = (-1, 4, 3, 3)


@pytest.mark.parametrize(
    ("made", "steps"),
    [
        (lambda y, c, d: y * c, 0),
        (lambda y, c, d: y * c + y * d, 0),
        (lambda y, c, d: y * c / d, 0),
        (lambda y, c, d: c, 1),
        (lambda y, c, d: y * c + d, 1),
        (lambda y, c, d: d / (y * c), 1),
    ],
)
def test_the_sign_of_a_stabilizer_is_left_out_where_the_relevance_is_0_below_0(made, steps: int) -> None:
    """Relevance that is a multiple of y = relu(z) is 0 wherever z is negative."""
    xp = Emitter()
    z, y, c, d = (Sym(xp, name, SHAPE, np.dtype(np.float32)) for name in "zycd")
    xp.rectified["z"] = y
    xp.ratio(made(y, c, d), z, 1e-6)
    assert sum(node.op_type == "Clip" for node in xp.nodes) == steps


@pytest.mark.parametrize("behind", ["z-plus", "flat"])
def test_a_residual_sum_before_a_relu(tmp_path: Path, behind: str) -> None:
    """Worked: z = 2x - 3x = -x at two pixels, -1 and 1; y = (0, 1); a 1 x 1 convolution of weight 1 behind.

    A stabilizer as large as 1/2 tells the sides apart. Seeded with 1, z-plus makes R = (0, 1) of it, and the sum hands
    1 / (1 + 1/2) of 2x = -2 and of -3x = 3 down. Flat makes R = (1, 1), and the first pixel hands 1 / (-1 - 1/2) of 2
    and of -3 down as well.
    """
    nodes = [
        nets.node("Conv", ["x", "two"], "a"),
        nets.node("Conv", ["x", "minus_three"], "b"),
        nets.node("Add", ["a", "b"], "z"),
        nets.node("Relu", ["z"], "relu"),
        nets.node("Conv", ["relu", "one"], "y"),
    ]
    eye = np.eye(4).reshape(4, 4, 1, 1)
    constants = {"two": 2 * eye, "minus_three": -3 * eye, "one": eye}
    model = onnxplain.load(nets.model(nodes, {"x": ["N", 4, 1, 2]}, constants=constants))
    book = tmp_path / "own.toml"
    book.write_text(
        f'seed = 1.0\n[[rule]]\nname = "y"\nuse = "{behind}"\n[[rule]]\nkind = "linear"\nuse = "epsilon"\n'
        '[[rule]]\nop = "Add"\nuse = "norm"\nstabilizer = 0.5\n'
    )
    x = np.tile(np.array([1.0, -1.0], np.float32), (1, 4, 1, 1))
    e = onnxplain.explain(model, x, rules=str(book), target=np.ones((1, 4, 1, 2)), engine="compiled", at=["a", "b"])
    negative = 1 / -1.5 if behind == "flat" else 0.0
    first = np.array([2.0 * negative, -2.0 / 1.5])
    second = np.array([-3.0 * negative, 3.0 / 1.5])
    np.testing.assert_allclose(e.at["a"], np.broadcast_to(first, (1, 4, 1, 2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(e.at["b"], np.broadcast_to(second, (1, 4, 1, 2)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "strides", "group", "op_type"),
    [((4, 6), (2, 3), 1, "Resize"), ((4, 4), (2, 2), 2, "Resize"), ((5, 4), (2, 2), 1, "ConvTranspose")],
)
def test_the_gradient_of_a_convolution_that_picks(
    size: tuple[int, int], strides: tuple[int, int], group: int, op_type: str
) -> None:
    """W^T g where it read, zeros between; with a last row that no stride reaches it stays a ConvTranspose."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((8, 4 // group, 1, 1)).astype(np.float32)
    out = tuple(-(-n // s) for n, s in zip(size, strides, strict=True))
    xp = Emitter()
    window = Window((1, 1), strides, (1, 1), (0, 0), (0, 0))
    xp.conv_input_grad(Sym(xp, "g", (-1, 8, *out), np.dtype(np.float32)), w, window, group, size)
    assert op_type in {node.op_type for node in xp.nodes}

    node = nets.node("Conv", ["x", "w"], "y", strides=strides, group=group)
    model = onnxplain.load(nets.model([node], {"x": ["N", 4, *size]}, constants={"w": w}))
    g = rng.standard_normal((2, 8, *out)).astype(np.float32)
    x = rng.standard_normal((2, 4, *size)).astype(np.float32)
    e = onnxplain.explain(model, x, "gradient", target=g, engine="compiled")
    expected = np.zeros_like(x)
    products = np.einsum("gmc,ngmhw->ngchw", w.reshape(group, 8 // group, -1), g.reshape(2, group, 8 // group, *out))
    expected[:, :, :: strides[0], :: strides[1]] = products.reshape(2, 4, *out)
    np.testing.assert_allclose(e.relevance["x"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "pads", "size", "op_type"),
    [
        (3, (11, 11), 4, (2, 2, 2, 2), (37, 41), "DepthToSpace"),
        (1, (8, 8), 4, (0, 0, 0, 0), (28, 24), "DepthToSpace"),
        (4, (7, 8), 2, (3, 1, 2, 0), (13, 16), "DepthToSpace"),
        (2, (12, 11), 4, (5, 6, 1, 3), (19, 30), "DepthToSpace"),
        (4, (4, 4), 2, (1, 1, 9, 1), (8, 8), "ConvTranspose"),  # the last windows see the padding alone
        (3, (7, 7), 2, (3, 3, 3, 3), (16, 16), "ConvTranspose"),  # 12 of 16 channels, 7 of 8 taps
        (4, (3, 3), 2, (1, 1, 1, 1), (8, 8), "ConvTranspose"),  # windows overlap little
    ],
)
def test_the_gradient_of_a_convolution_of_large_strides(
    channels: int, kernel: tuple[int, int], stride: int, pads: tuple[int, ...], size: tuple[int, int], op_type: str
) -> None:
    """Every weight adds its part where its window lies, whether by phases of the stride or not."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((8, channels, *kernel)).astype(np.float32)
    node = nets.node("Conv", ["x", "w"], "y", strides=[stride] * 2, pads=pads)
    model = onnxplain.load(nets.model([node], {"x": ["N", channels, *size]}, constants={"w": w}))
    x = rng.standard_normal((2, channels, *size)).astype(np.float32)
    out = model.run({"x": x})["y"].shape[2:]
    g = rng.standard_normal((2, 8, *out)).astype(np.float32)
    padded = np.zeros((2, channels, size[0] + pads[0] + pads[2], size[1] + pads[1] + pads[3]), np.float64)
    for i, j in np.ndindex(out):
        rows, columns = slice(i * stride, i * stride + kernel[0]), slice(j * stride, j * stride + kernel[1])
        padded[:, :, rows, columns] += np.einsum("nm,mchw->nchw", g[:, :, i, j], w)
    expected = padded[:, :, pads[0] :, pads[1] :][:, :, : size[0], : size[1]]
    e = onnxplain.explain(model, x, "gradient", target=g, engine="compiled")
    np.testing.assert_allclose(e.relevance["x"], expected, rtol=1e-5, atol=1e-5)

    xp = Emitter()
    window = Window(kernel, (stride,) * 2, (1, 1), pads[:2], pads[2:])
    xp.conv_input_grad(Sym(xp, "g", (-1, 8, *out), np.dtype(np.float32)), w, window, 1, size)
    assert op_type in {node.op_type for node in xp.nodes}


def test_masks_are_steps() -> None:
    """Nothing of a gradient passes at a bound or beyond it, all of it as near inside as float32 tells."""
    eye = np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)
    nodes = [nets.node("Conv", ["x", "eye"], "a"), nets.node("Clip", ["a", "low", "high"], "y")]
    constants = {"eye": eye, "low": np.float32(0), "high": np.float32(6)}
    model = onnxplain.load(nets.model(nodes, {"x": ["N", 4, 1, 6]}, constants=constants))
    below = np.nextafter(np.float32(6), np.float32(0))
    x = np.tile(
        np.array([-1e-30, 0, 1e-30, below, 6, np.nextafter(np.float32(6), np.float32(7))], np.float32), (1, 4, 1, 1)
    )
    g = np.full_like(x, 3)
    for engine in ("compiled", "host"):
        e = onnxplain.explain(model, x, "gradient", target=g, engine=engine)
        np.testing.assert_array_equal(e.relevance["x"], np.tile([0, 0, 3, 3, 0, 0], (1, 4, 1, 1)), err_msg=engine)
