"""What `check` says of classes that differ in what photos show, and of classes that differ in their files."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from natix_hf.data.__main__ import main

COUNT = 40


def street(number: int, road: bool, size: tuple[int, int]) -> Image.Image:
    """A smooth street, with striped cones all over it where there is roadwork."""
    rng = np.random.default_rng(1000 * road + number)
    image = Image.fromarray(rng.integers(40, 200, (8, 12, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    for _ in range(8 * road):
        x, y = rng.integers(10, size[0] - 10), rng.integers(20, size[1])
        for row in range(16):
            colour = (255, 110, 0) if row % 4 else (250, 250, 250)
            image.paste(colour, (x - row // 2, y - 16 + row, x + row // 2 + 1, y - 15 + row))
    return image


def checked(folder, capsys, save) -> tuple[int, list[str]]:
    """Exit status and lines of `data check` on photos that `save(number, road, path)` writes."""
    for number in range(COUNT):
        for road, name in enumerate(("None", "Roadwork")):
            (folder / "photos" / name).mkdir(parents=True, exist_ok=True)
            save(number, bool(road), folder / "photos" / name / f"{number:02d}")
    main(["split", str(folder / "photos"), "--output", str(folder / "splits")])
    capsys.readouterr()
    try:
        main(["check", str(folder / "splits")])
        status = 0
    except SystemExit as end:
        status = end.code
    return status, [line for line in capsys.readouterr().out.splitlines() if "shortcut" in line]


@pytest.mark.parametrize("form", ["jpg", "png", "webp"])
def test_classes_that_differ_in_content_alone_violate_nothing(tmp_path, capsys, form):
    status, lines = checked(
        tmp_path, capsys, lambda n, road, path: street(n, road, (192, 128)).save(path.with_suffix(f".{form}"))
    )
    assert status == 0
    assert "AUROC 0.500" in lines[0]
    assert "AUROC of the strongest single facts: none differs" in lines[0]
    assert lines[1].startswith("shortcut: note: bytes per pixel ")
    assert "so they are no violation" in lines[1]


def test_photos_alike_in_content_and_files_need_no_note(tmp_path, capsys):
    status, lines = checked(
        tmp_path, capsys, lambda n, road, path: street(2 * n + road, False, (192, 128)).save(path.with_suffix(".jpg"))
    )
    assert status == 0
    assert len(lines) == 1


def test_an_aspect_ratio_of_each_class_is_a_violation_that_squash_lets_through(tmp_path, capsys):
    sizes = ((192, 128), (168, 146))
    status, lines = checked(
        tmp_path, capsys, lambda n, road, path: street(n, road, sizes[road]).save(path.with_suffix(".jpg"))
    )
    assert status == 1
    assert lines[0].startswith("VIOLATION: shortcut: ")
    assert "aspect ratio 1.00" in lines[0]
    assert lines[1].startswith("shortcut: the model sees the aspect ratio (AUROC 1.00) with resize: squash")
    assert "resize: crop" in lines[1]


def test_a_jpeg_quality_of_each_class_is_a_violation_that_no_resize_matters_to(tmp_path, capsys):
    status, lines = checked(
        tmp_path,
        capsys,
        lambda n, road, path: street(n, road, (192, 128)).save(path.with_suffix(".jpg"), quality=88 if road else 92),
    )
    assert status == 1
    assert "quantisation 1.00" in lines[0]
    assert not any("resize" in line for line in lines)


def test_a_photo_with_damaged_exif_does_not_end_the_check(tmp_path, capsys):
    def save(number, road, path):
        street(number, road, (96, 64)).save(
            path.with_suffix(".png"), exif=b"Exif\0\0no TIFF at all" if number % 2 else b""
        )

    status, lines = checked(tmp_path, capsys, save)
    assert status == 0
    assert "within the limit" in lines[0]
