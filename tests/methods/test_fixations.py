"""CNN-Fixations: real models, what must hold for every net, mistakes, and adversarial twins."""

import sys
from pathlib import Path

import numpy as np
import pytest
from methods.found_points import only
from methods.test_unravelling import Draft, feed_for, inception, norm_net, residual
from nets import model, node

import onnxplain
from onnxplain.engine.unravel import find_route
from onnxplain.errors import UnsupportedError, UsageError
from onnxplain.inputs.contract import discover
from onnxplain.inputs.pictures import prepare, read_picture
from onnxplain.ops import Kind, Op, table
from onnxplain.resources import resource

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from adversarial_twins import likeness, noisy, shift, twin

CLASSIFIERS = [
    ("imagenet_squeezenet_fp32", "caffe"), ("imagenet_squeezenet_fp16", "caffe"),
    ("imagenet_mobilenetv1_025_keras", "tf"), ("imagenet_mobilenetv2_qdq", "imagenet"), ("mnist_cntk", None),
    ("mnist01_pytorch", None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "preprocess"), CLASSIFIERS)
def test_points_of_every_image_classifier_lie_inside_the_image(material, name, preprocess):
    loaded = onnxplain.load(material / "models" / f"{name}.onnx")
    [source] = loaded.inputs
    shape = [size if isinstance(size, int) else 1 for size in source.shape]
    x = (np.random.default_rng(0).random(shape) * 255).astype(source.dtype)
    if preprocess is not None:
        photo = sorted((material / "images" / "voc2007").glob("*.jpg"))[3]
        x, _ = prepare(read_picture(photo), discover(loaded, source.name, preprocess=preprocess))
    e = onnxplain.explain(loaded, x.astype(source.dtype), "fixations")
    found = e.points[source.name]
    assert len(found)
    assert (found >= 0).all()
    assert (found < x.shape).all()
    assert e.map().shape == tuple(size for axis, size in enumerate(x.shape) if axis != e.channels[source.name])
    for step in e.path:
        assert (step.index >= 0).all()
        assert (step.index < np.prod(step.shape)).all()


def test_recurrent_layers_on_the_path_are_refused_by_name(material):
    loaded = onnxplain.load(material / "models" / "rul_lstm_keras.onnx")
    with pytest.raises(UnsupportedError, match=r"no fixation step for LSTM 'LSTM__51', LSTM 'LSTM__72'"):
        onnxplain.explain(loaded, np.zeros((1, 30, 17), np.float32), "fixations")


def test_bytes_give_index_tuples_and_say_that_there_is_no_map(material):
    loaded = onnxplain.load(material / "models" / "magika_v3_3.onnx")
    file = next(path for path in sorted((material / "magika").rglob("*")) if path.is_file())
    content = np.frombuffer(file.read_bytes()[:1024].ljust(2048, b"\0"), np.uint8).astype(np.int32)[None]
    e = onnxplain.explain(loaded, content, "fixations")
    assert e.points["bytes"].shape[1] == 2
    assert not e.maps
    assert any("no picture" in note for note in e.notes)


def test_every_op_has_a_step_or_is_named():
    """What has neither a step nor works element by element is refused by name; no op of the table is so today."""
    for key, op in table().items():
        assert op.kind is Kind.PASS or type(op).fixate is not Op.fixate, key

    class Mystery(Op):
        kind = Kind.SUM

    assert not Mystery().has_fixation(onnxplain.load(norm_net(True)).graph.layers[0])


def test_parts_of_a_batch_give_what_the_whole_gives():
    d = Draft(1)
    net = residual(d)
    feed, targets = feed_for(d, 7), [0, 1, 2, 3, 0, 1, 2]
    whole, parts = (
        onnxplain.explain(onnxplain.load(net), feed, "fixations", target=targets, batch_size=size, at=["t3"])
        for size in (None, 3)
    )
    for name, array in whole.arrays().items():
        np.testing.assert_array_equal(parts.arrays()[name], array, err_msg=name)


def test_saved_and_loaded(tmp_path):
    d = Draft(1)
    e = onnxplain.explain(onnxplain.load(inception(d)), feed_for(d), "fixations")
    e.save(tmp_path / "e")
    back = onnxplain.Explanation.load(tmp_path / "e")
    assert back.to_json()["path"] == e.to_json()["path"]
    np.testing.assert_array_equal(back.path[3].index, e.path[3].index)
    np.testing.assert_array_equal(back.points["x"], e.points["x"])
    np.testing.assert_array_equal(back.boxes["x"], e.boxes["x"])


def test_weights_that_would_overflow_are_counted_as_the_most_there_is():
    layers = [node("MatMul", [f"h{k}" if k else "x", "w"], f"h{k + 1}") for k in range(8)]
    net = model([*layers, node("Identity", ["h8"], "y")], {"x": (1, 256)}, constants={"w": np.full((256, 256), 0.01)})
    assert set(only(net, np.ones((1, 256))).values()) == {2**53}


def test_targets_without_a_positive_weight_are_refused():
    net = model([node("Gemm", ["x", "w"], "y")], {"x": (1, 3)}, constants={"w": np.eye(3)})
    with pytest.raises(UsageError, match="no positive weight"):
        only(net, [[1, 2, 3]], target=np.array([[0, -1, 0]], np.float32))
    assert only(net, [[1, 2, 3]], target="2-1") == {(0, 2): 1}
    assert only(net, [[1, 2, 3]], target="top2") == {(0, 1): 1}


def test_only_what_is_looked_at_is_traced():
    nodes = [
        node("Conv", ["x", "w"], "c"), node("Relu", ["c"], "r"), node("Add", ["r", "b"], "a"),
        node("Sigmoid", ["a"], "s"), node("MaxPool", ["s"], "p", kernel_shape=[2, 2]), node("Flatten", ["p"], "f"),
        node("Gemm", ["f", "d"], "y"),
    ]  # fmt: skip
    constants = {"w": np.ones((2, 1, 1, 1)), "b": np.ones((2, 1, 1)), "d": np.ones((2, 3))}
    loaded = onnxplain.load(model(nodes, {"x": (1, 1, 2, 2)}, constants=constants))
    route = find_route(loaded, loaded.outputs[0], {"x": np.ones((1, 1, 2, 2), np.float32)})
    assert {tensor.name for tensor in route.read} == {"x", "s", "f"}


def test_an_adversarial_twin_has_other_fixations():
    loaded = onnxplain.load(resource("models/flowers.onnx"))
    x, _ = prepare(read_picture(resource("models/flowers/00_blue.png")), discover(loaded, "input"))
    found = twin(loaded, x, levels=8)
    assert 0 < np.abs(found.twin - x).max() <= 16.01 / 255, "8 of 255 grey levels, of a range of 2"
    clean, attacked, noise = (
        onnxplain.explain(loaded, picture, "fixations") for picture in (x, found.twin, noisy(x, levels=8))
    )
    assert [e.target[0].index for e in (clean, attacked, noise)] == [found.first, found.second, found.first]
    assert likeness(clean, attacked) < 0.3, "the points move elsewhere"
    assert likeness(clean, noise) > 0.9, "noise of the same size leaves them where they are"
    assert shift(clean, attacked) > 3 * shift(clean, noise)
