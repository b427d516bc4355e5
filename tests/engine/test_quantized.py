"""A quantized graph: what is explained is what the runtime's integer kernels give, whichever method asks."""

from __future__ import annotations

from pathlib import Path

import nets
import numpy as np
import pytest
from PIL import Image

import onnxplain
from onnxplain.interpretation.visual import visualise
from onnxplain.model import _TOLERANCE

RNG = np.random.default_rng(0)
X = RNG.normal(size=(1, 3, 40, 40)).astype(np.float32)
CONTRACT = """[input.x]
layout = "NCHW"
colour = "RGB"
size = [40, 40]
resize = "stretch"
range = [0.0, 1.0]
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
"""


@pytest.fixture(scope="module")
def net() -> bytes:
    """Six quantized convolutions; the zero point of what they give is the lowest step, so that it bends as a ReLU."""
    nodes, width, h = [], 3, "x"
    constants: dict[str, np.ndarray] = {
        **{"x.s": np.array(0.03, np.float32), "x.z": np.array(128, np.uint8)},
        **{"a.s": np.array(0.02, np.float32), "a.z": np.array(0, np.uint8)},
        **{"w.s": np.array(0.01, np.float32), "w.z": np.array(0, np.int8)},
        "v": RNG.normal(size=(8, 4)).astype(np.float32),
    }

    def quantized(source: str, name: str, kind: str) -> str:
        nodes.append(nets.node("QuantizeLinear", [source, f"{kind}.s", f"{kind}.z"], f"{name}.q"))
        nodes.append(nets.node("DequantizeLinear", [f"{name}.q", f"{kind}.s", f"{kind}.z"], name))
        return name

    h = quantized(h, "x0", "x")
    for layer in range(6):
        constants[f"w{layer}.q"] = RNG.integers(-30, 31, (8, width, 3, 3)).astype(np.int8)
        nodes.append(nets.node("DequantizeLinear", [f"w{layer}.q", "w.s", "w.z"], f"w{layer}"))
        nodes.append(nets.node("Conv", [h, f"w{layer}"], f"c{layer}", pads=[1] * 4))
        h, width = quantized(f"c{layer}", f"a{layer}", "a"), 8
    nodes += [nets.node("GlobalAveragePool", [h], "p"), nets.node("Flatten", ["p"], "f")]
    nodes.append(nets.node("MatMul", ["f", "v"], "y"))
    return nets.model(nodes, {"x": ["n", 3, 40, 40]}, ["y"], constants)


@pytest.fixture(scope="module")
def model(net: bytes) -> onnxplain.Model:
    return onnxplain.load(net, threads=1)


@pytest.mark.parametrize("engine", ["host", "compiled"])
@pytest.mark.parametrize("method", ["gradient", "lrp", "grad-cam", "guided-backprop", "hires-cam"])
def test_every_method_explains_the_number_that_the_file_gives(model: onnxplain.Model, method: str, engine: str) -> None:
    said = model.run(X)["y"]
    e = onnxplain.explain(model, X, method, 1, engine=engine)
    np.testing.assert_array_equal(e.prediction, said)
    assert e.target[0].value == said[0, 1]


@pytest.mark.parametrize("engine", ["host", "compiled"])
def test_a_remark_belongs_to_the_explanations_that_it_concerns(
    net: bytes, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_TOLERANCE, 4, 1e-5)  # six layers round apart by 2e-4, real networks by more than is tolerated
    model = onnxplain.load(net, threads=1)

    def remarks(method: str) -> list[str]:
        notes = onnxplain.explain(model, X, method, 1, engine=engine).notes
        return [note for note in notes if "quantized graph as written" in note]

    said = [remarks(method) for method in ("gradient", "fullgrad", "gradient", "fullgrad")]
    assert [len(notes) for notes in said] == [0, 1, 0, 1]
    assert said[1] == said[3]


@pytest.mark.parametrize("engine", ["host", "compiled"])
def test_fullgrad_accounts_for_the_graph_as_written(net: bytes, model: onnxplain.Model, engine: str) -> None:
    e = onnxplain.explain(model, X, "fullgrad", 1, engine=engine)
    written = onnxplain.load(net, threads=1, optimization="disable").run(X)["y"]
    np.testing.assert_allclose(e.prediction, written, rtol=1e-5)
    np.testing.assert_allclose(e.extras["completeness_gap"], 0, atol=1e-4)


def test_features_are_drawn_from_the_graph_that_their_responses_are_of(
    net: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With some of the tensors exposed, the graph rounds neither as the kernels do nor as written."""
    monkeypatch.setitem(_TOLERANCE, 4, 1e-5)
    (tmp_path / "net.onnx").write_bytes(net)
    (tmp_path / "net.onnxplain.toml").write_text(CONTRACT)
    for row in range(6):
        Image.fromarray(RNG.integers(0, 256, (40, 40, 3), np.uint8)).save(tmp_path / f"{row}.png")
    model = onnxplain.load(tmp_path / "net.onnx", threads=1)
    found = onnxplain.interpret(model, tmp_path)
    tensors = {found.located(int(place))[0].tensor for place in found.relevant}
    assert 0 < len(tensors) < len(found.filters)
    assert len(visualise(model, found, tmp_path).filters) == len(found.relevant)
