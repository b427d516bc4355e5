"""The scene of tools/flowers.py: what stands where, in which colours and light, drawn part by part on a canvas."""

from collections.abc import Callable, Mapping

import numpy as np
from flower_canvas import Canvas, Colour, Points, bezier, box, ellipse, ribbon, vessel
from numpy.random import Generator
from numpy.typing import NDArray

PARTS = ("background", "clutter", "pot", "soil", "stem", "leaves", "petals", "centre")
BACKGROUND, CLUTTER, POT, SOIL, STEM, LEAVES, PETALS, CENTRE = range(len(PARTS))

Palette = Mapping[str, tuple[float, float, float]]

# Hue in degrees, saturation, value.
COLOURS: Palette = {
    "blue": (218, 0.78, 0.86),
    "orange": (24, 0.90, 0.96),
    "pink": (328, 0.48, 0.97),
    "red": (357, 0.90, 0.80),
    "violet": (272, 0.62, 0.70),
    "yellow": (51, 0.82, 0.98),
}
NEUTRAL: Palette = {
    "white": (40, 0.06, 0.94),
    "cream": (42, 0.16, 0.92),
    "silver": (220, 0.06, 0.74),
}
EARTHEN: Palette = {
    "terracotta": (16, 0.58, 0.74),
    "brown": (24, 0.50, 0.42),
    "olive": (78, 0.42, 0.52),
    "slate": (215, 0.15, 0.36),
}
GREENS: Palette = {"grass": (105, 0.60, 0.58), "moss": (88, 0.56, 0.52), "fir": (140, 0.50, 0.44)}
WALLS: Palette = {
    "sand": (38, 0.16, 0.90),
    "mint": (150, 0.14, 0.84),
    "sky": (205, 0.20, 0.88),
    "rose": (350, 0.12, 0.90),
    "lilac": (260, 0.12, 0.86),
    "clay": (18, 0.30, 0.78),
    "ink": (215, 0.32, 0.42),
    "sage": (110, 0.15, 0.70),
}
WOODS: Palette = {
    "oak": (32, 0.42, 0.74),
    "walnut": (22, 0.50, 0.44),
    "birch": (40, 0.22, 0.88),
    "ash": (45, 0.07, 0.86),
}
ANYTHING: Palette = {**COLOURS, **NEUTRAL, **EARTHEN, **GREENS}
PART_PALETTES: Mapping[str, Palette] = {
    "pot": ANYTHING,
    "soil": {"soil": (25, 0.45, 0.24)},
    "stem": GREENS,
    "leaves": GREENS,
    "petals": COLOURS,
    "centre": {**COLOURS, **NEUTRAL, **EARTHEN},
}
_JITTER = np.array((5.0, 0.05, 0.05))


def mixed(rng: Generator, palette: Palette) -> Colour:
    """A colour of the palette, slightly off, as RGB."""
    names = tuple(palette)
    hue, saturation, value = palette[names[rng.integers(len(names))]] + rng.uniform(-1, 1, 3) * _JITTER
    sector = (np.array((5.0, 3.0, 1.0)) + hue / 60) % 6
    pure = np.clip(np.minimum(sector, 4 - sector), 0, 1)
    return np.asarray(min(value, 1.0) * (1 - np.clip(saturation, 0, 1) * pure))


def part_colours(rng: Generator) -> dict[str, Colour]:
    """A colour for every part of the plant, each drawn by itself."""
    return {part: mixed(rng, palette) for part, palette in PART_PALETTES.items()}


STRAIGHT = (0.0, 0.0)


