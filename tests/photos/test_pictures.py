"""Pictures that Pillow's own conversion spoils: read rightly once, counted, and stored so that a client sees them."""

from __future__ import annotations

import io
import struct
import warnings

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from photo_files import encoded
from PIL import Image
from transformers import AutoImageProcessor, DINOv3ViTImageProcessor
from transformers.image_utils import load_image

from natix_hf.data.load_photos import split_photos
from natix_hf.data.sources.rows import load_rows
from natix_hf.data.splits.contracts import SPLITS
from natix_hf.data.splits.shortcut import file_facts
from natix_hf.errors import UserError
from natix_hf.hub.proof_photos import proof_photos
from natix_hf.inference.batches import client_pixels
from natix_hf.inference.geojson import place_of, time_of
from natix_hf.modeling.checkpoints import load_processor
from natix_hf.photos.decode import (
    client_photo,
    eight_bit_png,
    fingerprint_bytes,
    inspect_photo,
    open_photo,
    photo_exif,
)
from natix_hf.photos.geometry import Squash
from natix_hf.training.training_photos import TrainingPhotos

GREY = np.linspace(0, 255, 48 * 64).reshape(48, 64).round().astype(np.uint8)


def file(array: np.ndarray, kind: str, **options) -> bytes:
    return encoded(Image.fromarray(array), kind, **options)


def tiff(array: np.ndarray, sample_format: int, *, bits: int | None = None, photometric: int = 1) -> bytes:
    """A grey TIFF of a kind that Pillow reads and does not write."""
    data, height = array.tobytes(), len(array)
    bits = bits or 8 * array.itemsize
    tags = {256: array.shape[1], 257: height, 258: bits, 259: 1, 262: photometric, 277: 1, 278: height}
    tags |= {273: 8 + 2 + 12 * 10 + 4, 279: len(data), 339: sample_format}
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, tags[tag]) for tag in sorted(tags))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4) + data


def packed(array: np.ndarray) -> np.ndarray:
    """12 bits a pixel, two pixels in three bytes."""
    one, two = array[:, ::2].astype(np.uint16), array[:, 1::2].astype(np.uint16)
    return (
        np.stack([one >> 4, (one & 15) << 4 | two >> 8, two & 255], axis=-1).astype(np.uint8).reshape(len(array), -1)
    )


