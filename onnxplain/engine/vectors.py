"""What numba's loops cannot name, or only at length, in LLVM's terms: products in vector registers, and moves.

A tile of sums stays in registers while all terms go over it, so that each element of a panel that is loaded meets
several rows of weights and nothing is stored between. Every element is summed in the order of the terms, whatever the
size of the tile.
"""

from __future__ import annotations

from typing import Any

from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

VECTOR_BYTES = 64
"""Of what is loaded at once; LLVM splits it where registers are shorter."""
ROWS, VECTORS = (8, 2) if binding.get_host_cpu_features().get("avx512f") else (6, 1)
"""Rows and vectors of the largest tile: as many as there are registers for."""


def _row(readonly: bool) -> Any:
    def typed(_: Any, array: Any) -> Any:
        if array.layout != "C":
            return None
        return types.Array(array.dtype, 1, "C", readonly=readonly)(array), code

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        whole = context.make_array(signature.args[0])(context, builder, value=arguments[0])
        row = context.make_array(signature.return_type)(context, builder)
        owner = {"meminfo": whole.meminfo, "parent": whole.parent}
        populate_array(row, whole.data, [whole.nitems], [whole.itemsize], whole.itemsize, **owner)
        return impl_ret_borrowed(context, builder, signature.return_type, row._getvalue())

    return intrinsic(typed)


read: Any = _row(readonly=True)
"""``read(array)`` is a contiguous array in one row, of the one type in which functions take what they read: for each
type they would be compiled anew."""
written: Any = _row(readonly=False)
"""``written(array)`` is the same for what they write to."""