def draw_scene(
    rng: Generator, colours: Mapping[str, Colour], size: int, view: tuple[float, float] = STRAIGHT
) -> tuple[NDArray[np.uint8], Canvas]:
    """Draw a plant in the given colours; everything else about the picture is up to ``rng``.

    ``view`` moves the camera aside, in edges of the picture, and turns it, in radians; the scene stays the same.

    Returns the picture, height x width x RGB, and the canvas, which knows where each part is visible.
    """
    towards_light = np.array((rng.uniform(-1, 1), -rng.uniform(0.4, 1)))
    canvas = Canvas(size, _seen_from(*view) @ _camera(rng), towards_light / np.linalg.norm(towards_light))
    table = rng.uniform(0.70, 0.82)
    _choice(rng, _room, _garden)(canvas, rng, table)
    _table(canvas, rng, table)
    canvas.blur(rng.uniform(0.001, 0.012))
    foot = np.array((rng.uniform(0.3, 0.7), rng.uniform(table + 0.07, 0.95)))
    things = np.sort(rng.uniform(table + 0.03, 0.99, rng.integers(2, 6)))
    for base in things[things < foot[1]]:
        _thing(canvas, rng, base)
    _plant(canvas, rng, colours, foot)
    for base in things[things >= foot[1]]:
        _thing(canvas, rng, base)
    for _ in range(rng.choice((0, 1, 2), p=(0.6, 0.25, 0.15))):
        _blade_in_front(canvas, rng)
    warmth = rng.uniform(-0.07, 0.07)
    gain = rng.uniform(0.78, 1.02) * np.array((1 + warmth, 1 + rng.uniform(-0.02, 0.02), 1 - warmth))
    return canvas.develop(gain, slope=rng.uniform(0.0, 0.22), vignette=rng.uniform(0.0, 0.3)), canvas


def _choice(rng: Generator, *options: Callable[..., None]) -> Callable[..., None]:
    return options[rng.integers(len(options))]


def _camera(rng: Generator) -> NDArray[np.float64]:
    """A slight turn, shear, zoom and perspective about the middle of the picture."""
    to_middle = np.array(((1, 0, -0.5), (0, 1, -0.5), (0, 0, 1)))
    turn, shear = rng.uniform(-0.06, 0.06, 2)
    zoom = rng.uniform(0.97, 1.05)
    tilt = rng.uniform(-0.12, 0.12, 2)
    view = np.array(((zoom, zoom * (shear - turn), 0), (zoom * turn, zoom, 0), (*tilt, 1)))
    return np.asarray(np.linalg.inv(to_middle) @ view @ to_middle)


def _seen_from(shift: float, turn: float) -> NDArray[np.float64]:
    """The picture moved against the camera, and turned about its middle."""
    to_middle = np.array(((1, 0, -0.5), (0, 1, -0.5), (0, 0, 1)))
    turned = np.array(((np.cos(turn), -np.sin(turn), -shift), (np.sin(turn), np.cos(turn), 0), (0, 0, 1)))
    return np.asarray(np.linalg.inv(to_middle) @ turned @ to_middle)


def _room(canvas: Canvas, rng: Generator, table: float) -> None:
    wall = mixed(rng, WALLS)
    canvas.fill(box(-0.3, -0.3, 1.3, 1.3), wall, shading=0.3)
    if rng.random() < 0.6:
        _choice(rng, _stripes, _dots)(canvas, rng, wall)
    if rng.random() < 0.4:
        _window(canvas, rng, table)
    for _ in range(rng.integers(0, 3)):
        _framed_picture(canvas, rng)


def _stripes(canvas: Canvas, rng: Generator, wall: Colour) -> None:
    step, tint, share = rng.uniform(0.06, 0.16), _tint(rng, wall), rng.uniform(0.2, 0.6)
    for left in np.arange(-0.3, 1.3, step):
        canvas.fill(box(left, -0.3, left + step * share, 1.3), tint, opacity=0.5, shading=0)


def _dots(canvas: Canvas, rng: Generator, wall: Colour) -> None:
    step, tint, radius = rng.uniform(0.08, 0.14), _tint(rng, wall), rng.uniform(0.008, 0.02)
    for row, y in enumerate(np.arange(-0.1, 1.0, step)):
        for x in np.arange(-0.1 + row % 2 * step / 2, 1.1, step):
            canvas.fill(ellipse((x, y), radius, 16), tint, opacity=0.6, shading=0)


def _tint(rng: Generator, wall: Colour) -> Colour:
    return np.clip(wall * rng.uniform(0.82, 1.15), 0, 1)


def _window(canvas: Canvas, rng: Generator, table: float) -> None:
    left, top = rng.uniform(-0.1, 0.6), rng.uniform(-0.1, 0.15)
    width, bottom = rng.uniform(0.35, 0.5), table - rng.uniform(0.05, 0.25)
    frame, sky = mixed(rng, WOODS), mixed(rng, {"day": (205, 0.35, 0.95), "dusk": (24, 0.35, 0.95)})
    canvas.fill(box(left, top, left + width, bottom), frame, shading=0.1, rim=0.15)
    middle, height = left + width / 2, (top + bottom) / 2
    for x0, x1 in ((left, middle - 0.01), (middle - 0.01, left + width - 0.02)):
        for y0, y1 in ((top, height - 0.01), (height - 0.01, bottom - 0.02)):
            canvas.fill(box(x0 + 0.02, y0 + 0.02, x1, y1), sky, shading=0.3, focus=(middle, bottom))


