"""``onnxplain localize``."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from onnxplain.cli.output import Output, table
from onnxplain.errors import UsageError


def localize(
    out: Output,
    boxes_file: Annotated[
        str,
        typer.Argument(
            metavar="BOXES",
            help="Predicted boxes: .npz, .csv, COCO .json, boxes.json, Pascal VOC .xml or a folder of them.",
        ),
    ],
    net: Annotated[
        str | None, typer.Option("--net", metavar="NAME", help="The net whose boxes to take from an .npz of several.")
    ] = None,
    truth_file: Annotated[
        str | None,
        typer.Option(
            "--truth", metavar="FILE", help="Ground-truth boxes, in the same forms. [default: those in the .npz BOXES]"
        ),
    ] = None,
    iou: Annotated[float, typer.Option("--iou", help="Least intersection over union of a hit.")] = 0.5,
    pixels: Annotated[
        Literal["inclusive", "exclusive"],
        typer.Option(
            "--pixels",
            help="Whether right and bottom of a box are its last pixel or the edge behind it; "
            "in COCO and boxes.json they are the edge either way.",
        ),
    ] = "inclusive",
    boxes: Annotated[
        Literal["any", "first"],
        typer.Option("--boxes", help="Which of an image's ground-truth boxes may be hit."),
    ] = "any",
) -> None:
    """Measure how many objects predicted boxes miss.

    The defaults are the protocol of the CNN-Fixations paper: the first label is right and its box overlaps any
    ground-truth box of that class by IoU >= 0.5, inclusive pixels, all images.

    \b
    onnxplain localize boxes.npz --net vgg16
    onnxplain localize predicted.csv --truth annotations/
    """
    from onnxplain.metrics.box_files import read_boxes, read_truth
    from onnxplain.metrics.localization import localization_error

    if truth_file is None and not boxes_file.lower().endswith(".npz"):
        raise UsageError(f"{boxes_file} holds predicted boxes only; name the ground truth with --truth FILE")
    truth = read_truth(truth_file or boxes_file)
    predicted = read_boxes(boxes_file, net=net, truth=truth)
    error = localization_error(predicted, truth, threshold=iou, pixels=pixels, boxes=boxes)
    if error.unpredicted:
        out.note(f"{error.unpredicted} of {error.n} images have no predicted box and count as errors")
    if error.without_truth:
        out.note(f"{error.without_truth} images without a ground-truth box are left out")
    document = {
        "net": predicted.net,
        "n": error.n,
        "top1_error": error.top1.mean,
        "top1_error_ci95": error.top1.interval,
        "gt_known_error": error.gt_known.mean,
        "top5_error": error.top5 and error.top5.mean,
    }
    measures = {"top-1": error.top1, "ground truth known": error.gt_known, "top-5": error.top5}
    rows = [
        (name, f"{e.mean:.2f} %", f"{e.low:.2f} .. {e.high:.2f} %") if e else (name, "-", "fewer than five labels")
        for name, e in measures.items()
    ]
    heading = f"{predicted.net or predicted.source}: {error.n} images, IoU >= {iou}, {pixels} pixels, {boxes} true box"
    out.result(
        "onnxplain.localize/1",
        document,
        lambda: [heading, table(["localisation error", "mean", "95 % interval"], rows)],
    )