def _data(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    return context.make_array(kind)(context, builder, value=array).data


def _move(_: Any, source: Any, s: Any, target: Any, t: Any, count: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, s, target, t, count = arguments
        kind = signature.args[0]
        come = builder.gep(_data(context, builder, kind, source), [s])
        go = builder.gep(_data(context, builder, signature.args[2], target), [t])
        cgutils.raw_memcpy(builder, go, come, count, kind.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(source, types.intp, target, types.intp, types.intp), code


def _clear(_: Any, target: Any, t: Any, count: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, t, count = arguments
        kind = signature.args[0]
        size = builder.mul(count, ir.Constant(count.type, kind.dtype.bitwidth // 8))
        cgutils.memset(builder, builder.gep(_data(context, builder, kind, target), [t]), size, 0)
        return context.get_dummy_value()

    return types.void(target, types.intp, types.intp), code


move: Any = intrinsic(_move)
"""``move(source, s, target, t, count)`` is ``target[t : t + count] = source[s : s + count]`` for arrays in one row."""
clear: Any = intrinsic(_clear)
"""``clear(target, t, count)`` is ``target[t : t + count] = 0``."""


def tile(vectors: int, whole: bool) -> Any:
    """The function that adds the products of some rows of weights and ``vectors`` vectors of each row of a panel.

    ``add(w, first, row_step, term_step, rows, terms, panel, p, p_step, sums, s, s_step, columns)`` adds ``w[first + r *
    row_step + k * term_step] * panel[p + k * p_step + j]`` for all k < terms to ``sums[s + r * s_step + j]``, for r <
    rows, of which there are at most ROWS, and j < columns, which a ``whole`` tile takes to fill the vectors. All arrays
    are flat. There must be rows and terms.
    """

    def typed(
        _: Any, w: Any, first: Any, row_step: Any, term_step: Any, rows: Any, terms: Any, panel: Any, p: Any,
        p_step: Any, sums: Any, s: Any, s_step: Any, columns: Any,
    ) -> Any:  # fmt: skip
        steps = [types.intp] * 5
        return types.void(w, *steps, panel, *steps[:2], sums, *steps[:3]), code

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        w, first, row_step, term_step, rows, terms, panel, p, p_step, sums, s, s_step, columns = arguments
        kind = signature.args[0].dtype
        w, panel, sums = (
            _data(context, builder, signature.args[i], array) for i, array in ((0, w), (6, panel), (9, sums))
        )
        vector = _Vector(builder, context.get_value_type(kind), kind.bitwidth // 8)
        masks = [None if whole else vector.mask(columns, v * vector.lanes) for v in range(vectors)]

        def number(value: int) -> Any:
            return ir.Constant(first.type, value)

        def place(array: Any, start: Any, step: Any, count: Any, more: int = 0) -> Any:
            index = builder.add(start, builder.mul(step, count))
            return builder.gep(array, [builder.add(index, number(more))])

        sizes = [(r, v) for r in range(ROWS) for v in range(vectors)]
        drawn = [number(0)]  # beyond the last row that one again, whose sums are stored twice
        for r in range(1, ROWS):
            drawn.append(builder.select(builder.icmp_signed("<", number(r), rows), number(r), drawn[-1]))
        weights = [place(w, first, row_step, row) for row in drawn]
        places = {(r, v): place(sums, s, s_step, drawn[r], v * vector.lanes) for r, v in sizes}
        begun = {(r, v): vector.load(places[r, v], masks[v]) for r, v in sizes}
        before = builder.block
        loop, after = builder.append_basic_block("terms"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        k = builder.phi(first.type)
        totals = {size: builder.phi(vector.kind) for size in sizes}
        across = [vector.load(place(panel, p, p_step, k, v * vector.lanes), masks[v]) for v in range(vectors)]
        ended = {}
        for r in range(ROWS):
            weight = vector.spread(builder.load(place(weights[r], number(0), term_step, k)))
            for v in range(vectors):
                product = builder.fmul(weight, across[v], flags=("contract",))
                ended[r, v] = builder.fadd(totals[r, v], product, flags=("contract",))
        following = builder.add(k, number(1))
        k.add_incoming(number(0), before)
        k.add_incoming(following, loop)
        for size in sizes:
            totals[size].add_incoming(begun[size], before)
            totals[size].add_incoming(ended[size], loop)
        builder.cbranch(builder.icmp_signed("<", following, terms), loop, after)
        builder.position_at_end(after)
        for r, v in sizes:
            vector.store(ended[r, v], places[r, v], masks[v])
        return context.get_dummy_value()

    return intrinsic(typed)


class _Vector:
    """What LLVM does with vectors of one kind of floats: a mask says which elements there are in memory."""

    def __init__(self, builder: Any, element: Any, width: int) -> None:
        self._builder, self._width = builder, width
        self.lanes = VECTOR_BYTES // width
        self.kind = ir.VectorType(element, self.lanes)

    def spread(self, value: Any) -> Any:
        """The value in every lane."""
        number = ir.IntType(32)
        nothing = ir.Constant(ir.VectorType(value.type, self.lanes), ir.Undefined)
        single = self._builder.insert_element(nothing, value, ir.Constant(number, 0))
        zeros = ir.Constant(ir.VectorType(number, self.lanes), [0] * self.lanes)
        return self._builder.shuffle_vector(single, nothing, zeros)

    def mask(self, columns: Any, first: int) -> Any:
        """The lanes before ``columns``, for a vector that begins at ``first``."""
        columns_of = ir.VectorType(columns.type, self.lanes)
        numbers = ir.Constant(columns_of, [*range(first, first + self.lanes)])
        return self._builder.icmp_signed("<", numbers, self.spread(columns))

    def load(self, place: Any, mask: Any) -> Any:
        at = self._builder.bitcast(place, self.kind.as_pointer())
        if mask is None:
            return self._builder.load(at, align=self._width)
        return self._masked("load", self.kind, at, self._alignment, mask, ir.Constant(self.kind, ir.Undefined))

    def store(self, value: Any, place: Any, mask: Any) -> None:
        at = self._builder.bitcast(place, self.kind.as_pointer())
        if mask is None:
            self._builder.store(value, at, align=self._width)
        else:
            self._masked("store", ir.VoidType(), value, at, self._alignment, mask)

    @property
    def _alignment(self) -> Any:
        return ir.Constant(ir.IntType(32), self._width)

    def _masked(self, what: str, result: Any, *arguments: Any) -> Any:
        name = f"llvm.masked.{what}.v{self.lanes}f{8 * self._width}.p0"
        function = ir.FunctionType(result, [argument.type for argument in arguments])
        return self._builder.call(cgutils.get_or_insert_function(self._builder.module, function, name), arguments)