def _framed_picture(canvas: Canvas, rng: Generator) -> None:
    left, top = rng.uniform(-0.05, 0.85), rng.uniform(0.0, 0.4)
    width, height = rng.uniform(0.12, 0.25, 2)
    canvas.darken(box(left, top, left + width, top + height) - 0.01 * canvas.light, 0.35, 0.008)
    for inset, palette in ((0.0, WOODS), (0.012, NEUTRAL), (0.032, ANYTHING)):
        outline = box(left + inset, top + inset, left + width - inset, top + height - inset)
        canvas.fill(outline, mixed(rng, palette), CLUTTER, shading=0.12)
    middle = (left + width / 2, top + height / 2)
    canvas.fill(ellipse(middle, (width / 5, height / 6)), mixed(rng, ANYTHING), CLUTTER)


def _garden(canvas: Canvas, rng: Generator, table: float) -> None:
    sky = mixed(rng, {"day": (205, 0.38, 0.95), "haze": (195, 0.12, 0.93), "dusk": (24, 0.32, 0.96)})
    canvas.fill(box(-0.3, -0.3, 1.3, 1.3), sky, shading=0.25, focus=(0.5, 1.0))
    x = np.linspace(-0.3, 1.3, 40)
    for height in np.sort(rng.uniform(0.25, table, rng.integers(2, 5))):
        waves = height + rng.uniform(0.01, 0.05) * np.sin(rng.uniform(3, 14) * x + rng.uniform(0, 6))
        haze = 0.6 * (1 - height / table)
        hill = mixed(rng, GREENS) * (1 - haze) + sky * haze
        canvas.fill(np.concatenate((np.stack((x, waves), axis=1), ((1.3, 1.3), (-0.3, 1.3)))), hill, shading=0.15)
    for _ in range(rng.integers(6, 18)):
        centre = rng.uniform((0, 0.1), (1, table))
        blossom = ellipse(centre, rng.uniform(0.012, 0.06), 32)
        canvas.fill(blossom, mixed(rng, ANYTHING), opacity=rng.uniform(0.35, 0.85), shading=0.1)


def _table(canvas: Canvas, rng: Generator, table: float) -> None:
    wood = mixed(rng, WOODS)
    canvas.darken(box(-0.3, table - 0.02, 1.3, table + 0.02), 0.3, 0.015)
    canvas.fill(box(-0.3, table, 1.3, 1.4), wood, shading=0.15)
    canvas.fill(box(-0.3, table, 1.3, table + 0.012), np.clip(wood * 1.15, 0, 1), shading=0)
    for board in np.cumsum(rng.uniform(0.04, 0.12, 6)) + table:
        canvas.fill(box(-0.3, board, 1.3, board + 0.004), wood * 0.8, shading=0)


def _thing(canvas: Canvas, rng: Generator, base: float) -> None:
    """Something coloured that stands on the table, too low to hide a flower."""
    x, size = rng.uniform(0.02, 0.98), rng.uniform(0.04, 0.09)
    canvas.darken(ellipse((x - canvas.light[0] * size * 0.4, base), (size * 1.2, size * 0.3)), 0.45, 0.012)
    _choice(rng, _ball, _books, _mug, _cube)(canvas, rng, x, base, size)


def _ball(canvas: Canvas, rng: Generator, x: float, base: float, size: float) -> None:
    centre = np.array((x, base - size * 0.8))
    canvas.fill(ellipse(centre, size * 0.9), mixed(rng, ANYTHING), CLUTTER, shading=0.6)
    shine = ellipse(centre + canvas.light * size * 0.4, size * 0.16, 16)
    canvas.fill(shine, np.ones(3), opacity=0.4, shading=0)


