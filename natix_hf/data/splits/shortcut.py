"""The shortcut test: how well a logistic regression predicts the class from facts about the files alone.

If the photos of one class come from another camera, program or city, a model learns that instead of the street. Facts
come from file headers; no photo is decoded. Facts that depend on what a photo shows, such as the file size, prove
nothing and are judged separately (`CONTENT_MADE`). The caller decides which AUROC is too high.
"""

from __future__ import annotations

import io
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, JpegImagePlugin

from natix_hf.files import text_path
from natix_hf.photos.decode import StoredPhoto
from natix_hf.photos.exif import CAMERA, SIDEWAYS, turn
from natix_hf.resampling import interval_ends, on_resamples, weighted_auroc

FOLDS = 5
LEAST = 30  # rows that the test needs
MOST_VALUES = 50  # of a column; rarer values are not used
RESAMPLES = 200
CONTENT_MADE = ("file size", "bytes per pixel")
ASPECT = "aspect ratio"
_SUBSAMPLINGS = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}
_BITS = {"1": 1, "I": 16, "F": 32}  # per channel, by image mode; 8 in all others
_TAGS = {
    "Make": 0x010F,
    "Model": 0x0110,
    "Orientation": 0x0112,
    "Software": 0x0131,
    "DateTime": 0x0132,
    "Artist": 0x013B,
    "Copyright": 0x8298,
    "ImageDescription": 0x010E,
    "GPS": 0x8825,
}
_CAMERA_TAGS = {
    "DateTimeOriginal": 0x9003,
    "ExposureTime": 0x829A,
    "FNumber": 0x829D,
    "ISOSpeedRatings": 0x8827,
    "FocalLength": 0x920A,
    "LensModel": 0xA434,
}


@dataclass(frozen=True)
class ShortcutResult:
    """How well file facts alone predict the class.

    Args:
        auroc: AUROC on held-out rows; None if there are too few rows.
        interval: its 95 % bounds, resampled over groups; None if there is no AUROC.
        strongest: `(fact, its AUROC alone, at least 0.5)`, the strongest first.
        reason: why there is no AUROC, else "".
    """

    auroc: float | None
    interval: tuple[float, float] | None = None
    strongest: list[tuple[str, float]] = field(default_factory=list)
    reason: str = ""


