"""CNN-Fixations once more, point by point in plain Python, from nothing but the ONNX file and its values.

Points stand in a Counter of (index, sign); sign is -1 or 0 where a batch normalization right behind a product turned
the order of contributions around. Values come from the file as it stands, without optimization.
"""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

SAME = (
    "Relu", "LeakyRelu", "Sigmoid", "HardSigmoid", "Clip", "Tanh", "Identity", "Dropout", "Softmax", "LRN",
)  # fmt: skip


def slow_points(model, feed, output="y", location="center"):
    """Fixations of each sample's largest element of ``output``: input name to Counter of index to weight."""
    net = Net(model, feed, location)
    y = net.values[output]
    start = Counter()
    for n, row in enumerate(y.reshape(len(y), -1)):
        best = max(range(len(row)), key=lambda k: (row[k], -k))
        start[(n, *np.unravel_index(best, y.shape[1:])), 1] += 1
    return net.walk(output, start)


def first_largest(candidates):
    """The place of the largest value, the first on ties; candidates are (value, place)."""
    best = None
    for value, place in candidates:
        if best is None or value > best[0]:
            best = (value, place)
    return best[1]


class Net:
    def __init__(self, model, feed, location):
        self.graph = onnx.load_from_string(model).graph
        self.location = location
        self.constants = {t.name: numpy_helper.to_array(t) for t in self.graph.initializer}
        self.producer = {out: node for node in self.graph.node for out in node.output}
        proto = onnx.load_from_string(model)
        del proto.graph.output[:]
        names = [out for node in self.graph.node for out in node.output if out]
        proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self.values = dict(zip(names, session.run(names, feed), strict=True))
        self.values |= feed | self.constants

    def walk(self, output, start):
        points = {output: start}
        for node in reversed(self.graph.node):
            for k, out in enumerate(node.output):
                for (index, sign), weight in points.pop(out, Counter()).items():
                    for name, places in self.step(node, k, tuple(map(int, index)), sign):
                        for place, new_sign in places:
                            points.setdefault(name, Counter())[tuple(map(int, place)), new_sign] += weight
        totals = {}
        for name, found in points.items():
            if name not in self.constants:
                totals[name] = Counter()
                for (index, _), weight in found.items():
                    totals[name][index] += weight
        return totals

    def step(self, node, k, index, sign):
        """Pairs of an input and the (index, sign) that the point came from there."""
        kind, first = node.op_type, node.input[0]
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if kind in SAME:
            return [(first, [(index, 1)])]
        return getattr(self, kind.lower())(node, attributes, k, index, sign)

    def active(self, node):
        return [name for name in node.input if name not in self.constants]

    # products

    def window(self, node, attributes, index):
        """Per kernel position the input position, None in the padding."""
        size = self.values[node.input[0]].shape[2:]
        kernel = attributes.get("kernel_shape") or self.values[node.input[1]].shape[2:]
        rank = len(kernel)
        strides, dilations = (attributes.get(name) or [1] * rank for name in ("strides", "dilations"))
        pads = attributes.get("pads") or [0] * 2 * rank
        first = [index[2 + i] * strides[i] - pads[i] for i in range(rank)]
        places = {}
        for at in itertools.product(*map(range, kernel)):
            place = tuple(first[i] + at[i] * dilations[i] for i in range(rank))
            places[at] = place if all(0 <= p < s for p, s in zip(place, size, strict=True)) else None
        middle = tuple(min(max(first[i] + (kernel[i] - 1) * dilations[i] // 2, 0), size[i] - 1) for i in range(rank))
        return places, middle

    def conv(self, node, attributes, k, index, sign):
        x, w = self.values[node.input[0]], self.values[node.input[1]]
        n, m = index[:2]
        if x.size == len(x) * x.shape[1] and w[0, 0].size == 1 and attributes.get("group", 1) == 1:
            parts = [(float(value.item()) * float(w[m, c].item()) * sign, c) for c, value in enumerate(x[n])]
            kept = [c for value, c in parts if value > 0] or [first_largest(parts)]
            return [(node.input[0], [((n, c, *index[2:]), 1) for c in kept])]
        places, middle = self.window(node, attributes, index)
        base = m // (len(w) // attributes.get("group", 1)) * w.shape[1]
        inside = {at: place for at, place in places.items() if place is not None}

        def part(c, at):
            return float(x[(n, base + c, *inside[at])]) * float(w[(m, c, *at)]) * sign

        winner = first_largest((sum(part(c, at) for at in inside), c) for c in range(w.shape[1]))
        place = middle
        if inside and self.location == "contribution":
            place = first_largest((part(winner, at), inside[at]) for at in inside)
        if inside and self.location == "activation":
            place = first_largest((float(x[(n, base + winner, *p)]), p) for p in inside.values())
        return [(node.input[0], [((n, base + winner, *place), 1)])]

    def convtranspose(self, node, attributes, k, index, sign):
        x, w = self.values[node.input[0]], self.values[node.input[1]]
        rank, groups = x.ndim - 2, attributes.get("group", 1)
        strides, pads = attributes.get("strides", [1] * rank), attributes.get("pads", [0] * 2 * rank)
        per_group = len(w) // groups
        group, inner = divmod(index[1], w.shape[1])

        def contributions(c):
            for at in itertools.product(*map(range, w.shape[2:])):
                moved = [index[2 + i] + pads[i] - at[i] for i in range(rank)]
                place = [m // s for m, s in zip(moved, strides, strict=True)]
                if any(m % s for m, s in zip(moved, strides, strict=True)):
                    continue
                if all(0 <= p < s for p, s in zip(place, x.shape[2:], strict=True)):
                    yield float(x[(index[0], c, *place)]) * float(w[(c, inner, *at)]) * sign

        channels = range(group * per_group, (group + 1) * per_group)
        winner = first_largest((sum(contributions(c)), c) for c in channels)
        middle = [
            min(max((index[2 + i] + pads[i] - (w.shape[2 + i] - 1) // 2) // strides[i], 0), x.shape[2 + i] - 1)
            for i in range(rank)
        ]
        return [(node.input[0], [((index[0], winner, *middle), 1)])]

    def gemm(self, node, attributes, k, index, sign):
        w = self.values[node.input[1]] * np.float32(attributes.get("alpha", 1.0))
        return self.dense(node, w.T if attributes.get("transB", 0) else w, index, sign)

    def matmul(self, node, attributes, k, index, sign):
        if node.input[1] in self.constants:
            return self.dense(node, self.values[node.input[1]], index, sign)
        a, b = (self.values[name] for name in node.input)
        *batch, i, j = index
        left = [0 if size == 1 else place for size, place in zip(a.shape[:-2], batch[-(a.ndim - 2) :], strict=True)]
        right = [0 if size == 1 else place for size, place in zip(b.shape[:-2], batch[-(b.ndim - 2) :], strict=True)]
        best = first_largest((float(a[(*left, i, k)]) * float(b[(*right, k, j)]), k) for k in range(a.shape[-1]))
        at_a, at_b = (*left, i, best), (*right, best, j)
        softmax = [
            self.producer.get(name) is not None and self.producer[name].op_type == "Softmax" for name in node.input
        ]
        to_b = softmax[0] if softmax[0] != softmax[1] else abs(b[at_b]) > abs(a[at_a])
        return [(node.input[1], [(at_b, 1)])] if to_b else [(node.input[0], [(at_a, 1)])]

    def dense(self, node, w, index, sign):
        x = self.values[node.input[0]]
        row, m = index[:-1], index[-1]
        parts = [(float(x[(*row, k)]) * float(w[k, m]) * sign, k) for k in range(x.shape[-1])]
        kept = [k for value, k in parts if value > 0] if x.ndim == 2 and not self.flattened(node.input[0]) else []
        return [(node.input[0], [((*row, k), 1) for k in kept or [first_largest(parts)]])]

    def flattened(self, name):
        """Whether a tensor is a flattened one that has several places per channel."""
        while name in self.producer and self.producer[name].op_type in (*SAME, "Flatten", "Reshape", "Transpose"):
            name = self.producer[name].input[0]
        if name in self.producer and self.producer[name].op_type == "Concat":
            return any(self.flattened(part) for part in self.producer[name].input)
        return any(size > 1 for size in self.values[name].shape[2:])

    # pools

    def maxpool(self, node, attributes, k, index, sign):
        x = self.values[node.input[0]]
        places, _ = self.window(node, attributes, index)
        inside = [place for place in places.values() if place is not None]
        place = first_largest((x[(*index[:2], *place)], place) for place in inside)
        return [(node.input[0], [((*index[:2], *place), 1)])]

    averagepool = maxpool

    def globalaveragepool(self, node, attributes, k, index, sign):
        plane = self.values[node.input[0]][index[:2]]
        place = first_largest((value, place) for place, value in np.ndenumerate(plane))
        return [(node.input[0], [((*index[:2], *place), 1)])]

    globalmaxpool = globalaveragepool

    def reducemean(self, node, attributes, k, index, sign):
        x = self.values[node.input[0]]
        axes = [int(axis) % x.ndim for axis in self.values[node.input[1]]]
        kept = list(index)
        if not attributes.get("keepdims", 1):
            for axis in sorted(axes):
                kept.insert(axis, 0)
        ranges = [range(x.shape[axis]) if axis in axes else [kept[axis]] for axis in range(x.ndim)]
        return [(node.input[0], [(first_largest((x[at], at) for at in itertools.product(*ranges)), 1)])]

    # sums and gates

    def fitted(self, name, index):
        shape = self.values[name].shape
        own = index[len(index) - len(shape) :]
        return tuple(0 if size == 1 else place for size, place in zip(shape, own, strict=True))

    def add(self, node, attributes, k, index, sign):
        active = self.active(node)
        best = first_largest((self.values[name][self.fitted(name, index)], name) for name in active)
        return [(best, [(self.fitted(best, index), sign if len(active) == 1 else 1)])]

    sum = add

    def mul(self, node, attributes, k, index, sign):
        shape = self.values[node.output[0]].shape
        names = [name for name in self.active(node) if self.values[name].shape == shape] or self.active(node)
        gates = ("Sigmoid", "HardSigmoid", "Softmax")
        made = {name: self.producer[name].op_type if name in self.producer else "" for name in names}
        names = [name for name in names if made[name] not in gates] or names
        best = first_largest((abs(self.values[name][self.fitted(name, index)]), name) for name in names)
        return [(best, [(self.fitted(best, index), 1)])]

    def batchnormalization(self, node, attributes, k, index, sign):
        source = node.input[0]
        while source in self.producer and self.producer[source].op_type == "Add":
            [source] = self.active(self.producer[source])[:1]
        linear = source in self.producer and self.producer[source].op_type in (
            "Conv",
            "ConvTranspose",
            "Gemm",
            "MatMul",
        )
        scale = self.values[node.input[1]][index[1]]
        return [(node.input[0], [(index, int(np.sign(scale)) if linear else 1)])]

    # elements that move: where a numbering of the input ends up

    def moved(self, node, attributes, k, index, sign):
        x = self.values[node.input[0]]
        proto = onnx.helper.make_model(
            onnx.helper.make_graph(
                [node], "one", [onnx.helper.make_empty_tensor_value_info(name) for name in node.input if name],
                [onnx.helper.make_empty_tensor_value_info(name) for name in node.output],
            ),
            opset_imports=[onnx.helper.make_opsetid("", 18)],
        )  # fmt: skip
        numbers = np.arange(1, x.size + 1, dtype=np.float32).reshape(x.shape)
        feed = {name: self.values[name] for name in node.input if name} | {node.input[0]: numbers}
        number = int(ReferenceEvaluator(proto).run(None, feed)[k][index])
        return [(node.input[0], [(np.unravel_index(number - 1, x.shape), 1)] if number else [])]

    reshape = flatten = transpose = slice = gather = split = squeeze = unsqueeze = expand = depthtospace = moved

    def pad(self, node, attributes, k, index, sign):
        x, pads = self.values[node.input[0]], self.values[node.input[1]]
        place = [min(max(i - int(p), 0), size - 1) for i, p, size in zip(index, pads, x.shape, strict=False)]
        return [(node.input[0], [(tuple(place), 1)])]

    def concat(self, node, attributes, k, index, sign):
        axis, start = attributes["axis"], 0
        for name in node.input:
            size = self.values[name].shape[axis]
            if start <= index[axis] < start + size:
                place = list(index)
                place[axis] -= start
                return [(name, [(tuple(place), 1)])]
            start += size
        raise AssertionError("an element of no operand")
