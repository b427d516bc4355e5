"""The canvas of tools/flowers.py: shaded outlines painted over one another, with a map of what lies on top.

Lengths are in units of the picture's edge, x to the right, y down; colours are RGB in 0..1.
"""

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]
Colour = NDArray[np.float64]

SUPERSAMPLING = 4
_FRACTION_BITS = 4
_FLATNESS = 0.2


def ellipse(centre: ArrayLike, radii: ArrayLike, points: int = 48) -> Points:
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    circle = np.stack((np.cos(angles), np.sin(angles)), axis=1)
    return np.asarray(np.asarray(centre) + np.asarray(radii) * circle, np.float64)


def box(left: float, top: float, right: float, bottom: float) -> Points:
    return np.array(((left, top), (right, top), (right, bottom), (left, bottom)))


def bezier(start: ArrayLike, control: ArrayLike, end: ArrayLike, points: int = 24) -> Points:
    t = np.linspace(0, 1, points)[:, np.newaxis]
    first, second, third = (np.asarray(point, np.float64) for point in (start, control, end))
    return np.asarray((1 - t) ** 2 * first + 2 * t * (1 - t) * second + t**2 * third)


def ribbon(curve: Points, half_widths: ArrayLike) -> Points:
    """Outline around a curve: a stem, a leaf or a petal, depending on the half width along it."""
    along = np.gradient(curve, axis=0)
    across = np.stack((-along[:, 1], along[:, 0]), axis=1) / np.linalg.norm(along, axis=1, keepdims=True)
    offsets = across * np.broadcast_to(half_widths, len(curve))[:, np.newaxis]
    return np.concatenate((curve + offsets, (curve - offsets)[::-1]))


def vessel(x: float, top: float, bottom: float, widths: NDArray[np.float64], *, closed: bool = True) -> Points:
    """Outline of something turned, from its half widths down its side, seen from a little above.

    A closed one ends at the back of its opening; otherwise the outline is a band on its front.
    """
    down = np.linspace(top, bottom, len(widths))
    right = np.stack((x + widths, down), axis=1)
    left = np.stack((x - widths, down), axis=1)[::-1]
    across = np.linspace(0, np.pi, 16)
    arc = np.stack((np.cos(across), _FLATNESS * np.sin(across)), axis=1)
    near = (x, bottom) + widths[-1] * arc
    far = (x, top) + widths[0] * arc[::-1] * (1, -1 if closed else 1)
    return np.concatenate((right, near, left, far))


