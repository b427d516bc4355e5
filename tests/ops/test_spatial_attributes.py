"""Convolutions, pools and resampling with drawn attributes, in every version of each op."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from gradient_checks import bounded, check_op, numbers, opsets
from hypothesis import assume, given
from hypothesis import strategies as st
from nets import node

AUTO_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")


class Drawn:
    """A window, the spatial size it fits into, and the node's attributes.

    onnxruntime has no dilations and no strides beyond the kernel where SAME pads.
    """

    def __init__(self, draw: st.DrawFn, dilated: bool = True, ceil: bool = False) -> None:
        rank = draw(st.integers(1, 3))

        def each(low: int, high: int) -> list[int]:
            return draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank))

        self.kernel = each(1, 3)
        self.auto_pad = draw(st.sampled_from(AUTO_PADS))
        same = self.auto_pad.startswith("SAME")
        self.strides = [min(s, k) if same else s for s, k in zip(each(1, 3), self.kernel, strict=True)]
        self.dilations = each(1, 2) if dilated and not same else [1] * rank
        begin, end = ([min(p, k - 1) for p, k in zip(each(0, 2), self.kernel, strict=True)] for _ in range(2))
        self.reach = [d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        self.size = [r + more for r, more in zip(self.reach, each(0, 3), strict=True)]
        self.attributes: dict[str, Any] = {"strides": self.strides}
        if dilated:
            self.attributes["dilations"] = self.dilations
        if self.auto_pad == "NOTSET":
            self.pads = [*begin, *end]
            self.attributes["pads"] = self.pads
            if ceil:
                self.attributes["ceil_mode"] = draw(st.integers(0, 1))
        else:
            self.attributes["auto_pad"] = self.auto_pad


@bounded
@given(st.data())
def test_conv(data: st.DataObject) -> None:
    opset = data.draw(opsets("Conv"))
    window = Drawn(data.draw)
    group, inner, outer = (data.draw(st.integers(1, high)) for high in (3, 2, 2))
    constants = {"w": numbers(group * outer, inner, *window.kernel, seed=1)}
    if data.draw(st.booleans()):
        constants["b"] = numbers(group * outer, seed=2)
    if data.draw(st.booleans()):
        window.attributes["kernel_shape"] = window.kernel
    conv = node("Conv", ["x", *constants], "y", group=group, **window.attributes)
    check_op(conv, {"x": numbers(2, group * inner, *window.size)}, constants, opset)


@bounded
@given(st.data())
def test_conv_transpose(data: st.DataObject) -> None:
    opset = data.draw(opsets("ConvTranspose"))
    window = Drawn(data.draw)
    group, inner, outer = (data.draw(st.integers(1, high)) for high in (3, 2, 2))
    attributes = dict(window.attributes)
    if data.draw(st.booleans()):
        attributes["output_padding"] = [data.draw(st.integers(0, stride - 1)) for stride in window.strides]
    if window.auto_pad != "VALID" and data.draw(st.booleans()):
        attributes.pop("pads", None)
        full = [s * (n - 1) + r for s, n, r in zip(window.strides, window.size, window.reach, strict=True)]
        attributes["output_shape"] = [size - data.draw(st.integers(0, min(2, size - 1))) for size in full]
    constants = {"w": numbers(group * inner, outer, *window.kernel, seed=1)}
    if data.draw(st.booleans()):
        constants["b"] = numbers(group * outer, seed=2)
    conv = node("ConvTranspose", ["x", *constants], "y", group=group, **attributes)
    check_op(conv, {"x": numbers(2, group * inner, *window.size)}, constants, opset)


@bounded
@given(st.data())
def test_max_pool(data: st.DataObject) -> None:
    opset = data.draw(opsets("MaxPool"))
    window = Drawn(data.draw, dilated=opset >= 10, ceil=opset >= 10)
    pool = node("MaxPool", ["x"], "y", kernel_shape=window.kernel, **window.attributes)
    check_op(pool, {"x": numbers(2, 2, *window.size)}, opset=opset)


@bounded
@given(st.data())
def test_average_pool(data: st.DataObject) -> None:
    opset = data.draw(opsets("AveragePool"))
    window = Drawn(data.draw, dilated=opset >= 19, ceil=opset >= 10)
    counted = data.draw(st.integers(0, 1))
    pool = node("AveragePool", ["x"], "y", kernel_shape=window.kernel, count_include_pad=counted, **window.attributes)
    check_op(pool, {"x": numbers(2, 2, *window.size)}, opset=opset)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("op_type", ["GlobalAveragePool", "GlobalMaxPool"])
def test_global_pools(op_type: str, rank: int) -> None:
    check_op(node(op_type, ["x"], "y"), {"x": numbers(2, 3, *(4, 3, 2)[:rank])}, opset=7)


@bounded
@given(st.data())
def test_lrn(data: st.DataObject) -> None:
    attributes = {
        "size": data.draw(st.sampled_from([1, 3, 5])),
        "alpha": data.draw(st.sampled_from([1e-4, 0.5])),
        "beta": data.draw(st.sampled_from([0.75, 0.5])),
        "bias": data.draw(st.sampled_from([1.0, 2.0])),
    }
    x = numbers(2, data.draw(st.integers(1, 6)), 3, 2)
    check_op(node("LRN", ["x"], "y", **attributes), {"x": x}, opset=data.draw(opsets("LRN")))


@bounded
@given(st.data())
def test_depth_and_space(data: st.DataObject) -> None:
    block = data.draw(st.integers(1, 3))
    opset = data.draw(opsets("DepthToSpace"))
    mode = {"mode": data.draw(st.sampled_from(["DCR", "CRD"]))} if opset >= 11 else {}
    x = numbers(2, 2 * block**2, 2, 3)
    check_op(node("DepthToSpace", ["x"], "y", blocksize=block, **mode), {"x": x}, opset=opset)
    x = numbers(2, 2, 2 * block, 3 * block)
    opset = data.draw(opsets("SpaceToDepth"))
    check_op(node("SpaceToDepth", ["x"], "y", blocksize=block), {"x": x}, opset=opset)


COORDINATES = {
    11: [
        "half_pixel",
        "pytorch_half_pixel",
        "align_corners",
        "asymmetric",
        "tf_half_pixel_for_nn",
        "tf_crop_and_resize",
    ],
    13: ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize"],
    19: [
        "half_pixel",
        "half_pixel_symmetric",
        "pytorch_half_pixel",
        "align_corners",
        "asymmetric",
        "tf_crop_and_resize",
    ],
}


@bounded
@given(st.data())
def test_resize_before_opset_11(data: st.DataObject) -> None:
    scales = np.array([1, 1, *(data.draw(st.sampled_from([0.4, 0.5, 1.0, 1.7, 2.0])) for _ in range(2))], np.float32)
    mode = data.draw(st.sampled_from(["nearest", "linear"]))
    size = [data.draw(st.integers(3, 6)) for _ in range(2)]
    check_op(node("Resize", ["x", "scales"], "y", mode=mode), {"x": numbers(2, 2, *size)}, {"scales": scales}, 10)


@bounded
@given(st.data())
def test_resize(data: st.DataObject) -> None:
    opset = data.draw(opsets("Resize", first=11))
    draw = data.draw
    mode = draw(st.sampled_from(["nearest", "linear", "cubic"]))
    coordinates = draw(st.sampled_from(next(COORDINATES[v] for v in (19, 13, 11) if opset >= v)))
    attributes: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": coordinates}
    size = [draw(st.integers(3, 6)) for _ in range(2)]
    by_scales = draw(st.booleans())
    scales = [draw(st.sampled_from([0.4, 0.5, 1.0, 1.05, 1.7, 2.0])) for _ in range(2)]
    sizes = [max(1, math.floor(n * s)) for n, s in zip(size, scales, strict=True)]
    some_axes = opset >= 18 and draw(st.booleans())
    lead: list[float] = [] if some_axes else [1, 1]
    roi = np.zeros(0, np.float32)
    if some_axes:
        attributes["axes"] = draw(st.sampled_from([[2, 3], [-2, -1]]))
    if coordinates == "tf_crop_and_resize":
        start, stop = (
            [draw(st.sampled_from([0.0, 0.1, 0.3])) for _ in range(2)],
            [draw(st.sampled_from([0.6, 0.9, 1.2]))] * 2,
        )
        roi = np.array([*[0.0] * len(lead), *start, *lead, *stop], np.float32)
        attributes["extrapolation_value"] = draw(st.sampled_from([0.0, 1.5]))
    if mode == "nearest":
        attributes["nearest_mode"] = draw(st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]))
    if mode == "cubic":
        attributes["cubic_coeff_a"] = draw(st.sampled_from([-0.5, -0.75]))
        attributes["exclude_outside"] = draw(st.integers(0, 1))
    if opset >= 18 and mode != "nearest" and coordinates != "tf_crop_and_resize":
        attributes["antialias"] = draw(st.integers(0, 1))
    x = numbers(2, 2, *size)
    constants: dict[str, np.ndarray] = {"roi": roi}
    inputs = ["x", "roi"]
    if by_scales:
        constants["scales"] = np.array([*lead, *scales], np.float32)
        inputs += ["scales"]
    else:
        if some_axes:
            attributes["keep_aspect_ratio_policy"] = draw(st.sampled_from(["stretch", "not_larger", "not_smaller"]))
        batch = [] if some_axes else [2, 2]
        constants["sizes"] = np.array([*batch, *sizes], np.int64)
        inputs += ["" if opset >= 13 else "empty", "sizes"]
        if opset < 13:
            constants["empty"] = np.zeros(0, np.float32)
    assume(min(sizes) > 0)
    check_op(node("Resize", inputs, "y", **attributes), {"x": x}, constants, opset, symbolic=by_scales or some_axes)
