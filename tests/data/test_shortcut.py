"""File facts that give the class away are found, and nothing is found where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest
from photo_files import encoded
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from natix_hf.data.splits.shortcut import beside_edges, fact_table, file_facts, shortcut


def photo(seed: int, kind: str = "JPEG", size: tuple[int, int] = (64, 48), **options) -> dict:
    pixels = np.random.default_rng(seed).normal(120, 30, (size[1], size[0], 3)).clip(0, 255).astype(np.uint8)
    return {"bytes": encoded(Image.fromarray(pixels), kind, **options), "path": None}


def judged(photos: list[dict], labels, groups=None, **columns):
    names, facts = fact_table(map(file_facts, photos), columns)
    groups = np.arange(len(photos)) if groups is None else groups
    return shortcut(facts, names, np.asarray(labels), np.asarray(groups))


def test_facts_of_a_jpeg():
    exif = Image.Exif()
    exif[0x010F] = "camera"
    exif.get_ifd(0x8769)[0x829A] = 0.01
    tables = [[16] * 64, [64] * 64]
    facts = file_facts(photo(0, qtables=tables, subsampling="4:2:0", exif=exif, progressive=True, icc_profile=b"x"))
    expected = {
        "width": 6.0,
        "aspect ratio": np.log2(64 / 48),
        "bits": 8,
        "channels": 3,
        "format JPEG": 1,
        "luma quantisation": 4.0,
        "chroma quantisation": 6.0,
        "quantisation tables": 2,
        "subsampling 4:2:0": 1,
        "progressive": 1,
        "EXIF": 1,
        "ICC profile": 1,
        "EXIF Make": 1,
        "EXIF ExposureTime": 1,
        "EXIF Model": 0,
        "EXIF DateTimeOriginal": 0,
    }
    assert {name: facts[name] for name in expected} == pytest.approx(expected)


def test_facts_of_other_files(tmp_path):
    deep = tmp_path / "deep.png"
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)).save(deep)
    facts = file_facts({"bytes": None, "path": str(deep)})
    assert (facts["bits"], facts["channels"], facts["format PNG"]) == (16, 1, 1)
    assert facts["file size"] == pytest.approx(np.log2(deep.stat().st_size))
    assert facts["bytes per pixel"] == pytest.approx(np.log2(deep.stat().st_size / 64))
    assert "quantisation tables" not in facts


def test_width_and_height_are_those_of_the_upright_photo():
    exif = Image.Exif()
    exif[0x0112] = 6
    facts = file_facts(photo(0, exif=exif))
    assert (facts["width"], facts["height"]) == pytest.approx((np.log2(48), 6.0))


def test_the_edges_of_thumbnails_explain_what_follows_from_them():
    rng = np.random.default_rng(0)
    contrast = rng.uniform(5, 60, 200)
    thumbnails = np.clip(120 + contrast[:, None, None] * rng.normal(size=(200, 16, 16)), 0, 255).astype(np.uint8)
    other = rng.normal(size=200)
    facts = np.column_stack([3 * np.log2(contrast), other])
    left = beside_edges(facts, thumbnails)
    assert left[:, 0].std() < 0.1 * facts[:, 0].std()
    assert np.corrcoef(left[:, 1], other)[0, 1] > 0.99


def test_facts_are_read_from_the_header_alone():
    whole = photo(0, size=(640, 480))
    half = {"bytes": whole["bytes"][: len(whole["bytes"]) // 2], "path": None}
    sizes = {"file size", "bytes per pixel"}
    assert {k: v for k, v in file_facts(half).items() if k not in sizes} == {
        k: v for k, v in file_facts(whole).items() if k not in sizes
    }


def test_a_class_of_another_jpeg_quality_is_found():
    labels = np.arange(80) % 2
    result = judged([photo(i, quality=88 if label else 90) for i, label in enumerate(labels)], labels)
    assert result.auroc > 0.99
    assert result.interval[0] > 0.95
    assert {name for name, alone in result.strongest if alone == 1} >= {"luma quantisation", "chroma quantisation"}


def test_nothing_is_found_in_clean_data():
    rng = np.random.default_rng(1)
    photos = [photo(i, quality=int(rng.integers(60, 95))) for i in range(150)]
    result = judged(photos, rng.integers(0, 2, 150))
    assert result.auroc < 0.65
    assert result.interval[0] < 0.5


def test_files_that_are_all_alike_tell_nothing():
    result = shortcut(np.empty((60, 0)), [], np.arange(60) % 2, np.arange(60))
    assert (result.auroc, result.interval, result.strongest) == (0.5, (0.5, 0.5), [])


def test_what_a_group_has_alone_does_not_count():
    # Every camera has a width of its own and one class: a random fold would know the camera, a grouped one does not.
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 6)
    one_hot = np.eye(60)[groups]
    labels = rng.permutation(np.arange(60) % 2)[groups]
    names = [f"camera = {i}" for i in range(60)]
    assert shortcut(one_hot, names, labels, groups).auroc < 0.6
    assert shortcut(one_hot, names, labels, np.arange(360)).auroc > 0.95


def test_a_column_that_is_asked_about_counts():
    labels = np.arange(60) % 2
    cities = ["Boston" if label and i % 6 else "Pittsburgh" for i, label in enumerate(labels)]
    photos = [photo(0)] * 60
    assert judged(photos, labels).strongest == []
    result = judged(photos, labels, city=cities)
    assert [name for name, _ in result.strongest] == ["city = Boston", "city = Pittsburgh"]
    assert result.auroc > 0.8


def test_the_figure_is_that_of_scikit_learn():
    rng = np.random.default_rng(3)
    labels, groups = rng.integers(0, 3, 200), rng.integers(0, 60, 200)
    facts = rng.normal(size=(200, 4)) + labels[:, None] * [1.0, 0.3, 0, 0]
    scores = np.zeros((200, 3))
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    for train, test in folds.split(facts, labels, groups):
        scores[test] = model.fit(facts[train], labels[train]).predict_proba(facts[test])
    result = shortcut(facts, list("abcd"), labels, groups)
    assert result.auroc == pytest.approx(roc_auc_score(labels, scores, multi_class="ovr"))
    assert result.interval[0] < result.auroc < result.interval[1]
    assert result.strongest[0][0] == "a"


@pytest.mark.parametrize(
    ("labels", "groups", "reason"),
    [
        (np.arange(29) % 2, np.arange(29), "expected at least 30 rows, found 29"),
        (np.zeros(40, int), np.arange(40), "one class"),
        (
            np.arange(40) % 2,
            np.where(np.arange(40) % 2, np.arange(40) % 4, np.arange(40)),
            "found only 2",
        ),
    ],
)
def test_too_few_rows_are_no_verdict(labels, groups, reason):
    result = shortcut(np.random.default_rng(0).normal(size=(len(labels), 2)), ["a", "b"], labels, groups)
    assert result.auroc is None
    assert reason in result.reason
