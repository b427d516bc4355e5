"""A graph laid out in the CPU provider's blocks of channels.

onnxruntime convolves tensors of shape N x C / block x H x W x block, by ops of a domain of its own that its optimiser
puts in the place of Conv; it leaves the blocks wherever an op comes that it has no form for, as a division. Ops that
work element by element do not care for the order of elements: here they stay in blocks. Filters are laid out once and
become inputs of the graph, so that the runtime works on these arrays and makes no copies of them.

Tensors in blocks keep the shape N x C x H x W, C rounded up to a multiple of the block; what is beyond C is 0, or at
least finite, and meets filters that are 0.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from onnxplain.engine.filters import aligned, laid_out
from onnxplain.engine.matrices import is_large_product
from onnxplain.engine.protos import read_by

DOMAIN = "com.microsoft.nchwc"
ALIGNED = 4
"""Only channels that come in multiples of this can be brought into blocks."""
# fmt: off
_HARMLESS = {
    "Abs", "Add", "HardSigmoid", "Identity", "LeakyRelu", "Mul", "Neg", "Relu", "Sigmoid", "Sub", "Sum", "Tanh",
}
"""Ops element by element that may work where channels do not fill their last block: zeros give small results."""
_ELEMENTWISE = _HARMLESS | {
    "Ceil", "Celu", "Clip", "Div", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSwish", "Log", "Max", "Mean", "Min",
    "Mish", "Pow", "Reciprocal", "Round", "Selu", "Sign", "Softplus", "Softsign", "Sqrt", "ThresholdedRelu",
}
# fmt: on
_ACTIVATIONS: dict[str, dict[str, float]] = {
    "Relu": {},
    "Tanh": {},
    "Sigmoid": {},
    "LeakyRelu": {"alpha": 0.01},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
}
"""What a convolution can apply to its results on its way, with the defaults of the settings; Clip too."""
Shape = tuple[int, ...]


@functools.cache
def block_size() -> int:
    """How many channels the CPU provider takes together on this machine; 1 where it has no such form."""
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, ALIGNED, 1, 1])
    y = helper.make_empty_tensor_value_info("y")
    graph = helper.make_graph([helper.make_node("ReorderInput", ["x"], ["y"], domain=DOMAIN)], "probe", [x], [y])
    probe = helper.make_model(graph, opset_imports=_imports({"": 18}), ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(probe.SerializeToString(), options, ["CPUExecutionProvider"])
        [found] = session.run(None, {"x": np.ones((1, ALIGNED, 1, 1), np.float32)})
    except Exception:  # a runtime without that domain: graphs stay as they are
        return 1
    return found.shape[1] if found.shape[1] > ALIGNED else 1


def in_blocks(
    model: onnx.ModelProto, weights: dict[str, np.ndarray], shapes: Mapping[str, Shape], block: int
) -> tuple[onnx.ModelProto, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Lay ``model`` out in blocks.

    Parameters
    ----------
    model : onnx.ModelProto
    weights : dict of str to numpy.ndarray
        Values of initializers that the model declares as external; those that are laid out are taken from it, so that
        not all stand twice at a time.
    shapes : mapping of str to tuple of int
        Of the float32 tensors, -1 for the axis that grows with the batch; what is not there leaves the blocks.
    block : int
        See :func:`block_size`.

    Returns
    -------
    onnx.ModelProto
        Another graph with the same inputs and outputs, and filters as further inputs.
    dict of str to numpy.ndarray
        The weights that it still declares as external initializers.
    dict of str to numpy.ndarray
        The filters.
    """
    layout = _Layout(model, weights, shapes, block)
    layout.run()
    return layout.model(), layout.weights, layout.filters


def _imports(opsets: Mapping[str, int]) -> list[onnx.OperatorSetIdProto]:
    return [helper.make_opsetid(domain, version) for domain, version in {**opsets, DOMAIN: 1}.items()]


