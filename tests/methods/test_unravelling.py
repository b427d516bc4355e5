"""Numba against the slow unravelling on nets of every structure, and files of one net that give the same points."""

from pathlib import Path

import numpy as np
import pytest
from methods.found_points import points_of
from methods.slow_unravelling import slow_points
from nets import model, node

import onnxplain

# nets at random: small whole numbers, so that everything is exact, ties are many and contributions all negative


class Draft:
    """Nodes and random whole-numbered weights, added one after another."""

    def __init__(self, seed, channels=3, spatial=(7, 6)):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.constants = [], {}
        self.channels = {"x": channels}
        self.shape = ("n", channels, *spatial)
        self.rank = len(spatial)

    def add(self, op, inputs, channels, constants=(), **attributes):
        out = f"t{len(self.nodes)}"
        names = [f"{out}_{k}" for k in range(len(constants))]
        self.constants |= dict(zip(names, constants, strict=True))
        self.nodes.append(node(op, [*inputs, *names], out, **attributes))
        self.channels[out] = channels
        return out

    def whole(self, *shape, low=-2, high=2):
        return self.rng.integers(low, high, shape, endpoint=True).astype(np.float32)

    def conv(self, x, m, kernel=3, group=1, relu=True, **attributes):
        kernel = (kernel,) * self.rank if isinstance(kernel, int) else kernel
        attributes.setdefault("pads", [k // 2 for k in kernel] * 2)
        w = self.whole(m, self.channels[x] // group, *kernel)
        y = self.add("Conv", [x], m, [w, self.whole(m)], group=group, **attributes)
        return self.add("Relu", [y], m) if relu else y

    def norm(self, x, fold=False):
        c = self.channels[x]
        scale = self.rng.choice([-2, -1, 0.5, 1, 2], c).astype(np.float32)
        constants = [scale, self.whole(c), self.whole(c), np.full(c, 0.75, np.float32)]
        return self.add("BatchNormalization", [x], c, constants, epsilon=0.25)

    def join(self, op, *xs, **attributes):
        total = sum(self.channels[x] for x in xs) if op == "Concat" else self.channels[xs[0]]
        return self.add(op, xs, total, **attributes)

    def pool(self, x, op="MaxPool", kernel=2, **attributes):
        attributes.setdefault("strides", [kernel] * self.rank)
        return self.add(op, [x], self.channels[x], kernel_shape=[kernel] * self.rank, **attributes)

    def head(self, x, classes=4):
        x = self.add("Flatten", [self.add("GlobalMaxPool", [x], self.channels[x])], self.channels[x])
        return self.model(self.add("Gemm", [x], classes, [self.whole(self.channels[x], classes), self.whole(classes)]))

    def model(self, last):
        self.nodes.append(node("Identity", [last], "y"))
        return model(self.nodes, {"x": self.shape}, constants=self.constants)


def plain(d):
    x = d.pool(d.conv("x", 4))
    x = d.add("Flatten", [d.conv(x, 5)], 0)
    size = 5 * (d.shape[2] // 2) * (d.shape[3] // 2)
    h = d.add("Relu", [d.add("Gemm", [x], 6, [d.whole(size, 6)])], 6)
    h = d.add("Relu", [d.add("Gemm", [h], 5, [d.whole(5, 6)], transB=1, alpha=-2.0)], 5)
    return d.model(d.add("Gemm", [h], 3, [d.whole(5, 3)]))


def inception(d):
    a, b = d.conv("x", 2, 1), d.conv(d.conv("x", 2, 1), 3)
    c, p = d.conv(d.conv("x", 2, 1), 2, 5), d.conv(d.pool("x", kernel=3, strides=[1, 1], pads=[1] * 4), 2, 1)
    return d.head(d.conv(d.join("Concat", a, b, c, p, axis=1), 4))


def convolutional_head(d):
    x = d.conv(d.add("GlobalMaxPool", [d.conv("x", 6)], 6), 5, 1)
    return d.model(d.add("Flatten", [d.conv(x, 4, 1, relu=False)], 4))


def residual(d):
    x = d.conv("x", 4)
    x = d.add("Relu", [d.join("Add", d.conv(d.conv(x, 4), 4, relu=False), x)], 4)
    projection = d.conv(x, 6, 1, relu=False, strides=[2, 2])
    x = d.join("Add", projection, d.conv(d.conv(x, 3, strides=[2, 2]), 6, relu=False))
    return d.head(d.add("Relu", [x], 6))


def residual_norm(d):
    x = d.add("Relu", [d.norm(d.conv("x", 4, relu=False))], 4)
    x = d.join("Sum", d.norm(d.conv(x, 4, relu=False)), x, d.norm(d.conv(x, 4, 1, relu=False)))
    return d.head(d.add("Relu", [x], 4))


def dense(d):
    x = d.conv("x", 3)
    for _ in range(3):
        x = d.join("Concat", x, d.conv(d.add("Relu", [d.norm(x)], d.channels[x]), 2), axis=1)
    return d.head(d.pool(x, "AveragePool"))


def depthwise(d):
    x = d.conv("x", 6)
    x = d.add("Clip", [d.norm(d.conv(x, 6, group=6, relu=False))], 6, [np.float32(0), np.float32(6)])
    return d.head(d.conv(d.conv(x, 12, group=6), 5, 1))


def squeeze_excite(d):
    x = d.conv("x", 4)
    g = d.conv(d.conv(d.add("GlobalAveragePool", [d.pool(x, "AveragePool", 2)], 4), 2, 1), 4, 1, relu=False)
    return d.head(d.conv(d.join("Mul", x, d.add("HardSigmoid", [g], 4, alpha=0.25, beta=0.5)), 4))


def groups_and_windows(d):
    x = d.conv("x", 4, (2, 4), pads=[1, 0, 2, 3])
    x = d.conv(x, 6, (3, 2), group=2, dilations=[2, 3], pads=[2, 1, 0, 3], strides=[1, 2])
    x = d.pool(x, kernel=3, strides=[2, 1], pads=[1, 2, 0, 1])
    return d.head(d.conv(x, 4, (3, 1), group=2, pads=[2, 0, 2, 0]))


def transposed(d):
    x = d.conv("x", 4, strides=[2, 2])
    x = d.add(
        "Relu", [d.add("ConvTranspose", [x], 6, [d.whole(4, 3, 3, 2)], group=2, strides=[2, 3], pads=[1, 0, 0, 1])], 6
    )
    return d.head(d.conv(x, 3))


def shuffled(d):
    x = d.conv("x", 4)
    x = d.add("Transpose", [x], 4, perm=[0, 2, 3, 1])
    x = d.add("Slice", [x], 4, [np.array([1]), np.array([6]), np.array([1]), np.array([2])])
    x = d.add("Gather", [x], 4, [np.array([3, 0, 0, 1, 2])], axis=2)
    x = d.add("Transpose", [x], 4, perm=[0, 3, 1, 2])
    x = d.add("Pad", [x], 4, [np.array([0, 0, 1, 2, 0, 0, 2, 1])])
    return d.head(d.conv(x, 3))


def mean_head(d):
    x = d.add("ReduceMean", [d.conv("x", 4, strides=[2, 2])], 4, [np.array([2, 3])], keepdims=0)
    return d.model(d.add("Gemm", [x], 3, [d.whole(4, 3)]))


FLAT = [
    convolutional_head,
    mean_head,
    plain,
    inception,
    residual,
    residual_norm,
    dense,
    depthwise,
    squeeze_excite,
    groups_and_windows,
    transposed,
    shuffled,
]


def feed_for(d, samples=3):
    return {"x": d.whole(samples, *d.shape[1:], low=-3, high=3)}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("structure", FLAT)
def test_agrees_with_the_slow_unravelling(structure, seed):
    d = Draft(seed, spatial=(8, 8) if structure is mean_head else (7, 6))
    net, feed = structure(d), feed_for(d)
    expected = slow_points(net, feed)
    assert points_of(net, feed) == {name: dict(found) for name, found in expected.items()}
    singles = [points_of(net, {"x": feed["x"][n : n + 1]})["x"] for n in range(3)]
    assert points_of(net, feed)["x"] == {(n, *at[1:]): w for n, one in enumerate(singles) for at, w in one.items()}


@pytest.mark.parametrize("location", ["contribution", "activation"])
@pytest.mark.parametrize("structure", [plain, groups_and_windows, residual_norm])
def test_agrees_for_every_location(structure, location):
    d = Draft(7)
    net, feed = structure(d), feed_for(d)
    expected = slow_points(net, feed, location=location)
    assert points_of(net, feed, conv_location=location) == {name: dict(found) for name, found in expected.items()}


@pytest.mark.parametrize("spatial", [(11,), (5, 4, 3)])
def test_agrees_in_one_and_three_dimensions(spatial):
    d = Draft(3, spatial=spatial)
    x = d.conv("x", 4, strides=[2] * d.rank)
    net = d.head(d.conv(d.pool(x, kernel=2, strides=[1] * d.rank), 4, 2, pads=[0] * d.rank + [1] * d.rank))
    feed = feed_for(d)
    assert points_of(net, feed) == {name: dict(found) for name, found in slow_points(net, feed).items()}


def test_all_contributions_negative_and_all_equal():
    d = Draft(0)
    net = residual(d)
    for x in (np.zeros((2, 3, 7, 6), np.float32), np.full((2, 3, 7, 6), -2, np.float32)):
        assert points_of(net, {"x": x}) == {name: dict(found) for name, found in slow_points(net, {"x": x}).items()}


# batch normalization


def norm_net(folded, extra=None):
    """Conv, norm with negative scales, Relu, Conv; ``extra``: why the norm cannot be folded."""
    d = Draft(5)
    w, b, gamma, beta = d.whole(4, 3, 3, 3), d.whole(4), np.array([-1, 2, -2, 0.5], np.float32), d.whole(4)
    constants = {"w": w, "b": b, "v": d.whole(4, 4, 3, 3), "dense": d.whole(4, 3), "gamma": gamma, "beta": beta,
                 "mean": d.whole(4), "var": np.full(4, 0.75, np.float32)}  # fmt: skip
    nodes = [node("Conv", ["x", "w", "b"], "c", pads=[1] * 4)]
    norm = node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], "norm", epsilon=0.25)
    if folded:
        constants["wf"], constants["bf"] = w * gamma[:, None, None, None], (b - constants["mean"]) * gamma + beta
        norm = node("Conv", ["x", "wf", "bf"], "norm", pads=[1] * 4)
    rest = [node("Relu", ["norm"], "r"), node("Conv", ["r", "v"], "c2", pads=[1] * 4)]
    last = "c2"
    if extra == "consumer":
        rest.append(node("Add", ["c2", "c"], "sum"))
        last = "sum"
    rest += [node("GlobalMaxPool", [last], "p"), node("Flatten", ["p"], "f"), node("Gemm", ["f", "dense"], "y")]
    outputs = ("y", "c") if extra == "output" else ("y",)
    used = {name for one in [*nodes, norm, *rest] for name in one.input}
    kept = {name: value for name, value in constants.items() if name in used}
    return model([*nodes, norm, *rest] if extra or not folded else [norm, *rest], {"x": ("n", 3, 7, 6)}, outputs, kept)


@pytest.mark.parametrize("extra", [None, "consumer", "output"])
def test_a_norm_folded_or_not_gives_the_same_points(extra):
    feed = feed_for(Draft(9), 6)
    unfolded, folded = (norm_net(folded, extra) for folded in (False, True))
    assert [change.applied for change in onnxplain.load(unfolded).changes] == [extra is None]
    found = points_of(unfolded, feed, output="y")
    assert found == points_of(folded, feed, output="y")
    assert found["x"] == slow_points(folded, feed)["x"]


def test_a_run_that_ignores_the_norm_differs():
    feed = feed_for(Draft(9), 6)
    net, folded = norm_net(False, "output"), norm_net(True, "output")
    seeds = np.zeros((6, 4, 7, 6), np.float32)
    seeds[:, 0, 3, 3] = 1  # a channel with a negative scale
    found = points_of(net, feed, output="norm", target=seeds)
    assert found == points_of(folded, feed, output="norm", target=seeds)
    assert found != points_of(net, feed, output="c", target=seeds)


def test_the_convolution_itself_is_explained_without_the_sign_of_the_norm_behind_it():
    feed = feed_for(Draft(9))
    assert points_of(norm_net(False, "output"), feed, output="c") == slow_points(norm_net(False, "output"), feed, "c")


def test_two_exports_give_the_same_points():
    oracles = Path(__file__).parents[1] / "oracles"
    files = sorted(oracles.glob("*_opset13.onnx"))
    assert files
    for file in files:
        with np.load(str(file).replace("_opset13.onnx", ".npz")) as stored:
            feed = {"input": stored["input"]}
        newer = str(file).replace("opset13", "opset18")
        assert points_of(str(file), feed) == points_of(newer, feed), file.name