def file_facts(photo: StoredPhoto) -> dict[str, float]:
    """Facts about the file of a photo, read without decoding its pixels.

    Args:
        photo: a readable photo.

    Returns:
        Fact -> number: base-2 logarithms of sizes, counts, means, and 0 or 1. A missing fact is 0.
    """
    content = photo["bytes"]
    path = None if content is not None else text_path(photo["path"])
    size = os.stat(path).st_size if content is None else len(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd metadata and large photos, which do not matter here
        with Image.open(path if content is None else io.BytesIO(content)) as image:
            width, height = image.size[::-1] if turn(image) in SIDEWAYS else image.size
            tags, camera = _tags(image)
            mode = image.mode
            facts = {
                "file size": np.log2(size),
                "bytes per pixel": np.log2(size / (width * height)),
                "width": np.log2(width),
                "height": np.log2(height),
                ASPECT: np.log2(width / height),
                "bits": 16 if mode.startswith("I;16") else _BITS.get(mode, 8),
                "channels": len(image.getbands()),
                f"format {image.format}": 1,
                "EXIF": bool(tags),
                "ICC profile": "icc_profile" in image.info,
                "progressive": "progressive" in image.info,
            }
            facts |= {f"EXIF {name}": tag in tags for name, tag in _TAGS.items()}
            facts |= {f"EXIF {name}": tag in camera for name, tag in _CAMERA_TAGS.items()}
            if isinstance(image, JpegImagePlugin.JpegImageFile):
                facts |= _jpeg_facts(image)
    return {name: float(value) for name, value in facts.items()}


def _tags(image: Image.Image) -> tuple[set[int], set[int]]:
    """The EXIF tags of the main block and of the camera block, whatever their values."""
    try:
        exif = image.getexif()
        return set(exif), set(exif.get_ifd(CAMERA))
    except Exception:  # damaged metadata can raise nearly any type in Pillow
        return set(), set()


def _jpeg_facts(image: JpegImagePlugin.JpegImageFile) -> dict[str, float]:
    tables = image.quantization
    subsampling = _SUBSAMPLINGS.get(JpegImagePlugin.get_sampling(image), "other or none")
    # Logarithms of the tables' means, which fall by a factor of 5 from quality 75 to 95.
    facts = {
        name: np.log2(np.mean(tables[number]))
        for number, name in enumerate(("luma quantisation", "chroma quantisation"))
        if number in tables
    }
    return {**facts, "quantisation tables": len(tables), f"subsampling {subsampling}": 1}


def fact_table(
    facts: Iterable[Mapping[str, float]], columns: Mapping[str, Sequence[Any]]
) -> tuple[list[str], np.ndarray]:
    """The facts of all photos and columns of the data set as one table.

    Args:
        facts: facts of `n` photos, from `file_facts`.
        columns: name -> `(n,)` values. Each of the most frequent values becomes a fact with value 0 or 1.

    Returns:
        The names of the facts that vary between photos, and their `(n, d)` values.
    """
    rows = list(facts)
    names = sorted({name for row in rows for name in row})
    values = {name: np.array([row.get(name, 0.0) for row in rows]) for name in names}
    for column, entries in columns.items():
        texts = np.array([str(entry) for entry in entries], dtype=object)
        for text, _ in Counter(texts.tolist()).most_common(MOST_VALUES):
            values[f"{column} = {text}"] = (texts == text).astype(np.float64)
    varying = [name for name, column in values.items() if len(column) and np.ptp(column) > 0]
    return varying, np.column_stack([values[name] for name in varying]) if varying else np.empty((len(rows), 0))


def shortcut(facts: np.ndarray, names: Sequence[str], labels: np.ndarray, groups: np.ndarray) -> ShortcutResult:
    """AUROC of a standardised logistic regression on file facts, cross-validated over groups, pooled over the folds.

    Args:
        facts: `(n, d)`.
        names: `(d,)` names of the facts.
        labels: `(n,)` class numbers. Classes without rows are ignored.
        groups: `(n,)` group numbers. Rows of one group are in one fold.
    """
    present, labels = np.unique(labels, return_inverse=True)
    groups = np.unique(groups, return_inverse=True)[1]
    if len(labels) < LEAST:
        return ShortcutResult(None, reason=f"expected at least {LEAST} rows, found {len(labels)}")
    if len(present) < 2:
        return ShortcutResult(None, reason="all rows are of one class")
    least = min(len(np.unique(groups[labels == k])) for k in range(len(present)))
    if least < FOLDS:
        return ShortcutResult(
            None, reason=f"expected at least {FOLDS} groups of each class, found only {least} of one"
        )
    scores = np.full((len(labels), len(present)), 1 / len(present))
    if facts.shape[1]:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedGroupKFold
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=10_000))
        for train, test in StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(facts, labels, groups):
            if len(np.unique(labels[train])) < len(present):
                return ShortcutResult(None, reason="one group has nearly all rows of a class")
            scores[test] = model.fit(facts[train], labels[train]).predict_proba(facts[test])
    judged = [1] if len(present) == 2 else range(len(present))  # each class against the rest

    def auroc(times: np.ndarray) -> np.ndarray:  # (b, groups) -> (b,), NaN if a class is missing
        weights = times[:, groups]
        return np.mean([weighted_auroc(scores[:, k], labels == k, weights) for k in judged], axis=0)

    n_groups = int(groups.max()) + 1
    drawn = on_resamples(auroc, n_groups, RESAMPLES, seed=0, width=len(labels))
    value = float(auroc(np.ones((1, n_groups)))[0])
    return ShortcutResult(value, interval_ends(drawn), strongest(facts, names, labels))


def strongest(facts: np.ndarray, names: Sequence[str], labels: np.ndarray) -> list[tuple[str, float]]:
    """The AUROC of each fact alone, in either direction, the strongest first. Arguments as in `shortcut`."""
    from sklearn.metrics import roc_auc_score

    present, labels = np.unique(labels, return_inverse=True)
    classes = [1] if len(present) == 2 else range(len(present))
    alone = []
    for name, column in zip(names, facts.T):
        each = [roc_auc_score(labels == k, column) for k in classes]
        alone.append((name, float(np.mean([max(a, 1 - a) for a in each]))))
    return sorted(alone, key=lambda fact: (-fact[1], fact[0]))


def beside_edges(facts: np.ndarray, thumbnails: np.ndarray) -> np.ndarray:
    """The residuals of a linear regression of each fact on the amount of edges in the photos.

    Args:
        facts: `(n, d)`.
        thumbnails: `(n, side, side)` in grey. The logarithm of the mean squared gradient measures the edges.

    Returns:
        `(n, d)` residuals.
    """
    grey = thumbnails.astype(np.float64)
    energy = sum(np.square(np.diff(grey, axis=axis)).mean(axis=(1, 2)) for axis in (1, 2))
    known = np.column_stack([np.ones(len(facts)), np.log2(energy + 1)])
    return facts - known @ np.linalg.lstsq(known, facts, rcond=None)[0]
