"""Context-aware saliency against a literal transcription of its formulas, its invariances and its bad inputs."""

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from math import exp, sqrt

import cv2
import numpy as np
import pytest

from onnxplain.errors import UsageError
from onnxplain.methods.saliency import SaliencyOptions, context_aware_saliency, saliency
from onnxplain.methods.saliency_kernels import BLOCKS, LANES, ROWS

ONE_SCALE = {"scales": (1.0,), "query_scales": (1.0,), "long_side": None}


# ------------------------------------------------------------------------------------------ the literal transcription
def stretch(values):
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def resized(values, height, width):
    if values.shape[:2] == (height, width):
        return values
    shrinks = height * width < values.shape[0] * values.shape[1]
    planes = values.reshape(*values.shape[:2], -1).astype(np.float32)
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    planes = [cv2.resize(planes[..., i], (width, height), interpolation=method) for i in range(planes.shape[2])]
    return np.dstack(planes).astype(np.float64).reshape(height, width, *values.shape[2:])


def patch_at(picture, y, x, half):
    """The (2 half + 1)² neighbourhood of a pixel; -1, -2, ... read 1, 2, ... (reflect-101)."""

    def mirrored(i, size):
        while not 0 <= i < size:
            i = 0 if size == 1 else (-i if i < 0 else 2 * (size - 1) - i)
        return i

    rows = [mirrored(y + i, picture.shape[0]) for i in range(-half, half + 1)]
    columns = [mirrored(x + i, picture.shape[1]) for i in range(-half, half + 1)]
    return picture[np.ix_(rows, columns)]


def single_scale(picture, queries, patch, k, c, d_color, exponent):
    height, width = picture.shape[:2]
    half = patch // 2
    patches, centres, own_places = [], [], []
    for query in queries:
        other = resized(picture, max(1, round(height * query)), max(1, round(width * query)))
        for v in range(0, other.shape[0], max(1, half)):
            for u in range(0, other.shape[1], max(1, half)):
                patches.append(patch_at(other, v, u, half))
                centre_y = (v + 0.5) * height / other.shape[0] - 0.5
                centres.append((centre_y, (u + 0.5) * width / other.shape[1] - 0.5))
                own_places.append((v, u) if other.shape == picture.shape else None)
    patches, centres = np.array(patches), np.array(centres)
    result = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            d_pos = np.hypot(y - centres[:, 0], x - centres[:, 1]) / max(height, width)
            distances = d_color(patch_at(picture, y, x, half), patches) / (1 + c * d_pos)
            if (y, x) in own_places:
                distances = np.delete(distances, own_places.index((y, x)))
            nearest = sorted(distances)[:k]
            result[y, x] = 1 - exp(-exponent * sum(nearest) / len(nearest)) if nearest else 0
    return result


def root_mean_square(p, q):
    return np.sqrt(np.mean((p - q) ** 2, axis=(1, 2, 3)))


def euclidean(p, q):
    return np.sqrt(np.sum((p - q) ** 2, axis=(1, 2, 3)))


def towards_foci(found, foci):
    """found * (1 - d_foci / max d_foci), the distances taken pixel by pixel."""
    places = np.argwhere(foci)
    if len(places) == 0:
        return found
    grid = np.indices(found.shape).reshape(2, -1).T
    distance = np.array([np.sqrt(((places - place) ** 2).sum(axis=1).min()) for place in grid]).reshape(found.shape)
    return found * (1 - distance / distance.max()) if distance.max() else found


