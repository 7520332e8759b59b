"""Prepares the contents of the report page for its template: figures, confusion matrix, use of the splits, galleries.

It works on arrays, documents and encoded images. The template writes the HTML; the caller reads the run folder.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from natix_hf.documents.final_figures import FinalFigures
from natix_hf.documents.ledger import LedgerEntry
from natix_hf.documents.split_certificate import SplitCertificate
from natix_hf.report.metrics import LOWER_IS_BETTER, confusion_counts
from natix_hf.report.mistakes import confident_mistakes, suspected_label_errors
from natix_hf.report.summary import LABELS, MEANINGS, figure_text, interval_text

SHOWN = 24  # photos in a gallery
USES = {
    "train": "train the model",
    "val_select": "choose the checkpoint, the state of the model that is kept",
    "val_calib/fit": "fit the calibration of the probabilities",
    "val_calib/control": "compute the guarantees on error rates",
    "val_test": "measure the figures on this page",
}
FIRST = ("mcc", "accuracy", "balanced_accuracy", "macro_f1", "auroc", "log_loss", "ece")


class Rows(NamedTuple):
    """The rows of one split.

    Attributes:
        split: its name.
        ids: `(n,)` names of the photos.
        labels: `(n,)` class ids.
        groups: `(n,)` names of the groups, or None.
        before, after: `(n, classes)` probabilities before and after calibration; `after` does not include a folded
            threshold.
        log_odds: `(n, classes)`; ranks photos like `after`, but without ties at 1.
        decided: `(n,)` class ids of the decisions.
        slices: column -> `(n,)` values.
    """

    split: str
    ids: np.ndarray
    labels: np.ndarray
    groups: np.ndarray | None
    before: np.ndarray
    after: np.ndarray
    log_odds: np.ndarray
    decided: np.ndarray
    slices: Mapping[str, np.ndarray]


class Picture(NamedTuple):
    """An encoded photo, with its heat map.

    Attributes:
        photo: JPEG bytes.
        width, height: in pixels.
        heat: PNG bytes of the heat map that is drawn over the photo, or None.
        box: left, top, width and height of the area that the heat map covers, as shares of the photo.
    """

    photo: bytes
    width: int
    height: int
    heat: bytes | None = None
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)


class Headline(NamedTuple):
    """A figure at the top of the page.

    `places` holds value and interval as positions on the scale in percent, or is None if one of them is undefined.
    """

    name: str
    value: str
    interval: str
    note: str
    places: dict[str, float] | None
    scale: str


class ConfusionCell(NamedTuple):
    """Number of photos with one label and one decision, and their share of the label's photos."""

    count: int
    share: float
    right: bool


class ConfusionRow(NamedTuple):
    """A label, its number of photos, and a cell for each decision."""

    name: str
    n: int
    cells: list[ConfusionCell]


class Shown(NamedTuple):
    """A picture for the browser: data URIs of photo and heat map, and the CSS position of the heat map."""

    photo: str
    width: int
    height: int
    heat: str | None
    place: str


class Odds(NamedTuple):
    """The probability of a class for a photo."""

    name: str
    p: float
    is_label: bool
    is_decision: bool


class Shot(NamedTuple):
    """A photo in a gallery; `kind` is the reason why it is shown, and `picture` is None if there is no image."""

    id: str
    split: str
    group: str | None
    kind: str
    label: str
    decision: str
    odds: list[Odds]
    slices: dict[str, str]
    picture: Shown | None


class StepReads(NamedTuple):
    """How often a step read a split, with the times of the first and the last read."""

    step: str
    times: int
    first: str
    last: str


class SplitUse(NamedTuple):
    """A split, its purpose, its photos per class, and the steps that read it."""

    place: str
    use: str
    n: int
    groups: int | None
    counts: str
    reads: list[StepReads]


def figures(metrics: FinalFigures) -> list[Headline]:
    """The headline figures of `metrics.json`, with their intervals and their positions on the figures' scales."""
    shown = []
    for name in FIRST:
        interval = metrics.metrics[name]
        top = 1.0
        if name in LOWER_IS_BETTER:
            top = 1.25 * max(interval.high or 0.0, interval.value or 0.0) or 1.0
        low = -1.0 if name == "mcc" and min(interval.low or 0.0, interval.value or 0.0) < 0 else 0.0
        places = {
            end: None if v is None else round(100 * (v - low) / (top - low), 2) for end, v in interval.plain().items()
        }
        shown.append(
            Headline(
                name=LABELS[name][:1].upper() + LABELS[name][1:].removesuffix(" (NLL)"),
                value=figure_text(interval.value),
                interval=interval_text(interval),
                note=MEANINGS[name],
                places=places if None not in places.values() else None,
                scale=f"scale from {low:g} to {top:.3g}",
            )
        )
    return shown


