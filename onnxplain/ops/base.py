"""What an op type is to a backward walk, and the place where a rule stands.

One op type has one :class:`Op`: its forward, its gradient (VJP), its kind for relevance, its window. Ops are written
against the array namespace ``xp`` and never see numpy's computing functions, numba, onnx.helper or onnxruntime.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from enum import Enum
from typing import Any, Protocol

from onnxplain.engine.namespace import Array, Namespace, Window
from onnxplain.errors import UnsupportedError
from onnxplain.graph.layers import Layer, Tensor


class Kind(Enum):
    """What relevance does at an op type when no rule book says otherwise."""

    LINEAR = "linear"
    """A product with constant weights."""
    SUM = "sum"
    """Additive in its inputs: relevance follows the contributions."""
    PASS = "pass"
    """Element by element: relevance passes unchanged."""
    ROUTE = "route"
    """Elements move, nothing is computed: relevance moves with them."""
    WINNER = "winner"
    """The element that won takes all."""
    PRODUCT = "product"
    """Two activations multiply."""
    NONE = "none"
    """Shapes, comparisons, constants: no relevance flows."""


class Values(Protocol):
    """Where a walk's engine keeps the values of one forward pass."""

    @property
    def xp(self) -> Namespace:
        """The array namespace."""

    @property
    def nonnegative(self) -> Set[Tensor]:
        """Tensors known not to be negative."""

    def value(self, tensor: Tensor) -> Array:
        """The tensor in the working precision (integers and booleans as they are)."""

    def shape(self, tensor: Tensor) -> tuple[int, ...]:
        """The shape in this run; -1 for an axis that grows with the batch where the engine keeps it symbolic."""

    def constant(self, tensor: Tensor) -> Any:
        """The numpy value of a static tensor."""


class At:
    """A layer during a walk: its attributes and, on demand, the values around it.

    Parameters
    ----------
    layer : Layer
    values : Values
    wanted : set of Tensor
        The tensors on the path: gradients are asked for these only.
    points : Routing, optional
        The namespace of fixation steps; see :mod:`onnxplain.engine.points`.
    ledger : bool
        Whether rules enter what they lose in ``absorbed``: one number per sample and column.
    elementwise : bool
        Whether they enter it in the shape of the layer's output instead.

    Raises
    ------
    UnsupportedError
        The op is not supported at this layer; see :meth:`Op.refusal`.
    """

    def __init__(
        self,
        layer: Layer,
        values: Values,
        wanted: set[Tensor],
        ledger: bool = False,
        points: Any = None,
        elementwise: bool = False,
    ) -> None:
        self.layer = layer
        self.values = values
        self.xp = values.xp
        self._wanted = wanted
        self.points = points
        self._elementwise = elementwise
        self.absorbed: dict[str, Array] | None = {} if ledger else None
        check_support(layer, wanted)

    def __getitem__(self, attribute: str) -> Any:
        return self.layer.attributes[attribute]

    def get(self, attribute: str, default: Any = None) -> Any:
        """An attribute, or ``default`` where the node leaves it out."""
        return self.layer.attributes.get(attribute, default)

    def input(self, index: int) -> Tensor | None:
        """The input tensor, None where it is omitted."""
        return self.layer.inputs[index] if index < len(self.layer.inputs) else None

    def output(self, index: int = 0) -> Tensor:
        """The output tensor."""
        tensor = self.layer.outputs[index]
        assert tensor is not None
        return tensor

    def x(self, index: int = 0) -> Array:
        """The value of an input."""
        return self.values.value(self._present(index))

    def y(self, index: int = 0) -> Array:
        """The value of an output."""
        return self.values.value(self.output(index))

    def shape(self, index: int = 0) -> tuple[int, ...]:
        """The shape of an input."""
        return self.values.shape(self._present(index))

    def out_shape(self, index: int = 0) -> tuple[int, ...]:
        """The shape of an output."""
        return self.values.shape(self.output(index))

    def rank(self, index: int = 0) -> int:
        """The number of axes of an input."""
        return len(self.shape(index))

    def length(self, axis: int) -> int:
        """The length of an axis of the first input, for ops that work along it.

        Raises
        ------
        UnsupportedError
            It is the batch, whose length the compiled engine leaves open.
        """
        size = self.shape()[axis]
        if size == -1:
            raise UnsupportedError(
                f"{self.layer.op_type} {self.layer.name!r} works along the batch, whose size "
                f"a compiled graph leaves open; "
                "engine='host' runs it"
            )
        return size

    def constant(self, index: int) -> Any:
        """The numpy value of an input that must be static; None where it is omitted.

        Raises
        ------
        UnsupportedError
            The input depends on the data.
        """
        tensor = self.input(index)
        if tensor is None:
            return None
        if not tensor.static:
            raise UnsupportedError(
                f"{self.layer.op_type} {self.layer.name!r}: input {index} ({tensor.name!r}) is computed from the data; "
                "only a constant is supported there"
            )
        return self.values.constant(tensor)

    def parameter(self, attribute: str, index: int) -> Any:
        """A setting that older op versions keep as an attribute and newer ones as an input."""
        if attribute in self.layer.attributes:
            return self.layer.attributes[attribute]
        return self.constant(index)

    def wants(self, index: int) -> bool:
        """Whether input ``index`` lies on the path."""
        return self.input(index) in self._wanted

    def made_by(self, index: int) -> str:
        """The op type of the layer that makes an input; empty for inputs of the model and constants."""
        producer = self._present(index).producer
        return "" if producer is None else producer.op_type

    def nonnegative(self, index: int) -> bool:
        """Whether input ``index`` is known not to be negative, whatever the data."""
        return self._present(index) in self.values.nonnegative

    def absorb(self, column: str, lost: Array) -> None:
        """Add ``lost``, or its sum over each sample, to a column of the ledger."""
        if self.absorbed is not None:
            self.enter(column, lost if self._elementwise else self.xp.sum_samples(lost))

    def enter(self, column: str, total: Array) -> None:
        """Add one number per sample to a column of the ledger."""
        if self.absorbed is not None:
            self.absorbed[column] = self.absorbed[column] + total if column in self.absorbed else total

    def active(self) -> list[int]:
        """The inputs on the path."""
        return [index for index in range(len(self.layer.inputs)) if self.wants(index)]

    def fit(self, g: Array, index: int) -> Array:
        """Sum ``g`` down to the shape of input ``index``: the adjoint of broadcasting."""
        return unbroadcast(self.xp, g, self.shape(index), self.out_shape())

    def axis(self, axis: int, index: int = 0) -> int:
        """A possibly negative axis of input ``index`` as a non-negative one."""
        return axis % self.rank(index) if self.rank(index) else 0

    def axes(self, axes: Sequence[int] | None, index: int = 0) -> tuple[int, ...]:
        """Possibly negative axes, None for all, as sorted non-negative ones."""
        if axes is None:
            return tuple(range(self.rank(index)))
        return tuple(sorted(self.axis(int(axis), index) for axis in axes))

    def _present(self, index: int) -> Tensor:
        tensor = self.input(index)
        assert tensor is not None, f"{self.layer!r} has no input {index}"
        return tensor


