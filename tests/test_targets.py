"""What may be explained: every form of target, on both engines, and every way to get one wrong."""

from __future__ import annotations

from typing import Any

import nets
import numpy as np
import pytest

import onnxplain

LABELS = ["cat", "dog", "shih-tzu", "t-shirt", "3"]
rng = np.random.default_rng(5)
W = rng.normal(size=(4, 5)).astype(np.float32)
V = rng.normal(size=(4, 6)).astype(np.float32)
X = rng.normal(size=(3, 4)).astype(np.float32)
Y = X @ W
BEST = Y.argmax(axis=1)
ENGINES = pytest.mark.parametrize("engine", ["host", "compiled"])


def classifier(*closing: str, **attributes: int) -> onnxplain.Model:
    """x W, with an activation behind it if any is named."""
    nodes = [nets.node("MatMul", ["x", "w"], "logits")]
    nodes += [nets.node(op, ["logits"], "y", **attributes) for op in closing]
    return onnxplain.load(nets.model(nodes, {"x": ["N", 4]}, ["y" if closing else "logits"], {"w": W}), threads=1)


@pytest.fixture(scope="module")
def linear() -> onnxplain.Model:
    return classifier()


@pytest.fixture(scope="module")
def detector() -> onnxplain.Model:
    """Two outputs: scores N x 5 and boxes N x 2 x 3."""
    nodes = [
        nets.node("MatMul", ["x", "w"], "scores"),
        nets.node("MatMul", ["x", "v"], "flat"),
        nets.node("Reshape", ["flat", "shape"], "boxes"),
    ]
    constants = {"w": W, "v": V, "shape": np.array([0, 2, 3])}
    return onnxplain.load(nets.model(nodes, {"x": ["N", 4]}, ["scores", "boxes"], constants), threads=1)


def gradient(model: onnxplain.Model, target: Any, engine: str, **how: Any) -> onnxplain.Explanation:
    return onnxplain.explain(model, X, "gradient", target, engine=engine, labels=LABELS, **how)


def one_hot(*classes: int) -> np.ndarray:
    return np.eye(5, dtype=np.float32)[list(classes)]


def ranked(rank: int) -> np.ndarray:
    return one_hot(*np.argsort(-Y, axis=1)[:, rank - 1])


WEIGHTS = rng.normal(size=(3, 5)).astype(np.float32)
FORMS: dict[str, tuple[Any, np.ndarray]] = {
    "default": (None, one_hot(*BEST)),
    "predicted": ("predicted", one_hot(*BEST)),
    "top1": ("top1", one_hot(*BEST)),
    "top2": ("top2", ranked(2)),
    "top5": ("top5", ranked(5)),
    "index": (2, one_hot(2, 2, 2)),
    "numpy index": (np.int64(2), one_hot(2, 2, 2)),
    "array without axes": (np.array(2), one_hot(2, 2, 2)),
    "index from the end": (-1, one_hot(4, 4, 4)),
    "index as text": ("2", one_hot(2, 2, 2)),
    "negative index as text": ("-2", one_hot(3, 3, 3)),
    "label": ("dog", one_hot(1, 1, 1)),
    "label with a hyphen": ("shih-tzu", one_hot(2, 2, 2)),
    "label before index": ("3", one_hot(4, 4, 4)),
    "margin": ("cat-dog", one_hot(0, 0, 0) - one_hot(1, 1, 1)),
    "margin with spaces": ("cat - dog", one_hot(0, 0, 0) - one_hot(1, 1, 1)),
    "margin of labels with hyphens": ("t-shirt-shih-tzu", one_hot(3, 3, 3) - one_hot(2, 2, 2)),
    "margin of indices": ("0-2", one_hot(0, 0, 0) - one_hot(2, 2, 2)),
    "margin of the two best": ("top1-top2", ranked(1) - ranked(2)),
    "margin against the predicted": ("dog-predicted", one_hot(1, 1, 1) - one_hot(*BEST)),
    "margin with itself": ("cat-cat", 0 * one_hot(0, 0, 0)),
    "contrast": ("contrast:dog", np.full((3, 5), -0.2) + 1.2 * one_hot(1, 1, 1)),
    "contrast of the predicted": ("contrast:predicted", np.full((3, 5), -0.2) + 1.2 * one_hot(*BEST)),
    "slice": ("[1:3]", np.tile([0, 1, 1, 0, 0], (3, 1))),
    "slice with samples": ("[1:,3]", np.outer([0, 1, 1], [0, 0, 0, 1, 0])),
    "slice with steps": ("[::2]", np.tile([1, 0, 1, 0, 1], (3, 1))),
    "element": ("[-1]", one_hot(4, 4, 4)),
    "one per sample": ([0, "dog", None], one_hot(0, 1, BEST[2])),
    "one per sample, ranked": (["top2", "top2", "top1-top2"], np.stack([*ranked(2)[:2], ranked(1)[2] - ranked(2)[2]])),
    "contrasts": (["contrast:cat", "contrast:dog", "contrast:3"], np.full((3, 5), -0.2) + 1.2 * one_hot(0, 1, 4)),
    "array of indices": (np.array([4, 3, 2]), one_hot(4, 3, 2)),
    "array of labels": (np.array(["dog", "top2", "cat"]), np.stack([one_hot(1)[0], ranked(2)[1], one_hot(0)[0]])),
    "weights": (WEIGHTS, WEIGHTS),
    "weights for all samples": (WEIGHTS[0], np.tile(WEIGHTS[0], (3, 1))),
    "weights as whole numbers": (one_hot(1, 2, 3).astype(int), one_hot(1, 2, 3)),
    "a mask": (one_hot(1, 2, 3).astype(bool), one_hot(1, 2, 3)),
    "callable": (lambda y: np.tanh(y), np.tanh(Y)),
}  # fmt: skip


