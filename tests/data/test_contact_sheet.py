"""The contact sheet: whole photos in equal cells, each label shown, long names shortened in the middle."""

from __future__ import annotations

import pytest
from photo_files import encoded
from PIL import Image

from natix_hf.data.splits.contact_sheet import GAP, HEIGHT, LINE, MOST, WIDTH, chosen, contact_sheet, shortened
from natix_hf.documents.split_certificate import LabelConflict
from natix_hf.errors import PhotoError


def photo(colour: str, size: tuple[int, int]) -> dict:
    return {"bytes": encoded(Image.new("RGB", size, colour)), "path": None}


def conflict(*ids: str, kind: str = "bytes") -> LabelConflict:
    return LabelConflict(ids=list(ids), labels=[f"label {i}" for i in range(len(ids))], kind=kind)


def drawn(path, conflicts, photos) -> Image.Image:
    contact_sheet(path, conflicts, photos)
    with Image.open(path) as image:
        return image.convert("RGB")


def test_photos_are_letterboxed_into_equal_cells(tmp_path):
    photos = {"wide": photo("red", (400, 100)), "tall": photo("blue", (50, 200))}
    sheet = drawn(tmp_path / "sheet.png", [conflict("wide", "tall")], photos)
    assert sheet.size == (2 * WIDTH + 3 * GAP, LINE + HEIGHT + 2 * LINE + 3 * GAP)
    top, middle = GAP + LINE, GAP + LINE + HEIGHT // 2
    wide, tall = GAP, 2 * GAP + WIDTH
    assert sheet.getpixel((wide + 2, middle)) == sheet.getpixel((wide + WIDTH - 2, middle)) == (255, 0, 0)
    assert sheet.getpixel((wide + 2, top + 2)) == (230, 230, 230)
    assert sheet.getpixel((tall + WIDTH // 2, top + 2)) == (0, 0, 255)
    assert sheet.getpixel((tall + 2, middle)) == (230, 230, 230)


def test_names_and_labels_stand_under_their_photos(tmp_path):
    photos = {"a.jpg": photo("white", (300, 225)), "b.jpg": photo("white", (300, 225))}
    sheet = drawn(tmp_path / "sheet.png", [conflict("a.jpg", "b.jpg")], photos)
    for left in (GAP, 2 * GAP + WIDTH):
        for line in (0, 1):
            top = GAP + LINE + HEIGHT + 4 + line * LINE
            inked = sheet.crop((left, top, left + WIDTH, top + LINE - 2)).convert("L")
            assert inked.getextrema()[0] < 150
    unlike = {**photos, "b.jpg": photo("black", (300, 225))}
    assert drawn(tmp_path / "other.png", [conflict("a.jpg", "b.jpg")], unlike) != sheet


def test_the_sheet_ends_after_its_limit_and_says_so(tmp_path):
    photos = {"a": photo("red", (30, 20)), "b": photo("red", (30, 20))}
    full = drawn(tmp_path / "full.png", [conflict("a", "b")] * MOST, photos)
    over = drawn(tmp_path / "over.png", [conflict("a", "b")] * (MOST + 7), photos)
    assert over.height == full.height + LINE + GAP
    assert over.crop((0, full.height, over.width, over.height)).convert("L").getextrema()[0] < 150


@pytest.mark.parametrize(
    ("labels", "rows"),
    [
        (["x", "y"], [0, 1]),
        (["x", "x", "x", "x", "x", "y"], [0, 1, 2, 5]),
        (["x", "y", "z", "u", "v"], [0, 1, 2, 3]),
    ],
)
def test_every_label_is_shown_where_there_is_room(labels, rows):
    assert chosen(labels) == rows


def test_a_long_name_keeps_its_beginning_and_its_end():
    def fits(text: str) -> bool:
        return len(text) <= 9

    assert shortened("short.jpg", fits) == "short.jpg"
    assert shortened("boston/frame_000123.jpg", fits) == "bost….jpg"


def test_a_photo_that_cannot_be_read_leaves_no_sheet(tmp_path):
    with pytest.raises(PhotoError):
        contact_sheet(tmp_path / "sheet.png", [conflict("a", "b")], {i: {"bytes": b"x", "path": i} for i in "ab"})
    assert list(tmp_path.iterdir()) == []