def unbroadcast(xp: Namespace, g: Array, shape: Sequence[int], out_shape: Sequence[int]) -> Array:
    """Sum ``g`` of shape ``out_shape`` over the axes along which ``shape`` was broadcast."""
    extra = len(out_shape) - len(shape)
    if extra:
        g = xp.sum(g, tuple(range(extra)))
    axes = tuple(i for i, size in enumerate(shape) if size == 1 and out_shape[extra + i] != 1)
    return xp.sum(g, axes, keepdims=True) if axes else g


Gradients = Sequence[Array | None]


class Op:
    """Base of every op type; the class attributes and methods are what the table knows of it.

    ``forward(at, *inputs)`` takes one array per input (None where omitted) and returns the output, or a tuple of them.
    ``vjp(at, *grads)`` takes one array per output (None where nothing arrives) and returns one per input.
    """

    kind: Kind = Kind.PASS
    status: str = "exact"
    nonnegative: bool = False
    """Whether the output cannot be negative."""
    keeps_sign: bool = False
    """Whether the output cannot be negative while no input is."""
    fixed: tuple[int, ...] = ()
    """Inputs taken as given, such as the kernel of a convolution: the op has no gradient in them."""

    def refusal(self, layer: Layer, wanted: Set[Tensor]) -> str | None:
        """Why the op is not supported at a layer where the tensors of ``wanted`` are explained; None where it is."""
        for index in self.fixed:
            tensor = layer.inputs[index] if index < len(layer.inputs) else None
            if tensor is not None and tensor in wanted:
                return f"input {index} ({tensor.name!r}) depends on what is explained, and there is no gradient in it"
        return None

    def nonnegative_at(self, layer: Layer) -> bool:
        """``nonnegative`` at one layer, where its attributes or constants decide."""
        return self.nonnegative

    def rectifies(self, layer: Layer) -> bool:
        """Whether it cuts off what lies below 0, as Relu does."""
        return False

    def moves_samples(self, layer: Layer) -> bool:
        """Whether samples that lie along the first axis of its inputs may lie along another one of its outputs."""
        return False

    def forward(self, at: At, *inputs: Array) -> Array:
        """The outputs from the inputs."""
        raise NotImplementedError  # pragma: no cover

    def vjp(self, at: At, *grads: Array) -> Gradients:
        """The gradient at each input from the gradient at each output."""
        raise NotImplementedError  # pragma: no cover

    def adjoint(self, at: At, *signals: Array) -> Gradients:
        """The VJP of the op taken as linear in its inputs, as relevance sees it; the gradient by default."""
        return self.vjp(at, *signals)

    def unstrided(self, at: At, *grads: Array) -> Gradients:
        """The VJP as if the windows of the op moved by one over the signal resampled; elsewhere the VJP."""
        return self.vjp(at, *grads)

    def kind_of(self, layer: Layer) -> Kind:
        """The kind at one layer; differs from ``kind`` where constant operands matter."""
        return self.kind

    def bias(self, at: At) -> Array | None:
        """The part of the output that no input on the path contributes, broadcastable to it, or None."""
        return None

    def on_constants(self, at: At, *r: Array) -> Sequence[Array]:
        """What of ``r`` stands at outputs copied from no input on the path, for ops that move or choose elements."""
        return ()

    def window(self, at: At) -> Window | None:
        """The window of a spatial op, else None."""
        return None

    def reach(self, at: At, *fields: Any) -> Sequence[Any | None]:
        """On which part of each input the parts of the outputs depend: :class:`onnxplain.engine.fields.Fields`.

        Element by element the same part, elsewhere everything; what an op reads less of, it says itself.
        """
        first = next(part for part in fields if part is not None)
        same = self.kind_of(at.layer) is Kind.PASS and fields[0] is not None
        return [
            None if not at.wants(i) else fields[0].fitted(at.shape(i)) if same else first.everything(at.shape(i))
            for i in range(len(at.layer.inputs))
        ]

    every_output: bool = False
    """Whether :meth:`fixate` takes the points at every output, None where there are none."""

    def has_fixation(self, layer: Layer) -> bool:
        """Whether points find their way through the op at a layer."""
        return self.kind_of(layer) is Kind.PASS or type(self).fixate is not Op.fixate

    def fixate(self, at: At, points: Any) -> Sequence[Any | None]:
        """Where the points at the first output come from, one set per input; unchanged element by element."""
        first = at.active()[0]
        fitted = at.points.fitted(points, at.out_shape(), at.shape(first))
        return [fitted if index == first else None for index in range(len(at.layer.inputs))]


