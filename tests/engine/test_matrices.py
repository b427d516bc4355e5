"""Large matrices: read where they are, or copied where that pays; the same results either way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnxplain
from onnxplain.engine import matrices
from onnxplain.engine.matrices import as_inputs, copies_pay
from onnxplain.engine.protos import initializer
from onnxplain.engine.sessions import CPU, CUDA, Runtime

FLOAT = onnx.TensorProto.FLOAT
SIZE = 64
RNG = np.random.default_rng(0)
MATRIX = RNG.standard_normal((SIZE, SIZE)).astype(np.float32) / 8
node = helper.make_node
ROWS = {"x": (-1, SIZE), "y": (-1, SIZE)}


def built(nodes: list[onnx.NodeProto], x: list[int | str], outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    """A graph over the matrix, which it declares as external."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", FLOAT, x)],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [initializer("w", MATRIX, {})],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts as large."""
    monkeypatch.setattr(matrices, "LARGE", SIZE * SIZE)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("nodes", "shapes", "taken"),
    [
        ([node("Gemm", ["x", "w"], ["y"])], {}, True),
        ([node("MatMul", ["x", "w"], ["y"])], ROWS, True),
        ([node("MatMul", ["x", "w"], ["h"]), node("Gemm", ["h", "w"], ["y"], transB=1)], ROWS, True),
        ([node("MatMul", ["x", "w"], ["y"])], {}, False),
        ([node("MatMul", ["x", "w"], ["y"])], {"x": (-1, 3, SIZE)}, False),
        ([node("Gemm", ["w", "x"], ["y"], transB=1)], ROWS, False),
        ([node("Gemm", ["w", "w"], ["h"]), node("Gemm", ["x", "h"], ["y"])], ROWS, False),
        ([node("Gemm", ["x", "w"], ["h"]), node("Add", ["h", "w"], ["y"])], ROWS, False),
        ([node("Gemm", ["x", "w"], ["y"], domain="elsewhere")], ROWS, False),
    ],
)
def test_what_becomes_an_input(nodes: list[onnx.NodeProto], shapes: dict[str, tuple[int, ...]], taken: bool) -> None:
    """A matrix that rows are multiplied by, on the right, and that nothing else reads."""
    model, weights = built(nodes, ["n", SIZE]), {"w": MATRIX}
    found = as_inputs(model, weights, shapes, Runtime())
    assert list(found) == ["w"] * taken
    assert ("w" in weights) is not taken
    assert [value.name for value in model.graph.input] == ["x", *found]
    assert len(model.graph.initializer) == (not taken)
    if taken:
        assert found["w"] is MATRIX


@pytest.mark.usefixtures("small")
def test_what_stays_an_initializer() -> None:
    """A matrix that the graph returns, one of another type, a small one, and each on a GPU."""
    nodes = [node("Gemm", ["x", "w"], ["y"])]
    for outputs, value, providers in (
        (("y", "w"), MATRIX, (CPU,)),
        (("y",), MATRIX.astype(np.float64), (CPU,)),
        (("y",), MATRIX[:-1], (CPU,)),
        (("y",), MATRIX, (CUDA, CPU)),
    ):
        model, weights = built(nodes, ["n", SIZE], outputs), {"w": value}
        assert not as_inputs(model, weights, ROWS, Runtime(providers))
        assert list(weights) == ["w"]
        assert len(model.graph.initializer) == 1


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("rows", "batch", "side", "pays"),
    [(-1, 1, 1, False), (1, None, 1, False), (-1, 8, 1, True), (8, None, 1, True), (-1, 8, 40, False)],
)
def test_copies_pay(rows: int, batch: int | None, side: int, pays: bool) -> None:
    """For several rows, unless the convolutions around are most of the work: here 16 * 8 * side^2 / 64^2 a matrix."""
    filters = np.ones((4, 4, 1, 1), np.float32)
    nodes = [node("Conv", ["p", "f"], ["q"]), node("Size", ["q"], ["s"]), node("Gemm", ["x", "w"], ["y"])]
    shapes = {**ROWS, "x": (rows, SIZE), "y": (rows, SIZE), "q": (rows, 4, side * 8, side), "s": ()}
    model = built(nodes, ["n", SIZE])
    assert copies_pay(model, {"w": MATRIX, "f": filters}, shapes, batch) is pays


def classifier(turned: bool) -> onnx.ModelProto:
    """A convolution and two dense layers, as torch exports them (turned) or as Keras does."""
    width = 6 * 6 * 16
    parts = {
        "f": RNG.standard_normal((16, 4, 3, 3)) / 6,
        "w1": RNG.standard_normal((48, width) if turned else (width, 48)) / 24,
        "b1": RNG.standard_normal(48),
        "w2": RNG.standard_normal((11, 48) if turned else (48, 11)) / 7,
        "b2": RNG.standard_normal(11),
    }
    nodes = [node("Conv", ["x", "f"], ["c"], pads=[1] * 4), node("Relu", ["c"], ["r"]), node("Flatten", ["r"], ["d0"])]
    for layer in (1, 2):
        inputs = [f"d{layer - 1}", f"w{layer}"]
        if turned:
            nodes.append(node("Gemm", [*inputs, f"b{layer}"], [f"z{layer}"], transB=1))
        else:
            nodes.append(node("MatMul", inputs, [f"m{layer}"]))
            nodes.append(node("Add", [f"m{layer}", f"b{layer}"], [f"z{layer}"]))
        nodes.append(node("Relu", [f"z{layer}"], [f"d{layer}"]))
    graph = helper.make_graph(
        nodes[:-1],
        "net",
        [helper.make_tensor_value_info("x", FLOAT, ["n", 4, 6, 6])],
        [helper.make_tensor_value_info("z2", FLOAT, ["n", 11])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in parts.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("method", ["gradient", "lrp"])
@pytest.mark.parametrize("engine", ["host", "compiled"])
def test_explanations_are_the_same(engine: str, method: str, turned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model with large matrices, one sample or several, with copies and without."""
    model = classifier(turned)
    samples = [RNG.standard_normal((batch, 4, 6, 6)).astype(np.float32) for batch in (1, 5)]
    expected = [onnxplain.explain(onnxplain.load(model), x, method, engine=engine) for x in samples]
    monkeypatch.setattr(matrices, "LARGE", 48 * 11)
    for work in (0, 1e9):
        monkeypatch.setattr(matrices, "WORK", work)
        large = onnxplain.load(model)
        for x, before in zip(samples, expected, strict=True):
            found = onnxplain.explain(large, x, method, engine=engine)
            scale = np.abs(before.relevance["x"]).max()
            np.testing.assert_allclose(found.relevance["x"], before.relevance["x"], rtol=1e-4, atol=1e-5 * scale)
            np.testing.assert_allclose(found.prediction, before.prediction, rtol=1e-4, atol=1e-5)


