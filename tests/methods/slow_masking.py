"""Masking methods written out: loops in float64, the model run by onnxruntime one picture at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
import onnx.reference
import onnx.utils
import onnxruntime

Score = Callable[[np.ndarray], float]


def runner(data: bytes, index: int, logits: bool = False) -> Score:
    """The score of class ``index`` for a picture without the axis of the samples: softmax of the last output's row."""
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def score(picture: np.ndarray) -> float:
        z = session.run(None, {name: picture[None].astype(np.float32)})[0].reshape(-1).astype(np.float64)
        return float(z[index] if logits else np.exp(z[index]) / np.exp(z).sum())

    return score


def upsample(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, pixel centres at (i + 1/2), edges continued, pixel by pixel."""
    h, w = plane.shape
    out = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * h / height - 0.5, 0), h - 1)
            x = min(max((j + 0.5) * w / width - 0.5, 0), w - 1)
            y0, x0 = math.floor(y), math.floor(x)
            y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
            a, b = y - y0, x - x0
            above = (1 - b) * plane[y0, x0] + b * plane[y0, x1]
            below = (1 - b) * plane[y1, x0] + b * plane[y1, x1]
            out[i, j] = (1 - a) * above + a * below
    return out


def min_max(values: np.ndarray) -> np.ndarray:
    """Scaled to [0, 1], 0 where constant."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros(values.shape)


def otsu(values: np.ndarray) -> float:
    """The threshold, in 1/255, that leaves the largest variance between the classes of a histogram of 256 levels."""
    levels = np.rint(255 * values).astype(int).reshape(-1)
    best, threshold = 0.0, 0
    for t in range(256):
        low, high = levels[levels <= t], levels[levels > t]
        if len(low) and len(high):
            between = len(low) * len(high) * (low.mean() - high.mean()) ** 2 / len(levels) ** 2
            if between > best * (1 + 1e-9):
                best, threshold = between, t
    return threshold / 255


def rise(score: Score, x: np.ndarray, seed: int, count: int, cells: int, keep: float) -> np.ndarray:
    """S = 1 / (p N) sum of f(I * M) M over the masks that the seed gives; x is C x H x W."""
    height, width = x.shape[1:]
    cell = math.ceil(height / cells), math.ceil(width / cells)
    total = np.zeros((height, width))
    for k in range(count):
        rng = np.random.default_rng([seed, k])
        grid = (rng.random((cells, cells)) < keep).astype(np.float64)
        top, left = rng.integers(0, cell)
        large = upsample(grid, (cells + 1) * cell[0], (cells + 1) * cell[1])
        mask = large[top : top + height, left : left + width]
        total += score(x * mask) * mask
    return total / (keep * count)


def occlusion(score: Score, x: np.ndarray, side: int, step: int, fill: float) -> np.ndarray:
    """Per pixel the mean fall of the score over the windows that hide it."""
    height, width = x.shape[1:]
    rows = sorted({*range(0, height - side, step), height - side})
    columns = sorted({*range(0, width - side, step), width - side})
    falls: list[list[list[float]]] = [[[] for _ in range(width)] for _ in range(height)]
    for top in rows:
        for left in columns:
            hidden = x.copy()
            hidden[:, top : top + side, left : left + side] = fill
            fall = score(x) - score(hidden)
            for i in range(top, top + side):
                for j in range(left, left + side):
                    falls[i][j].append(fall)
    return np.array([[np.mean(f) for f in row] for row in falls])


def features(data: bytes, x: np.ndarray, layer: str, channels_last: bool) -> np.ndarray:
    """The feature maps of a tensor for one picture, C x h x w."""
    proto = onnx.load_from_string(data)
    proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(layer))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    value = session.run([layer], {session.get_inputs()[0].name: x[None].astype(np.float32)})[0][0]
    return np.moveaxis(value, 2, 0) if channels_last else value


def gradient_sums(data: bytes, maps: np.ndarray, layer: str, index: int, channels_last: bool) -> np.ndarray:
    """Per feature map, the gradient of the score summed over the map: central differences in float64.

    The nodes behind the tensor are computed by onnx's own reference, which takes float64 where onnxruntime does not.
    """
    proto = onnx.load_from_string(data)
    rest = onnx.utils.Extractor(proto).extract_model([layer], [out.name for out in proto.graph.output])
    for one in rest.graph.initializer:
        if one.data_type == onnx.TensorProto.FLOAT:
            one.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(one).astype(np.float64), one.name))
    reference = onnx.reference.ReferenceEvaluator(rest)

    def score(moved: np.ndarray) -> float:
        value = np.moveaxis(moved, 0, 2) if channels_last else moved
        z = reference.run(None, {layer: value[None]})[0].reshape(-1)
        return float(np.exp(z[index]) / np.exp(z).sum())

    step, sums = 1e-6, []
    for k in range(len(maps)):
        up, down = maps.astype(np.float64), maps.astype(np.float64)
        up[k] += step
        down[k] -= step
        sums.append((score(up) - score(down)) / (2 * step))
    return np.array(sums)


def picked_by_otsu(sums: np.ndarray) -> list[int]:
    """Ada-SISE: the positive sums, over the largest of them, above Otsu's threshold of these."""
    shares = sums / sums.max()
    threshold = otsu(shares[shares > 0])
    return [k for k in range(len(sums)) if shares[k] > threshold]


def block_map(score: Score, x: np.ndarray, maps: np.ndarray, picked: list[int]) -> np.ndarray:
    """V = sum over k of f(I * M_k) M_k / area(M_k), min-max scaled."""
    height, width = x.shape[1:]
    total = np.zeros((height, width))
    for k in picked:
        mask = min_max(upsample(maps[k].astype(np.float64), height, width))
        if mask.sum() > 0:
            total += score(x * mask) * mask / mask.sum()
    return min_max(total)


def fused(blocks: list[np.ndarray], fusion: str, temperature: float = 100.0) -> np.ndarray:
    """E = V_1, then E = (E + V_b) * gate(V_b)."""
    joined = blocks[0].copy()
    for block in blocks[1:]:
        threshold = otsu(block)
        if fusion == "hard":
            gate = (block > threshold).astype(np.float64)
        else:
            lifted = 1.5 * threshold
            threshold = lifted if np.mean(block >= lifted) < 0.1 else threshold
            gate = 1 / (1 + np.exp(-temperature * (block - threshold)))
        joined = (joined + block) * gate
    return joined