def twelve_bits() -> bytes:
    whole = tiff(packed(GREY.astype(np.uint32) * 4095 // 255), 1, bits=12)
    return whole.replace(struct.pack("<HHII", 256, 3, 1, 96), struct.pack("<HHII", 256, 3, 1, 64))


DEEP = {
    "16-bit PNG": file(GREY.astype(np.uint16) * 257, "PNG"),
    "16-bit TIFF": file(GREY.astype(np.uint16) * 257, "TIFF"),
    "16-bit TIFF, last byte first": tiff(GREY.astype("<u2") * 257, 1),
    "16-bit TIFF where white is 0": tiff(65535 - GREY.astype("<u2") * 257, 1, photometric=0),
    "12-bit TIFF": twelve_bits(),
    "32-bit TIFF of 8-bit values": file(GREY.astype(np.int32), "TIFF"),
    "32-bit TIFF of 16-bit values": file(GREY.astype(np.int32) * 257, "TIFF"),
    "32-bit TIFF of 31-bit values": file((GREY * ((2**31 - 1) / 255)).astype(np.int32), "TIFF"),
    "unsigned 32-bit TIFF": tiff((GREY * ((2**32 - 1) / 255)).astype("<u4"), 1),
    "float TIFF up to 1": file((GREY / 255).astype(np.float32), "TIFF"),
    "float TIFF a little over 1": file(np.where(GREY == 255, 1.2, GREY / 255).astype(np.float32), "TIFF"),
    "float TIFF up to 255": file(GREY.astype(np.float32), "TIFF"),
    "float TIFF up to 65535": file(GREY.astype(np.float32) * 257, "TIFF"),
    "float TIFF with gaps": file(np.where(GREY == 0, np.nan, GREY).astype(np.float32), "TIFF"),
}


@pytest.mark.parametrize("kind", DEEP)
def test_grey_of_more_than_8_bits_is_scaled_by_its_white(kind):
    found = np.asarray(open_photo(DEEP[kind]), dtype=int)
    assert np.abs(found - GREY[..., None]).max() <= 1


def test_deep_grey_turns_as_its_exif_says():
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("PNG", "TIFF"):
        content = file(GREY.astype(np.uint16) * 257, kind, exif=exif)
        np.testing.assert_array_equal(np.asarray(open_photo(content))[..., 0], np.rot90(GREY, -1))
        found = inspect_photo(content)
        assert (found.width, found.height) == (48, 64)


def test_a_transparent_value_of_deep_grey_is_white():
    deep = GREY.astype(np.uint16) * 257
    found = np.asarray(open_photo(file(deep, "PNG", transparency=0)))[..., 0]
    np.testing.assert_array_equal(found, np.where(GREY == 0, 255, GREY))


TRANSPARENT = np.dstack([np.full((48, 64, 3), 40, np.uint8), np.full((48, 64), 255, np.uint8)])
TRANSPARENT[:24, :, 3] = 0


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparent_parts_are_white_in_training_and_scoring(mode):
    image = Image.fromarray(TRANSPARENT)
    content = encoded(image.quantize() if mode == "PA" else image.convert(mode))
    found = np.asarray(open_photo(content)).astype(int)
    assert (found[:24] == 255).all()
    assert np.abs(found[24:] - 40).max() <= 1
    assert inspect_photo(content).client == "transparent"


def test_an_alpha_channel_that_hides_nothing_is_no_matter():
    opaque = TRANSPARENT.copy()
    opaque[..., 3] = 255
    assert inspect_photo(file(opaque, "PNG")).client == ""


@pytest.mark.parametrize("content", [*DEEP.values(), file(TRANSPARENT, "PNG")], ids=[*DEEP, "transparent"])
def test_training_and_scoring_see_one_picture(content):
    processor = DINOv3ViTImageProcessor(size={"height": 32, "width": 32})
    row = {"id": "a", "image": {"bytes": content, "path": None}, "label": 0}
    view = TrainingPhotos([row], augment="none", geometry=Squash(32), seed=0)[0, 0]["pixel_values"] / 255.0
    mean, std = (np.array(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    scored = client_pixels(row["image"], processor).numpy() * std + mean
    assert np.abs(view.numpy() - scored).max() < 0.01


@pytest.mark.parametrize("kind", DEEP)
def test_what_is_stored_for_a_client_is_what_the_pipeline_then_sees(kind, tmp_path):
    (tmp_path / "a.png").write_bytes(eight_bit_png(DEEP[kind]))
    theirs = load_image(str(tmp_path / "a.png"))
    np.testing.assert_array_equal(np.asarray(theirs), np.asarray(open_photo(DEEP[kind])))


def photo_with(exif: bytes, kind: str = "JPEG") -> bytes:
    return file(np.dstack([GREY] * 3), kind, exif=exif)


def ifd(*entries: tuple[int, int, int, bytes]) -> bytes:
    """EXIF of tags as (number, type, count, 4 bytes of value or place)."""
    tags = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + tags + bytes(4)


ORIENTED = (0x0112, 3, 1, b"\6\0\0\0")
BROKEN_EXIF = {
    "orientation as text": (ifd((0x0112, 2, 4, b"6\0\0\0")), (64, 48)),
    "orientation 9": (ifd((0x0112, 3, 1, b"\x09\0\0\0")), (64, 48)),
    "orientation twice": (ifd((0x0112, 3, 2, b"\6\0\6\0")), (48, 64)),
    "no header": (b"Exif\0\0garbage that is long enough", (64, 48)),
    "cut short": (ifd(ORIENTED)[:20], (64, 48)),
    "a camera block nowhere": (ifd(ORIENTED, (0x8769, 4, 1, b"\xff\xff\0\0")), (48, 64)),
    "places as text": (ifd(ORIENTED, (0x8825, 2, 4, b"abc\0")), (48, 64)),
}


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("kind", BROKEN_EXIF)
def test_a_broken_exif_tag_costs_the_tag_and_not_the_photo(kind, form, tmp_path):
    exif, size = BROKEN_EXIF[kind]
    content = photo_with(exif, form)
    (tmp_path / "a").write_bytes(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            client = load_image(str(tmp_path / "a")).size
    except Exception:
        client = "refused"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = inspect_photo(content)
        assert (found.error, found.width, found.height) == (None, *size)
        assert client == (found.client or size)
        assert client_photo(content)[1] == found.client
        assert open_photo(content).size == size
        facts = file_facts({"bytes": content, "path": None})
        assert 2 ** facts["width"] == pytest.approx(size[0])
        tags = photo_exif(content)
        assert tags is None or (place_of(tags), time_of(tags)) == (None, None)


def test_a_broken_time_leaves_the_place():
    exif = Image.Exif()
    exif[0x8825] = {1: "N", 2: (39.0, 46.0, 12.0), 3: "W", 4: (86.0, 9.0, 28.8)}
    exif[0x8769] = {0x9003: "yesterday, shortly after noon"}
    tags = photo_exif(photo_with(exif.tobytes()))
    assert place_of(tags) == pytest.approx((-86.158, 39.77))
    assert time_of(tags) is None


def folder(path, kinds: list[bytes], suffix: str):
    """Two classes of noise; the first photos are of other kinds."""
    rng = np.random.default_rng(0)
    for i in range(40):
        content = kinds[i] if i < len(kinds) else file(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8), "JPEG")
        place = path / ("None", "Roadwork")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i:02d}{suffix if i < len(kinds) else '.jpg'}").write_bytes(content)
    return path


def test_photos_that_a_client_sees_otherwise_are_counted_by_kind(tmp_path):
    folder(tmp_path, [DEEP["16-bit PNG"], file(TRANSPARENT, "PNG"), DEEP["float TIFF up to 1"]], ".png")
    notes = load_rows(str(tmp_path)).notes
    assert [note.split(",")[0] for note in notes] == [
        "2 of 40 photos have grey values of more than 8 bits",
        "1 of 40 photos have transparent parts",
    ]
    assert "None/00.png" in notes[0]
    assert "mostly white" in notes[0]
    assert all("--convert_photos" in note for note in notes)


def test_ordinary_photos_need_no_note(tmp_path):
    assert load_rows(str(folder(tmp_path, [], ""))).notes == []


def test_converted_photos_are_stored_as_they_are_trained_on(tmp_path):
    folder(tmp_path, [DEEP["16-bit PNG"], file(TRANSPARENT, "PNG")], ".png")
    before, after = (load_rows(str(tmp_path), convert_photos=given) for given in (False, True))
    assert after.notes == []
    assert after.data.column_names == before.data.column_names
    for old, new in zip(before.data, after.data, strict=True):
        assert (old["id"], old["label"], old["look"]) == (new["id"], new["label"], new["look"])
        if old["id"] not in ("None/00.png", "Roadwork/01.png"):
            assert old == new
            continue
        content = new["image"]["bytes"]
        assert new["fingerprint"] == fingerprint_bytes(content)
        np.testing.assert_array_equal(
            np.asarray(Image.open(io.BytesIO(content))), np.asarray(open_photo(old["image"]))
        )


def test_splits_with_a_certificate_cannot_be_converted(tmp_path, monkeypatch):
    rows = load_rows(str(folder(tmp_path, [], ""))).data
    splits = DatasetDict({split: rows.select(range(10 * i, 10 * i + 10)) for i, split in enumerate(SPLITS)})
    splits.save_to_disk(str(tmp_path / "splits"))
    monkeypatch.setattr("natix_hf.data.load_photos.certificate_beside", lambda source: {"seal": "x"})
    with pytest.raises(UserError, match="give the photos that they were made from"):
        split_photos([str(tmp_path / "splits")], convert_photos=True)


def test_a_table_of_photos_in_memory_is_converted_too():
    content = file(np.dstack([GREY] * 3), "JPEG")
    rows = [{"image": {"bytes": content, "path": None}, "label": i % 2} for i in range(8)]
    rows[3]["image"] = {"bytes": DEEP["16-bit TIFF"], "path": "b.tif"}
    found = load_rows(Dataset.from_list(rows), label_names=["None", "Roadwork"], convert_photos=True)
    assert found.data[3]["image"]["path"] == "b.png"
    assert Image.open(io.BytesIO(found.data[3]["image"]["bytes"])).mode == "RGB"


def test_a_proof_is_made_with_pictures_that_both_sides_see(tmp_path):
    ordinary = file(np.dstack([GREY] * 3), "JPEG")
    content = proof_photos(tmp_path, [ordinary, b"no photo", DEEP["16-bit PNG"]]).content
    assert content[0] == ordinary
    assert [inspect_photo(photo).client for photo in content] == ["", ""]
    np.testing.assert_array_equal(np.asarray(open_photo(content[1])), np.asarray(open_photo(DEEP["16-bit PNG"])))


def test_a_saved_processor_lays_transparency_over_white_where_it_is_called_itself(tmp_path):
    load_processor("builtin:demo-backbone", Squash(64)).save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    image = Image.fromarray(TRANSPARENT)
    direct = processor(images=image, return_tensors="pt")["pixel_values"][0]
    np.testing.assert_allclose(direct, client_pixels(image, processor), atol=1e-6)