@ENGINES
@pytest.mark.parametrize("batch_size", [None, 1, 2])
@pytest.mark.parametrize("form", FORMS)
def test_every_form(linear: onnxplain.Model, form: str, engine: str, batch_size: int | None) -> None:
    """The gradient of a weighted sum of x W is the weights times W^T, in one batch or in parts of it."""
    target, weights = FORMS[form]
    e = gradient(linear, target, engine, batch_size=batch_size)
    np.testing.assert_allclose(e.relevance["x"], weights @ W.T, rtol=1e-5, atol=1e-6)
    values = [chosen.value for chosen in e.target]
    np.testing.assert_allclose(values, (weights * Y).sum(axis=1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(e.prediction, Y, rtol=1e-5)


@ENGINES
@pytest.mark.parametrize("form", FORMS)
def test_relevance_starts_from_the_value_or_from_the_given_seed(
    linear: onnxplain.Model, form: str, engine: str
) -> None:
    """Epsilon on one layer without bias hands down weights x value; a contrast and a callable stand as they are."""
    target, weights = FORMS[form]
    given = form.startswith(("contrast", "callable"))
    seed = weights if given else weights * Y
    e = onnxplain.explain(linear, X, "lrp", target, rules="lrp-0", engine=engine, labels=LABELS)
    np.testing.assert_allclose(e.relevance["x"], X * ((seed / Y) @ W.T), rtol=1e-4, atol=1e-5)


def test_weights_for_all_samples_are_not_taken_for_samples(linear: onnxplain.Model) -> None:
    """Five weights for five classes, and five samples computed one by one."""
    x = np.concatenate([X, X])[:5]
    whole, parts = (onnxplain.explain(linear, x, "gradient", WEIGHTS[0], batch_size=size) for size in (5, 1))
    np.testing.assert_allclose(parts.relevance["x"], whole.relevance["x"], rtol=1e-5)


@ENGINES
def test_what_is_reported(linear: onnxplain.Model, engine: str) -> None:
    e = gradient(linear, ["dog", "top2", "cat-dog"], engine)
    second = int(np.argsort(-Y[1])[1])
    assert [(c.index, c.label) for c in e.target] == [(1, "dog"), (second, LABELS[second]), (None, None)]
    assert [c.description for c in e.target] == ["target dog", "target top2", "target cat-dog"]
    assert {(c.output, c.tensor) for c in e.target} == {("logits", "logits")}
    assert [c.description for c in gradient(linear, None, engine).target] == ["predicted class"] * 3
    assert gradient(linear, WEIGHTS, engine).target[0].description == "target weights"
    assert gradient(linear, lambda y: y, engine).target[0].description == "target callable"


@ENGINES
def test_outputs_and_inner_tensors(detector: onnxplain.Model, engine: str) -> None:
    boxes = (X @ V).reshape(3, 2, 3)
    for target, picked in (
        ("boxes[1,2]", np.s_[:, 1, 2]),
        ("boxes[0,1:]", np.s_[:, 0, 1:]),
        ("boxes[2,0,-1]", np.s_[2, 0, -1]),
        ("boxes[:,1,::2]", np.s_[:, 1, ::2]),
    ):
        weights = np.zeros_like(boxes)
        weights[picked] = 1
        e = gradient(detector, target, engine)
        np.testing.assert_allclose(e.relevance["x"], weights.reshape(3, 6) @ V.T, rtol=1e-5, atol=1e-6)
        assert e.prediction.shape == boxes.shape
        assert {c.output for c in e.target} == {"boxes"}
    e = gradient(detector, "[1]", engine, output="scores")
    np.testing.assert_allclose(e.relevance["x"], one_hot(1, 1, 1) @ W.T, rtol=1e-5)
    e = gradient(detector, "flat[4]", engine)
    np.testing.assert_allclose(e.relevance["x"], np.tile(V[:, 4], (3, 1)), rtol=1e-5)
    e = gradient(detector, 5, engine, output="flat")
    np.testing.assert_allclose(e.relevance["x"], np.tile(V[:, 5], (3, 1)), rtol=1e-5)
    best = (X @ V).argmax(axis=1)
    e = gradient(detector, None, engine, output="boxes")
    assert [c.index for c in e.target] == best.tolist()
    np.testing.assert_allclose(e.relevance["x"], V.T[best], rtol=1e-5)


MISTAKES: dict[str, tuple[Any, dict[str, Any], str]] = {
    "unknown label": ("horse", {}, "unknown target 'horse': output 'scores' has elements 0 to 4, or a label such as"),
    "nothing, as of an empty variable": ("", {}, "unknown target ''"),
    "half a margin": ("cat-horse", {}, "unknown target 'cat-horse'"),
    "beyond the last": (5, {}, "target 5 does not exist: output 'scores' has elements 0 to 4"),
    "before the first": (-6, {}, "target -6 does not exist"),
    "beyond, as text": ("17", {}, "target 17 does not exist"),
    "rank 0": ("top0", {}, "unknown target 'top0'"),
    "rank 6": ("top6", {}, "unknown target 'top6'"),
    "contrast of nothing": ("contrast:horse", {}, "unknown target 'horse'"),
    "mixed with contrast": (["contrast:cat", "dog", "dog"], {}, "contrastive targets cannot be mixed"),
    "a fraction": (0.5, {}, "a target is an index, a label or an array of weights, not 0.5"),
    "a list of fractions": ([0.5, 1.0, 2.0], {}, "a target is an index, a label or an array of weights, not 0.5"),
    "a list of lists": ([[1], [2], [3]], {}, "a target is an index, a label or an array of weights, not [1]"),
    "too few": ([0, 1], {}, "2 targets were given for 3 samples"),
    "too few in parts": ([0, 1], {"batch_size": 1}, "2 targets were given for 3 samples"),
    "too many": (np.arange(4), {}, "4 targets were given for 3 samples"),
    "too many axes": ("[0,0,0]", {}, "target [0,0,0] has 3 indices; output 'scores' has 2 axes"),
    "outside": ("[7]", {}, "target [7] lies outside output 'scores' of shape (3, 5)"),
    "outside the samples": ("[3,1]", {}, "target [3,1] lies outside output 'scores' of shape (3, 5)"),
    "an empty slice": ("[3:3]", {}, "target [3:3] selects nothing"),
    "no slice": ("[1:2:3:4]", {}, "'1:2:3:4' is no index or slice"),
    "step 0": ("[::0]", {}, "is no index or slice"),
    "weights of another shape": (np.ones((3, 4)), {}, "target weights of shape (3, 4) do not fit the output (3, 5)"),
    "weights with NaN": (np.full((3, 5), np.nan), {}, "the target's weights contain NaN or Inf"),
    "a callable of another shape": (
        lambda y: y[:, :2], {}, "the target callable returned shape (3, 2) for an output of shape (3, 5)",
    ),
    "a callable with Inf": (lambda y: y * np.inf, {}, "the target's weights contain NaN or Inf"),
    "another output": (0, {"output": "masks"}, "there is no output 'masks'; there are scores, boxes"),
    "two outputs named": ("boxes[1,1]", {}, "target 'boxes[1,1]' names another output than 'scores'"),
    "no output named": (0, {"output": None}, "the model has 2 outputs (scores, boxes): choose one with output="),
}  # fmt: skip


@ENGINES
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(detector: onnxplain.Model, mistake: str, engine: str) -> None:
    target, how, said = MISTAKES[mistake]
    with pytest.raises(onnxplain.UsageError) as error:
        gradient(detector, target, engine, **{"output": "scores"} | how)
    assert said in str(error.value)


def test_without_labels_the_way_to_give_them_is_named(linear: onnxplain.Model) -> None:
    with pytest.raises(onnxplain.UsageError, match=r"unknown target 'cat'.*--labels names them"):
        onnxplain.explain(linear, X, "gradient", "cat")


def test_fewer_labels_than_classes(linear: onnxplain.Model) -> None:
    e = onnxplain.explain(linear, X, "gradient", 4, labels=LABELS[:2])
    assert [c.label for c in e.target] == [None] * 3


def test_a_label_that_two_classes_bear_is_ambiguous(linear: onnxplain.Model) -> None:
    with pytest.raises(onnxplain.UsageError, match="label 'crane' is ambiguous: elements 0 and 2 bear it"):
        onnxplain.explain(linear, X, "gradient", "crane", labels=["crane", "dog", "crane", "cat"])
    assert onnxplain.explain(linear, X, "gradient", 2, labels=["crane", "dog", "crane", "cat"]).target[0].index == 2


def test_a_label_that_looks_like_a_slice_or_a_rank() -> None:
    model, labels = classifier(), ["a[1]", "top1", "predicted", "d", "e"]
    for index, label in enumerate(labels):
        e = onnxplain.explain(model, X, "gradient", label, labels=labels)
        assert [c.index for c in e.target] == [index] * 3, label


@ENGINES
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Sigmoid"])
def test_a_closing_softmax_is_explained_at_its_input(op: str, engine: str) -> None:
    model = classifier(op)
    e = gradient(model, "dog", engine)
    np.testing.assert_allclose(e.relevance["x"], np.tile(W[:, 1], (3, 1)), rtol=1e-5)
    assert {(c.output, c.tensor) for c in e.target} == {("y", "logits")}
    np.testing.assert_allclose([c.value for c in e.target], Y[:, 1], rtol=1e-5)
    np.testing.assert_allclose(e.prediction, model.run(X)["y"], rtol=1e-5)
    note = f"explained before the closing {op} 'y' (keep_softmax explains behind it)"
    assert note in e.notes
    assert note in onnxplain.plan(model, "gradient").notes
    e = gradient(model, "dog", engine, keep_softmax=True)
    p = model.run(X)["y"]
    slope = {"Softmax": p[:, 1:2] * (one_hot(1) - p), "Sigmoid": (p * (1 - p)) * one_hot(1)}.get(
        op, one_hot(1) - np.exp(p)
    )
    np.testing.assert_allclose(e.relevance["x"], slope @ W.T, rtol=1e-4, atol=1e-6)
    assert not any("closing" in note for note in e.notes)
    assert {c.tensor for c in e.target} == {"y"}


@ENGINES
def test_a_callable_is_given_the_output_itself(engine: str) -> None:
    """Its seed stands behind the softmax, and the plan says so."""
    model, seen = classifier("Softmax"), []
    p = model.run(X)["y"]
    e = gradient(model, lambda y: seen.append(y.copy()) or one_hot(1, 1, 1), engine)
    np.testing.assert_allclose(seen[0], p, rtol=1e-5)
    np.testing.assert_allclose(e.relevance["x"], (p[:, 1:2] * (one_hot(1) - p)) @ W.T, rtol=1e-4, atol=1e-6)
    assert "the target callable is given what the closing Softmax 'y' returns" in e.notes


@ENGINES
def test_the_predicted_class_of_a_tie_is_the_first(engine: str) -> None:
    data = nets.model([nets.node("Identity", ["x"], "y")], {"x": ["N", 3]})
    e = onnxplain.explain(data, np.array([[1, 2, 2]], np.float32), "gradient", engine=engine)
    np.testing.assert_array_equal(e.relevance["x"], [[0, 1, 0]])
    assert e.target[0].index == 1


@ENGINES
def test_a_scalar_output(engine: str) -> None:
    data = nets.model([nets.node("ReduceSum", ["x"], "y", keepdims=0)], {"x": [2, 3]})
    e = onnxplain.explain(data, np.ones((2, 3), np.float32), "gradient", engine=engine)
    np.testing.assert_array_equal(e.relevance["x"], np.ones((2, 3)))
    assert [c.value for c in e.target] == [6.0]


@ENGINES
def test_targets_per_sample_beside_an_input_without_samples(engine: str) -> None:
    """The second input is one number for the whole batch, so the batch cannot be split but has its three targets."""
    nodes = [nets.node("MatMul", ["x", "w"], "h"), nets.node("Mul", ["h", "scale"], "y")]
    model = onnxplain.load(nets.model(nodes, {"x": ["N", 4], "scale": []}, constants={"w": W}), threads=1)
    feed = {"x": X, "scale": np.array(2, np.float32)}
    e = onnxplain.explain(model, feed, "gradient", [0, 1, 4], engine=engine)
    np.testing.assert_allclose(e.relevance["x"], 2 * W.T[[0, 1, 4]], rtol=1e-5)
    np.testing.assert_allclose(e.relevance["scale"], np.trace(Y[:, [0, 1, 4]]), rtol=1e-5)


def test_a_target_that_the_input_does_not_reach() -> None:
    nodes = [nets.node("Shape", ["x"], "shape"), nets.node("Cast", ["shape"], "y", to=1)]
    data = nets.model(nodes, {"x": ["N", 3]})
    with pytest.raises(onnxplain.UsageError, match="'y' does not depend on the explained input"):
        onnxplain.explain(data, np.ones((1, 3), np.float32), "gradient")
