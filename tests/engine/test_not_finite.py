"""NaN and Inf that no rule is to blame for: the sentence says where they come from."""

import nets
import numpy as np
import pytest

import onnxplain
from onnxplain.errors import FailureError


@pytest.mark.filterwarnings("error")
def test_a_forward_pass_that_overflows_is_named():
    data = nets.model(
        [nets.node("Gemm", ["x", "w"], "h"), nets.node("Relu", ["h"], "r"), nets.node("Mul", ["r", "big"], "y")],
        {"x": ["N", 3]},
        constants={"w": np.full((3, 2), 1e30), "big": np.array([1e30])},
    )
    with pytest.raises(FailureError, match=r"the forward pass itself gives NaN or Inf at '[ry]'; look at the weights"):
        onnxplain.explain(data, np.ones((1, 3), np.float32), engine="host")


@pytest.mark.parametrize("method", ["gradient", "lrp"])
def test_a_model_that_answers_with_nan_is_named(method):
    data = nets.model([nets.node("Sqrt", ["x"], "r"), nets.node("Mul", ["r", "x"], "y")], {"x": ["N", 3]})
    x = -np.ones((1, 3), np.float32)
    with pytest.raises(FailureError) as caught:
        onnxplain.explain(data, x, method, engine="host", target=0)
    assert "forward pass itself gives NaN or Inf at" in str(caught.value)
    assert "epsilon" not in str(caught.value)


@pytest.mark.parametrize("engine", ["host", "compiled"])
@pytest.mark.parametrize(("method", "rules", "wanted"), [("gradient", None, 1), ("lrp", "lrp-0", 3)])
def test_outputs_of_minus_infinity_are_no_difference(method, rules, wanted, engine):
    """Classes that a mask rules out, beside one that is explained."""
    data = nets.model(
        [nets.node("Gemm", ["x", "w"], "h"), nets.node("Where", ["there", "h", "never"], "y")],
        {"x": ["N", 3]},
        constants={"w": np.eye(3), "there": np.array([[True, False, True]]), "never": np.array(-np.inf)},
    )
    e = onnxplain.explain(data, np.array([[1, 2, 3]], np.float32), method, engine=engine, rules=rules)
    np.testing.assert_allclose(e.relevance["x"], [[0, 0, wanted]], rtol=1e-6)
    assert e.target[0].value == 3
