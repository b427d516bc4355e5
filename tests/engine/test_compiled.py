"""What a compiled graph has to be careful with: names, subgraphs, fixed batches, odd constants, types of outputs."""

from __future__ import annotations

from pathlib import Path

import nets
import numpy as np
import onnx
import pytest
from onnx import helper

import onnxplain
from onnxplain.errors import UnsupportedError

RNG = np.random.default_rng(2)
FLOAT = onnx.TensorProto.FLOAT


def both(model: bytes, x: np.ndarray, method: str = "gradient", **how: object) -> np.ndarray:
    """The relevance, the same on both engines."""
    found = [
        onnxplain.explain(model, x, method, engine=engine, **how).relevance["x"] for engine in ("host", "compiled")
    ]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-6)
    return found[0]


def branch(weight: str) -> onnx.GraphProto:
    out = helper.make_tensor_value_info(f"{weight}_out", FLOAT, [40, 40])
    return helper.make_graph([nets.node("Identity", [weight], f"{weight}_out")], weight, [], [out])


@pytest.mark.parametrize("size", ["N", 2])
def test_weights_that_only_a_branch_reads(size: int | str) -> None:
    """They belong to the graph as those do that its nodes read."""
    nodes = [
        nets.node("Shape", ["x"], "shape"),
        nets.node("ReduceSum", ["shape"], "sum", keepdims=0),
        nets.node("Greater", ["sum", "few"], "many"),
        nets.node("If", ["many"], "w", then_branch=branch("v"), else_branch=branch("u")),
        nets.node("MatMul", ["x", "w"], "y"),
    ]
    v, u = RNG.standard_normal((2, 40, 40)).astype(np.float32)
    model = nets.model(nodes, {"x": [size, 40]}, constants={"v": v, "u": u, "few": np.int64(5)})
    found = both(model, np.ones((2, 40), np.float32), target=3)
    np.testing.assert_allclose(found, [v[:, 3]] * 2, rtol=1e-6)


@pytest.mark.parametrize("name", ["onnxplain_const_3", "onnxplain_0", "onnxplain_target", "relevance/x", "ledger/y/in"])
def test_names_of_its_own_are_refused(name: str) -> None:
    """A clash would compute something else; the host engine has no names, and the automatic choice takes it."""
    nodes = [nets.node("MatMul", ["x", name], "h"), nets.node("Relu", ["h"], "y")]
    model = nets.model(nodes, {"x": ["N", 3]}, constants={name: np.eye(3)})
    x = np.ones((16, 3), np.float32)
    with pytest.raises(UnsupportedError, match=f"names like '{name}' for itself; engine='host' explains this one"):
        onnxplain.explain(model, x, engine="compiled")
    assert onnxplain.explain(model, x).engine == "host"


def test_a_fixed_batch_in_parts() -> None:
    """Four samples of a file that takes two, by the engine that so many passes are worth."""
    nodes = [nets.node("MatMul", ["x", "w"], "h"), nets.node("Tanh", ["h"], "y")]
    model = nets.model(nodes, {"x": [2, 3]}, constants={"w": RNG.standard_normal((3, 3))})
    x = RNG.standard_normal((4, 3)).astype(np.float32)
    found = onnxplain.explain(model, x, "smoothgrad", 1)
    assert found.engine == "compiled"
    expected = onnxplain.explain(model, x, "smoothgrad", 1, engine="host")
    np.testing.assert_allclose(found.relevance["x"], expected.relevance["x"], rtol=1e-4, atol=1e-6)


def test_constants_that_are_no_numbers() -> None:
    """Texts beside the path are no weights."""
    nodes = [nets.node("Relu", ["x"], "y"), nets.node("Identity", ["labels"], "z")]
    constants = {"labels": np.array(["a", "b"], object)}
    model = nets.model(nodes, {"x": ["N", 2]}, ("y", "z"), constants)
    np.testing.assert_array_equal(both(model, np.array([[1, -1]], np.float32), target=0, output="y"), [[1, 0]])


@pytest.mark.parametrize(("method", "how"), [("gradient", {}), ("lrp", {"rules": "epsilon"})])
def test_weights_that_the_runtime_computes_with_as_integers(method: str, how: dict[str, str]) -> None:
    """It turns a DequantizeLinear in front of a product into integer arithmetic, but in a session that saves memory."""
    nodes = [
        nets.node("DequantizeLinear", ["q", "s", "z"], "w"),
        nets.node("MatMul", ["x", "w"], "h"),
        nets.node("MatMul", ["h", "v"], "y"),
    ]
    codes, v = RNG.integers(-100, 100, (8, 8)).astype(np.int8), RNG.standard_normal((8, 8))
    constants = {"q": codes, "s": np.float32(0.01), "z": np.int8(0), "v": v}
    model = nets.model(nodes, {"x": ["N", 8]}, constants=constants)
    x = RNG.standard_normal((4, 8)).astype(np.float32)
    for engine in ("host", "compiled"):
        found = onnxplain.explain(model, x, method, 5, engine=engine, **how).relevance["x"]
        slope = codes.astype(np.float64) * 0.01 @ v[:, 5]
        expected = slope * (np.ones_like(x) if method == "gradient" else x)
        np.testing.assert_allclose(found, expected, atol=0.01 * np.abs(expected).max())


def test_an_exported_file_is_valid_and_can_be_explained(tmp_path: Path) -> None:
    """Its outputs have types; what it gives beside the relevance is a model as any other."""
    nodes = [nets.node("MatMul", ["x", "w"], "h"), nets.node("Relu", ["h"], "r"), nets.node("MatMul", ["r", "v"], "y")]
    constants = {"w": RNG.standard_normal((3, 30)), "v": RNG.standard_normal((30, 4))}
    model = nets.model(nodes, {"x": ["N", 3]}, constants=constants)
    onnxplain.export(model, tmp_path / "explained.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "explained.onnx"), full_check=True)
    again = onnxplain.load(tmp_path / "explained.onnx")
    assert {out.name: out.shape for out in again.outputs} == {"y": ("batch", 4), "relevance/x": ("batch", 3)}
    x = RNG.standard_normal((2, 3)).astype(np.float32)
    expected = onnxplain.explain(model, x).relevance["x"]
    np.testing.assert_allclose(again.run(x)["relevance/x"], expected, rtol=1e-4, atol=1e-6)
    for engine in ("host", "compiled"):
        found = onnxplain.explain(again, x, output="y", engine=engine).relevance["x"]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