class Linear(Op):
    """A product of one activation with constant weights: ``y = W x + b``."""

    kind = Kind.LINEAR

    def source(self, at: At) -> int:
        """The index of the activation."""
        return 0

    def weight(self, at: At) -> Array:
        """W, every scalar factor of the node multiplied in."""
        return at.x(1)

    def free_axis(self, at: At) -> int | None:
        """An axis of the activation along which weights meet every entry alike; None where there is none."""
        return 0

    def everywhere(self, at: At, value: Array | float = 1.0) -> Array:
        """An activation of ``value`` in every element, one entry long along what meets the weights alike."""
        shape = [1 if length == -1 else length for length in at.shape(self.source(at))]
        axis = self.free_axis(at)
        if axis is not None:
            shape[axis] = 1
        return at.xp.ones(shape) * value

    def apply(self, at: At, x: Array, w: Array) -> Array:
        """W x without the bias."""
        raise NotImplementedError  # pragma: no cover

    def transpose(self, at: At, s: Array, w: Array) -> Array:
        """W^T s, in the shape of the activation."""
        raise NotImplementedError  # pragma: no cover

    def affine(self, at: At, x: Array, w: Array, b: Array | None) -> Array:
        """W x + b; b broadcasts to the output."""
        y = self.apply(at, x, w)
        return y if b is None else y + b

    def contributions(self, at: At, s: Array, w: Array, x: Array) -> Array:
        """x * W^T s; x broadcasts to the activation."""
        return x * self.transpose(at, s, w)


OPS: dict[tuple[str, str], Op] = {}


def register(*op_types: str, domain: str = "") -> Callable[[type[Op]], type[Op]]:
    """Enter an :class:`Op` in the table under one or more op types; a second entry for one op type is an error."""

    def enter(cls: type[Op]) -> type[Op]:
        for op_type in op_types:
            add(op_type, cls(), domain)
        return cls

    return enter


def add(op_type: str, op: Op, domain: str = "") -> None:
    """Enter one op in the table."""
    if (domain, op_type) in OPS:
        raise ValueError(f"{op_type} is in the table already")
    OPS[domain, op_type] = op


def find(layer: Layer) -> Op | None:
    """The op of a layer, None where the table has none."""
    return OPS.get((layer.domain, layer.op_type))


def moves_samples(layers: Iterable[Layer]) -> bool:
    """Whether samples may leave the first axis on their way through ``layers``."""
    return any((op := find(layer)) is not None and op.moves_samples(layer) for layer in layers)


def check_support(layer: Layer, wanted: Set[Tensor]) -> None:
    """Raise where the op of a layer is not supported.

    Raises
    ------
    UnsupportedError
        With the reason; see :meth:`Op.refusal`.
    """
    op = find(layer)
    reason = op.refusal(layer, wanted) if op is not None else None
    if reason is not None:
        raise UnsupportedError(f"{layer.op_type} {layer.name!r} is not supported here: {reason}")


def table() -> Mapping[tuple[str, str], Op]:
    """Every (domain, op type) and its op."""
    return OPS
