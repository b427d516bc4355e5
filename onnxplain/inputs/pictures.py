"""Pictures: reading them whole or not at all, bringing them to the model's form, and maps back onto them.

Pillow reads and resamples, because its antialiased resampling is what torchvision and most training pipelines use, it
knows the size before it decodes, and it refuses truncated files without a word on stderr.
"""

from __future__ import annotations

import math
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from onnxplain.errors import FailureError, UsageError
from onnxplain.files import captured_stderr
from onnxplain.inputs.contract import MAX_PIXELS, InputContract
from onnxplain.inputs.items import Colour, Resize

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
_BILINEAR = Image.Resampling.BILINEAR
_TURNED = (5, 6, 7, 8)
"""EXIF orientations that lie on their side."""
_filters = threading.Lock()
_LIBTIFF = re.compile(r"[\w.]+: ")
"""How the lines begin that libtiff writes on stderr; a progress bar's do not."""


@dataclass(frozen=True)
class Picture:
    """A decoded picture, the right way up.

    Attributes
    ----------
    image : PIL.Image.Image
        Mode "RGB", or "F" with grey levels 0..255 where the file holds 16-bit grey.
    notes : tuple of str
        What was done to it beyond decoding.
    """

    image: Image.Image
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.height, self.image.width

    @property
    def rgb(self) -> np.ndarray:
        """The picture as uint8, H x W x 3."""
        if self.image.mode == "F":
            grey = np.rint(np.asarray(self.image)).astype(np.uint8)
            return np.repeat(grey[..., np.newaxis], 3, axis=2)
        return np.asarray(self.image)


