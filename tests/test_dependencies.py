import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DISTRIBUTIONS = {
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "google": "protobuf",
    "onnx_graphsurgeon": "onnx-graphsurgeon",
}


def bounds(lines, operator):
    """Name to version; environment markers are left out."""
    found = [re.match(rf"([\w-]+){operator}([\d.]+)", line) for line in lines]
    return {match[1]: match[2] for match in found if match}


def imported(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_every_import_is_declared():
    modules = {name.split(".")[0] for file in (ROOT / "onnxplain").rglob("*.py") for name in imported(file)}
    used = {DISTRIBUTIONS.get(name, name) for name in modules - sys.stdlib_module_names - {"onnxplain"}}
    assert used <= set(bounds(PROJECT["dependencies"], ">="))


def test_minimum_versions_are_the_lower_bounds():
    declared = bounds(PROJECT["dependencies"], ">=")
    pinned = bounds((ROOT / "tests" / "minimum.txt").read_text().splitlines(), "==")
    assert set(pinned) == set(declared)
    for name, version in pinned.items():
        assert (version + ".").startswith(declared[name] + "."), name


@pytest.mark.parametrize("group", ["dependencies", "cuda", "test", "docs"])
def test_every_dependency_has_a_reason(group):
    lines = PROJECT["dependencies"] if group == "dependencies" else PROJECT["optional-dependencies"][group]
    page = (ROOT / "docs" / "dependencies.md").read_text()
    for line in lines:
        name = re.match(r"[\w-]+", line)[0]
        assert f"| `{name}`" in page, name
