"""The dataset card reports the certificate and the rows, and the Hub and `datasets` can read it."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard

from natix_hf.data.sources.rows import Rows
from natix_hf.data.splits.certificate import describe
from natix_hf.data.splits.contracts import SPLITS
from natix_hf.documents.figures import Left
from natix_hf.documents.split_certificate import LabelConflict, SplitCertificate
from natix_hf.hub.dataset_card import dataset_card
from natix_hf.hub.licences import hub_licence, licence_front, licence_lines, licence_rows

COUNTS = {"train": (6, 3), "val_select": (2, 1), "val_calib": (2, 2), "val_test": (1, 1)}


def splits(names=("None", "Roadwork"), licences=None) -> DatasetDict:
    """Rows without photos; two of a class in a row share a group, `licences` are assigned in turn."""
    features = {name: Value("string") for name in ("id", "group", "origin", "source", "fingerprint")}
    features |= {"label": ClassLabel(names=list(names)), "image": Image(decode=False)}
    features |= {"license": Value("string")} if licences else {}
    made, number = DatasetDict(), 0
    for split, counts in COUNTS.items():
        rows = []
        for label, count in enumerate(counts):
            for i in range(count):
                row = {
                    "id": f"secret/{number}.jpg",
                    "group": f"/home/someone/{split}-{label}-{i // 2}",
                    "origin": "all",
                    "source": "real" if label else "city",
                    "fingerprint": f"{number:032x}",
                    "label": label,
                    "image": {"bytes": b"", "path": f"{number}.jpg"},
                }
                rows.append(row | ({"license": licences[number % len(licences)]} if licences else {}))
                number += 1
        made[split] = Dataset.from_list(rows, features=Features(features))
    return made


def document(data: DatasetDict, **facts) -> SplitCertificate:
    halves = {"fit": data["val_calib"].select([0, 2]), "control": data["val_calib"].select([1, 3])}
    places = {**data, **{f"val_calib/{part}": rows for part, rows in halves.items()}}
    left = {name: facts.pop(name, []) for name in ("broken", "dropped")}
    return describe(places, Rows(data, **left), None, **{"ratios": (0.6, 0.15, 0.15, 0.1), "seed": 7} | facts)


def test_front_matter_is_what_the_hub_and_datasets_read():
    data = splits()
    front = DatasetCard(dataset_card(document(data), data, "me/streets")).data
    assert front.task_categories == ["image-classification"]
    assert front.size_categories == ["n<1K"]
    assert front.license == "unknown"
    assert front.pretty_name == "Street photos: None / Roadwork"
    files = MetadataConfigs.from_dataset_card_data(front)["default"]["data_files"]
    assert files == [{"split": split, "path": f"data/{split}-*"} for split in SPLITS]
    info = DatasetInfosDict.from_dataset_card_data(front)["default"]
    assert info.features["label"].names == ["None", "Roadwork"]
    assert info.features["image"] == Image()
    assert set(info.features) == set(data["train"].features)
    assert {name: split.num_examples for name, split in info.splits.items()} == {
        split: sum(counts) for split, counts in COUNTS.items()
    }


def test_the_tables_say_what_the_certificate_says():
    data = splits()
    certificate = document(data)
    text = dataset_card(certificate, data, "me/streets")
    assert "18 photos in 2 classes (None, Roadwork)" in text
    assert "| split | used for | photos | groups | requested share | actual share | None | Roadwork |" in text
    assert "| `train` | training | 9 | 5 | 60.0% | 50.0% | 6 | 3 |" in text
    assert "| `val_test` | final figures | 2 | 2 | 10.0% | 11.1% | 1 | 1 |" in text
    assert "2 photos to fit the calibration and 2 to check it" in text
    assert "| `train` | 1 | 4 | 0 | 0 | 0 |" in text
    assert "(seed 7)" in text
    assert "- Groups in more than one split: 0." in text
    assert "No photo has copies with different labels." in text
    assert f"p = {certificate.prior_shift.p:.3g}" in text
    assert certificate.seal in text
    for split in SPLITS:
        rows, photos = certificate.fingerprints[split], certificate.byte_fingerprints[split]
        assert f"| `{split}` | `{rows}` | `{photos}` |" in text
    assert "| city | 11 |" in text
    assert "dataset_name: me/streets" in text
    assert 'load_dataset("me/streets")' in text
    assert "python -m natix_hf.data check me/streets" in text
    assert "(https://huggingface.co/models?dataset=dataset:me/streets)" in text
    assert "Nothing: every row" in text


def test_every_table_has_rows_of_one_width():
    data = splits(names=("none|at all", "work\nzone"), licences=["CC BY 4.0", "a|b", None])
    certificate = document(data, broken=[Left(id="x", reason="truncated | damaged")], strata=["weather"])
    lines = dataset_card(certificate, data, "me/streets").splitlines()
    tables = 0
    for before, line in pairwise(lines):
        if before.startswith("|") and line.startswith("|"):
            cells = [len(re.findall(r"(?<!\\)\|", row)) for row in (before, line)]
            assert cells[0] == cells[1], (before, line)
            tables += line.startswith("|---")
    assert tables == 6


def test_requested_rules_and_left_out_rows_are_reported():
    data = splits()
    certificate = document(
        data,
        ratios=None,
        strata=["weather", "city_name"],
        hold_out={"city_name": ["Boston", "New York"]},
        rules={"group_columns": ["video"], "metres": 30.0, "seconds": 60.0, "near_duplicates": True},
        broken=[Left(id="b", reason="empty file"), Left(id="c", reason="empty file")],
        dropped=[Left(id="d", reason="label contradicts the description")],
        set_aside=[Left(id="e", reason="ties two splits")],
    )
    text = dataset_card(certificate, data, "me/streets")
    assert "| not set |" in text
    assert "were kept unchanged" in text
    assert "`weather`, `city_name`" in text
    assert "rows whose `city_name` is `Boston` or `New York` are only in `val_test`" in text
    assert "have the same `video`; or were taken within 30 m and 60 s" in text
    assert "verified on pixels" in text
    assert "| unreadable: empty file | 2 |" in text
    assert "| left out: label contradicts the description | 1 |" in text
    assert "| set aside: ties two splits | 1 |" in text


def test_conflicts_are_counted_and_shown():
    data = splits()
    conflict = LabelConflict(ids=["secret/0.jpg", "secret/6.jpg"], labels=["None", "Roadwork"], kind="near-duplicate")
    text = dataset_card(document(data).model_copy(update={"conflicts": [conflict]}), data, "me/streets")
    assert "more than once with different labels: 1, in 2 rows." in text
    assert "](conflicts.png)" in text


def test_names_of_rows_and_groups_and_paths_stay_out_of_the_card():
    data = splits()
    text = dataset_card(document(data, broken=[Left(id="/home/me/x.jpg", reason="empty")]), data, "me/streets")
    assert "secret" not in text
    assert "/home" not in text


@pytest.mark.parametrize(
    ("licences", "front", "said"),
    [
        (None, "unknown", "has no licence column"),
        (["CC BY 4.0"], "cc-by-4.0", "All photos are under cc-by-4.0."),
        (["cc-by-4.0", "https://creativecommons.org/licenses/by/4.0/"], "cc-by-4.0", "All photos are under"),
        (["cc-by-4.0", None], "other", "9 photos have no licence"),
        (["cc-by-4.0", "CC BY-NC-ND 4.0"], "other", "9 photos are under a licence that forbids passing on altered"),
        (["Attribution-NonCommercial License"], "other", "18 photos are under a licence that forbids commercial use"),
        (["4"], "other", "no single licence that the Hub knows"),
        ([None, " "], "unknown", "licence column is empty"),
    ],
)
def test_the_front_matter_names_a_licence_only_if_all_rows_have_the_same_known_one(licences, front, said):
    data = splits(licences=licences)
    text = dataset_card(document(data), data, "me/streets")
    assert DatasetCard(text).data.license == front
    assert said in " ".join(text.split("## Licence")[1].split())


def test_licences_are_read_as_people_write_them():
    for written in ("CC0 1.0", "http://creativecommons.org/publicdomain/zero/1.0/", "cc0-1.0"):
        assert hub_licence(written) == "cc0-1.0"
    assert hub_licence("CC_BY-SA 4.0") == "cc-by-sa-4.0"
    assert hub_licence("Since the photos are mine") is None
    assert licence_front({"mit": 3, "cc-by-4.0": 1}) == "other"
    assert not any("forbids" in line for line in licence_lines({"wind and sound": 2, "CC BY 4.0": 1}))
    assert any("forbids commercial use" in line for line in licence_lines({"CC_BY_NC_4.0": 2}))


def test_many_licences_are_folded():
    rows = licence_rows({f"https://photos.example/{i:03d}": 1 for i in range(50)} | {"mit": 9, None: 2})
    assert rows[0] == ("mit", 9)
    assert rows[1] == ("none", 2)
    assert rows[-1] == ("40 others", 40)
    assert len(rows) == 13
