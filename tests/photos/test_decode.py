"""Every unusual kind of photo is decoded, with a client's pixels wherever Pillow's conversion is correct."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile
from transformers.image_utils import load_image

from natix_hf.errors import PhotoError
from natix_hf.files import fingerprint_bytes
from natix_hf.photos.client_view import load_as_client
from natix_hf.photos.decode import client_photo, inspect_photo, open_photo


def ramp(height: int = 48, width: int = 64) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=-1).astype(np.uint8)


def save(folder: Path, kind: str) -> Path:
    """One photo of the named kind."""
    rgb = Image.fromarray(ramp())
    path = folder / f"{kind}.{kind.split('-')[-1]}"
    match kind:
        case "plain-jpg" | "plain-png" | "plain-webp" | "plain-bmp":
            rgb.save(path)
        case "turned-jpg":
            exif = Image.Exif()
            exif[0x0112] = 6
            rgb.save(path, exif=exif)
        case "cmyk-jpg" | "cmyk-tif":
            rgb.convert("CMYK").save(path)
        case "grey-jpg" | "grey-png":
            rgb.convert("L").save(path)
        case "rgba-png":
            rgba = rgb.convert("RGBA")
            rgba.putalpha(Image.fromarray(ramp()[..., 0]))
            rgba.save(path)
        case "greyalpha-png":
            rgb.convert("LA").save(path)
        case "palette-png":
            rgb.quantize(16).save(path)
        case "palettealpha-png":
            rgb.quantize(16).save(path, transparency=3)
        case "bilevel-png":
            rgb.convert("1").save(path)
        case "deep-png" | "deep-tif":
            Image.fromarray(ramp()[..., 0].astype(np.uint16) * 257).save(path)
        case "animated-gif" | "animated-webp" | "animated-png":
            frames = [Image.fromarray(np.roll(ramp(), 9 * i, axis=1)) for i in range(3)]
            frames[0].save(path, save_all=True, append_images=frames[1:], duration=50)
        case "dot-png" | "dot-jpg":
            Image.new("RGB", (1, 1), (10, 200, 30)).save(path)
    return path


def pixels(image: Image.Image) -> bytes:
    """A look that keeps everything."""
    assert image.mode == "RGB"
    return repr(image.size).encode() + image.tobytes()


_KINDS = """
    plain-jpg plain-png plain-webp plain-bmp turned-jpg cmyk-jpg cmyk-tif grey-jpg grey-png rgba-png greyalpha-png
    palette-png palettealpha-png bilevel-png deep-png deep-tif animated-gif animated-webp animated-png dot-png dot-jpg
