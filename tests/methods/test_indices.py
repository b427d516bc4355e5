"""Inputs that are indices: relevance ends at the first floating tensor behind them."""

import numpy as np
import onnx
import pytest
from nets import node
from onnx import TensorProto, helper, numpy_helper

import onnxplain

TABLE = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
WORDS = np.array([[1, 2, 3, 3, 4], [9, 0, 0, 5, 6]])


@pytest.fixture(scope="module")
def classifier() -> onnxplain.Model:
    """The sum of the embeddings of five words; class k is its k-th element."""
    nodes = [node("Gather", ["table", "words"], "emb"), node("ReduceSum", ["emb", "axis"], "y", keepdims=0)]
    graph = helper.make_graph(
        nodes,
        "words",
        [helper.make_tensor_value_info("words", TensorProto.INT64, ["N", 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(TABLE, "table"), numpy_helper.from_array(np.array([1]), "axis")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return onnxplain.load(onnx.load_from_string(proto.SerializeToString()), threads=1)


@pytest.mark.parametrize("method", ["lrp", "gradient"])
def test_the_error_names_the_tensor_to_ask_for(classifier, method):
    with pytest.raises(onnxplain.UsageError, match=r"'words' is int64; ask for the relevance of .*'emb', with at="):
        onnxplain.explain(classifier, WORDS, method)


@pytest.mark.parametrize("engine", ["host", "compiled"])
def test_relevance_of_the_embeddings(classifier, engine):
    e = onnxplain.explain(classifier, WORDS, target=2, at=["emb"], engine=engine)
    expected = np.zeros((2, 5, 4))
    expected[..., 2] = TABLE[WORDS][..., 2]
    np.testing.assert_allclose(e.at["emb"], expected, rtol=1e-5)
    assert e.relevance == {}
    assert np.isnan(e.conserved).all()


def test_saved_and_loaded(classifier, tmp_path):
    e = onnxplain.explain(classifier, WORDS, target=2, at=["emb"])
    e.save(tmp_path / "maps")
    np.testing.assert_array_equal(onnxplain.Explanation.load(tmp_path / "maps").at["emb"], e.at["emb"])
