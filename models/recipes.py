"""AlexNet and VGG-16 as ONNX files, with your own weights or with seeded ones.

    python models/recipes.py alexnet -o alexnet.onnx
    python models/recipes.py vgg16 --weights vgg16.safetensors -o vgg16.onnx

Weights are those of torchvision (alexnet, vgg16) or of Caffe (bvlc_alexnet, VGG_ILSVRC_16_layers, and nets fine-tuned
from them with another number of classes), as .npz, .safetensors or .caffemodel. Without --weights they are random,
seeded, of the form that --form names. Beside the model stands the sidecar that says how pictures are prepared;
models/README.md says more.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from weight_files import Weights, read_weights

from onnxplain.errors import OnnxplainError, UsageError
from onnxplain.files import atomic_file

OPSET, IR_VERSION = 17, 8
CLASSES = 1000


@dataclass(frozen=True)
class Conv:
    """A convolution and its Relu; ``name`` is the weights' name in the file."""

    name: str
    out: int
    kernel: int
    pad: int
    stride: int = 1
    group: int = 1


@dataclass(frozen=True)
class Pool:
    """A max pool with stride 2."""

    kernel: int


@dataclass(frozen=True)
class Norm:
    """Local response normalisation over five channels, alpha 1e-4, beta 0.75."""