class _Layout:
    """The graph that grows.

    ``_blocked`` holds the names in blocks of the tensors that are there so, ``_plain`` those that are there as they
    were, ``_made`` the node that computes a tensor in blocks, ``_uses`` how many nodes of the original read one;
    ``filters``, ``weights`` and ``_small_made`` the constants of the new graph, ``_laid`` the filters laid out before.
    """

    def __init__(
        self, model: onnx.ModelProto, weights: dict[str, np.ndarray], shapes: Mapping[str, Shape], block: int
    ) -> None:
        self._source, self._block, self._shapes, self._given = model, block, dict(shapes), weights
        self._small = {t.name: t for t in model.graph.initializer if t.name not in weights}
        self._uses = collections.Counter(name for node in model.graph.node for name in read_by(node))
        self._uses.update(out.name for out in model.graph.output)
        self._made: dict[str, onnx.NodeProto] = {}
        self._blocked: dict[str, str] = {}
        self._plain = {value.name for value in model.graph.input} | {t.name for t in model.graph.initializer} | {""}
        self._nodes: dict[int, onnx.NodeProto] = {}
        self._laid: dict[tuple[str, ...], str] = {}
        self.filters: dict[str, np.ndarray] = {}
        self._small_made: dict[str, np.ndarray] = {}
        self.weights: dict[str, np.ndarray] = {}

    def run(self) -> None:
        """Every node in turn."""
        handlers: dict[str, Callable[[onnx.NodeProto], bool]] = {
            "Conv": self._conv,
            "Gemm": self._product,
            "MatMul": self._product,
            "MaxPool": self._pool,
            "AveragePool": self._pool,
            "GlobalMaxPool": self._pool,
            "GlobalAveragePool": self._pool,
            "Concat": self._concat,
            "Resize": self._resize,
            "BatchNormalization": self._batch_norm,
            "Shape": self._shape,
            **dict.fromkeys(_ELEMENTWISE, self._elementwise),
        }
        for node in self._source.graph.node:
            handler = handlers.get(node.op_type) if node.domain in ("", "ai.onnx") else None
            if handler is None or not handler(node):
                for name in read_by(node):
                    self._as_it_was(name)
                self._append(node)
                self._plain.update(node.output)
        for out in self._source.graph.output:
            self._as_it_was(out.name)

    def model(self) -> onnx.ModelProto:
        """The graph that was made."""
        source = self._source.graph
        used = {name for node in self._nodes.values() for name in read_by(node)} | {out.name for out in source.output}
        self.weights = {name: value for name, value in self._given.items() if name in used}
        self.filters = {name: value for name, value in self.filters.items() if name in used}
        kept = [tensor for tensor in source.initializer if tensor.name in used]
        small = [numpy_helper.from_array(value, name) for name, value in self._small_made.items()]
        inputs = [
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, value.shape)
            for name, value in self.filters.items()
        ]
        graph = helper.make_graph(
            list(self._nodes.values()), source.name, [*source.input, *inputs], source.output, [*kept, *small]
        )
        opsets = {entry.domain: entry.version for entry in self._source.opset_import}
        return helper.make_model(graph, opset_imports=_imports(opsets), ir_version=self._source.ir_version)

    # where tensors are

    def _as_it_was(self, name: str) -> str:
        """``name``, reordered out of the blocks unless it was before."""
        if name not in self._plain:
            channels: Any = self._channels(name)
            node = helper.make_node("ReorderOutput", [self._blocked[name]], [name], domain=DOMAIN, channels=channels)
            self._append(node)
            self._plain.add(name)
        return name

    def _in_blocks(self, name: str) -> str:
        """The name of the tensor in blocks, reordered unless it was before."""
        if name not in self._blocked:
            self._append(helper.make_node("ReorderInput", [name], [_in_blocks(name)], domain=DOMAIN))
            self._blocked[name] = _in_blocks(name)
        return self._blocked[name]

    def _append(self, node: onnx.NodeProto) -> None:
        self._nodes[id(node)] = node

    def _put(
        self, op_type: str, inputs: Sequence[str], output: str, domain: str = DOMAIN, **attributes: Any
    ) -> onnx.NodeProto:
        """Append the node that computes ``output`` in blocks."""
        node = helper.make_node(op_type, inputs, [_in_blocks(output)], domain=domain, **attributes)
        self._append(node)
        self._blocked[output] = node.output[0]
        self._made[output] = node
        return node

    def _channels(self, name: str) -> int:
        """The channels of a tensor of four axes; 0 where they are unknown or no such tensor is."""
        shape = self._shapes.get(name, ())
        return max(shape[1], 0) if len(shape) == 4 else 0

    def _reorderable(self, name: str) -> bool:
        """Whether a tensor is in blocks or can be brought there."""
        return name in self._blocked or (self._channels(name) > 0 and self._channels(name) % ALIGNED == 0)

    def _same_everywhere(self, name: str) -> bool:
        """Whether a tensor has one element for each sample of a tensor of four axes, or one for all."""
        value = self._value(name)
        shape = self._shapes.get(name, (0,)) if value is None else value.shape
        return all(dim == 1 for dim in shape[1:]) if len(shape) == 4 else len(shape) < 4 and set(shape) <= {1}

    def _fills_blocks(self, name: str) -> bool:
        return self._channels(name) > 0 and self._channels(name) % self._block == 0

    def _value(self, name: str) -> np.ndarray | None:
        """The value of a constant."""
        if name in self._given:
            return self._given[name]
        return numpy_helper.to_array(self._small[name]) if name in self._small else None

    # convolutions

    def _conv(self, node: onnx.NodeProto) -> bool:
        x, w, b = [*node.input, ""][:3]
        filters, bias = self._value(w), self._value(b)
        if filters is None or filters.ndim != 4 or filters.dtype != np.float32 or (b and bias is None):
            return False
        attributes = _attributes(node)
        group = attributes.pop("group", 1)
        outputs_only = self._outputs_only(filters, group)
        if outputs_only is None or self._channels(x) != filters.shape[1] * group:
            return False
        if group > 1 and filters.shape[1:] == (1, 1, 1) and (filters == 1).all() and (bias is None or not bias.any()):
            self._blocked[node.output[0]] = self._in_blocks(x)  # a copy, which brings x into the optimiser's blocks
            return True
        source = self._as_it_was(x) if outputs_only and group == 1 else self._in_blocks(x)
        laid = self._filter(w, filters, "outputs" if outputs_only else "both")
        biases = [] if bias is None else [self._bias(b, bias)]
        group = len(self.filters[laid]) if outputs_only and group > 1 else group
        self._put("Conv", [source, laid, *biases], node.output[0], group=group, **attributes)
        return True

    def _outputs_only(self, filters: np.ndarray, group: int) -> bool | None:
        """Whether filters lie in blocks of output channels only; None where the provider has no such convolution.

        They do where inputs are few, and so not in blocks themselves, and where each belongs to one output.
        """
        outputs, inputs = filters.shape[:2]
        if group == 1:
            return inputs < self._block if inputs < self._block or inputs % ALIGNED == 0 else None
        if inputs == 1 and outputs == group:
            return True if outputs % ALIGNED == 0 else None
        return False if inputs % self._block == 0 and outputs // group % self._block == 0 else None

    def _product(self, node: onnx.NodeProto) -> bool:
        """Rows times a large matrix, as the convolution of one row of pixels: filters are read faster than a matrix."""
        if not is_large_product(node, self._given, self._shapes):
            return False
        x, w, b = [*node.input, ""][:3]
        matrix, bias, [y] = self._given[w], self._value(b), node.output
        attributes = {"transA": 0, "transB": 0, "alpha": 1.0, "beta": 1.0} | _attributes(node)
        turned = attributes["transB"]
        filters = (matrix if turned else matrix.T)[:, :, None, None]
        outputs, inputs = filters.shape[:2]
        if inputs % ALIGNED or attributes["transA"] or not attributes["alpha"] == attributes["beta"] == 1:
            return False
        if b and (bias is None or bias.shape != (outputs,)):
            return False
        pixels, product = f"{_in_blocks(x)}/pixels", f"{_in_blocks(y)}/pixels"
        self._shapes[pixels], self._shapes[product] = (1, inputs, 1, -1), (1, outputs, 1, -1)
        if pixels not in self._plain:
            turn = helper.make_node("Transpose", [self._as_it_was(x)], [f"{pixels}/turned"], perm=[1, 0])
            self._append(turn)
            self._plain.add(self._reshape(turn.output[0], pixels, self._shapes[pixels]))
        laid = self._filter(w, filters, "turned" if turned else "both")
        self._put("Conv", [self._in_blocks(pixels), laid, *([] if bias is None else [self._bias(b, bias)])], product)
        rows = self._reshape(self._as_it_was(product), f"{product}/turned", [outputs, -1])
        self._append(helper.make_node("Transpose", [rows], [y], perm=[1, 0]))
        self._plain.add(y)
        return True

    def _filter(self, name: str, value: np.ndarray, layout: str) -> str:
        """The name of a filter in blocks of output channels, and of input channels unless ``layout`` is "outputs"."""
        if (name, layout) not in self._laid:
            laid = f"onnxplain_filter_{len(self._laid)}"
            self.filters[laid] = laid_out(value, self._block, layout == "outputs")
            self._laid[name, layout] = laid
        self._uses[name] -= 1
        if not self._uses[name]:
            self._given.pop(name, None)
        return self._laid[name, layout]

    def _bias(self, name: str, value: np.ndarray) -> str:
        self._small_made[_in_blocks(name)] = np.pad(value, (0, -len(value) % self._block))
        return _in_blocks(name)

    def _fused(self, node: onnx.NodeProto) -> bool:
        """Let the convolution in front do an activation, or the sum with another tensor, on its way."""
        if node.op_type in ("Add", "Sum") and len(node.input) == 2:
            (a, b), total = node.input, node.output[0]
            return self._fused_sum(a, b, total) or self._fused_sum(b, a, total)
        made, settings = self._alone(node.input[0]), self._settings(node)
        if made is None or settings is None:
            return False
        made.attribute.append(helper.make_attribute("activation", node.op_type))
        if settings:
            made.attribute.append(helper.make_attribute("activation_params", settings))
        self._take_over(made, node.input[0], node.output[0])
        return True

    def _settings(self, node: onnx.NodeProto) -> list[float] | None:
        """Of an activation; None for anything else."""
        if node.op_type != "Clip":
            defaults, given = _ACTIVATIONS.get(node.op_type), _attributes(node)
            return None if defaults is None else [float(given.get(name, value)) for name, value in defaults.items()]
        largest = float(np.finfo(np.float32).max)
        names = [*node.input[1:], "", ""][:2]
        bounds = [self._value(name) if name else limit for name, limit in zip(names, (-largest, largest), strict=True)]
        if any(bound is None for bound in bounds):
            return None
        low, high = map(float, bounds)  # type: ignore[arg-type]
        return [low, high] if low <= 0 <= high or self._fills_blocks(node.output[0]) else None

    def _fused_sum(self, name: str, other: str, total: str) -> bool:
        made, shape = self._alone(name), self._shapes.get(name)
        if made is None or len(made.input) > 3 or not self._reorderable(other) or shape != self._shapes.get(other):
            return False
        term = self._in_blocks(other)
        made.input.extend([""] * (3 - len(made.input)) + [term])
        self._take_over(made, name, total)
        return True

    def _alone(self, name: str) -> onnx.NodeProto | None:
        """The convolution that computes ``name``, if nothing else reads that and it has no activation yet."""
        made = self._made.get(name)
        if made is None or made.op_type != "Conv" or self._uses[name] != 1:
            return None
        return None if any(attribute.name == "activation" for attribute in made.attribute) else made

    def _take_over(self, made: onnx.NodeProto, old: str, new: str) -> None:
        """``made`` computes ``new`` instead of ``old`` now, and comes after all that is needed for it."""
        del self._nodes[id(made)], self._made[old], self._blocked[old]
        self._append(made)
        made.output[0] = self._blocked[new] = _in_blocks(new)
        self._made[new] = made

    # what else knows blocks, or does not care

    def _elementwise(self, node: onnx.NodeProto) -> bool:
        if self._fused(node) or self._per_channel(node):
            return True
        out = node.output[0]
        wide = [name for name in node.input if name and not self._same_everywhere(name)]
        own = [name for name in wide if self._shapes.get(name, ()) == self._shapes.get(out)]
        if not any(name in self._blocked for name in own) or not all(map(self._reorderable, own)):
            return False
        if not self._fills_blocks(out) and (node.op_type not in _HARMLESS or len(own) < len(node.input)):
            return False
        if len(own) < len(wide):
            return self._masked(node, own, [name for name in wide if name not in own])
        inputs = [self._in_blocks(name) if name in own else self._as_it_was(name) for name in node.input]
        self._put(node.op_type, inputs, out, "", **_attributes(node))
        return True

    def _masked(self, node: onnx.NodeProto, own: Sequence[str], rest: Sequence[str]) -> bool:
        """An op with a constant that is the same for all samples and channels.

        Its elements, each as often as a block has channels, meet one block after the other.
        """
        out, mask = node.output[0], self._value(rest[0])
        sizes = self._shapes[out][1:]
        if len(own) > 1 or len(rest) > 1 or mask is None or mask.shape != (1, 1, *sizes[1:]):
            return False
        repeated, rows, done = (f"{_in_blocks(out)}/{part}" for part in ("mask", "rows", "done"))
        self.filters[repeated] = np.repeat(mask.astype(np.float32).reshape(-1), self._block)
        self._reshape(self._in_blocks(own[0]), rows, [-1, len(self.filters[repeated])])
        inputs = [rows if name == own[0] else repeated for name in node.input]
        self._append(helper.make_node(node.op_type, inputs, [done], **_attributes(node)))
        self._blocked[out] = self._reshape(done, _in_blocks(out), [-1, *sizes])
        return True

    def _reshape(self, x: str, y: str, shape: Sequence[int]) -> str:
        self._small_made[f"{y}/shape"] = np.array(shape, np.int64)
        self._append(helper.make_node("Reshape", [x, f"{y}/shape"], [y]))
        return y

    def _pool(self, node: onnx.NodeProto) -> bool:
        attributes = _attributes(node)
        if node.input[0] not in self._blocked or not self._fills_blocks(node.input[0]) or any(node.output[1:]):
            return False
        if node.op_type == "AveragePool" and (
            set(attributes.pop("dilations", [1])) != {1} or attributes.get("ceil_mode")
        ):
            return False  # newer opsets count what the last windows hold in another way
        self._put(node.op_type, [self._in_blocks(node.input[0])], node.output[0], **attributes)
        return True

    def _concat(self, node: onnx.NodeProto) -> bool:
        if _attributes(node)["axis"] != 1 or not all(n in self._blocked and self._fills_blocks(n) for n in node.input):
            return False
        self._put("Concat", [self._blocked[name] for name in node.input], node.output[0], "", axis=1)
        return True

    def _resize(self, node: onnx.NodeProto) -> bool:
        """Elements repeated a whole number of times; other ways of resizing leave the blocks."""
        x, y = node.input[0], node.output[0]
        attributes = {"mode": b"nearest"} | _attributes(node)
        kind = [attributes.get(name) for name in ("mode", "coordinate_transformation_mode", "nearest_mode")]
        old, new = self._shapes.get(x, ()), self._shapes.get(y, ())
        if x not in self._blocked or kind != [b"nearest", b"asymmetric", b"floor"] or old[:2] != new[:2]:
            return False
        if -1 in old[2:] + new[2:] or any(b % a for a, b in zip(old[2:], new[2:], strict=True)):
            return False
        scales = [1, 1, *(b // a for a, b in zip(old[2:], new[2:], strict=True))]
        given = [self._value(name) for name in node.input[2:3] if name]
        if any(value is None or not np.array_equal(value, scales) for value in given):  # 2.2 x 4 also gives 8
            return False
        self._put("Upsample", [self._blocked[x]], y, scales=scales)
        return True

    def _shape(self, node: onnx.NodeProto) -> bool:
        """The shape is that of the tensor in blocks where channels fill them."""
        [x] = node.input
        if x not in self._blocked or not self._fills_blocks(x):
            return False
        self._append(helper.make_node("Shape", [self._blocked[x]], node.output, **_attributes(node)))
        self._plain.update(node.output)
        return True

    def _batch_norm(self, node: onnx.NodeProto) -> bool:
        x, *names = node.input
        known = [value for value in map(self._value, names) if value is not None and value.dtype == np.float32]
        attributes = _attributes(node)
        if x not in self._blocked or len(known) < 4 or any(node.output[1:]) or attributes.get("training_mode"):
            return False
        gamma, beta, mean, var = known
        scale = gamma / np.sqrt(var + np.float32(attributes.get("epsilon", 1e-5)))
        return self._affine(x, node.output[0], scale, beta - mean * scale)

    def _per_channel(self, node: onnx.NodeProto) -> bool:
        """The sum or product of a tensor and a constant for each channel."""
        for x, name in (node.input, node.input[::-1]) if node.op_type in ("Add", "Mul") else ():
            c, channels = self._value(name), self._channels(x)
            if x in self._blocked and c is not None and c.shape in ((channels, 1, 1), (1, channels, 1, 1)):
                c = c.reshape(-1)
                scale, shift = (c, np.zeros_like(c)) if node.op_type == "Mul" else (np.ones_like(c), c)
                return self._affine(x, node.output[0], scale, shift)
        return False

    def _affine(self, x: str, out: str, scale: np.ndarray, shift: np.ndarray) -> bool:
        """Each channel scaled and shifted: by the filters of the convolution in front, or by a depthwise one."""
        w, b = f"{_in_blocks(out)}/scale", f"{out}/shift"
        made = self._alone(x)
        if made is None or len(made.input) > 3:
            laid = self.filters[w] = laid_out(scale.reshape(-1, 1, 1, 1), self._block, True)
            self._put("Conv", [self._blocked[x], w, self._bias(b, shift)], out, group=len(laid))
            return True
        factors = np.pad(scale, (0, -len(scale) % self._block)).reshape(-1, 1, self._block)
        old = self.filters[made.input[1]]
        laid = self.filters[w] = aligned(old.shape)
        np.multiply(old.reshape(len(factors), -1, self._block), factors, laid.reshape(len(factors), -1, self._block))
        if len(made.input) > 2:
            shift = self._small_made[made.input[2]][: len(scale)] * scale + shift
        del made.input[1:]
        made.input.extend([w, self._bias(b, shift)])
        self._take_over(made, x, out)
        return True


def _in_blocks(name: str) -> str:
    return f"onnxplain_blocks/{name}"


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
