"""The nets of the an8Flower evaluation: what they decide by, the grid of their strides, the features that they use."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxplain
from onnxplain.inputs.datasets import read_dataset
from onnxplain.metrics.maps import stride_energy
from onnxplain.resources import resource

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from flowers import VARIANTS, draw, model_ready

SEED = 11


def net(variant: str) -> Path:
    return Path(str(resource("models"))) / f"an8flower-{variant}.onnx"


def drawn(variant: str, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Model-ready pictures and their classes."""
    pictures = [draw(VARIANTS[variant], 96, SEED, number) for number in range(first, first + count)]
    return model_ready(np.stack([p.pixels for p in pictures])), np.array([p.label for p in pictures])


@pytest.mark.parametrize("variant", VARIANTS)
def test_right_on_new_pictures_and_strided(variant: str) -> None:
    model = onnxplain.load(net(variant), threads=1)
    x, labels = drawn(variant, 0, 24)
    assert (model.run({"input": x})["logits"].argmax(axis=1) == labels).sum() >= 23
    contract = onnxplain.inspect(model)["contract"]["input"]
    assert contract["labels"]["value"] == list(VARIANTS[variant].classes)
    strides = [
        list(attribute.ints)
        for node in onnx.load(net(variant)).graph.node
        for attribute in node.attribute
        if node.op_type == "Conv" and attribute.name == "strides"
    ]
    assert strides == [[2, 2], [2, 2], [1, 1], [1, 1], [1, 1]]
    assert net(variant).stat().st_size < 400_000


@pytest.mark.parametrize("method", ["guided-backprop", "deconvnet"])
def test_the_remedy_takes_the_grid_away(method: str) -> None:
    model = onnxplain.load(net("single-6c"), threads=1)
    x, _ = drawn("single-6c", 0, 3)
    plain, remedy = (
        np.array([[stride_energy(m, s) for s in (2, 4)] for m in onnxplain.explain(model, x, method, **options).map()])
        for options in ({}, {"stride_artifacts": "remedy"})
    )
    assert (plain > 0.02).all()
    assert (remedy < plain / 10).all()


def test_classes_lose_more_without_their_relevant_filters(tmp_path: Path) -> None:
    model = onnxplain.load(net("single-6c"), threads=1)
    sets = []
    for name, first, count in (("seen", 0, 48), ("new", 48, 12)):
        x, labels = drawn("single-6c", first, count)
        np.savez(tmp_path / f"{name}.npz", input=x, labels=labels)
        sets.append(read_dataset(tmp_path / f"{name}.npz"))
    seen, new = sets
    found = onnxplain.ablate(model, new, onnxplain.interpret(model, seen, mu=5), labels="given", draws=2)
    assert len(found.classes) == 6
    intact, relevant = found.relevant_score[:, 0].mean(), found.relevant_score[:, -1].mean()
    random = found.random_score[..., -1].mean()
    assert intact - relevant > 2 * (intact - random) > 0