@dataclass(frozen=True)
class Net:
    """Convolutions, then dense layers with a Relu behind all but the last.

    Attributes
    ----------
    size : int
        Height and width of the input.
    features : tuple of Conv, Pool or Norm
    dense : tuple of str
        Names of the dense layers.
    contract : str
        The sidecar's lines on colour, range, mean and std.
    hidden : int
        Outputs of each dense layer but the last.
    """

    size: int
    features: tuple[Conv | Pool | Norm, ...]
    dense: tuple[str, str, str]
    contract: str
    hidden: int = 4096

    def shapes(self, classes: int = CLASSES) -> dict[str, tuple[int, ...]]:
        """The shape of every weight by name."""
        found: dict[str, tuple[int, ...]] = {}
        channels, side = 3, self.size
        for layer in self.features:
            match layer:
                case Conv():
                    found[f"{layer.name}.weight"] = (layer.out, channels // layer.group, layer.kernel, layer.kernel)
                    found[f"{layer.name}.bias"] = (layer.out,)
                    channels, side = layer.out, (side + 2 * layer.pad - layer.kernel) // layer.stride + 1
                case Pool():
                    side = (side - layer.kernel) // 2 + 1
        inputs = channels * side * side
        for name, outputs in zip(self.dense, (self.hidden, self.hidden, classes), strict=True):
            found[f"{name}.weight"], found[f"{name}.bias"] = (outputs, inputs), (outputs,)
            inputs = outputs
        return found


IMAGENET = 'colour = "RGB"\nrange = [0.0, 1.0]\nmean = [0.485, 0.456, 0.406]\nstd = [0.229, 0.224, 0.225]'
CAFFE = 'colour = "BGR"\nrange = [0.0, 255.0]\nmean = {}\nstd = 1.0'


def _alexnet() -> Net:
    """Krizhevsky 2014, as in torchvision."""
    features = (
        Conv("features.0", 64, 11, 2, stride=4),
        Pool(3),
        Conv("features.3", 192, 5, 2),
        Pool(3),
        Conv("features.6", 384, 3, 1),
        Conv("features.8", 256, 3, 1),
        Conv("features.10", 256, 3, 1),
        Pool(3),
    )
    return Net(224, features, ("classifier.1", "classifier.4", "classifier.6"), IMAGENET)


def _caffe_alexnet() -> Net:
    """Krizhevsky et al. 2012, as in Caffe's bvlc_alexnet."""
    features = (
        Conv("conv1", 96, 11, 0, stride=4),
        Norm(),
        Pool(3),
        Conv("conv2", 256, 5, 2, group=2),
        Norm(),
        Pool(3),
        Conv("conv3", 384, 3, 1),
        Conv("conv4", 384, 3, 1, group=2),
        Conv("conv5", 256, 3, 1, group=2),
        Pool(3),
    )
    return Net(227, features, ("fc6", "fc7", "fc8"), CAFFE.format([104.007, 116.669, 122.679]))


BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and convolutions of the blocks of VGG-16 (Simonyan and Zisserman 2015, configuration D)."""


def _vgg16() -> Net:
    features: list[Conv | Pool | Norm] = []
    place = 0
    for channels, count in BLOCKS:
        for _ in range(count):
            features.append(Conv(f"features.{place}", channels, 3, 1))
            place += 2
        features.append(Pool(2))
        place += 1
    return Net(224, tuple(features), ("classifier.0", "classifier.3", "classifier.6"), IMAGENET)


def _caffe_vgg16() -> Net:
    features: list[Conv | Pool | Norm] = []
    for block, (channels, count) in enumerate(BLOCKS, 1):
        features += [Conv(f"conv{block}_{n}", channels, 3, 1) for n in range(1, count + 1)]
        features.append(Pool(2))
    return Net(224, tuple(features), ("fc6", "fc7", "fc8"), CAFFE.format([103.939, 116.779, 123.68]))


NETS: dict[str, dict[str, Callable[[], Net]]] = {
    "alexnet": {"torchvision": _alexnet, "caffe": _caffe_alexnet},
    "vgg16": {"torchvision": _vgg16, "caffe": _caffe_vgg16},
}
"""Each net in the forms of torchvision and of Caffe."""
FORMS = ("torchvision", "caffe")


def choose(name: str, weights: Weights) -> Net:
    """The form of a net whose names the weights use.

    Raises
    ------
    UsageError
        They use neither's.
    """
    forms = [form() for form in NETS[name].values()]
    best = max(forms, key=lambda net: len(net.shapes().keys() & weights.keys()))
    if not best.shapes().keys() & weights.keys():
        first = [next(iter(net.shapes())) for net in forms]
        held = ", ".join(list(weights)[:3]) or "nothing"
        raise UsageError(
            f"these are no weights of {name}: they hold {held}, not {first[0]} (torchvision) or {first[1]} (Caffe)"
        )
    return best


def fit(net: Net, weights: Weights) -> Weights:
    """The weights of the net, each in its shape; the number of classes is theirs.

    Raises
    ------
    UsageError
        One is missing, there is one too many, or a shape differs.
    """
    last = weights.get(f"{net.dense[-1]}.bias")
    shapes = net.shapes(CLASSES if last is None else last.size)
    missing = [name for name in shapes if name not in weights]
    extra = [name for name in weights if name not in shapes]
    if missing or extra:
        parts = [f"{said} {', '.join(names[:4])}" for said, names in (("without", missing), ("with", extra)) if names]
        raise UsageError(f"the weights do not fit the net: {' and '.join(parts)}")
    fitted = {}
    for name, shape in shapes.items():
        value = weights[name]
        trimmed = tuple(value.shape[max(0, value.ndim - len(shape)) :])
        if value.dtype != np.float32 or trimmed != shape or math.prod(shape) != value.size:
            raise UsageError(f"{name} must be {'x'.join(map(str, shape))} floats, not {value.shape} of {value.dtype}")
        fitted[name] = value.reshape(shape)
    return fitted


def seeded(net: Net, seed: int, classes: int = CLASSES) -> Weights:
    """Random weights that neither explode nor vanish (He et al. 2015), with small biases."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in net.shapes(classes).items():
        scale = 0.05 if len(shape) == 1 else math.sqrt(2 / math.prod(shape[1:]))
        weights[name] = rng.standard_normal(shape, np.float32) * np.float32(scale)
    return weights


def build(net: Net, weights: Weights) -> onnx.ModelProto:
    """The net as a model from ``input`` to ``logits``, batch free; takes the arrays out of ``weights``."""
    nodes: list[onnx.NodeProto] = []
    value = "input"

    def add(op_type: str, name: str, *constants: str, **attributes: Any) -> None:
        nonlocal value
        nodes.append(helper.make_node(op_type, [value, *constants], [name], name, **attributes))
        value = name

    for place, layer in enumerate(net.features):
        match layer:
            case Conv(name=name):
                attributes = {"kernel_shape": [layer.kernel] * 2, "strides": [layer.stride] * 2, "group": layer.group}
                add("Conv", name, f"{name}.weight", f"{name}.bias", pads=[layer.pad] * 4, **attributes)
                add("Relu", f"{name}.relu")
            case Norm():
                add("LRN", f"norm.{place}", size=5, alpha=1e-4, beta=0.75, bias=1.0)
            case Pool():
                add("MaxPool", f"pool.{place}", kernel_shape=[layer.kernel] * 2, strides=[2, 2])
    add("Flatten", "flat")
    classes = len(weights[f"{net.dense[-1]}.bias"])
    for name in net.dense[:-1]:
        add("Gemm", name, f"{name}.weight", f"{name}.bias", transB=1)
        add("Relu", f"{name}.relu")
    add("Gemm", "logits", f"{net.dense[-1]}.weight", f"{net.dense[-1]}.bias", transB=1)
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, net.size, net.size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
    )
    for name in list(weights):
        graph.initializer.append(numpy_helper.from_array(weights.pop(name), name))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def sidecar(net: Net) -> str:
    """How pictures are prepared for the net: short side to 256, centre crop."""
    return f'[input.input]\n{net.contract}\nresize = "short-side"\nshort_side = 256\n'


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a model and its sidecar; the exit status is that of onnxplain."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("net", choices=NETS)
    parser.add_argument("-w", "--weights", type=Path, metavar="FILE", help=".npz, .safetensors or .caffemodel")
    parser.add_argument("--form", choices=FORMS, default=FORMS[0], help="of random weights; those of a file tell it")
    parser.add_argument("--seed", type=int, default=0, help="of random weights")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.onnx")
    given = parser.parse_args(arguments)
    try:
        held = None if given.weights is None else read_weights(given.weights)
        net = NETS[given.net][given.form]() if held is None else choose(given.net, held)
        weights = seeded(net, given.seed) if held is None else fit(net, held)
        del held
        with atomic_file(given.output) as file:
            onnx.save(build(net, weights), file)
            (file.parent / given.output.with_suffix(".onnxplain.toml").name).write_text(sidecar(net))
    except OnnxplainError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    print(f"{given.output} ({given.output.stat().st_size / 1e6:.0f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
