from __future__ import annotations

import struct
import threading
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxplain.errors import FailureError, UsageError
from onnxplain.inputs.contract import InputContract
from onnxplain.inputs.items import Item, Resize
from onnxplain.inputs.pictures import Geometry, Picture, prepare, read_picture


def _pattern(height: int = 75, width: int = 110) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    wave = (255 * (np.sin(x / 9) * np.cos(y / 5) + 1) / 2).astype(int)
    return np.stack([(x * 7 + y * 3) % 256, (x * y) % 256, wave], -1).astype(np.uint8)


def _contract(**values) -> InputContract:
    items = {
        "layout": "NCHW",
        "colour": "RGB",
        "size": (32, 32),
        "resize": Resize("stretch"),
        "range": (0.0, 255.0),
        "mean": (0.0,),
        "std": (1.0,),
        "labels": None,
    } | values
    dtype = np.dtype(items.pop("dtype", np.float32))
    return InputContract("x", dtype, **{name: Item(value, "test") for name, value in items.items()})


def _triangle(side: int, wanted: int) -> np.ndarray:
    """Antialiased bilinear weights, wanted x side, written from the definition."""
    scale = side / wanted
    width = max(scale, 1.0)
    centres = (np.arange(wanted) + 0.5) * scale
    weights = np.maximum(0, 1 - np.abs(np.arange(side) + 0.5 - centres[:, np.newaxis]) / width)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("size", [(32, 32), (20, 90), (150, 40), (75, 110)])
def test_resampling_is_antialiased(size: tuple[int, int]) -> None:
    pixels = _pattern()
    array, _ = prepare(Picture(Image.fromarray(pixels)), _contract(size=size))
    rows, columns = _triangle(75, size[0]), _triangle(110, size[1])
    expected = np.einsum("yh,hwc,xw->cyx", rows, pixels.astype(float), columns, optimize=True)
    assert np.abs(array[0] - expected).max() <= 1.0


