"""Fixations as plain dictionaries."""

import numpy as np

import onnxplain


def points_of(net, feed, **options):
    """Input name to {index: weight}, no outliers removed."""
    e = onnxplain.explain(onnxplain.load(net), feed, method="fixations", outliers=False, **options)
    return {
        name: dict(zip(map(tuple, found.tolist()), e.point_weights[name].tolist(), strict=True))
        for name, found in e.points.items()
    }


def only(net, x, **options):
    [found] = points_of(net, {"x": np.asarray(x, np.float32)}, **options).values()
    return found
