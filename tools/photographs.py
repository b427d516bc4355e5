"""What the benchmarks on photographs share: those with boxes that a model gets right."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import onnxplain
from onnxplain.inputs.contract import InputContract
from onnxplain.inputs.loaders import Sample, load_inputs
from onnxplain.inputs.pictures import Picture
from onnxplain.metrics.box_files import read_boxes
from onnxplain.metrics.truth import read_class_map


class Photograph(NamedTuple):
    """A photograph, the picture in it, and the edges of what it shows, k x 4."""

    sample: Sample
    picture: Picture
    edges: NDArray[np.float64]


def right_ones(
    folder: Path, model: onnxplain.Model, contract: InputContract, count: int, seed: int
) -> Iterator[Photograph]:
    """The first ``count`` photographs, in an order drawn from ``seed``, that the model takes for what is in the box."""
    boxes = read_boxes(folder / "boxes.json")
    classes = read_class_map(folder / "voc_to_imagenet.json")
    order = np.random.default_rng(seed).permutation(len(boxes.images))

    def right() -> Iterator[Photograph]:
        for sample in load_inputs([folder / boxes.images[place] for place in order], model, contract):
            if not isinstance(sample, Sample) or sample.picture is None:
                continue
            [output] = model.run(sample.feed).values()
            [label] = boxes.label[boxes.of(sample.path.name)]
            if int(output.argmax()) in classes[str(label)]:
                yield Photograph(sample, sample.picture, boxes.edges()[boxes.of(sample.path.name)])

    return islice(right(), count)
