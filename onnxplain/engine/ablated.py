"""A model with filters that can be silenced: a factor per channel behind some tensors, in a copy of the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import helper

from onnxplain.engine.protos import graph_model
from onnxplain.engine.responses import Filters
from onnxplain.engine.sessions import Session
from onnxplain.graph.layers import Tensor
from onnxplain.model import Feed, Model

_FULL, _KEPT = "__onnxplain_full", "__onnxplain_kept"


class Ablated:
    """The rewritten graph; the model itself stays as it is.

    Parameters
    ----------
    model : Model
    target : Tensor
        What is computed: the class scores.
    filters : sequence of Filters
        The tensors whose channels can be silenced.
    """

    def __init__(self, model: Model, target: Tensor, filters: Sequence[Filters]) -> None:
        self.model = model
        self.target = target
        self.filters = tuple(filters)

    def run(self, feed: Feed, kept: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
        """The class scores with some channels set to 0.

        Parameters
        ----------
        feed : dict of str to numpy.ndarray
        kept : mapping of str to numpy.ndarray
            By tensor, samples x channels: 1 for channels that stay, 0 for those set to 0. Tensors left out stay whole.
        """
        factors = {}
        for each in self.filters:
            factor = np.ones((1, each.count)) if kept is None or each.tensor not in kept else kept[each.tensor]
            shape = [len(factor)] + [each.count if axis == each.axis else 1 for axis in range(1, each.rank)]
            factors[each.tensor + _KEPT] = factor.reshape(shape).astype(self._dtype(each))
        key = ("ablated", self.target.name, tuple(each.tensor for each in self.filters))
        session = self.model.sessions.get(key, self._session)
        whole = {name: np.ones_like(factor) for name, factor in factors.items()}
        self.model.check(key, feed, lambda: session.run({**feed, **whole}))
        return session.run({**feed, **factors}, [self.target.name])[self.target.name]

    def _dtype(self, filters: Filters) -> np.dtype[np.floating]:
        dtype = self.model.tensor(filters.tensor).dtype
        return np.dtype(np.float32) if dtype is None else dtype

    def _session(self) -> Session:
        graph = self.model.graph
        outputs = list(dict.fromkeys([self.target, *(out for out in graph.outputs if out.value is None)]))
        proto, weights = graph_model(graph, outputs)
        renamed = {each.tensor: each.tensor + _FULL for each in self.filters}
        nodes = []
        for node in proto.graph.node:
            made = [name for name in node.output if name in renamed]
            node.output[:] = [renamed.get(name, name) for name in node.output]
            nodes += [node, *(helper.make_node("Mul", [renamed[n], n + _KEPT], [n], name=n + _KEPT) for n in made)]
        del proto.graph.node[:]
        proto.graph.node.extend(nodes)
        proto.graph.input.extend(
            helper.make_tensor_value_info(
                each.tensor + _KEPT, helper.np_dtype_to_tensor_dtype(self._dtype(each)), [None] * each.rank
            )
            for each in self.filters
        )
        return Session(proto, self.model.runtime, weights, label=self.model.label)
