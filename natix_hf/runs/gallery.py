"""Saves small copies of the photos that a report shows: the most confident mistakes, and doubtful labels.

They stay on this machine; a run is published without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from natix_hf.data.splits.contracts import LockedSplits
from natix_hf.documents.gallery import Gallery, GalleryPhoto
from natix_hf.files import staging
from natix_hf.inference.attention_maps import attention_maps, heat_picture
from natix_hf.inference.batches import client_pixels
from natix_hf.modeling.evaluation_mode import evaluating
from natix_hf.modeling.packed_linear import packed_linears
from natix_hf.photos.decode import open_photo
from natix_hf.photos.geometry import Geometry
from natix_hf.report.page_sections import wanted_photos
from natix_hf.runs.report_page import rows_of
from natix_hf.runs.steps import SHOW, carried_out

# The splits whose photos a page may show, each with role and step.
SHOWN = (("val_select", "selection", "doubtful labels"), ("val_test", "final_evaluation", "confident mistakes"))
MAX_SIDE = 640
_BATCH = 8


def keep_photos(run: Path, splits: LockedSplits, model: torch.nn.Module | None, processor: Any) -> None:
    """Save the photos that the report of a run will show.

    Args:
        run: a run with predictions and calibration.
        splits: splits of an ordinary run.
        model, processor: as in `write_gallery`.
    """
    with carried_out(run, SHOW, splits=splits):
        photos = {}
        for split, role, step in SHOWN:
            rows = splits.rows(role, step=step)
            photos[split] = rows, wanted_photos(rows_of(run, split))
        write_gallery(run, photos, model, processor)


def write_gallery(
    run: Path, photos: Mapping[str, tuple[Any, np.ndarray]], model: torch.nn.Module | None, processor: Any
) -> Gallery:
    """Write thumbnails and attention maps into `gallery/`, and `gallery.json`.

    A thumbnail is a JPEG of at most 640 pixels a side that holds only pixels: no EXIF, no comment, no profile.

    Args:
        photos: by split, its rows and the numbers `(k,)` of those to keep.
        model: the model whose attention is shown; None: no maps.

    Returns:
        The content of `gallery.json`.
    """
    entries, geometry = [], Geometry.of(processor)
    with staging(run) as stage:
        (stage / "gallery").mkdir()
        for split, (rows, numbers) in photos.items():
            for start in range(0, len(numbers), _BATCH):
                chosen = [int(number) for number in numbers[start : start + _BATCH]]
                kept = [rows[number] for number in chosen]
                maps = None if model is None else _maps(model, [row["image"] for row in kept], processor)
                for i, (number, row) in enumerate(zip(chosen, kept, strict=True)):
                    image, name = open_photo(row["image"]), f"gallery/{split}-{number:06d}"
                    box = geometry.box(*image.size)
                    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
                    # A new picture from the pixels only, because Pillow keeps comments.
                    Image.fromarray(np.asarray(image)).save(stage / f"{name}.jpg", quality=82, optimize=True)
                    if maps is not None:
                        heat_picture(maps[i]).save(stage / f"{name}.png", optimize=True)
                    entries.append(
                        GalleryPhoto(
                            split=split,
                            id=str(row["id"]),
                            photo=f"{name}.jpg",
                            width=image.width,
                            height=image.height,
                            attention=None if maps is None else f"{name}.png",
                            box=[round(float(share), 6) for share in box],
                        )
                    )
        document = Gallery(max_side=MAX_SIDE, photos=entries)
        document.write(stage)
    return document


def _maps(model: torch.nn.Module, photos: list[Any], processor: Any) -> np.ndarray:
    with evaluating(model), packed_linears(model):
        return attention_maps(model, torch.stack([client_pixels(photo, processor) for photo in photos]))
