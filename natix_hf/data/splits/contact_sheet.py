"""Draws copies of one photo that have different labels side by side, so that a person can see which label is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont, ImageOps

from natix_hf.documents.split_certificate import LabelConflict
from natix_hf.files import replacing
from natix_hf.photos.decode import StoredPhoto, open_photo

MOST = 40  # conflicts on a sheet
MOST_COPIES = 4  # of one photo
WIDTH, HEIGHT = 300, 225  # pixels of a photo's cell
GAP, LINE = 12, 20  # pixels between cells, and of a line of text
INK, PALE, PAPER, FRAME = "#1c1c1c", "#666666", "#ffffff", "#e6e6e6"
COLOURS = ("#1f6fb4", "#d9730d", "#2b8a3e", "#8b3fa8")  # of labels


def shortened(text: str, fits: Callable[[str], bool]) -> str:
    """Shorten a text in the middle if it does not fit, since long names differ at both ends.

    Args:
        text: a file name, a label.
        fits: whether a text is short enough. If a text fits, every shorter one must fit too.
    """
    if fits(text):
        return text
    kept, least = len(text) - 1, 2
    while kept > least and not fits(_cut(text, kept)):
        kept -= 1
    return _cut(text, kept)


def _cut(text: str, kept: int) -> str:
    return f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"


def chosen(labels: Sequence[str]) -> list[int]:
    """Indices of the copies to show: the first of each label, then others, in their original order."""
    first = [labels.index(label) for label in dict.fromkeys(labels)]
    others = [i for i in range(len(labels)) if i not in first]
    return sorted((first + others)[:MOST_COPIES])


def contact_sheet(path: str | Path, conflicts: Sequence[LabelConflict], photos: Mapping[str, StoredPhoto]) -> None:
    """Write a PNG with one row per conflict, with file name and label below each photo.

    Args:
        path: the PNG file.
        conflicts: of these, the first `MOST` are drawn.
        photos: id -> photo.

    Raises:
        PhotoError: if a photo cannot be read.
    """
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"  # these fonts have more letters than Pillow's own
    plain, bold = (ImageFont.truetype(str(folder / f"{name}.ttf"), 13) for name in ("DejaVuSans", "DejaVuSans-Bold"))
    drawn = [(conflict, chosen(conflict.labels)) for conflict in conflicts[:MOST]]
    columns = max(2, *(len(copies) for _, copies in drawn))
    row = LINE + HEIGHT + 2 * LINE + 2 * GAP
    left_out = len(conflicts) - len(drawn)
    size = GAP + columns * (WIDTH + GAP), GAP + len(drawn) * row + (LINE + GAP if left_out else 0)
    labels = sorted({label for conflict in conflicts for label in conflict.labels})  # one colour each
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (conflict, copies) in enumerate(drawn):
        top = GAP + number * row
        more = f", {len(copies)} of {len(conflict.ids)} copies shown" if len(copies) < len(conflict.ids) else ""
        draw.text((GAP, top), f"{number + 1}. {conflict.kind}{more}", INK, plain)
        for column, i in enumerate(copies):
            left, below = GAP + column * (WIDTH + GAP), top + LINE + HEIGHT
            photo = open_photo(photos[conflict.ids[i]])
            sheet.paste(ImageOps.pad(photo, (WIDTH, HEIGHT), Image.Resampling.LANCZOS, FRAME), (left, top + LINE))
            name, label = conflict.ids[i], conflict.labels[i]
            colour = COLOURS[labels.index(label) % len(COLOURS)]
            for line, (text, font, ink) in enumerate(((name, plain, PALE), (label, bold, colour))):
                short = shortened(text, lambda text, font=font: font.getlength(text) <= WIDTH)
                draw.text((left, below + 4 + line * LINE), short, ink, font)
    if left_out:
        draw.text((GAP, size[1] - LINE - GAP // 2), f"{left_out} more conflicts are listed in splits.json", INK, plain)
    with replacing(path) as temporary:
        sheet.save(temporary, optimize=True)