def literal(array, scales=(1, 0.8, 0.5, 0.3), query_scales=(1, 0.5, 0.25), k=64, c=3.0, variant="published", patch=7):
    picture = np.asarray(array, np.float64)
    if picture.shape[2] == 3:
        picture = cv2.cvtColor(picture.astype(np.float32), cv2.COLOR_RGB2Lab).astype(np.float64)
    picture = np.dstack([stretch(picture[..., i]) for i in range(picture.shape[2])])
    height, width = picture.shape[:2]
    per_scale = []
    for number, scale in enumerate(scales):
        side = (7, 5, 3, 3)[number] if variant == "port" else patch
        exponent = 49 / side**2 if variant == "port" else 1
        small = resized(picture, max(1, round(height * scale)), max(1, round(width * scale)))
        queries = [query for query in query_scales if scale * query > 0.2 - 1e-9]
        distance = euclidean if variant == "port" else root_mean_square
        per_scale.append(resized(single_scale(small, queries, side, k, c, distance, exponent), height, width))
    mean = np.mean(per_scale, axis=0)
    if variant == "published":
        mean = stretch(mean)
        foci = mean > 0.8
    else:
        foci = mean > 0.8 * mean.max()
    return stretch(towards_foci(mean, foci)), np.array(per_scale), foci


# ----------------------------------------------------------------------------------------------------------- the tests
@pytest.fixture
def rng():
    return np.random.default_rng(4)


def textured(rng, height, width, channels):
    """Blobs over noise in [0, 1], so that distances are neither all alike nor all large."""
    noise = rng.random((height, width, channels), dtype=np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2).reshape(noise.shape)
    return np.clip(0.5 + 3 * (smooth - 0.5) + 0.2 * (noise - 0.5), 0, 1).astype(np.float32)


@pytest.mark.parametrize("shape", [(21, 17, 1), (14, 23, 2), (18, 16, 3), (12, 20, 5)])
def test_equals_the_literal_transcription(rng, shape):
    array = textured(rng, *shape)
    expected, per_scale, foci = literal(array)
    found = saliency(array, SaliencyOptions(long_side=None))
    np.testing.assert_allclose(found.scales, per_scale, atol=1e-5)
    np.testing.assert_array_equal(found.foci, foci)
    np.testing.assert_allclose(found.map, expected, atol=1e-5)
    assert found.map.dtype == np.float32
    assert foci.any()
    assert not foci.all()


@pytest.mark.parametrize("shape", [(16, 19, 1), (20, 13, 3), (9, 9, 4), (5, 30, 1), (3, 2, 2), (1, 40, 1), (26, 1, 3)])
def test_equals_the_transcription_without_resampling(rng, shape):
    array = textured(rng, *shape)
    expected, _, _ = literal(array, scales=(1,), query_scales=(1,))
    np.testing.assert_allclose(context_aware_saliency(array, **ONE_SCALE), expected, atol=1e-5)


def test_nearly_equal_patches_do_not_cancel(rng):
    """Distances of 1e-4 between patches near 0.9, where |p|² + |q|² - 2 p·q is left with rounding alone."""
    array = (0.9 + 1e-4 * rng.random((20, 22, 1))).astype(np.float32)
    array[0, 0], array[-1, -1] = 0, 1
    _, expected, _ = literal(array, scales=(1,), query_scales=(1,))
    found = saliency(array, SaliencyOptions(**ONE_SCALE)).scales
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_several_blocks_of_pixels_and_of_candidates(rng):
    """Higher and wider than a block; with patches of 3 a row has more candidates than are handled together."""
    array = textured(rng, 35, 67, 1)
    expected, _, _ = literal(array, scales=(1,), query_scales=(1,))
    np.testing.assert_allclose(context_aware_saliency(array, **ONE_SCALE), expected, atol=1e-5)
    array = textured(rng, 4, 110, 1)
    expected, _, _ = literal(array, scales=(1,), query_scales=(1,), patch=3)
    np.testing.assert_allclose(context_aware_saliency(array, patch=3, **ONE_SCALE), expected, atol=1e-5)


