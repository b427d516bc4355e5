"""The Python side of the contract: loading, running, explaining, the Explanation, and what goes wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest

import onnxplain

ORACLES = Path(__file__).parent / "oracles"
PLAIN = ORACLES / "plain_opset18.onnx"
ENGINES = pytest.mark.parametrize("engine", ["host", "compiled"])


@pytest.fixture(scope="module")
def model() -> onnxplain.Model:
    return onnxplain.load(PLAIN, threads=1)


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    with np.load(ORACLES / "plain.npz") as file:
        return file["input"]


def classifier(batch: int | str = "N", dtype: Any = np.float32) -> bytes:
    """A convolution, a Relu, a global mean and a dense layer."""
    rng = np.random.default_rng(0)
    nodes = [
        nets.node("Conv", ["x", "w"], "z"),
        nets.node("Relu", ["z"], "a"),
        nets.node("GlobalAveragePool", ["a"], "p"),
        nets.node("Flatten", ["p"], "f"),
        nets.node("Gemm", ["f", "v"], "y"),
    ]
    weights = {"w": rng.normal(size=(3, 2, 3, 3)), "v": rng.normal(size=(3, 4))}
    return nets.model(nodes, {"x": [batch, 2, 5, 5]}, constants=weights, dtype=dtype)


@pytest.mark.parametrize(
    "heavy", ["numba", "onnxruntime", "matplotlib", "sklearn", "scipy", "cv2", "PIL", "onnx", "numpy"]
)
def test_import_is_cheap(heavy: str) -> None:
    script = f"import onnxplain, sys; dir(onnxplain); sys.exit({heavy!r} in sys.modules)"
    root = str(Path(onnxplain.__file__).parents[1])
    assert subprocess.run([sys.executable, "-c", script], cwd=root, check=False).returncode == 0


def test_every_public_name_is_there() -> None:
    assert set(onnxplain.__all__) <= set(dir(onnxplain))
    for name in onnxplain.__all__:
        assert getattr(onnxplain, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'explian'"):
        onnxplain.explian  # noqa: B018


# Model


def test_load_takes_a_path_bytes_or_a_proto(x: np.ndarray) -> None:
    wanted = onnxplain.explain(PLAIN, x).relevance["input"]
    for source in (str(PLAIN), PLAIN.read_bytes(), onnx.load(PLAIN)):
        np.testing.assert_array_equal(
            onnxplain.explain(onnxplain.load(source), {"input": x}).relevance["input"], wanted
        )


def test_inputs_and_outputs(model: onnxplain.Model) -> None:
    assert [(t.name, t.dtype, t.shape[1:]) for t in model.inputs] == [("input", np.float32, (3, 11, 9))]
    assert isinstance(model.inputs[0].shape[0], str)
    assert [(t.name, t.dtype) for t in model.outputs] == [("logits", np.float32)]


def test_run_and_taps(model: onnxplain.Model, x: np.ndarray) -> None:
    inner = [out.name for layer in model.graph.layers for out in layer.outputs if layer.op_type == "Relu"]
    found = model.run({"input": x}, taps=inner)
    assert set(found) == {"logits", *inner}
    assert all((found[name] >= 0).all() and (found[name] > 0).any() for name in inner)
    np.testing.assert_allclose(found["logits"], np.load(ORACLES / "plain.npz")["output"], atol=1e-5)
    np.testing.assert_array_equal(model.run(x)["logits"], found["logits"])
    weight = next(tensor for tensor in model.graph.constants)
    np.testing.assert_array_equal(model.run(x, taps=[weight.name])[weight.name], weight.value)
    np.testing.assert_array_equal(model.run(x, taps=["input"])["input"], x)


def test_taps_that_are_not_there(model: onnxplain.Model, x: np.ndarray) -> None:
    with pytest.raises(onnxplain.UsageError, match="has no tensor 'Logits'; close to it: logits"):
        model.run(x, taps=["Logits"])
    folded = onnxplain.load(ORACLES / "residual_bn_opset18.onnx")
    gone = next(
        layer.outputs[0].name
        for layer in folded.original_graph.layers
        if layer.op_type == "Conv" and layer.outputs[0].name not in folded.graph.tensors
    )
    with pytest.raises(
        onnxplain.UsageError, match="lies between a convolution and the batch normalization folded into it"
    ):
        folded.run(np.zeros((1, 3, 11, 9), np.float32), taps=[gone])


FEEDS: dict[str, tuple[Any, type[Exception], str]] = {
    "unknown input": ({"image": 0}, onnxplain.UsageError, "has no input 'image'; it has input"),
    "missing input": ({}, onnxplain.UsageError, "also needs input input"),
    "wrong size": ({"input": np.zeros((1, 3, 11, 8), np.float32)}, onnxplain.UsageError, "x3x11x9, not 1x3x11x8"),
    "no batch axis": ({"input": np.zeros((3, 11, 9), np.float32)}, onnxplain.UsageError, "x3x11x9, not 3x11x9"),
    "bytes": ({"input": np.zeros((1, 3, 11, 9), np.uint8)}, onnxplain.UsageError, "must have dtype float32, not uint8"),
    "NaN": ({"input": np.full((1, 3, 11, 9), np.nan, np.float32)}, onnxplain.FailureError, "contains NaN or Inf"),
    "Inf": ({"input": np.full((1, 3, 11, 9), np.inf, np.float32)}, onnxplain.FailureError, "contains NaN or Inf"),
    "overflow": ({"input": np.full((1, 3, 11, 9), 1e300)}, onnxplain.FailureError, "beyond the range of float32"),
    "no samples": ({"input": np.zeros((0, 3, 11, 9), np.float32)}, onnxplain.UsageError, "holds no samples"),
    "text": ({"input": np.array([["a"]])}, onnxplain.UsageError, "must have dtype float32, not <U1"),
}  # fmt: skip


@pytest.mark.filterwarnings("error:.*encountered:RuntimeWarning")
@pytest.mark.parametrize("mistake", FEEDS)
def test_feeds_that_do_not_fit(model: onnxplain.Model, mistake: str) -> None:
    feed, error, said = FEEDS[mistake]
    for call in (model.run, lambda feed: onnxplain.explain(model, feed)):
        with pytest.raises(error, match=said):
            call(feed)


def test_floating_inputs_take_the_precision_of_the_model(model: onnxplain.Model, x: np.ndarray) -> None:
    wanted = onnxplain.explain(model, x).relevance["input"]
    for dtype in (np.float64, np.float16):
        value = x.astype(dtype)
        found = onnxplain.explain(model, value).relevance["input"]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, atol=1e-2 * np.abs(wanted).max())
    nested = onnxplain.explain(model, x.tolist()).relevance["input"]
    np.testing.assert_array_equal(nested, wanted)


def test_the_callers_array_is_left_alone(model: onnxplain.Model, x: np.ndarray) -> None:
    before = x.copy()
    x.flags.writeable = False
    for method in ("lrp", "gradient", "input-x-gradient", "smoothgrad", "integrated-gradients"):
        onnxplain.explain(model, x, method)
    np.testing.assert_array_equal(x, before)


# explain


@ENGINES
def test_the_explanation(model: onnxplain.Model, x: np.ndarray, engine: str) -> None:
    e = onnxplain.explain(
        model, {"input": x}, method="lrp", target=None, output=None, rules="epsilon-plus-flat", engine=engine,
        dtype="float32", batch_size=None, seed=0,
    )  # fmt: skip
    assert e.relevance["input"].shape == x.shape
    assert e.relevance["input"].dtype == np.float32
    np.testing.assert_allclose(e.map("input"), e.relevance["input"].sum(axis=1), rtol=1e-6)
    np.testing.assert_array_equal(e.map(), e.map("input"))
    assert e.map().shape == (3, 11, 9)
    np.testing.assert_allclose(e.prediction, model.run(x)["logits"], atol=1e-5)
    assert [c.index for c in e.target] == e.prediction.argmax(axis=1).tolist()
    np.testing.assert_allclose([c.value for c in e.target], e.prediction.max(axis=1), rtol=1e-5)
    assert [step.layer.name for step in e.plan] == [layer.name for layer in model.graph.layers]
    assert (e.ledger is not None) == (engine == "host")
    assert e.engine == engine
    assert e.method == "lrp"
    assert e.timings
    assert all(seconds >= 0 for seconds in e.timings.values())
    share = e.relevance["input"].sum(axis=(1, 2, 3)) / e.prediction.max(axis=1)
    np.testing.assert_allclose(e.conserved, share, rtol=1e-5)


def test_float64_runs_its_own_forward_pass(model: onnxplain.Model, x: np.ndarray) -> None:
    e = onnxplain.explain(model, x, dtype="float64")
    assert e.engine == "host"
    assert e.relevance["input"].dtype == e.prediction.dtype == np.float64
    assert np.abs(e.prediction - e.prediction.astype(np.float32)).max() > 0
    np.testing.assert_allclose(
        e.relevance["input"], onnxplain.explain(model, x).relevance["input"], rtol=1e-3, atol=1e-5
    )
    with pytest.raises(onnxplain.UsageError, match="float64 runs on the host engine only"):
        onnxplain.explain(model, x, dtype="float64", engine="compiled")


@ENGINES
def test_relevance_of_inner_tensors(model: onnxplain.Model, x: np.ndarray, engine: str) -> None:
    names = [layer.outputs[0].name for layer in model.graph.layers]
    e = onnxplain.explain(model, x, rules="epsilon-plus", engine=engine, at=[*names, "input"])
    traced = model.run(x, taps=names)
    assert {name: value.shape for name, value in e.at.items()} == {
        name: value.shape for name, value in (traced | {"input": x}).items()
    }
    seed = np.zeros_like(e.prediction)
    seed[np.arange(3), e.prediction.argmax(axis=1)] = e.prediction.max(axis=1)
    np.testing.assert_allclose(e.at["logits"], seed, rtol=1e-5)
    np.testing.assert_array_equal(e.at["input"], e.relevance["input"])
    conv = next(layer for layer in reversed(model.graph.layers) if layer.op_type == "Conv")
    np.testing.assert_allclose(e.map(conv.outputs[0].name), e.at[conv.outputs[0].name].sum(axis=1), rtol=1e-5)


def test_inner_tensors_that_are_not_there(model: onnxplain.Model, x: np.ndarray) -> None:
    with pytest.raises(onnxplain.UsageError, match="has no tensor 'nowhere'"):
        onnxplain.explain(model, x, at=["nowhere"])
    early = model.graph.layers[0].outputs[0].name
    with pytest.raises(onnxplain.UsageError, match="'logits' does not lie between the input and"):
        onnxplain.explain(model, x, output=early, target=lambda y: y, at=["logits"])


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "method": ({"method": "magic"}, "unknown method 'magic'; there are lrp, gradient"),
    "option of a method": ({"method": "gradient", "noise": 1}, "method 'gradient' has no option 'noise'; it has none"),
    "misspelt": ({"method": "smoothgrad", "nois": 1}, "method 'smoothgrad' has no option 'nois'; it has noise, count"),
    "setting of a book": ({"gamma": 1.0}, "rule book 'epsilon-plus-flat' has no setting 'gamma'"),
    "book": ({"rules": "epsilon-minus"}, "there is no rule book 'epsilon-minus'"),
    "engine": ({"engine": "gpu"}, "unknown engine 'gpu'; there are auto, host, compiled"),
    "dtype": ({"dtype": "float16"}, "dtype must be float32 or float64, not 'float16'"),
    "batch size": ({"batch_size": 0}, "batch_size must be a whole number from 1, not 0"),
    "half a sample": ({"batch_size": 1.5}, "batch_size must be a whole number from 1, not 1.5"),
    "seed": ({"method": "smoothgrad", "seed": -1}, "seed must be a whole number from 0, not -1"),
    "noise": ({"method": "smoothgrad", "noise": -1}, "noise must be a number from 0, not -1"),
    "infinite noise": ({"method": "smoothgrad", "noise": np.inf}, "noise must be a number from 0, not inf"),
    "noise in words": ({"method": "smoothgrad", "noise": "much"}, "noise must be a number from 0, not 'much'"),
    "count": ({"method": "smoothgrad", "count": True}, "count must be a whole number from 1, not True"),
    "steps": ({"method": "integrated-gradients", "steps": 1.5}, "steps must be a whole number from 1, not 1.5"),
    "baseline": (
        {"method": "integrated-gradients", "baseline": [1, 2]},
        "baseline must be a number, or an array that broadcasts against 3x3x11x9, not [1, 2]",
    ),
    "no baseline": ({"method": "integrated-gradients", "baseline": None}, "baseline must be a number"),
    "layers": ({"method": "sise", "layers": 3}, "tensor 3 holds no feature maps"),
    "layer": ({"method": "score-cam", "layer": ["a"]}, "layer must be the name of one tensor, not ['a']"),
}


@pytest.mark.parametrize("mistake", OPTIONS)
def test_options_that_do_not_fit(model: onnxplain.Model, x: np.ndarray, mistake: str) -> None:
    options, said = OPTIONS[mistake]
    with pytest.raises(onnxplain.UsageError) as error:
        onnxplain.explain(model, x, **options)
    assert said in str(error.value)
    assert error.value.exit_status == 2


def test_the_engine_is_chosen_and_the_choice_told(model: onnxplain.Model, x: np.ndarray) -> None:
    e = onnxplain.explain(model, x)
    assert e.engine == "host"
    assert "engine host: 3 samples" in e.notes
    many = onnxplain.explain(model, np.tile(x, (8, 1, 1, 1)))
    assert many.engine == "compiled"
    assert "engine compiled: 24 passes" in many.notes
    np.testing.assert_allclose(many.relevance["input"][:3], e.relevance["input"], rtol=1e-3, atol=1e-5)


@ENGINES
@pytest.mark.parametrize("batch_size", [1, 2, 4, 7, 100])
def test_batches_are_split(model: onnxplain.Model, x: np.ndarray, engine: str, batch_size: int) -> None:
    samples = np.concatenate([x, x[::-1], x[:1]])
    inner = model.graph.layers[0].outputs[0].name
    whole = onnxplain.explain(model, samples, engine=engine, ledger=True, at=[inner])
    parts = onnxplain.explain(model, samples, engine=engine, batch_size=batch_size, ledger=True, at=[inner])
    np.testing.assert_allclose(parts.relevance["input"], whole.relevance["input"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(parts.at[inner], whole.at[inner], rtol=1e-4, atol=1e-6)
    assert [c.index for c in parts.target] == [c.index for c in whole.target]
    assert parts.prediction.shape == (7, 7)
    for name, book in parts.ledger.layers.items():
        assert {len(column) for column in book.values()} == {7}
        np.testing.assert_allclose(book["in"], whole.ledger.layers[name]["in"], rtol=1e-3, atol=1e-5)


@ENGINES
def test_a_file_with_one_sample_takes_many(engine: str) -> None:
    """The batch axis is 1 in the file: samples go through one by one, whatever batch_size says."""
    x = np.random.default_rng(1).normal(size=(4, 2, 5, 5)).astype(np.float32)
    free = onnxplain.explain(classifier(), x, target=[0, 1, 2, 3], engine=engine)
    fixed = onnxplain.explain(classifier(1), x, target=[0, 1, 2, 3], engine=engine, batch_size=2)
    np.testing.assert_allclose(fixed.relevance["x"], free.relevance["x"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(fixed.prediction, free.prediction, rtol=1e-4)
    assert [c.index for c in fixed.target] == [0, 1, 2, 3]


@ENGINES
def test_a_file_with_two_samples_takes_multiples(engine: str) -> None:
    x = np.random.default_rng(1).normal(size=(4, 2, 5, 5)).astype(np.float32)
    model = onnxplain.load(classifier(2))
    e = onnxplain.explain(model, x, engine=engine)
    np.testing.assert_allclose(
        e.relevance["x"], onnxplain.explain(classifier(), x).relevance["x"], rtol=1e-4, atol=1e-6
    )
    with pytest.raises(onnxplain.UsageError, match="'x' must have shape 2x2x5x5, not 3x2x5x5"):
        onnxplain.explain(model, x[:3], engine=engine)


@ENGINES
@pytest.mark.parametrize("method", ["gradient", "lrp", "integrated-gradients"])
def test_several_inputs(engine: str, method: str) -> None:
    """a W + b V: every input has its map; the conserved share counts them all."""
    rng = np.random.default_rng(2)
    w, v = rng.normal(size=(2, 3)), rng.normal(size=(4, 3))
    nodes = [
        nets.node("MatMul", ["a", "w"], "left"),
        nets.node("MatMul", ["b", "v"], "right"),
        nets.node("Add", ["left", "right"], "y"),
    ]
    model = onnxplain.load(nets.model(nodes, {"a": ["N", 2], "b": ["N", 4]}, constants={"w": w, "v": v}))
    feed = {name: rng.normal(size=(5, n)).astype(np.float32) for name, n in (("a", 2), ("b", 4))}
    rules = "lrp-0" if method == "lrp" else None
    e = onnxplain.explain(model, feed, method, 1, rules=rules, engine=engine, batch_size=2)
    for name, weight in (("a", w), ("b", v)):
        factor = 1 if method == "gradient" else feed[name]
        np.testing.assert_allclose(
            e.relevance[name], np.broadcast_to(weight[:, 1] * factor, feed[name].shape), rtol=1e-3
        )
    np.testing.assert_allclose(e.conserved, 1 if method == "lrp" else np.nan, rtol=1e-3)
    assert ("conserved" in e.to_json()) == (method == "lrp")
    with pytest.raises(onnxplain.UsageError, match=r"there are 2 explained inputs .a, b.: name one"):
        e.map()
    with pytest.raises(onnxplain.UsageError, match=r"has 2 inputs .a, b.: give a dict"):
        onnxplain.explain(model, feed["a"])
    with pytest.raises(onnxplain.UsageError, match="different numbers of samples: a 5, b 4"):
        onnxplain.explain(model, {"a": feed["a"], "b": feed["b"][:4]})


@ENGINES
def test_an_input_that_the_target_does_not_need(engine: str) -> None:
    nodes = [nets.node("Relu", ["a"], "y"), nets.node("Neg", ["b"], "z")]
    model = onnxplain.load(nets.model(nodes, {"a": ["N", 2], "b": ["N", 3]}, ["y", "z"]))
    feed = {"a": np.ones((2, 2), np.float32), "b": np.ones((2, 3), np.float32)}
    e = onnxplain.explain(model, feed, "gradient", 0, output="y", engine=engine)
    assert list(e.relevance) == ["a"]
    np.testing.assert_array_equal(e.relevance["a"], [[1, 0], [1, 0]])


@ENGINES
def test_whole_numbers_take_no_relevance(engine: str) -> None:
    """Indices of an embedding: what reaches the vectors stands at the inner tensor, nothing at the input."""
    nodes = [
        nets.node("Gather", ["table", "tokens"], "vectors"),
        nets.node("Mul", ["vectors", "scale"], "scaled"),
        nets.node("ReduceSum", ["scaled", "axes"], "y", keepdims=0),
    ]
    table = np.arange(12.0).reshape(6, 2)
    data = nets.model(
        nodes, {"tokens": ["N", 3], "scale": ["N", 1, 2]}, constants={"table": table, "axes": np.array([1])}
    )
    proto = onnx.load_from_string(data)
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    feed = {"tokens": np.array([[0, 2, 5]]), "scale": np.ones((1, 1, 2), np.float32)}
    e = onnxplain.explain(proto, feed, "gradient", 1, engine=engine, at=["vectors"])
    np.testing.assert_array_equal(e.at["vectors"], [[[0, 1], [0, 1], [0, 1]]])
    np.testing.assert_array_equal(e.relevance["scale"], [[[0, 1 + 5 + 11]]])
    np.testing.assert_array_equal(e.relevance["tokens"], [[0, 0, 0]])


@ENGINES
def test_half_precision_models_are_propagated_in_float32(engine: str) -> None:
    x = np.random.default_rng(3).normal(size=(2, 2, 5, 5)).astype(np.float32)
    whole = onnxplain.explain(classifier(), x, "lrp", 1, engine=engine)
    half = onnxplain.explain(classifier(dtype=np.float16), x, "lrp", 1, engine=engine)
    assert half.relevance["x"].dtype == np.float32
    np.testing.assert_allclose(
        half.relevance["x"], whole.relevance["x"], atol=2e-2 * np.abs(whole.relevance["x"]).max()
    )


@ENGINES
def test_a_rule_that_divides_by_zero_is_told_by_layer(engine: str) -> None:
    nodes = [nets.node("MatMul", ["x", "w"], "dense")]
    data = nets.model(nodes, {"x": ["N", 2]}, ["dense"], {"w": np.array([[1.0], [-1.0]])})
    with pytest.raises(onnxplain.FailureError, match=r"NaN or Inf.*epsilon"):
        onnxplain.explain(
            data, np.ones((1, 2), np.float32), target=np.ones(1), rules="epsilon", epsilon=0, engine=engine
        )
    with pytest.raises(onnxplain.FailureError, match="NaN or Inf"):
        onnxplain.explain(
            data, np.ones((1, 2), np.float32), target=lambda y: y + 1, rules="epsilon", epsilon=0, engine=engine
        )


# Explanation


def test_save_and_load(model: onnxplain.Model, x: np.ndarray, tmp_path: Path) -> None:
    inner = model.graph.layers[0].outputs[0].name
    e = onnxplain.explain(model, x, target=["top2", 1, None], labels=list("abcdef"), at=[inner])
    e.save(tmp_path / "new" / "folder")
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == ["arrays.npz", "explanation.json"]
    found = onnxplain.Explanation.load(tmp_path / "new" / "folder")
    np.testing.assert_array_equal(found.relevance["input"], e.relevance["input"])
    np.testing.assert_array_equal(found.at[inner], e.at[inner])
    np.testing.assert_array_equal(found.prediction, e.prediction)
    np.testing.assert_array_equal(found.map(), e.map())
    assert found.target == e.target
    assert (found.method, found.engine, found.notes, found.timings) == (e.method, e.engine, e.notes, e.timings)
    assert found.plan is None
    assert found.to_json() == e.to_json()
    for name, value in e.ledger.totals.items():
        np.testing.assert_allclose(found.ledger.totals[name], value)
    found.save(tmp_path / "new" / "folder")
    assert onnxplain.Explanation.load(tmp_path / "new" / "folder").to_json() == e.to_json()


def test_what_a_method_reports_besides_is_saved(model: onnxplain.Model, x: np.ndarray, tmp_path: Path) -> None:
    e = onnxplain.explain(model, x, "integrated-gradients", steps=8)
    e.save(tmp_path)
    found = onnxplain.Explanation.load(tmp_path)
    np.testing.assert_array_equal(found.extras["completeness_gap"], e.extras["completeness_gap"])
    assert found.ledger is None


def test_folders_that_hold_no_explanation(model: onnxplain.Model, x: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(onnxplain.UsageError, match=r"holds no explanation: explanation.json is missing"):
        onnxplain.Explanation.load(tmp_path)
    e = onnxplain.explain(model, x[:1])
    for name, content, said in (
        ("arrays.npz", b"not a zip", "cannot be read"),
        ("explanation.json", b"{", "cannot be read"),
        ("arrays.npz", b"PK\x03\x04 cut off", "cannot be read"),
        ("explanation.json", b"[]", "schema None is not"),
        ("explanation.json", b'{"schema": "other/1"}', "schema 'other/1' is not"),
        ("explanation.json", b'{"schema": "onnxplain.explanation/1"}', "cannot be read"),
    ):
        e.save(tmp_path / "broken")
        (tmp_path / "broken" / name).write_bytes(content)
        with pytest.raises(onnxplain.FailureError, match=said):
            onnxplain.Explanation.load(tmp_path / "broken")


def test_plot(model: onnxplain.Model, x: np.ndarray) -> None:
    figure = onnxplain.explain(model, x, labels=["a", "b", "c", "d", "e", "f"]).plot()
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 3
    assert shown[0].get_title().startswith("input 0: ")
    vector = onnxplain.explain(ORACLES / "two_branch_opset18.onnx", np.ones((2, 9), np.float32)).plot()
    assert sum(bool(axes.patches) for axes in vector.axes) == 2


def test_plot_leaves_out_an_input_without_known_channels() -> None:
    nodes = [nets.node("Conv", ["a", "w"], "c"), nets.node("Add", ["c", "b"], "y")]
    shapes = {"a": ["N", 2, 4, 4], "b": ["N", 3, 4, 4]}
    data = nets.model(nodes, shapes, constants={"w": np.ones((3, 2, 1, 1))})
    feed = {name: np.ones((1, *shape[1:]), np.float32) for name, shape in shapes.items()}
    e = onnxplain.explain(data, feed, target=0)
    assert e.mapped == ("a",)
    assert [axes.get_title() for axes in e.plot().axes if axes.images] == ["a 0: 0"]


def test_maps_need_to_know_the_channels() -> None:
    nodes = [nets.node("ReduceSum", ["x", "axes"], "y", keepdims=0)]
    data = nets.model(nodes, {"x": ["N", 3, 4, 2]}, constants={"axes": np.array([1, 2])})
    e = onnxplain.explain(data, np.ones((1, 3, 4, 2), np.float32), "gradient", 0)
    with pytest.raises(onnxplain.UsageError, match=r"which axis of 'x' holds the channels: map\('x', channels=1\)"):
        e.map()
    np.testing.assert_array_equal(e.map("x", channels=3), np.ones((1, 3, 4)))
    with pytest.raises(onnxplain.UsageError, match="nothing was explained at 'z'; there are x"):
        e.map("z")


def test_plan_without_a_run(model: onnxplain.Model) -> None:
    plan = onnxplain.plan(model, rules="epsilon-plus-flat")
    assert len(plan) == len(model.graph.layers)
    rules = [step.rule.name for step in plan if step.layer.op_type == "Conv"]
    assert rules[0] == "flat"
    assert set(rules[1:]) == {"z-plus"}
    text = str(plan)
    assert all(layer.name in text for layer in model.graph.layers)
    content = plan.to_json()
    assert content["rules"] == "epsilon-plus-flat"
    assert content["seed"] == "value"
    assert len(content["steps"]) == len(plan)
    assert onnxplain.plan(PLAIN, "guided-backprop").seed == 1
    with pytest.raises(onnxplain.UsageError, match="unknown method"):
        onnxplain.plan(model, "magic")