def _books(canvas: Canvas, rng: Generator, x: float, base: float, size: float) -> None:
    for _ in range(rng.integers(1, 4)):
        half, thickness, shift = size * rng.uniform(1.0, 1.7), size * rng.uniform(0.3, 0.55), rng.uniform(-0.02, 0.02)
        cover = box(x + shift - half, base - thickness, x + shift + half, base)
        canvas.fill(cover, mixed(rng, ANYTHING), CLUTTER, shading=0.2, rim=0.2)
        pages = cover + np.array(((half * 1.6, 0.25), (0, 0.25), (0, -0.25), (half * 1.6, -0.25))) * (1, thickness)
        canvas.fill(pages, mixed(rng, {"paper": (45, 0.10, 0.93)}), CLUTTER, shading=0.1)
        base -= thickness


def _mug(canvas: Canvas, rng: Generator, x: float, base: float, size: float) -> None:
    colour, side = mixed(rng, ANYTHING), rng.choice((-1, 1))
    handle = bezier((x, base - size * 1.5), (x + side * size * 2.2, base - size * 0.9), (x, base - size * 0.3))
    canvas.fill(ribbon(handle, size * 0.14), colour * 0.9, CLUTTER)
    canvas.fill(vessel(x, base - size * 1.8, base, np.full(2, size * 0.8)), colour, CLUTTER, shading=0.4)
    canvas.fill(ellipse((x, base - size * 1.8), (size * 0.72, size * 0.16)), colour * 0.55, CLUTTER)


def _cube(canvas: Canvas, rng: Generator, x: float, base: float, size: float) -> None:
    colour, depth = mixed(rng, ANYTHING), np.array((rng.uniform(-0.5, 0.5), -0.4)) * size
    front = box(x - size * 0.7, base - size * 1.4, x + size * 0.7, base)
    left, right = (front[[0, 3]], front[[1, 2]])
    side = right if depth[0] > 0 else left
    canvas.fill(np.concatenate((side, (side + depth)[::-1])), colour * 0.7, CLUTTER, shading=0.1)
    canvas.fill(
        np.concatenate((front[:2], (front[:2] + depth)[::-1])), np.clip(colour * 1.15, 0, 1), CLUTTER, shading=0.1
    )
    canvas.fill(front, colour, CLUTTER, shading=0.2)


def _blade_in_front(canvas: Canvas, rng: Generator) -> None:
    """A blade of grass or a twig close to the camera, over whatever is there."""
    x = rng.uniform(-0.1, 1.1)
    top = np.array((x + rng.uniform(-0.4, 0.4), rng.uniform(0.1, 0.6)))
    curve = bezier((x, 1.1), (x, (1.1 + top[1]) / 2), top, 32)
    half_widths = rng.uniform(0.008, 0.016) * (1 - np.linspace(0, 1, 32) ** 3)
    canvas.fill(ribbon(curve, half_widths), mixed(rng, GREENS), CLUTTER, shading=0.3)


def _plant(canvas: Canvas, rng: Generator, colours: Mapping[str, Colour], foot: Points) -> None:
    scale = rng.uniform(0.82, 1.12)
    radius = 0.2 * scale * rng.uniform(0.9, 1.15)
    margin = radius + 0.05
    head = np.array((foot[0] + rng.uniform(-0.16, 0.16), rng.uniform(margin, max(margin, 0.42))))
    head[0] = np.clip(head[0], margin, 1 - margin)
    canvas.darken(ellipse(foot - (canvas.light[0] * 0.1, 0), (0.16 * scale, 0.035)), 0.5, 0.02)
    opening = _pot(canvas, rng, colours, foot, scale)
    stem = bezier(opening, (opening[0] + rng.uniform(-0.06, 0.06), (opening[1] + head[1]) / 2), head, 32)
    leaves = [_leaf(rng, stem, side, scale) for side in rng.permutation((-1, 1, -1, 1, -1))[: rng.integers(2, 6)]]
    behind = rng.integers(0, len(leaves))
    for leaf in leaves[:behind]:
        _draw_leaf(canvas, leaf, colours["leaves"] * 0.88)
    canvas.fill(ribbon(stem, np.linspace(0.014, 0.009, 32) * scale), colours["stem"], STEM, shading=0.3, rim=0.15)
    for leaf in leaves[behind:]:
        _draw_leaf(canvas, leaf, colours["leaves"])
    _head(canvas, rng, colours, head, radius)


