"""What docs/design.md promises of the rooms: the direction of imports, rule text without numpy, the table of ops."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import onnxplain
from onnxplain.ops import Kind, Linear, Op, table
from onnxplain.ops.plumbing import Static

PACKAGE = Path(onnxplain.__file__).parent
MODULES = {
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted(PACKAGE.rglob("*.py"))
}

ORDER = (
    ("errors", "version"),
    ("checks", "files", "origin", "resources", "wording"),
    ("saved",),
    ("graph",),
    ("engine.namespace",),
    ("ops",),
    ("relevance",),
    ("engine.sessions", "engine.protos", "engine.matrices", "engine.recording", "engine.sharing", "engine.walk"),
    ("targets", "model"),
    ("engine",),
    ("inputs",),
    ("explanation", "render"),
    ("metrics",),
    ("interpretation",),
    ("methods",),
    ("metrics.judging", "metrics.results", "metrics.evaluation"),
    ("render.evaluation",),
    ("exporting", "catalogue"),
    ("",),
    ("cli", "__main__"),
)
"""The rooms from left to right; the one whose name is the longest beginning of a module's holds it."""

FORBIDDEN = {"numpy", "numba", "onnx", "onnxruntime", "scipy", "onnx_graphsurgeon"}
"""What rule text must not see: it would tie a rule to one engine."""


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """Every module that a file imports, and whether as soon as it is imported itself; type checking apart."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    passed = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    late = {inner for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if node in passed:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node not in late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield (name if name in MODULES else node.module), node not in late


def position(module: str) -> int:
    """Where a module stands from left to right."""
    name = module.removeprefix("onnxplain").removeprefix(".")
    fitting = [
        (len(room), place)
        for place, rooms in enumerate(ORDER)
        for room in rooms
        if name == room or (room and name.startswith(f"{room}."))
    ]
    assert fitting, f"{module} stands in no room of ORDER"
    return max(fitting)[1]


@pytest.mark.parametrize("module", MODULES)
def test_nothing_imports_what_stands_further_right(module):
    own = position(module)
    right = [name for name, _ in imports(MODULES[module]) if name.startswith("onnxplain") and position(name) > own]
    assert right == []


def test_no_module_imports_itself_in_a_circle():
    graph = {
        module: {name for name, at_once in imports(file) if at_once and name in MODULES and name != module}
        for module, file in MODULES.items()
    }
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)


@pytest.mark.parametrize(
    "module", [name for name in MODULES if name.startswith(("onnxplain.ops", "onnxplain.relevance"))]
)
def test_rule_text_sees_the_array_namespace_only(module):
    found = {name.split(".")[0] for name, _ in imports(MODULES[module])}
    assert not found & FORBIDDEN
    assert not [
        name
        for name, _ in imports(MODULES[module])
        if name.startswith("onnxplain.engine") and name != "onnxplain.engine.namespace"
    ]


def test_the_parser_finds_imports_wherever_they_stand(tmp_path):
    file = tmp_path / "rule.py"
    file.write_text("import numpy as np\ndef f():\n    from onnx import helper\nif TYPE_CHECKING:\n    import numba\n")
    assert list(imports(file)) == [("numpy", True), ("onnx", False)]


TIER_1 = """
Conv ConvTranspose Gemm MatMul BatchNormalization Add Sub Mul Div Sum Neg AveragePool GlobalAveragePool ReduceMean
ReduceSum Relu LeakyRelu PRelu Clip Sigmoid Tanh HardSigmoid HardSwish Elu Gelu Erf Softmax LogSoftmax Exp Log Sqrt Pow
Reciprocal Abs MaxPool GlobalMaxPool ReduceMax Max Min LayerNormalization
Reshape Flatten Squeeze Unsqueeze Transpose Concat Split Slice Gather Pad Expand Tile Identity Dropout Cast Resize Where
DepthToSpace SpaceToDepth
Constant ConstantOfShape Shape Size Range Equal Less Greater Not And Or
LRN QuantizeLinear DequantizeLinear
"""
"""What classifiers in use are made of: 40 op types that bear relevance, 19 that route it, 11 without, and 3 more."""


def test_every_common_op_type_has_its_place():
    names = set(TIER_1.split())
    assert len(names) == 73
    assert {("", name) for name in names} <= table().keys()


@pytest.mark.parametrize("key", table(), ids=lambda key: key[1])
def test_an_op_says_everything_about_its_type(key):
    op = table()[key]
    defined = {name for cls in type(op).__mro__[:-1] if cls not in (Op, Linear) for name in vars(cls)}
    assert isinstance(op.kind, Kind)
    assert "forward" in defined
    if isinstance(op, Static):
        assert op.kind is Kind.NONE
        return
    assert "vjp" in defined or isinstance(op, Linear)
    if isinstance(op, Linear):
        assert {"apply", "transpose"} <= defined
    assert op.kind is Kind.PASS or "fixate" in defined, "fixations go through element by element, or it says how"


def test_an_op_type_has_one_place():
    from onnxplain.ops.base import add

    with pytest.raises(ValueError, match="Relu is in the table already"):
        add("Relu", Op())
