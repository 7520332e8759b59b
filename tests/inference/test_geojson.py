"""Where and when a photo was taken, from EXIF as cameras write it, and the file that a map reads."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from natix_hf.inference.classify import Prediction
from natix_hf.inference.geojson import place_of, time_of, write_geojson
from natix_hf.photos.decode import photo_exif

GPS, EXIF = 0x8825, 0x8769


def save(path, gps=None, taken=None, zone=None):
    exif = Image.Exif()
    if gps:
        exif[GPS] = gps
    if taken:
        exif[EXIF] = {0x9003: taken} | ({0x9011: zone} if zone else {})
    Image.new("RGB", (8, 8)).save(path, exif=exif)
    return str(path)


@pytest.mark.parametrize(
    ("gps", "expected"),
    [
        ({1: "N", 2: (39.0, 46.0, 12.0), 3: "W", 4: (86.0, 9.0, 28.8)}, (-86.158, 39.77)),  # Indianapolis
        ({1: "S", 2: (33.0, 51.0, 24.84), 3: "E", 4: (151.0, 12.0, 33.12)}, (151.2092, -33.8569)),  # Sydney
        ({1: "N", 2: (0.0, 0.0, 0.0), 3: "E", 4: (0.0, 0.0, 0.0)}, None),
        ({1: "N", 2: (99.0, 0.0, 0.0), 3: "E", 4: (5.0, 0.0, 0.0)}, None),
        ({1: "N"}, None),
        (None, None),
    ],
)
def test_places_are_longitude_before_latitude_and_signed(gps, expected, tmp_path):
    exif = photo_exif(save(tmp_path / "photo.jpg", gps))
    assert place_of(exif) == (None if expected is None else pytest.approx(expected, abs=1e-6))


def test_times_carry_a_zone_only_where_the_camera_wrote_one(tmp_path):
    taken = "2026:04:01 08:30:15"
    assert time_of(photo_exif(save(tmp_path / "a.jpg", taken=taken))) == "2026-04-01T08:30:15"
    assert time_of(photo_exif(save(tmp_path / "b.jpg", taken=taken, zone="+02:00"))) == "2026-04-01T08:30:15+02:00"
    assert time_of(photo_exif(save(tmp_path / "c.jpg"))) is None
    assert time_of(photo_exif(save(tmp_path / "d.jpg", taken="0000:00:00 00:00:00"))) is None


def test_one_feature_per_photo_with_answer_or_abstention_and_the_model(tmp_path):
    there = {1: "N", 2: (39.0, 46.0, 12.0), 3: "W", 4: (86.0, 9.0, 28.8)}
    photos = [
        save(tmp_path / "a.jpg", there, "2026:04:01 08:30:15"),
        save(tmp_path / "b.jpg"),
        save(tmp_path / "c.jpg"),
    ]
    photos.append(str(tmp_path / "missing.jpg"))
    predictions = [
        Prediction("a", np.array([0.1, 0.9]), None, 1, False),
        Prediction("b", np.array([0.45, 0.55]), None, 1, True),
        Prediction("c", np.array([0.8, 0.2]), None, 0, False),
        Prediction("missing", None, "no such file"),
    ]
    rule = {"positive": 1, "threshold_bias": [0.0, 0.0], "abstain_band": [0.3, 0.7]}
    written = write_geojson(tmp_path / "x.geojson", predictions, photos, ["None", "Roadwork"], rule, "f" * 32)
    document = json.loads((tmp_path / "x.geojson").read_text())
    assert document["type"] == "FeatureCollection"
    features = document["features"]
    assert [f["properties"]["file"] for f in features] == ["a", "b", "c", "missing"]
    assert features[0]["geometry"] == {"type": "Point", "coordinates": [pytest.approx(-86.158), pytest.approx(39.77)]}
    assert [f["geometry"] is None for f in features] == [False, True, True, True]
    assert [f["properties"].get("answer") for f in features] == ["Roadwork", "abstain", "None", None]
    assert [f["properties"].get("probability") for f in features] == [0.9, 0.55, 0.2, None]
    assert features[0]["properties"]["time"] == "2026-04-01T08:30:15"
    assert {f["properties"]["model"] for f in features} == {"f" * 32}
    assert features[3]["properties"]["error"] == "no such file"
    assert (written.good, written.asking, len(written.broken)) == (3, 1, 1)
