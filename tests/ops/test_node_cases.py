"""Every op of the table against the official node cases of ONNX."""

from __future__ import annotations

import functools
import warnings
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import onnx
import pytest
from gradient_checks import Feed, check_central_differences, check_engines, own_forward
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases
from onnx.defs import onnx_opset_version

import onnxplain
from onnxplain.graph.reader import IR_VERSIONS, OPSETS
from onnxplain.model import Model
from onnxplain.ops import find, table
from onnxplain.ops.plumbing import Static

BEYOND = "the op changed after opset 26, the newest that is read"
NO_ARRAYS = "onnxruntime takes no arrays of this type"
NOT_TENSORS = "no tensors"
EMPTY = "the maximum over no element"

EXCLUDED = {
    "test_cast_*": BEYOND,
    "test_depthtospace_example": BEYOND,
    "test_depthtospace_crd_mode_example": BEYOND,
    "test_spacetodepth": BEYOND,
    "test_spacetodepth_example": BEYOND,
    "test_spacetodepth_*_mode_example": BEYOND,
    "test_dequantizelinear*": BEYOND,
    "test_quantizelinear*": BEYOND,
    "test_range_*float*_positive_delta": BEYOND,
    "test_range_int32_type_negative_delta": BEYOND,
    "test_castlike_*FLOAT8E5M2_*": NO_ARRAYS,
    "test_castlike_FLOAT4E2M1_to_*_expanded": NO_ARRAYS,
    "test_castlike_INT[24]_to_INT8_expanded": NO_ARRAYS,
    "test_castlike_UINT[24]_to_UINT8_expanded": NO_ARRAYS,
    "test_identity_sequence": NOT_TENSORS,
    "test_identity_opt": NOT_TENSORS,
    "test_reduce_max_empty_set*": EMPTY,
    "test_reduce_log_sum_empty_set_expanded": "the logarithm of zero",
    "test_maxpool_with_argmax_2d_precomputed_*": "Indices are integers for MaxUnpool, which is not in the table",
    "test_averagepool_2d_ceil_last_window_starts_on_pad": "its expected output is rounded to four digits",
    "test_resize_downsample_scales_*_align_corners": "onnxruntime divides by the rounded length",
    "test_pow_types_float32_uint*": "onnxruntime has no kernel for unsigned exponents",
}
"""Patterns of names, and why those cases are left out."""

REFUSED = {
    "test_training_dropout*": "in training mode",
    "test_batchnorm_*_training_mode": "in training mode",
    "test_div_*int*": "of integers has no float64 forward",
    "test_castlike_*_to_*INT[24]_expanded": "has no float64 forward",
    "test_castlike_*_to_FLOAT8E4*_expanded": "has no float64 forward",
    "test_castlike_*_to_FLOAT8E5M2FNUZ_expanded": "has no float64 forward",
    "test_castlike_*_to_FLOAT4*_expanded": "has no float64 forward",
    "test_castlike_*_to_BFLOAT16_expanded": "has no float64 forward",
}
"""Patterns of names, and what the refusal says: an UnsupportedError instead of a wrong result."""

TOLERANCE = {"float16": 2e-3, "float32": 1e-5, "float64": 1e-7}


def _cases() -> dict[str, Any]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    known = {op_type for domain, op_type in table() if not domain}
    return {
        case.name: case
        for case in cases
        if case.model.graph.node and all(node.op_type in known and not node.domain for node in case.model.graph.node)
    }


CASES = _cases()


def _matching(name: str, patterns: dict[str, str]) -> str | None:
    return next((said for pattern, said in patterns.items() if fnmatchcase(name, pattern)), None)


NAMES = [name for name in CASES if _matching(name, EXCLUDED) is None and _matching(name, REFUSED) is None]