def read_picture(path: Path, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode a PNG, JPEG, WebP, BMP or TIFF file, whatever its name.

    The EXIF orientation is applied, transparency is laid over white, 16-bit values are brought to 0..255 (16-bit colour
    with 8 bits of precision), of several frames or pages the first is taken.

    Parameters
    ----------
    path : Path
    max_pixels : int
        Larger pictures are refused before they are decoded.

    Raises
    ------
    UsageError
        Missing file.
    FailureError
        Not a picture of these formats, truncated, damaged or too large.
    """
    if not path.is_file():
        raise UsageError(f"{path} is not a file")
    try:
        with path.open("rb") as stream, _quiet(), captured_stderr() as said:
            picture = _decode(stream, path, max_pixels)
        errors = [line.strip() for line in said() if _LIBTIFF.match(line)]
        if errors:  # it goes on behind a bad code word
            raise ValueError(errors[0].rstrip("."))
        return picture
    except FailureError:
        raise
    except UnidentifiedImageError as error:
        raise FailureError(
            f"{path} is not a readable {', '.join(_FORMATS)} picture; convert it or save it again"
        ) from error
    except Image.DecompressionBombError as error:
        raise _too_large(path, max_pixels) from error
    except MemoryError as error:
        raise FailureError(f"{path}: not enough memory to decode the picture; give a smaller one") from error
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        reason = str(error) or type(error).__name__
        raise FailureError(f"{path}: the picture is truncated or damaged ({reason}); save it again") from error


def picture_size(path: Path) -> tuple[int, int]:
    """Height and width that `read_picture` will give, from the head of the file alone.

    Raises
    ------
    UsageError, FailureError
        As `read_picture`, as far as the head shows.
    """
    if not path.is_file():
        raise UsageError(f"{path} is not a file")
    try:
        with _quiet(), Image.open(path, formats=_FORMATS) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in _TURNED
            return (image.width, image.height) if turned else (image.height, image.width)
    except Exception as error:  # as in read_picture
        raise FailureError(f"{path} is not a readable {', '.join(_FORMATS)} picture ({error})") from error


def _too_large(path: Path, max_pixels: int) -> FailureError:
    return FailureError(f"{path}: the picture has more than {max_pixels / 1e6:g} megapixels; give a smaller one")


def _decode(stream: IO[bytes], path: Path, max_pixels: int) -> Picture:
    image: Image.Image = Image.open(stream, formats=_FORMATS)
    if image.width * image.height > max_pixels:
        raise _too_large(path, max_pixels)
    image.verify()
    stream.seek(0)
    image = Image.open(stream, formats=_FORMATS)
    notes = ["the first of several frames or pages"] if _has_second_frame(image) else []
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.float32) / np.float32(257)
        return Picture(Image.fromarray(grey), tuple(notes))
    if image.mode in ("I", "F"):
        raise FailureError(
            f"{path} holds 32-bit values of no stated range; save it with 8 or 16 bits, or give a .npy file"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            notes.append("transparency laid over white")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return Picture(image.convert("RGB"), tuple(notes))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what Pillow warns of in damaged files; the filters belong to the whole process, hence one at a time."""
    with _filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _has_second_frame(image: Image.Image) -> bool:
    try:
        image.seek(1)
    except EOFError:
        return False
    image.seek(0)
    return True


@dataclass(frozen=True)
class Geometry:
    """Where the model's window lies on a picture.

    Attributes
    ----------
    original : (int, int)
        Height and width of the picture.
    resized : (int, int)
        Height and width to which the whole of it would be resized.
    offset : (int, int)
        Top and left of the window in the resized picture; negative inside a frame.
    window : (int, int)
        Height and width of what the model takes.
    """

    original: tuple[int, int]
    resized: tuple[int, int]
    offset: tuple[int, int]
    window: tuple[int, int]

    @classmethod
    def fit(cls, original: tuple[int, int], window: tuple[int, int], resize: Resize) -> Geometry:
        """The geometry of a picture of a size; sizes are rounded as torchvision and letterboxing detectors do."""
        (height, width), (wanted_height, wanted_width) = original, window
        match resize.mode:
            case "short-side":
                assert resize.short_side is not None
                ratio = resize.short_side / min(window)
                if wanted_height * width <= wanted_width * height:
                    short = round(wanted_width * ratio)
                    resized = short * height // width, short
                else:
                    short = round(wanted_height * ratio)
                    resized = short, short * width // height
                offset = tuple(round((side - want) / 2) for side, want in zip(resized, window, strict=True))
            case "letterbox":
                scale = min(wanted_height / height, wanted_width / width)
                resized = max(1, round(height * scale)), max(1, round(width * scale))
                offset = tuple(-round((want - side) / 2 - 0.1) for side, want in zip(resized, window, strict=True))
            case "stretch":
                resized, offset = window, (0, 0)
        return cls(original, resized, (offset[0], offset[1]), window)

    @classmethod
    def whole(cls, size: tuple[int, int]) -> Geometry:
        """The window that is the picture itself."""
        return cls(size, size, (0, 0), size)

    def _visible(self, axis: int) -> tuple[int, int]:
        """First row (or column) of the resized picture that lies in the window, and the one behind the last."""
        start = self.offset[axis]
        return max(start, 0), min(start + self.window[axis], self.resized[axis])

    def to_window(self, image: Image.Image, fill: float) -> Image.Image:
        """Resample a picture into the window, antialiased; ``fill`` is the grey level around it."""
        (top, bottom), (left, right) = self._visible(0), self._visible(1)
        down, across = (self.original[axis] / self.resized[axis] for axis in (0, 1))
        box = (left * across, top * down, min(right * across, image.width), min(bottom * down, image.height))
        part = image.resize((right - left, bottom - top), _BILINEAR, box=box)
        if part.size == (self.window[1], self.window[0]):
            return part
        level = fill if image.mode == "F" else (round(fill),) * len(image.getbands())
        canvas = Image.new(image.mode, (self.window[1], self.window[0]), level)
        canvas.paste(part, (left - self.offset[1], top - self.offset[0]))
        return canvas

    def to_original(self, values: np.ndarray, outside: float = 0.0) -> np.ndarray:
        """Bring a map of the window onto the picture.

        Parameters
        ----------
        values : numpy.ndarray
            H x W over the whole window, at any resolution.
        outside : float
            The value where the model saw nothing of the picture.

        Returns
        -------
        numpy.ndarray
            float32, height and width of the original.
        """
        full = np.full(self.original, outside, np.float32)
        top, bottom, upper, lower = self._covered(0)
        left, right, near, far = self._covered(1)
        down, across = (side / cells for side, cells in zip(values.shape, self.window, strict=True))
        rows = slice(math.floor(upper * down), math.ceil(lower * down))
        columns = slice(math.floor(near * across), math.ceil(far * across))
        image = Image.fromarray(np.ascontiguousarray(values[rows, columns], np.float32))
        box = (
            near * across - columns.start,
            upper * down - rows.start,
            min(far * across - columns.start, image.width),
            min(lower * down - rows.start, image.height),
        )
        full[top:bottom, left:right] = np.asarray(image.resize((right - left, bottom - top), _BILINEAR, box=box))
        return full

    def boxes(self, edges: np.ndarray) -> np.ndarray:
        """Boxes of the picture in pixels of the window, wherever they lie; left, top, right, bottom as edges."""
        down, across = (new / old for new, old in zip(self.resized, self.original, strict=True))
        top, left = self.offset
        return np.asarray(edges, np.float64) * [across, down, across, down] - [left, top, left, top]

    def places(self, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pixels of the picture under the middles of pixels of the window; the nearest ones for a frame's."""
        moved = []
        for axis, place in enumerate((y, x)):
            scale = self.original[axis] / self.resized[axis]
            pixel = np.floor((place + self.offset[axis] + 0.5) * scale).astype(np.int64)
            moved.append(np.clip(pixel, 0, self.original[axis] - 1))
        return moved[0], moved[1]

    def crops(self, short_side: int) -> list[Geometry]:
        """The four corners and the middle of the picture brought to a short side, each of the window's size."""
        middle = Geometry.fit(self.original, self.window, Resize("short-side", short_side))
        ends = [side - want for side, want in zip(middle.resized, self.window, strict=True)]
        corners = [(top, left) for top in (0, ends[0]) for left in (0, ends[1])]
        return [replace(middle, offset=offset) for offset in (*corners, middle.offset)]

    def _covered(self, axis: int) -> tuple[int, int, float, float]:
        """Rows (or columns) of the picture wholly in the window, at least one, and where they begin and end there."""
        first, last = self._visible(axis)
        scale = self.original[axis] / self.resized[axis]
        start, stop = math.ceil(first * scale - 1e-6), math.floor(last * scale + 1e-6)
        if stop <= start:
            start = min(math.floor((first + last) / 2 * scale), self.original[axis] - 1)
            stop = start + 1
        begin, end = (min(max(place / scale, first), last) - self.offset[axis] for place in (start, stop))
        return start, stop, begin, end


def prepare(picture: Picture, contract: InputContract, geometry: Geometry | None = None) -> tuple[np.ndarray, Geometry]:
    """Bring a picture into the form that the model takes.

    Parameters
    ----------
    picture : Picture
    contract : InputContract
    geometry : Geometry, optional
        Another window than the contract's.

    Returns
    -------
    array : numpy.ndarray
        1 x C x H x W or 1 x H x W x C by the contract's layout, in the input's dtype.
    geometry : Geometry
        Where the model's window lies on the picture.

    Raises
    ------
    UsageError
        The contract leaves an item open, or the input takes no pictures.
    """
    contract.check()
    size, resize, colour = contract.size.settled, contract.resize.settled, contract.colour.settled
    geometry = geometry or Geometry.fit(picture.size, size, resize)
    image = geometry.to_window(_channels(picture.image, colour), resize.fill)
    pixels = np.asarray(image, np.float64).reshape(*size, -1)
    if colour != "GRAY" and pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    if colour == "BGR":
        pixels = pixels[..., ::-1]
    low, high = contract.range.settled
    values = contract.normalise(low + pixels * ((high - low) / 255))
    if contract.dtype.kind in "iu":
        values = np.rint(values)
    if contract.layout.value == "NCHW":
        values = values.transpose(2, 0, 1)
    return np.ascontiguousarray(values[np.newaxis], contract.dtype), geometry


def _channels(image: Image.Image, colour: Colour) -> Image.Image:
    return image.convert("L") if colour == "GRAY" and image.mode == "RGB" else image