def test_a_weight_stands_in_a_compiled_file_once(tmp_path: Path) -> None:
    """Forward and back, whichever way round the file has its matrices."""
    for turned in (True, False):
        out = tmp_path / f"{turned}.onnx"
        onnxplain.export(onnxplain.load(classifier(turned)), out, method="gradient")
        sizes = [int(np.prod(tensor.dims)) for tensor in onnx.load(out).graph.initializer]
        assert sizes.count(6 * 6 * 16 * 48) == 1
        assert sizes.count(48 * 11) == 1


@pytest.mark.parametrize("engine", ["host", "compiled"])
def test_large_matrices_stand_in_memory_once(engine: str, tmp_path: Path) -> None:
    """The peak of a process that explains a model with 2 x 64 MiB of weights, over that of a small model."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of a process is read from /proc")
    for name, width in (("small", 64), ("large", 4096)):
        matrix = numpy_helper.from_array(np.full((width, width), 1 / width, np.float32), "w")
        other = numpy_helper.from_array(np.full((width, width), 1 / width, np.float32), "v")
        nodes = [
            node("Gemm", ["x", "w"], ["h"], transB=1),
            node("Relu", ["h"], ["r"]),
            node("MatMul", ["r", "v"], ["y"]),
        ]
        inputs = [helper.make_tensor_value_info("x", FLOAT, ["n", width])]
        outputs = [helper.make_tensor_value_info("y", FLOAT, ["n", width])]
        graph = helper.make_graph(nodes, "net", inputs, outputs, [matrix, other])
        opset = helper.make_opsetid("", 18)
        onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), tmp_path / f"{name}.onnx")
    code = (
        "import re, sys, numpy as np, onnxplain\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024\n"
        "for name, width in ('small', 64), ('large', 4096):\n"
        "    before, model = peak(), onnxplain.load(f'{sys.argv[1]}/{name}.onnx')\n"
        "    for method, more in ('gradient', {}), ('lrp', {'rules': 'epsilon'}):\n"
        "        onnxplain.explain(model, np.ones((1, width), np.float32), method, engine=sys.argv[2], **more)\n"
        "print(peak() - before)"
    )
    taken = float(subprocess.check_output([sys.executable, "-c", code, str(tmp_path), engine]))
    assert taken < 160