class Canvas:
    """A square picture in the making, seen through a camera.

    Parameters
    ----------
    size : int
        Edge of the finished picture in pixels.
    camera : array of float, shape (3, 3)
        Homography from the plane of the drawing to the picture, both in units of its edge.
    light : array of float, shape (2,)
        Direction from which the light falls, in the plane of the picture.
    """

    def __init__(self, size: int, camera: NDArray[np.float64], light: NDArray[np.float64]) -> None:
        self.size = size
        self.camera = camera
        self.light = light
        self.edge = size * SUPERSAMPLING
        self.pixels = np.ones((self.edge, self.edge, 3), np.float32)
        self.top = np.zeros((self.edge, self.edge), np.uint8)

    def fill(
        self,
        outline: Points,
        colour: Colour,
        part: int = 0,
        *,
        opacity: float = 1.0,
        shading: float = 0.25,
        focus: ArrayLike | None = None,
        rim: float = 0.0,
    ) -> None:
        """Paint an outline; what it covers belongs to ``part`` from then on.

        Colours fall off by ``shading`` from ``focus`` (without one, the side of the outline's centre that faces the
        light) to the outline's far end, and the rim is darker by ``rim``.
        """
        points = self._project(outline)
        low = np.clip(np.floor(points.min(axis=0)).astype(int), 0, self.edge)
        high = np.clip(np.ceil(points.max(axis=0)).astype(int) + 1, 0, self.edge)
        if (high <= low).any():
            return
        region = np.s_[low[1] : high[1], low[0] : high[0]]
        vertices = np.round((points - low) * 2**_FRACTION_BITS).astype(np.int32)
        inside = np.zeros(high[::-1] - low[::-1], np.uint8)
        cv2.fillPoly(inside, [vertices], 1, shift=_FRACTION_BITS)

        extent = points.max(axis=0) - points.min(axis=0)
        centre = (
            (points.max(axis=0) + points.min(axis=0)) / 2 + self.light * extent * 0.3
            if focus is None
            else self._project(np.atleast_2d(focus))[0]
        )
        reach = np.linalg.norm(points - centre, axis=1).max()
        across, down = (
            ((np.arange(start, stop) - middle) / reach).astype(np.float32) ** 2
            for start, stop, middle in zip(low, high, centre, strict=True)
        )
        fall = np.float32(1 + 0.4 * shading) - np.float32(shading) * np.add.outer(down, across)
        if rim:
            line = np.zeros_like(inside)
            width = max(1, round(self.edge * 0.008))
            cv2.polylines(line, [vertices], True, 1, width, shift=_FRACTION_BITS)
            fall[line > 0] *= 1 - rim
        covered = inside > 0
        paint = np.outer(fall[covered], colour.astype(np.float32))
        if opacity == 1:
            self.pixels[region][covered] = paint
            self.top[region][covered] = part
        else:
            self.pixels[region][covered] += opacity * (paint - self.pixels[region][covered])

    def darken(self, outline: Points, strength: float, softness: float) -> None:
        """Let a soft shadow of an outline fall on everything painted so far."""
        small = max(1, self.edge // 96)
        shadow = np.zeros((self.edge // small, self.edge // small), np.float32)
        vertices = np.round(self._project(outline) / small * 2**_FRACTION_BITS).astype(np.int32)
        cv2.fillPoly(shadow, [vertices], strength, shift=_FRACTION_BITS)
        shadow = _blurred(shadow, softness)
        self.pixels *= 1 - _resized(shadow, self.edge, cv2.INTER_LINEAR)[..., np.newaxis]

    def blur(self, softness: float) -> None:
        """Put everything painted so far out of focus."""
        small = _blurred(_resized(self.pixels, self.edge // 2, cv2.INTER_AREA), softness)
        self.pixels = _resized(small, self.edge, cv2.INTER_LINEAR)

    def develop(self, gain: Colour, slope: float, vignette: float) -> NDArray[np.uint8]:
        """Finish the picture: exposure and tint, light falling off across it and towards its corners."""
        position = np.linspace(-1, 1, self.size)
        across = np.add.outer(position * self.light[1], position * self.light[0])
        corners = np.add.outer(position**2, position**2)
        field = (1 + slope * across) * (1 - vignette * corners / 2)
        lit = _resized(self.pixels, self.size, cv2.INTER_AREA) * field[..., np.newaxis] * gain
        return np.asarray(np.round(np.clip(lit, 0, 1) * 255), np.uint8)

    def visible(self, part: int) -> NDArray[np.bool_]:
        """Pixels of which at least half show the part."""
        shown = (self.top == part).astype(np.float32)
        return np.asarray(_resized(shown, self.size, cv2.INTER_AREA) >= 0.5)

    def _project(self, points: Points) -> Points:
        projected = np.c_[points, np.ones(len(points))] @ self.camera.T
        return np.asarray(projected[:, :2] / projected[:, 2:] * self.edge)


def _resized(pixels: NDArray[np.float32], edge: int, interpolation: int) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(pixels, (edge, edge), interpolation=interpolation), np.float32)


def _blurred(pixels: NDArray[np.float32], softness: float) -> NDArray[np.float32]:
    """Gaussian blur with a deviation in units of the picture's edge."""
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), softness * len(pixels)), np.float32)