def test_short_side_and_crop_as_in_torchvision() -> None:
    """torchvision 0.28: Resize(37), CenterCrop(32), ToTensor, Normalize, on the pattern and on it transposed."""
    contract = _contract(
        resize=Resize("short-side", 37), range=(0.0, 1.0), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    expected = (
        (0.861803, 0.432773, 0.217342, -1.124668, 0.185948, 1.030525),
        (0.861803, 1.098039, 0.217342, 0.70768, 0.185863, 1.030452),
    )
    for pixels, values in zip((_pattern(), _pattern().transpose(1, 0, 2)), expected, strict=True):
        z = prepare(Picture(Image.fromarray(np.ascontiguousarray(pixels))), contract)[0][0]
        found = (z[0, 0, 0], z[1, 5, 20], z[2, 31, 31], z[0, 16, 3], z[1].mean(), z[2].std())
        np.testing.assert_allclose(found[:4], values[:4], atol=2e-6)
        np.testing.assert_allclose(found[4:], values[4:], atol=5e-4)  # single pixels fall on the other side of a half


def test_letterbox() -> None:
    picture = Picture(Image.new("RGB", (40, 20), (200, 100, 0)))
    array, geometry = prepare(picture, _contract(resize=Resize("letterbox", fill=114)))
    assert geometry.resized == (16, 32)
    assert (array[0, :, :8] == 114).all()
    assert (array[0, :, 24:] == 114).all()
    assert (array[0, :, 8:24] == np.reshape([200, 100, 0], (3, 1, 1))).all()


def test_value_range_channel_order_and_layout() -> None:
    picture = Picture(Image.new("RGB", (4, 4), (0, 51, 255)))
    contract = _contract(colour="BGR", layout="NHWC", size=(4, 4), range=(-1.0, 1.0), mean=(1.0, 2.0, 3.0), std=(2.0,))
    array, _ = prepare(picture, contract)
    assert array.shape == (1, 4, 4, 3)
    np.testing.assert_allclose(array[0, 0, 0], [0, (-0.6 - 2) / 2, -2], rtol=1e-6)
    np.testing.assert_allclose((contract.low, contract.high), [[-1, -1.5, -2], [0, -0.5, -1]])


def test_grey_and_integers() -> None:
    picture = Picture(Image.fromarray(_pattern()))
    grey, _ = prepare(picture, _contract(colour="GRAY", size=(75, 110), dtype="uint8"))
    assert grey.dtype == np.uint8
    assert grey.shape == (1, 1, 75, 110)
    expected = _pattern() @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey[0, 0] - expected).max() <= 0.51
    half, _ = prepare(picture, _contract(dtype="float16"))
    assert half.dtype == np.float16
    with pytest.raises(UsageError, match="colour"):
        prepare(picture, _contract(colour=None))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif", ".txt"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_formats(tmp_path: Path, suffix: str, mode: str) -> None:
    smooth = np.add.outer(np.arange(40), np.arange(60)).astype(np.uint8)
    image = Image.fromarray(np.stack([smooth, 255 - smooth, smooth // 2], -1)).convert(mode)
    image.save(tmp_path / f"p{suffix}", "PNG" if suffix == ".txt" else None)
    picture = read_picture(tmp_path / f"p{suffix}")
    assert picture.size == (40, 60)
    assert np.abs(picture.rgb.astype(int) - np.asarray(image.convert("RGB"))).max() <= 12
    assert not picture.notes


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits(tmp_path: Path, suffix: str) -> None:
    cv2 = pytest.importorskip("cv2")
    levels = np.linspace(0, 65535, 24 * 16).astype(np.uint16).reshape(16, 24)
    cv2.imwrite(str(tmp_path / f"grey{suffix}"), levels)
    grey = read_picture(tmp_path / f"grey{suffix}")
    array, _ = prepare(grey, _contract(size=(16, 24), range=(0.0, 1.0)))
    assert array.shape == (1, 3, 16, 24)
    np.testing.assert_allclose(array[0, 1], levels / 65535, atol=1e-6)
    assert grey.rgb.dtype == np.uint8
    assert (grey.rgb[0, 0] == 0).all()
    assert (grey.rgb[-1, -1] == 255).all()
    colour = np.stack([levels, levels // 2, levels * 0], -1)
    cv2.imwrite(str(tmp_path / f"colour{suffix}"), colour)
    found = read_picture(tmp_path / f"colour{suffix}").rgb
    assert np.abs(found[..., ::-1] - colour / 257).max() <= 1


def test_transparency_and_palettes(tmp_path: Path) -> None:
    clear = np.zeros((4, 4, 4), np.uint8)
    clear[:2] = (10, 20, 30, 255)
    Image.fromarray(clear).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert (picture.rgb[:2] == (10, 20, 30)).all()
    assert (picture.rgb[2:] == 255).all()
    assert picture.notes == ("transparency laid over white",)
    Image.fromarray(clear).convert("LA").save(tmp_path / "la.png")
    assert (read_picture(tmp_path / "la.png").rgb[2:] == 255).all()
    Image.fromarray(_pattern()).convert("RGBA").save(tmp_path / "opaque.png")
    assert not read_picture(tmp_path / "opaque.png").notes
    palette = Image.fromarray(_pattern()).quantize(16)
    palette.save(tmp_path / "p.png")
    assert (read_picture(tmp_path / "p.png").rgb == np.asarray(palette.convert("RGB"))).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((40, 60, 3), np.uint8)
    upright[:20, :30] = 255
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "p.jpg", exif=exif, quality=95)
    found = read_picture(tmp_path / "p.jpg").rgb
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).mean() < 3


def test_first_of_several_pages(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (4, 4), level) for level in ("red", "blue")]
    pages[0].save(tmp_path / "p.tif", save_all=True, append_images=pages[1:])
    picture = read_picture(tmp_path / "p.tif")
    assert (picture.rgb == (255, 0, 0)).all()
    assert picture.notes == ("the first of several frames or pages",)


@pytest.mark.parametrize("suffix", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_truncated_pictures_are_refused(tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(_pattern()).save(tmp_path / "whole", suffix)
    data = (tmp_path / "whole").read_bytes()
    for share in (0.05, 0.5, 0.9, 0.99):
        (tmp_path / "cut").write_bytes(data[: int(len(data) * share)])
        with pytest.raises(FailureError, match="cut"):
            read_picture(tmp_path / "cut")
    (tmp_path / "cut").write_bytes(data[:-8])
    with pytest.raises(FailureError, match="cut"):
        read_picture(tmp_path / "cut")
    assert capfd.readouterr() == ("", "")


def _png(width: int, height: int, *chunks: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    text = b"".join(chunk(b"zTXt", body) for body in chunks)
    data = chunk(b"IDAT", zlib.compress(bytes(10_000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + text + data + chunk(b"IEND", b"")


def _bmp(width: int, height: int) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info


def _webp(width: int, height: int) -> bytes:
    body = b"WEBPVP8L" + struct.pack("<I", 6) + b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + b"\0"
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(
    "data",
    [
        _png(100_000, 100_000),
        _png(2**31 - 1, 2**31 - 1),
        _png(10_001, 10_000),
        _bmp(60_000, 60_000),
        _webp(16_383, 16_383),
    ],
)
def test_gigantic_pictures_are_refused_at_once(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "p.png").write_bytes(data)
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(FailureError, match="more than 100 megapixels"):
            read_picture(tmp_path / "p.png")
    assert time.process_time() - start < 0.9


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "group4"])
def test_damaged_tiffs_leave_nothing_on_stderr(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], compression: str
) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (40, 40)).astype(bool)
    path = tmp_path / "p.tif"
    Image.fromarray(noise).save(path, compression=compression)
    data = bytearray(path.read_bytes())
    data[20 : len(data) // 2] = bytes((place * 37 + 11) % 256 for place in range(20, len(data) // 2))
    path.write_bytes(data)
    with pytest.raises(FailureError, match="damaged"):
        read_picture(path)
    assert capfd.readouterr().err == ""


def test_the_limit_can_be_set(tmp_path: Path) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "p.png")
    assert read_picture(tmp_path / "p.png", max_pixels=200).size == (10, 20)
    with pytest.raises(FailureError, match=r"more than 0\.000199 megapixels"):
        read_picture(tmp_path / "p.png", max_pixels=199)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"just text\n" * 20,
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"RIFF\xff\xff\xff\xffWEBPVP8 ",
        b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 40,
        b"BM" + b"\xff" * 60,
        _png(8, 8, b"k\0\0" + zlib.compress(bytes(80_000_000))),
    ],
)
def test_what_is_no_picture(tmp_path: Path, data: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.png").write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(FailureError, match=r"p\.png"):
            read_picture(tmp_path / "p.png")
    assert capfd.readouterr() == ("", "")


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a file"):
        read_picture(tmp_path / "none.png")
    with pytest.raises(UsageError, match="not a file"):
        read_picture(tmp_path)
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(FailureError, match="32-bit values"):
        read_picture(tmp_path / "f.tif")


def test_several_threads_leave_the_warning_filters_alone(tmp_path: Path) -> None:
    Image.fromarray(_pattern()).save(tmp_path / "p.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 10)
    before = list(warnings.filters)
    threads = [threading.Thread(target=read_picture, args=(tmp_path / "p.jpg",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before


@pytest.mark.parametrize("original", [(75, 110), (110, 75), (32, 32), (7, 300), (2000, 3)])
@pytest.mark.parametrize("resize", [Resize("stretch"), Resize("short-side", 37), Resize("letterbox")])
def test_maps_come_back_to_where_the_picture_was_sampled(original: tuple[int, int], resize: Resize) -> None:
    geometry = Geometry.fit(original, (32, 48), resize)
    height, width = original
    y, x = np.mgrid[0:height, 0:width]
    place = np.stack([255 * y / height, 255 * x / width, np.zeros(original)], -1)
    for axis in (0, 1):
        image = Image.fromarray(place[..., axis].astype(np.float32))
        seen = np.asarray(geometry.to_window(image, fill=0))
        back = geometry.to_original(seen, outside=np.nan)
        assert back.shape == original
        inside = ~np.isnan(back)
        assert inside.any()
        grain = 255 / geometry.resized[axis]
        assert np.abs(back - place[..., axis])[inside].max() <= 1.6 * grain + 255 / original[axis]


def test_only_the_crop_gets_relevance() -> None:
    geometry = Geometry.fit((100, 200), (64, 64), Resize("short-side", 80))
    assert geometry.resized == (80, 160)
    assert geometry.offset == (8, 48)
    back = geometry.to_original(np.ones((64, 64)), outside=np.nan)
    assert (back[10:90, 60:140] == 1).all()
    assert np.isnan(back).sum() == 100 * 200 - 80 * 80
    assert (geometry.to_original(np.ones((4, 4)))[10:90, 60:140] == 1).all()
    assert geometry.to_original(np.ones((64, 64)))[0, 0] == 0


def test_thin_pictures_take_no_memory() -> None:
    picture = Picture(Image.new("RGB", (3, 60_000)))
    start = time.process_time()
    array, geometry = prepare(picture, _contract(resize=Resize("short-side", 37)))
    assert array.shape == (1, 3, 32, 32)
    assert geometry.resized == (740_000, 37)
    assert time.process_time() - start < 1
