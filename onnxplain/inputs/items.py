"""The items of an input contract, each with where it came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

T = TypeVar("T")

Layout = Literal["NCHW", "NHWC", "tensor"]
Colour = Literal["RGB", "BGR", "GRAY"]

CHANNELS: dict[str, int] = {"RGB": 3, "BGR": 3, "GRAY": 1}
"""Number of channels of each colour order."""

RESIZE_MODES = ("stretch", "short-side", "letterbox")

FILL = 114.0
"""Grey level around a letterboxed picture unless stated: that of the detectors which brought the mode up."""


@dataclass(frozen=True)
class Item(Generic[T]):
    """One fact about an input.

    Attributes
    ----------
    value : object or None
        None where no source settles it.
    origin : str
        Where it is stated, or why it is not known.
    """

    value: T | None
    origin: str

    @property
    def settled(self) -> T:
        """The value, where it has been checked that there is one."""
        assert self.value is not None, self.origin
        return self.value


@dataclass(frozen=True)
class Resize:
    """How a picture is brought to the model's size.

    Attributes
    ----------
    mode : {"stretch", "short-side", "letterbox"}
        Both sides on their own; the short side to a length, then a centre crop; the whole picture inside a frame.
    short_side : int or None
        In pixels, for "short-side"; None until the model's size is known.
    fill : float
        Grey level (0..255) of the frame, for "letterbox".
    """

    mode: Literal["stretch", "short-side", "letterbox"]
    short_side: int | None = None
    fill: float = FILL

    def __str__(self) -> str:
        match self.mode:
            case "short-side":
                return f"short side to {self.short_side}, centre crop"
            case "letterbox":
                return f"letterbox, filled with grey {self.fill:g}"
        return self.mode


Found = dict[str, Item[Any]]
"""What one source settles, by item name."""