def confusion(labels: np.ndarray, decided: np.ndarray, names: Sequence[str]) -> list[ConfusionRow]:
    """The confusion matrix: one row per label, with counts and shares of each decision."""
    rows = []
    for row, counts in enumerate(confusion_counts(labels, decided, len(names)).tolist()):
        total = sum(counts)
        cells = [ConfusionCell(count, count / max(total, 1), row == column) for column, count in enumerate(counts)]
        rows.append(ConfusionRow(names[row], total, cells))
    return rows


def ledger(noted: Sequence[LedgerEntry], splits: SplitCertificate) -> list[SplitUse]:
    """Each split with its number of photos and the steps that read it, in chronological order.

    Args:
        noted: the run's ledger.
        splits: the certificate of the run's splits.
    """
    rows = []
    for place, use in USES.items():
        split, _, part = place.partition("/")
        times: dict[str, list[float | None]] = {}
        for entry in noted:
            if entry.split == split and (entry.part or "") == part:
                times.setdefault(entry.step, []).append(entry.time)
        counts = splits.class_counts.get(place, {})
        per_class = ", ".join(f"{n} {name}" for name, n in counts.items()) if len(counts) <= 4 else ""
        reads = [StepReads(step, len(read), _time(read[0]), _time(read[-1])) for step, read in times.items()]
        rows.append(SplitUse(place, use, sum(counts.values()), splits.groups.get(place), per_class, reads))
    return rows


def wanted_photos(rows: Rows) -> np.ndarray:
    """Sorted row numbers of the photos that a report shows: mistakes and suspected label errors, each row once."""
    mistakes = confident_mistakes(rows.after, rows.labels, rows.decided, SHOWN)
    suspects, _ = suspected_label_errors(rows.after, rows.labels, SHOWN)
    return np.unique(np.concatenate([mistakes, suspects]))


def mistakes(
    rows: Rows, names: Sequence[str], positive: int, pictures: Mapping[tuple[str, str], Picture]
) -> list[Shot]:
    """The most confident mistakes, the most confident first."""
    shots = []
    for row in confident_mistakes(rows.after, rows.labels, rows.decided, SHOWN):
        label, decided = int(rows.labels[row]), int(rows.decided[row])
        kind = f"{names[label]} taken for {names[decided]}"
        if len(names) == 2:
            kind = "false positive" if decided == positive else "false negative"
        shots.append(_shot(rows, row, kind, names, pictures))
    return shots


def label_errors(
    tables: Sequence[Rows], names: Sequence[str], pictures: Mapping[tuple[str, str], Picture]
) -> list[Shot]:
    """The labels that the model contradicts most, over several splits; confidence limits are computed per split."""
    shots = []
    for rows in tables:
        for row, counted in zip(*suspected_label_errors(rows.after, rows.labels, SHOWN)):
            margin = float(rows.after[row, rows.labels[row]] - rows.after[row, counted])
            kind = f"{names[int(rows.labels[row])]}, or {names[counted]}?"
            shots.append((margin, _shot(rows, row, kind, names, pictures)._replace(decision=names[counted])))
    return [shot for _, shot in sorted(shots, key=lambda pair: pair[0])[:SHOWN]]


def _shot(rows: Rows, row: int, kind: str, names: Sequence[str], pictures: Mapping[tuple[str, str], Picture]) -> Shot:
    label, decided = int(rows.labels[row]), int(rows.decided[row])
    likely = {int(k) for k in np.argsort(-rows.after[row])[:4]} | {label, decided}
    picture = pictures.get((rows.split, str(rows.ids[row])))
    return Shot(
        id=str(rows.ids[row]),
        split=rows.split,
        group=None if rows.groups is None else str(rows.groups[row]),
        kind=kind,
        label=names[label],
        decision=names[decided],
        odds=[
            Odds(names[k], float(rows.after[row, k]), k == label, k == decided)
            for k in sorted(likely, key=lambda k: -rows.after[row, k])
        ],
        slices={column: str(values[row]) for column, values in rows.slices.items()},
        picture=None if picture is None else _shown(picture),
    )


def _shown(picture: Picture) -> Shown:
    def uri(kind: str, content: bytes) -> str:
        return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"

    left, top, width, height = (f"{100 * share:.3f}%" for share in picture.box)
    return Shown(
        photo=uri("jpeg", picture.photo),
        width=picture.width,
        height=picture.height,
        heat=None if picture.heat is None else uri("png", picture.heat),
        place=f"left:{left};top:{top};width:{width};height:{height}",
    )


def _time(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
