"""The constants of context-aware saliency; they load nothing heavy, so that methods can list them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from onnxplain.checks import is_count, is_number
from onnxplain.errors import UsageError

PORT_PATCHES = (7, 5, 3, 3)
"""Patch sides of the MATLAB port of Tsai and Chang, scale by scale; the last serves any further scale."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SaliencyOptions:
    """The constants of the method; ``patch`` and ``foci`` follow the variant unless given.

    Attributes
    ----------
    variant : {"published", "port"}
        ``published``: patches of 7 at every scale, d_color the root mean square difference of two patches.
        ``port``: as in the MATLAB port of Tsai and Chang, patches of 7, 5, 3, 3 over the scales, d_color the Euclidean
        distance (not divided by the number of elements), the exponent multiplied by 49 / patch². The port's blank
        frame half a patch wide is not reproduced: both variants reflect the picture about its outermost pixels.
    patch : int or sequence of int, optional
        Side of a patch, odd; one for all scales or one for each. Candidates lie half a patch apart (3 for 7).
    k : int
        How many of the most similar patches count.
    c : float
        Weight of the position against the colour.
    scales : sequence of float
        Sizes at which the pixels are looked at, relative to the working size; each in (0, 1].
    query_scales : sequence of float
        Sizes of the pictures that candidates are taken from, relative to each scale; each in (0, 1].
    min_scale : float
        Candidate pictures smaller than this part of the working size are left out.
    foci : {"absolute", "relative"}, optional
        ``absolute`` (published): the mean map is min-max scaled, foci lie above ``foci_threshold``. ``relative``
        (port): it is left as it is, foci lie above ``foci_threshold`` times its maximum.
    foci_threshold : float
        In [0, 1).
    foci_form : {"averaged", "per-scale"}
        Whether the distance to the foci weights the mean of the scales (CVPR) or each scale before the mean (PAMI).
    long_side : int, optional
        Working size: the longer side is brought to this many pixels; ``None`` leaves the size alone.
    lab : bool, optional
        Whether the channels are RGB, to be compared in CIE Lab; by default exactly when there are three.
    """

    variant: Literal["published", "port"] = "published"
    patch: int | Sequence[int] | None = None
    k: int = 64
    c: float = 3.0
    scales: Sequence[float] = (1.0, 0.8, 0.5, 0.3)
    query_scales: Sequence[float] = (1.0, 0.5, 0.25)
    min_scale: float = 0.2
    foci: Literal["absolute", "relative"] | None = None
    foci_threshold: float = 0.8
    foci_form: Literal["averaged", "per-scale"] = "averaged"
    long_side: int | None = 250
    lab: bool | None = None

    def __post_init__(self) -> None:
        """Refuse what the method cannot use."""
        check(self.variant in ("published", "port"), "variant", self.variant, '"published" or "port"')
        check(self.foci in (None, "absolute", "relative"), "foci", self.foci, '"absolute" or "relative"')
        check(self.foci_form in ("averaged", "per-scale"), "foci_form", self.foci_form, '"averaged" or "per-scale"')
        for name in ("scales", "query_scales"):
            values = tuple(np.ravel(getattr(self, name)).tolist())
            fits = len(values) > 0 and all(is_number(v) and 0 < v <= 1 for v in values)
            check(fits, name, getattr(self, name), "numbers in (0, 1], at least one")
            object.__setattr__(self, name, values)
        fits = len(self.patches) == len(self.scales) and all(is_count(side) and side % 2 for side in self.patches)
        check(fits, "patch", self.patch, f"an odd number, or one for each of the {len(self.scales)} scales")
        check(is_count(self.k), "k", self.k, "a whole number from 1")
        check(is_number(self.c) and 0 <= self.c < np.inf, "c", self.c, "a number from 0")
        check(is_number(self.min_scale) and self.min_scale >= 0, "min_scale", self.min_scale, "a number from 0")
        fits = is_number(self.foci_threshold) and 0 <= self.foci_threshold < 1
        check(fits, "foci_threshold", self.foci_threshold, "a number in [0, 1)")
        check(self.lab is None or isinstance(self.lab, bool), "lab", self.lab, "true or false")
        fits = self.long_side is None or is_count(self.long_side)
        check(fits, "long_side", self.long_side, "a whole number from 1, or None")
        for scale in self.scales:
            smallest = f"without {scale:g}, whose candidate pictures are all below min_scale={self.min_scale:g}"
            check(bool(self.queries(scale)), "scales", self.scales, smallest)

    @property
    def patches(self) -> tuple[int, ...]:
        """The side of a patch at each scale."""
        if self.patch is not None:
            return tuple(np.ravel(self.patch).tolist()) * (len(self.scales) if np.ndim(self.patch) == 0 else 1)
        if self.variant == "port":
            return (PORT_PATCHES + PORT_PATCHES[-1:] * len(self.scales))[: len(self.scales)]
        return (7,) * len(self.scales)

    @property
    def scaled_foci(self) -> bool:
        """Whether the map that foci are looked for in is min-max scaled first."""
        return (self.foci or ("relative" if self.variant == "port" else "absolute")) == "absolute"

    def queries(self, scale: float) -> tuple[float, ...]:
        """The query scales whose candidate pictures are large enough at ``scale``."""
        return tuple(query for query in self.query_scales if scale * query >= self.min_scale - 1e-9)


def check(fits: bool, name: str, value: object, wanted: str) -> None:
    """Refuse the value of an option unless it ``fits``."""
    if not fits:
        raise UsageError(f"Option {name}={value!r} of context-aware saliency must be {wanted}.")
