"""Products in vector registers, which numba's loops cannot name: written in LLVM's terms.

A tile of sums stays in registers while all terms go over it, so that each element of a panel that is loaded meets
several rows of weights and nothing is stored between. Every element is summed in the order of the terms, whatever the
size of the tile.
"""

from __future__ import annotations

from typing import Any

from llvmlite import binding, ir
from numba.core import types
from numba.extending import intrinsic

VECTOR_BYTES = 64
"""Of what is loaded at once; LLVM splits it where registers are shorter."""
ROWS, VECTORS = (8, 2) if binding.get_host_cpu_features().get("avx512f") else (6, 1)
"""Rows and vectors of the largest tile: as many as there are registers for."""


def tile(rows: int, vectors: int) -> Any:
    """The function that adds the products of ``rows`` rows of weights and ``vectors`` vectors of each row of a panel.

    ``add(w, first, row_step, term_step, terms, panel, p, p_step, sums, s, s_step)`` adds ``w[first + r * row_step + k *
    term_step] * panel[p + k * p_step + j]`` for all k < terms to ``sums[s + r * s_step + j]``, r and j within the tile,
    all arrays flat. There must be terms.
    """

    def typed(
        _: Any, w: Any, first: Any, row_step: Any, term_step: Any, terms: Any, panel: Any, p: Any, p_step: Any,
        sums: Any, s: Any, s_step: Any,
    ) -> Any:  # fmt: skip
        steps = [types.intp] * 4
        return types.void(w, *steps, panel, *steps[:2], sums, *steps[:2]), code

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        w, first, row_step, term_step, terms, panel, p, p_step, sums, s, s_step = arguments
        kind = signature.args[0].dtype
        w, panel, sums = (
            context.make_array(signature.args[i])(context, builder, value=array).data
            for i, array in ((0, w), (5, panel), (8, sums))
        )
        lanes, width = VECTOR_BYTES * 8 // kind.bitwidth, kind.bitwidth // 8
        vector = ir.VectorType(context.get_value_type(kind), lanes)
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
        nothing = ir.Constant(vector, ir.Undefined)

        def place(array: Any, start: Any, step: Any, count: Any, more: int = 0) -> Any:
            index = builder.add(start, builder.mul(step, count))
            return builder.gep(array, [builder.add(index, ir.Constant(index.type, more))])

        def whole(at: Any) -> Any:
            return builder.bitcast(at, vector.as_pointer())

        def number(value: int) -> Any:
            return ir.Constant(first.type, value)

        sizes = [(r, v) for r in range(rows) for v in range(vectors)]
        places = {(r, v): whole(place(sums, s, s_step, number(r), v * lanes)) for r, v in sizes}
        begun = {size: builder.load(at, align=width) for size, at in places.items()}
        before = builder.block
        loop, after = builder.append_basic_block("terms"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        k = builder.phi(first.type)
        totals = {size: builder.phi(vector) for size in sizes}
        across = [builder.load(whole(place(panel, p, p_step, k, v * lanes)), align=width) for v in range(vectors)]
        ended = {}
        for r in range(rows):
            start = builder.add(first, builder.mul(row_step, number(r)))
            weight = builder.insert_element(
                nothing, builder.load(place(w, start, term_step, k)), ir.Constant(ir.IntType(32), 0)
            )
            weight = builder.shuffle_vector(weight, nothing, zeros)
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
        for size in sizes:
            builder.store(ended[size], places[size], align=width)
        return context.get_dummy_value()

    return intrinsic(typed)
