"""Predictions as GeoJSON (RFC 7946), one feature per photo, with coordinates from its EXIF data.

This is the only output that holds coordinates, and it is written only on request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from PIL import Image

from natix_hf.decision.calibration import DecisionRule
from natix_hf.files import replacing
from natix_hf.inference.classify import Prediction, Written
from natix_hf.inference.graph_classifier import GraphClassifier
from natix_hf.modeling.adapter_natix_dinov3 import fingerprint
from natix_hf.photos.decode import photo_exif
from natix_hf.photos.exif import CAMERA, GPS, readable_tags

LATITUDE_REF, LATITUDE, LONGITUDE_REF, LONGITUDE = 1, 2, 3, 4
TAKEN, ZONE = 0x9003, 0x9011  # DateTimeOriginal, OffsetTimeOriginal


def model_fingerprint(model: Any) -> str:
    """The blake2b-128 of a model's weights, or of the files of an exported graph."""
    if isinstance(model, GraphClassifier):
        return model.fingerprint()
    return fingerprint(model.state_dict())


def place_of(exif: Image.Exif) -> tuple[float, float] | None:
    """Longitude and latitude in degrees (GeoJSON's order), or None without a valid position.

    `0, 0` counts as invalid: receivers without a fix write it.
    """
    tags = readable_tags(exif, GPS)
    try:
        latitude, longitude = _degrees(tags[LATITUDE]), _degrees(tags[LONGITUDE])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    latitude = -latitude if str(tags.get(LATITUDE_REF, "N")).upper().startswith("S") else latitude
    longitude = -longitude if str(tags.get(LONGITUDE_REF, "E")).upper().startswith("W") else longitude
    # Pillow reads 0/0 as NaN, which fails the comparison.
    if not (abs(latitude) <= 90 and abs(longitude) <= 180) or latitude == longitude == 0:
        return None
    return round(longitude, 7), round(latitude, 7)


def _degrees(parts: Sequence[float]) -> float:
    degrees, minutes, seconds = (float(part) for part in parts)
    return degrees + minutes / 60 + seconds / 3600


def time_of(exif: Image.Exif) -> str | None:
    """Capture time as `YYYY-MM-DDThh:mm:ss`, with the time zone if the camera wrote one; None if unknown."""
    tags = readable_tags(exif, CAMERA)
    try:
        taken = datetime.strptime(str(tags.get(TAKEN, "")).strip("\0 ")[:19], "%Y:%m:%d %H:%M:%S")
    except ValueError:  # missing, not a time, or `0000:00:00 00:00:00` from a clock that was never set
        return None
    zone = re.fullmatch(r"Z|[+-]\d\d:\d\d", str(tags.get(ZONE, "")).strip("\0 "))
    return taken.isoformat() + (zone[0] if zone else "")


def write_geojson(
    output: Path,
    predictions: Iterable[Prediction],
    photos: Sequence[Any],
    labels: Sequence[str],
    rule: DecisionRule | None,
    model: str,
) -> Written:
    """Write a FeatureCollection atomically; a photo without coordinates has a null geometry.

    Args:
        predictions: in the order of `photos`.
        photos: the photos of these predictions.
        rule: `decision` of the model's config; it names the positive class, which is class id 1 by default.
        model: fingerprint of the model.
    """
    positive = (rule or {}).get("positive", 1)
    written = Written()
    with replacing(output) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for number, (prediction, photo) in enumerate(zip(predictions, photos, strict=True)):
            exif = photo_exif(photo)
            place, taken = (place_of(exif), time_of(exif)) if exif is not None else (None, None)
            written.count(prediction)
            if prediction.probabilities is None:
                outcome = {"error": prediction.reason}
            else:
                values = prediction.rounded()
                outcome = {
                    "answer": prediction.answer(labels),
                    "label": labels[prediction.decision],
                    "positive": labels[positive],
                    "probability": values[positive],
                    "probabilities": dict(zip(labels, values, strict=True)),
                    **({} if prediction.stage is None else {"stage": prediction.stage}),
                }
            properties = {"file": prediction.name, "time": taken, "model": model, **outcome}
            geometry = None if place is None else {"type": "Point", "coordinates": list(place)}
            feature = {"type": "Feature", "geometry": geometry, "properties": properties}
            file.write((",\n" if number else "\n") + json.dumps(feature, ensure_ascii=False))
        file.write("\n]}\n")
    return written