@pytest.mark.parametrize(("k", "c", "patch"), [(1, 3.0, 7), (5, 0.0, 5), (10_000, 1.0, 1), (7, 10.0, 9)])
def test_constants_of_the_method(rng, k, c, patch):
    array = textured(rng, 13, 15, 2)
    expected, _, _ = literal(array, scales=(1, 0.6), query_scales=(1, 0.5), k=k, c=c, patch=patch)
    found = context_aware_saliency(array, k=k, c=c, patch=patch, scales=(1, 0.6), query_scales=(1, 0.5), long_side=None)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_port(rng):
    array = textured(rng, 17, 15, 3)
    expected, per_scale, foci = literal(array, variant="port")
    found = saliency(array, SaliencyOptions(variant="port", long_side=None))
    np.testing.assert_allclose(found.scales, per_scale, atol=1e-5)
    np.testing.assert_array_equal(found.foci, foci)
    np.testing.assert_allclose(found.map, expected, atol=1e-5)


def test_foci_of_each_scale(rng):
    options = SaliencyOptions(foci_form="per-scale", foci="relative", foci_threshold=0.7, long_side=None)
    found = saliency(textured(rng, 24, 24, 2), options)
    foci = [scale > 0.7 * scale.max() for scale in found.scales]
    expected = np.mean([towards_foci(*pair) for pair in zip(found.scales, foci, strict=True)], axis=0)
    np.testing.assert_allclose(found.map, stretch(expected), atol=1e-5)
    np.testing.assert_array_equal(found.foci, np.any(foci, axis=0))


