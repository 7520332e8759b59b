"""A photo's file as validators take it: its pixels as stored, a JPEG coded once more, and nowhere else."""

from __future__ import annotations

import io

import numpy as np
import pytest
from photo_files import encoded
from PIL import Image
from sent_photos import array, challenge_photo, coded, noise_photo

from natix_hf.errors import PhotoError
from natix_hf.photos.decode import open_photo
from natix_hf.streetvision.profiles import PROFILES, cached_photo


def file(image: Image.Image, form: str, orientation: int = 1) -> bytes:
    """The photo's file as a camera writes it, with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, form, exif=exif, **({"quality": 92} if form == "JPEG" else {}))


def as_they_send(content: bytes) -> Image.Image:
    """What a client gets of a real photo at level 0 of 2026-04, step by step as the public description says."""
    stored, kept, sent = Image.open(io.BytesIO(content)), io.BytesIO(), io.BytesIO()
    stored.save(kept, stored.format)
    image = Image.open(kept).convert("RGB")
    scale = min(224 / image.width, 224 / image.height)
    width, height = int(image.width * scale), int(image.height * scale)
    square = Image.new("RGB", (224, 224))
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    square.paste(image, ((224 - width) // 2, (224 - height) // 2))
    square.save(sent, "JPEG")
    return Image.open(sent).convert("RGB")


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_file_is_sent_byte_for_byte_as_validators_send_it(form, orientation, mode):
    for size in ((640, 360), (333, 500), (1280, 720)):
        content = file(noise_photo(*size).convert(mode), form, orientation)
        found = challenge_photo(content, "challenge@2026-04", level=0)
        assert np.array_equal(array(found), array(as_they_send(content)))


@pytest.mark.parametrize("orientation", [6, 8])
@pytest.mark.parametrize("profile", PROFILES)
def test_a_photo_with_an_exif_orientation_arrives_sideways(profile, orientation):
    content = file(noise_photo(300, 200), "JPEG", orientation)
    assert np.array_equal(
        array(challenge_photo(content, profile, seed=3)),
        array(challenge_photo(file(noise_photo(300, 200), "JPEG"), profile, seed=3)),
    )
    assert challenge_photo(content, "challenge@2026-05").size == (300, 200)
    assert open_photo(content).size == (200, 300)  # nowhere else


def test_a_jpeg_is_coded_twice_and_other_photos_once():
    jpeg, png = (file(noise_photo(), form) for form in ("JPEG", "PNG"))
    once = coded(Image.open(io.BytesIO(jpeg)).convert("RGB"))
    assert np.array_equal(array(cached_photo(jpeg)), array(once))
    assert np.array_equal(array(challenge_photo(jpeg, "challenge@2026-05")), array(coded(once)))
    assert np.array_equal(
        array(challenge_photo(Image.open(io.BytesIO(jpeg)), "challenge@2026-05")), array(coded(once))
    )
    assert np.array_equal(array(cached_photo(png)), array(noise_photo()))
    assert np.array_equal(array(cached_photo(noise_photo())), array(noise_photo()))  # from no file
    # Nowhere else: training on other views and scoring see the file's own pixels.
    assert np.array_equal(array(open_photo(jpeg)), array(Image.open(io.BytesIO(jpeg))))


def test_a_photo_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "a.jpg").write_bytes(file(noise_photo(), "JPEG")[:300])
    with pytest.raises(PhotoError, match=r"a\.jpg: "):
        cached_photo(tmp_path / "a.jpg")
    with pytest.raises(PhotoError, match="no such file"):
        cached_photo(str(tmp_path / "b.jpg"))
