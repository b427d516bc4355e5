"""RISE and occlusion against loops, and what every masking method promises: batches, layouts, memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import nets
import numpy as np
import pytest
from methods import slow_masking as slow

import onnxplain
from onnxplain import UnsupportedError, UsageError
from onnxplain.methods.masking import Upsampled

RNG = np.random.default_rng(3)
HEIGHT, WIDTH, CLASSES = 13, 10, 4
W1, W2 = RNG.normal(size=(5, 3, 3, 3)) / 3, RNG.normal(size=(5, CLASSES))
X = RNG.normal(size=(2, 3, HEIGHT, WIDTH)).astype(np.float32)


def net(batch: int | str = "N", last: bool = False, channels_last: bool = False, size: int | None = None) -> bytes:
    """A convolution and a dense layer on the global mean."""
    shape: list[int | str] = [batch, 3, size or HEIGHT, size or WIDTH]
    nodes, source = [], "x"
    if channels_last:
        shape = [shape[0], *shape[2:], 3]
        nodes, source = [nets.node("Transpose", ["x"], "t", perm=[0, 3, 1, 2])], "t"
    nodes += [
        nets.node("Conv", [source, "w1"], "a", pads=[1, 1, 1, 1]),
        nets.node("Relu", ["a"], "b"),
        nets.node("GlobalAveragePool", ["b"], "c"),
        nets.node("Flatten", ["c"], "d"),
        nets.node("Gemm", ["d", "w2"], "z"),
    ]
    if last:
        nodes.append(nets.node("Softmax", ["z"], "p"))
    return nets.model(nodes, {"x": shape}, ["p" if last else "z"], {"w1": W1, "w2": W2})


def explain(data: bytes, x: np.ndarray = X, method: str = "rise", **options: Any) -> onnxplain.Explanation:
    options = {"masks": 37, "cells": 4, **options} if method == "rise" else options
    return onnxplain.explain(onnxplain.load(data, threads=1), x, method, **options)


def test_rise_is_its_formula() -> None:
    e = explain(net(), keep=0.4, seed=5, target=2)
    expected = [slow.rise(slow.runner(net(), 2), x.astype(np.float64), 5, 37, 4, 0.4) for x in X]
    np.testing.assert_allclose(e.map("x"), expected, atol=1e-5 * np.max(expected))
    assert e.map("x").shape == (2, HEIGHT, WIDTH)
    assert e.target[0].value == pytest.approx(slow.runner(net(), 2)(X[0]), rel=1e-5)


def test_rise_of_the_logit() -> None:
    e = explain(net(), target=1, score="logit")
    expected = slow.rise(slow.runner(net(), 1, logits=True), X[0].astype(np.float64), 0, 37, 4, 0.5)
    np.testing.assert_allclose(e.map("x")[0], expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("fill", [0.0, [1.0, -2.0, 0.5]])
def test_occlusion_is_its_loop(fill: Any) -> None:
    e = explain(net(), method="occlusion", window=4, stride=3, target=0, fill=fill)
    of_channel = np.reshape(fill, (-1, 1, 1))
    expected = [slow.occlusion(slow.runner(net(), 0), x.astype(np.float64), 4, 3, of_channel) for x in X]
    np.testing.assert_allclose(e.map("x"), expected, atol=1e-6)


def test_a_closing_softmax_and_a_fixed_batch_change_nothing() -> None:
    expected = explain(net(), target=2).map("x")
    for data in (net(last=True), net(batch=1), net(channels_last=True)):
        x = np.moveaxis(X, 1, 3) if data == net(channels_last=True) else X
        np.testing.assert_allclose(explain(data, x, target=2).map("x"), expected, atol=1e-6)


@pytest.mark.parametrize("method", ["rise", "occlusion"])
@pytest.mark.parametrize("size", [1, 3, 64])
def test_any_batch_size(method: str, size: int) -> None:
    whole = explain(net(), method=method)
    found = explain(net(), method=method, batch_size=size)
    np.testing.assert_allclose(found.map("x"), whole.map("x"), atol=1e-6)


def test_samples_do_not_depend_on_each_other() -> None:
    np.testing.assert_array_equal(explain(net(), X[1:]).map("x")[0], explain(net()).map("x")[1])


def test_upsampled_masks_are_scaled_and_constant_ones_are_zero() -> None:
    planes = RNG.normal(size=(4, 3, 5)).astype(np.float32)
    planes[2] = 7
    masks, areas = np.empty((3, HEIGHT, WIDTH), np.float32), np.empty(3)
    Upsampled(planes, (HEIGHT, WIDTH)).draw(np.array([3, 2, 0]), masks, areas)
    expected = [slow.min_max(slow.upsample(planes[k].astype(np.float64), HEIGHT, WIDTH)) for k in (3, 2, 0)]
    np.testing.assert_allclose(masks, expected, atol=1e-6)
    np.testing.assert_allclose(areas, masks.sum(axis=(1, 2), dtype=np.float64), rtol=1e-12)
    assert not masks[1].any()


def test_rise_stops_when_its_map_has_settled() -> None:
    early = explain(net(), X[:1], masks=2000, tolerance=0.1)
    [used] = early.extras["masks"]
    assert used < 2000
    assert used % 64 == 0
    np.testing.assert_array_equal(explain(net(), X[:1], masks=int(used)).map("x"), early.map("x"))
    again = explain(net(), X[:1], masks=2000, tolerance=0.1, batch_size=5)
    assert again.extras["masks"] == used


def test_memory_does_not_grow_with_the_number_of_masks() -> None:
    model = onnxplain.load(net(size=64), threads=1)
    x = RNG.normal(size=(1, 3, 64, 64)).astype(np.float32)

    def peak(masks: int) -> int:
        tracemalloc.start()
        onnxplain.explain(model, x, "rise", masks=masks, batch_size=16)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(16)
    few, many = peak(32), min(peak(640), peak(640))  # garbage that is collected late counts as well
    stack = 640 * 64 * 64 * 4
    assert many - few < stack / 50


def test_progress_ends_at_its_total() -> None:
    seen: list[tuple[int, int]] = []
    explain(net(), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (74, 74)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("rise", {"masks": 0}, "masks must be a whole number from 1"),
        ("rise", {"keep": 1}, "keep must lie above 0 and below 1"),
        ("rise", {"tolerance": "often"}, "tolerance must lie from 0 and below 1"),
        ("rise", {"fill": [0, 1]}, "one per channel"),
        ("rise", {"score": "odds"}, "probability or logit"),
        ("occlusion", {"window": 14}, "larger than the picture"),
        ("occlusion", {"window": 2, "stride": 3}, "never hidden"),
        ("occlusion", {"window": True}, "window must be a number"),
    ],
)
def test_what_is_asked_wrongly(method: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        explain(net(), method=method, **options)


def test_a_table_is_no_picture() -> None:
    data = nets.model([nets.node("Gemm", ["x", "w"], "y")], {"x": ["N", 5]}, constants={"w": W2})
    with pytest.raises(UnsupportedError, match="one picture"):
        explain(data, np.zeros((1, 5), np.float32))


def test_what_only_runs_the_model_has_no_plan() -> None:
    with pytest.raises(UsageError, match="has no plan"):
        onnxplain.plan(onnxplain.load(net(), threads=1), "rise")
