"""The named preprocessings of ``--preprocess``."""

from __future__ import annotations

from onnxplain.errors import UsageError
from onnxplain.inputs.items import Found, Item, Resize

_CROP = Resize("short-side")
_STRETCH = Resize("stretch")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CAFFE_MEAN = (103.939, 116.779, 123.68)

PRESETS = {
    "imagenet": ("RGB", (0.0, 1.0), IMAGENET_MEAN, IMAGENET_STD, _CROP),
    "caffe": ("BGR", (0.0, 255.0), CAFFE_MEAN, (1.0,), _CROP),
    "tf": ("RGB", (-1.0, 1.0), (0.0,), (1.0,), _CROP),
    "unit": ("RGB", (0.0, 1.0), (0.0,), (1.0,), _STRETCH),
    "raw": ("RGB", (0.0, 255.0), (0.0,), (1.0,), _STRETCH),
}
"""Name to colour, value range, mean, standard deviation (in the order of the channels) and resize mode.

imagenet, caffe and tf bring the short side to 256/224 of the model's and crop the centre, as the accuracies of the
models trained with them are measured; unit and raw stretch.
"""


def preset(name: str, channels: int | None) -> Found:
    """The items of a preset.

    Parameters
    ----------
    name : str
    channels : int or None
        What the model takes, where it is known; a preset without statistics per channel serves grey models too.

    Raises
    ------
    UsageError
        No such preset, or one for three channels where the model takes one.
    """
    if name not in PRESETS:
        raise UsageError(f"unknown preprocessing {name!r}; there are {', '.join(PRESETS)}, or a .toml file")
    colour, limits, mean, std, resize = PRESETS[name]
    if channels == 1:
        if len(mean) > 1:
            raise UsageError(f"preprocessing {name!r} is for three channels, the model takes one; use unit, raw or tf")
        colour = "GRAY"
    origin = f"--preprocess {name}"
    values = {"colour": colour, "range": limits, "mean": mean, "std": std, "resize": resize}
    return {key: Item(value, origin) for key, value in values.items()}