"""
KINDS = _KINDS.split()
# A client's pipeline spoils the pixels of these photos; see `test_pictures.py`.
SPOILED = {"rgba-png": "transparent", "palettealpha-png": "transparent", "deep-png": "deep", "deep-tif": "deep"}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in SPOILED])
def test_an_ordinary_photo_has_the_pixels_that_the_pipeline_loads(kind, tmp_path):
    path = save(tmp_path, kind)
    expected = load_image(str(path))
    for source in (path, str(path), path.read_bytes(), {"bytes": path.read_bytes(), "path": None}, Image.open(path)):
        found = open_photo(source)
        assert found.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


@pytest.mark.parametrize("kind", KINDS)
def test_a_photo_that_the_pipeline_sees_otherwise_is_told_apart(kind, tmp_path):
    path = save(tmp_path, kind)
    theirs = load_image(str(path))
    np.testing.assert_array_equal(np.asarray(load_as_client(Image.open(path))), np.asarray(theirs))
    assert inspect_photo(path).client == SPOILED.get(kind, "")
    assert (open_photo(path).tobytes() == theirs.tobytes()) == (kind not in SPOILED)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_photo_opens_in_rgb_and_is_inspected_without_complaint(kind, tmp_path):
    path = save(tmp_path, kind)
    photo = open_photo(path)
    assert photo.mode == "RGB"
    found = inspect_photo(path)
    assert found == (fingerprint_bytes(path.read_bytes()), *photo.size, None, None, SPOILED.get(kind, ""))
    assert inspect_photo({"bytes": path.read_bytes(), "path": "elsewhere.jpg"}) == found
    assert inspect_photo(path, look=pixels) == found._replace(look=pixels(photo))


def test_exif_orientation_is_applied(tmp_path):
    assert open_photo(save(tmp_path, "turned-jpg")).size == (48, 64)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    for kind in ("deep-png", "deep-tif"):
        np.testing.assert_array_equal(np.asarray(open_photo(save(tmp_path, kind)))[..., 0], ramp()[..., 0])


def test_sixteen_bit_pgm_is_scaled_not_clipped(tmp_path):
    path = tmp_path / "deep.pgm"
    path.write_bytes(b"P5 64 48 65535\n" + (ramp()[..., 0].astype(">u2") * 257).tobytes())
    np.testing.assert_array_equal(np.asarray(open_photo(path))[..., 0], ramp()[..., 0])


def test_transparency_lies_over_white(tmp_path):
    found = np.asarray(open_photo(save(tmp_path, "rgba-png"))).astype(float)
    alpha = ramp()[..., :1] / 255.0
    assert np.abs(found - (ramp() * alpha + 255 * (1 - alpha))).max() <= 1


def test_an_animation_is_its_first_frame(tmp_path):
    np.testing.assert_array_equal(np.asarray(open_photo(save(tmp_path, "animated-png"))), ramp())


def test_draft_decoding_keeps_both_sides_above_the_minimum(tmp_path):
    path = tmp_path / "large.jpg"
    Image.fromarray(ramp(900, 1600)).save(path, quality=95)
    assert open_photo(path).size == (1600, 900)
    assert open_photo(path, min_side=224).size == (400, 225)
    assert open_photo(path, min_side=1000).size == (1600, 900)
    whole = np.asarray(open_photo(path).resize((400, 225), Image.Resampling.BOX)).astype(float)
    assert np.abs(whole - np.asarray(open_photo(path, min_side=224))).mean() < 4


def broken(folder: Path, kind: str) -> Path:
    path = folder / kind
    whole = io.BytesIO()
    Image.fromarray(ramp(200, 300)).save(whole, "JPEG" if kind.endswith("jpg") else "PNG")
    match kind.split(".")[0]:
        case "truncated":
            path.write_bytes(whole.getvalue()[: len(whole.getvalue()) * 2 // 3])
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("<html>not found</html>")
        case "folder":
            path.mkdir()
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("truncated.jpg", "truncated"),
        ("truncated.png", "truncated"),
        ("empty.jpg", "empty"),
        ("text.jpg", "not a photo"),
        ("absent.jpg", "no such file"),
        ("folder.jpg", "folder"),
    ],
)
def test_an_unreadable_photo_is_named_with_the_reason(kind, reason, tmp_path):
    path = broken(tmp_path, kind)
    for read in (open_photo, lambda source: open_photo(source, min_side=16)):
        with pytest.raises(PhotoError, match=reason) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert "0x" not in str(caught.value)
    error = inspect_photo(path)[3]
    assert reason in error
    assert str(path) not in error


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    path = save(tmp_path, "plain-png")
    with pytest.raises(PhotoError, match="too large"):
        open_photo(path)
    assert "too large" in inspect_photo(path)[3]


def test_looking_keeps_what_a_thumbnail_needs_and_no_more(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for size, side in (((1920, 1080), (135, 240)), ((300, 200), (200, 300)), ((640, 512), (128, 160))):
        path = tmp_path / "large.jpg"
        Image.fromarray(ramp(size[1], size[0])).save(path, exif=exif)
        found = inspect_photo(path, look=pixels)
        assert (found.width, found.height) == size[::-1]
        assert found.look.startswith(repr(side).encode())


@pytest.mark.parametrize("kind", ["truncated.jpg", "truncated.png", "empty.jpg"])
def test_an_unreadable_photo_is_found_by_looking_at_it_too(kind, tmp_path):
    path = broken(tmp_path, kind)
    found = inspect_photo(path, look=pixels)
    assert found[:4] == inspect_photo(path)[:4]
    assert found.error is not None
    assert found.look is None


def test_a_file_over_the_size_is_not_read(tmp_path, monkeypatch):
    path = save(tmp_path, "plain-png")
    size = path.stat().st_size
    content = path.read_bytes()
    assert inspect_photo(path, max_mb=size / 1e6).error is None
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("the file was read"))
    for source in (path, str(path), content, {"bytes": content, "path": None}, {"bytes": None, "path": str(path)}):
        found = inspect_photo(source, look=pixels, max_mb=0.0001)
        assert found == ("", 0, 0, f"the file has {size / 1e6:.1f} MB, over max_photo_mb 0.0001: not read", None, "")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_is_no_photo_and_nothing_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(PhotoError, match=r"pipe\.jpg: not a regular file"):
        open_photo(tmp_path / "pipe.jpg")
    assert inspect_photo({"path": str(tmp_path / "pipe.jpg"), "bytes": None}).error == "not a regular file"


def test_a_photo_over_the_number_of_pixels_is_not_decoded(tmp_path, monkeypatch):
    path = save(tmp_path, "plain-png")
    assert inspect_photo(path, max_pixels=64 * 48).error is None
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("the photo was decoded"))
    found = inspect_photo(path, look=pixels, max_pixels=64 * 48 - 1)
    assert found[1:] == (64, 48, "64 x 48 pixels, over max_photo_pixels 3,071: not decoded", None, "")
    assert found.fingerprint


def test_a_small_file_of_a_billion_pixels_is_refused_by_its_header(tmp_path):
    path = tmp_path / "bomb.png"
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", 40000, 30000, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b"")]
    written = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(written))
    found = inspect_photo(path, look=pixels)
    assert found[1:] == (0, 0, f"too large: more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels", None, "")


def test_pillows_warning_of_a_large_photo_is_not_shown(tmp_path, monkeypatch):
    path = save(tmp_path, "plain-png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 48 - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert inspect_photo(path).error is None
        assert open_photo(path).size == (64, 48)


def test_a_row_without_bytes_and_path_is_a_photo_error():
    with pytest.raises(PhotoError, match="neither bytes nor a path"):
        open_photo({"bytes": None, "path": None})


def test_a_photo_read_for_a_client_is_the_same_and_told_as_an_inspection_tells_it(tmp_path):
    pictures = {"plain": Image.new("RGB", (40, 30), "red"), "clear": Image.new("RGBA", (40, 30), (9, 200, 9, 60))}
    pictures["deep"] = Image.fromarray(np.linspace(0, 65535, 1200).reshape(30, 40).astype(np.uint16))
    files = {}
    for name, picture in pictures.items():
        picture.save(tmp_path / f"{name}.png")
        files[name] = (tmp_path / f"{name}.png").read_bytes()
    for name, tags in (("upright", 1), ("sideways", 6)):
        exif = Image.Exif()
        exif[0x0112] = tags
        picture = Image.fromarray(np.arange(3600, dtype=np.uint32).astype(np.uint8).reshape(30, 40, 3))
        picture.save(tmp_path / f"{name}.jpg", exif=exif)
        files[name] = (tmp_path / f"{name}.jpg").read_bytes()
    kinds = {}
    for name, content in files.items():
        photo, kinds[name] = client_photo(content)
        assert photo.tobytes() == open_photo(content).tobytes()
        assert kinds[name] == inspect_photo(content).client
    assert (kinds["clear"], kinds["deep"], kinds["sideways"]) == ("transparent", "deep", "")