def _restamped(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """The model in a version that is read, None where an op has changed in between."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = min(copy.ir_version, IR_VERSIONS[-1])
    for entry in [entry for entry in copy.opset_import if entry.domain in ("", "ai.onnx")]:
        version = min(max(entry.version, OPSETS[0]), OPSETS[-1])
        for node in model.graph.node:
            since = [onnx.defs.get_schema(node.op_type, v, "").since_version for v in (entry.version, version)]
            if since[0] != since[1]:
                return None
        entry.version = version
    return copy


def _settings(model: Model) -> set[str]:
    """Inputs that are settings wherever they are used: not differentiable by their schema, or fixed by the op."""
    uses: dict[str, list[bool]] = {tensor.name: [] for tensor in model.inputs}
    for layer in model.graph.layers:
        schema = onnx.defs.get_schema(layer.op_type, layer.since_version, "")
        op = find(layer)
        assert op is not None
        for index, tensor in enumerate(layer.inputs):
            if tensor is not None and tensor.name in uses:
                category = schema.inputs[min(index, len(schema.inputs) - 1)].differentiation_category
                fixed = category is onnx.defs.OpSchema.DifferentiationCategory.NonDifferentiable
                uses[tensor.name].append(fixed or index in op.fixed or isinstance(op, Static))
    return {name for name, fixed in uses.items() if fixed and all(fixed)}


def _array(value: Any) -> np.ndarray:
    return np.asarray(numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value)


@functools.lru_cache(maxsize=4)
def _loaded(name: str) -> tuple[Model, Feed, dict[str, np.ndarray]]:
    """The case's model with every input but the data as a constant, the data, and the expected outputs."""
    proto = _restamped(CASES[name].model)
    assert proto is not None, f"{name} cannot be re-stamped"
    inputs, outputs = ([_array(value) for value in values] for values in CASES[name].data_sets[0])
    names = [value.name for value in proto.graph.input]
    arrays = dict(zip(names, inputs, strict=True))
    settings = _settings(onnxplain.load(proto, threads=1))
    floating = [n for n in names if arrays[n].dtype.kind == "f" and n not in settings]
    data = floating or [n for n in names if n not in settings]
    for n in names:
        if n not in data:
            proto.graph.initializer.append(numpy_helper.from_array(arrays[n], n))
    expected = dict(zip((value.name for value in proto.graph.output), outputs, strict=True))
    return onnxplain.load(proto, threads=1), {n: arrays[n] for n in data}, expected


def _differentiable(name: str) -> bool:
    """Whether a case has a floating input and a floating output, neither of them empty."""
    sides = ([_array(value) for value in values] for values in CASES[name].data_sets[0])
    return all(any(value.dtype.kind == "f" and value.size for value in side) for side in sides)


def _off_kinks(feed: Feed, rng: np.random.Generator) -> Feed:
    """The data moved off kinks and ties, and off poles and overflow."""
    return {name: _moved(value, rng) if value.dtype.kind == "f" else value for name, value in feed.items()}


def _moved(value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    finite = np.nan_to_num(value, nan=0.5, posinf=1.0, neginf=-1.0)
    return np.asarray(finite + rng.uniform(0.02, 0.2, value.shape), value.dtype)


def test_every_exclusion_names_cases_and_those_beyond_cannot_be_restamped() -> None:
    for pattern, reason in (EXCLUDED | REFUSED).items():
        names = [name for name in CASES if fnmatchcase(name, pattern)]
        assert names or onnx_opset_version() <= OPSETS[-1], pattern  # an older onnx lacks newer cases
        for name in names:
            if CASES[name].data_sets and reason is not NOT_TENSORS:
                newest = max(entry.version for entry in CASES[name].model.opset_import if not entry.domain)
                beyond = reason is BEYOND and newest > OPSETS[-1]
                assert (_restamped(CASES[name].model) is None) == beyond, name
    assert len(NAMES) > 550
    assert sum(map(_differentiable, NAMES)) > 400


@pytest.mark.parametrize("name", NAMES)
def test_forward(name: str) -> None:
    model, feed, expected = _loaded(name)
    for out in model.outputs:
        found = own_forward(model, feed, out)
        wanted = expected[out.name].astype(np.float64)
        tolerance = TOLERANCE.get(str(expected[out.name].dtype), 0)
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found.astype(np.float64), wanted, rtol=tolerance, atol=tolerance, err_msg=out.name)


@pytest.mark.parametrize("name", [name for name in CASES if _matching(name, REFUSED)])
def test_what_has_no_float64_forward_is_refused(name: str) -> None:
    model, feed, _ = _loaded(name)
    with pytest.raises(onnxplain.UnsupportedError, match=_matching(name, REFUSED)):
        own_forward(model, feed, model.outputs[0])


@pytest.mark.parametrize("name", [name for name in NAMES if _differentiable(name)])
def test_gradient(name: str) -> None:
    model, feed, _ = _loaded(name)
    rng = np.random.default_rng(0)
    feed = _off_kinks(feed, rng)
    for out in model.outputs:
        if out.dtype is not None and out.dtype.kind == "f":
            check_central_differences(model, feed, out, rng)
            check_engines(model, feed, out, rng)