def _pot(canvas: Canvas, rng: Generator, colours: Mapping[str, Colour], foot: Points, scale: float) -> Points:
    """Draw the pot; return where the stem leaves it."""
    height, wide = scale * rng.uniform(0.19, 0.26), scale * rng.uniform(0.10, 0.135)
    t = np.linspace(0, 1, 12)
    widths = wide * (1 - rng.uniform(0.05, 0.4) * t ** rng.choice((1.0, 1.0, 3.0)))
    x, top = foot[0], foot[1] - height
    canvas.fill(vessel(x, top, foot[1], widths), colours["pot"], POT, shading=0.55)
    if rng.random() < 0.5:
        band = np.s_[rng.integers(3, 6) : rng.integers(7, 10)]
        tint = np.clip(colours["pot"] * rng.uniform(0.75, 1.25), 0, 1)
        low, high = top + height * t[band][[0, -1]]
        canvas.fill(vessel(x, low, high, widths[band], closed=False), tint, POT, shading=0.4)
    brim = wide * rng.uniform(1.0, 1.15)
    canvas.fill(vessel(x, top, top + height * 0.2, np.full(2, brim)), colours["pot"], POT, shading=0.5)
    canvas.fill(ellipse((x, top), (brim * 0.93, brim * 0.2)), colours["pot"] * 0.6, POT, shading=0.1)
    canvas.fill(ellipse((x, top + 0.008), (brim * 0.86, brim * 0.15)), colours["soil"], SOIL, shading=0.2)
    return np.array((x, top + 0.01))


def _leaf(rng: Generator, stem: Points, side: int, scale: float) -> tuple[Points, Points]:
    """Curve and half widths of a leaf."""
    root = stem[rng.integers(2, 18)]
    length = scale * rng.uniform(0.12, 0.22)
    lift = rng.uniform(0.2, 1.0)
    reach = root + length * np.array((side * rng.uniform(0.4, 0.7), -lift))
    tip = root + length * np.array((side, -lift * rng.uniform(0.2, 1.0)))
    t = np.linspace(0, 1, 24)
    return bezier(root, reach, tip), length * rng.uniform(0.14, 0.24) * np.sin(np.pi * t**0.8) ** 0.9


def _draw_leaf(canvas: Canvas, leaf: tuple[Points, Points], colour: Colour) -> None:
    curve, half_widths = leaf
    canvas.fill(ribbon(curve, half_widths), colour, LEAVES, shading=0.35, rim=0.2)
    canvas.fill(ribbon(curve[:-3], 0.0025), np.clip(colour * 1.25, 0, 1), LEAVES, shading=0)


def _head(canvas: Canvas, rng: Generator, colours: Mapping[str, Colour], head: Points, radius: float) -> None:
    turn, squash = rng.uniform(0, np.pi), rng.uniform(0.72, 1.0)
    axis = np.array((np.cos(turn), np.sin(turn)))
    facing = np.eye(2) - (1 - squash) * np.outer(axis, axis)
    count = int(rng.integers(5, 13))
    t = np.linspace(0, 1, 24)
    profile = np.sin(np.pi * t ** rng.uniform(1.0, 1.7)) ** rng.uniform(0.5, 0.8)
    half_width = np.sin(np.pi / count) * rng.uniform(0.75, 1.05) * 0.8
    phase = rng.uniform(0, 2 * np.pi)
    for ring in range(rng.integers(1, 3)):
        reach = radius * 0.66**ring
        for petal in range(count):
            angle = phase + 2 * np.pi * (petal + ring / 2) / count + rng.normal(0, 0.04)
            tip = reach * rng.uniform(0.92, 1.0) * np.array((np.cos(angle), np.sin(angle)))
            outline = ribbon(t[:, np.newaxis] * tip, reach * half_width * profile) @ facing + head
            colour = np.clip(colours["petals"] * rng.uniform(0.93, 1.05) * (1 + 0.08 * ring), 0, 1)
            canvas.fill(outline, colour, PETALS, shading=-0.25, focus=head, rim=0.14)
    middle = radius * rng.uniform(0.2, 0.32)
    canvas.fill(ellipse((0, 0), middle) @ facing + head, colours["centre"], CENTRE, shading=0.4, rim=0.25)
    for seed in ellipse((0, 0), middle * 0.6, int(rng.integers(6, 12))) @ facing + head:
        canvas.fill(ellipse(seed, middle * 0.1, 12), colours["centre"] * 0.7, CENTRE, shading=0)