def test_long_side_sets_the_working_size(rng):
    """An array at twice the working size gives the map of the array resampled beforehand, brought back to full size."""
    array = textured(rng, 48, 80, 2)
    found = saliency(array, SaliencyOptions(long_side=40))
    small = np.dstack([cv2.resize(stretch(array[..., i]), (40, 24), interpolation=cv2.INTER_AREA) for i in range(2)])
    expected = saliency(small, SaliencyOptions(long_side=None))
    enlarged = cv2.resize(expected.map, (80, 48), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(found.map, stretch(enlarged), atol=1e-5)
    assert found.scales.shape == (4, 48, 80)
    assert found.foci.shape == (48, 80)
    assert found.foci.sum() == 4 * expected.foci.sum()


@pytest.mark.parametrize("variant", ["published", "port"])
@pytest.mark.parametrize("form", ["averaged", "per-scale"])
@pytest.mark.parametrize(
    "value", [np.full((30, 40, 3), 0.3), np.full((30, 40, 1), -7e4), np.full((30, 40), 9, np.uint8)]
)
def test_constant_array_gives_zeros(value, variant, form):
    found = saliency(value, SaliencyOptions(variant=variant, foci_form=form, long_side=33))
    assert not found.map.any()
    assert not found.scales.any()
    assert not found.foci.any()


@pytest.mark.parametrize("variant", ["published", "port"])
@pytest.mark.parametrize("channels", [1, 3])
def test_planted_odd_patch_wins(rng, variant, channels):
    """A block of one value on a regular texture: the maximum lies on it, the rest stays far below."""
    y, x = np.mgrid[:60, :80]
    array = np.repeat((0.25 + 0.1 * ((x // 2 + y // 2) % 2))[..., None], channels, axis=2)
    array[20:27, 50:57] = 1.0
    found = context_aware_saliency(array, variant=variant, long_side=None)
    top = np.unravel_index(found.argmax(), found.shape)
    assert 20 <= top[0] < 27
    assert 50 <= top[1] < 57
    far = np.ones(found.shape, bool)
    far[10:37, 40:67] = False
    assert found[far].max() < 0.4


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_positive_affine_change_of_a_plane_changes_nothing(rng, channels):
    array = textured(rng, 30, 26, channels).astype(np.float64)
    gains, offsets = rng.uniform(0.01, 50, channels), rng.uniform(-1000, 1000, channels)
    expected = context_aware_saliency(array, lab=False, long_side=None)
    found = context_aware_saliency(array * gains + offsets, lab=False, long_side=None)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_picture_as_bytes_and_as_fractions(rng):
    picture = rng.integers(30, 200, (20, 22, 3), dtype=np.uint8)
    expected = context_aware_saliency(picture, long_side=None)
    np.testing.assert_allclose(context_aware_saliency(picture / 255, long_side=None), expected, atol=1e-5)
    beyond = context_aware_saliency(picture.astype(np.float64), long_side=None)
    stretched = context_aware_saliency(stretch(picture.astype(np.float64)), long_side=None)
    np.testing.assert_allclose(beyond, stretched, atol=1e-5)


def test_grey_rgb_has_no_colour_noise(rng):
    """For greys two of three planes are flat: the distance is that of the lightness alone over the root of 3."""
    grey = np.repeat(textured(rng, 24, 24, 1), 3, axis=2)
    lightness = cv2.cvtColor(grey, cv2.COLOR_RGB2Lab)[..., :1]
    options = {"long_side": None, "scales": (1.0,)}
    of_grey = -np.log1p(-saliency(grey, SaliencyOptions(**options)).scales)
    of_lightness = -np.log1p(-saliency(lightness, SaliencyOptions(**options)).scales)
    np.testing.assert_allclose(of_grey * sqrt(3), of_lightness, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 3), (2, 2, 1), (6, 6, 3), (1, 90), (90, 1, 3), (5, 4, 7)])
@pytest.mark.parametrize("long_side", [None, 40])
def test_smaller_than_a_patch(rng, shape, long_side):
    found = context_aware_saliency(rng.random(shape), long_side=long_side)
    assert found.shape == shape[:2]
    assert np.isfinite(found).all()
    assert found.min() == 0
    assert found.max() == (shape[:2] != (1, 1))


def test_progress_counts_pairs_to_the_end(rng):
    calls = []
    context_aware_saliency(rng.random((70, 65)), progress=lambda *call: calls.append(call), **ONE_SCALE)
    done = [first for first, _ in calls]
    assert done == sorted(set(done))
    assert calls[-1] == (70 * 65 * 24 * 22, 70 * 65 * 24 * 22)


class Stopped(Exception):
    pass


def test_huge_picture_takes_bounded_memory(rng):
    """A full distance matrix of this picture would take 1.7 TB; stopped after the first piece of work."""
    array = rng.random((1400, 1400), dtype=np.float32)

    def stop(done, total):
        raise Stopped

    context_aware_saliency(array[:9, :9], long_side=None)
    tracemalloc.start()
    try:
        with pytest.raises(Stopped):
            context_aware_saliency(array, long_side=None, progress=stop)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    state = BLOCKS * ROWS * LANES * 64 * 4
    assert peak < 12 * array.nbytes + 2 * state


def test_same_from_several_threads_at_once(rng):
    array = textured(rng, 70, 140, 3)
    expected = context_aware_saliency(array, long_side=100)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: context_aware_saliency(array, long_side=100), range(6)):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((8, 8, 3), np.nan), "NaN"),
        (np.array([[0.0, np.inf]]), "infinity"),
        (np.zeros((8, 8, 3, 1)), r"\(8, 8, 3, 1\)"),
        (np.zeros(8), r"\(8,\)"),
        (np.zeros((0, 8, 3)), r"\(0, 8, 3\)"),
        (np.zeros((8, 8), complex), "complex128"),
        (np.full((8, 8), "a"), "<U1"),
    ],
)
def test_arrays_that_cannot_be_read(array, message):
    with pytest.raises(UsageError, match=message):
        context_aware_saliency(array)


@pytest.mark.parametrize(
    "options",
    [
        {"patches": 7},
        {"variant": "goferman"},
        {"patch": 6},
        {"patch": (7, 5)},
        {"patch": 7.0},
        {"k": 0},
        {"c": -1.0},
        {"c": float("nan")},
        {"scales": ()},
        {"scales": (1.2,)},
        {"scales": (1.0, 0.1)},
        {"query_scales": (0.0,)},
        {"foci": "mean"},
        {"foci_form": "both"},
        {"foci_threshold": 1.0},
        {"long_side": 0},
        {"lab": True},
    ],
)
def test_options_that_cannot_be_used(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        context_aware_saliency(np.zeros((8, 8, 2)), **options)
