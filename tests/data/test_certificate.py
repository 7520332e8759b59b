"""The certificate: counted by hand for a split of twelve rows, sealed, and bound to the rows beside it."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from datasets import Dataset
from scipy.stats import chi2_contingency
from split_rows import unopened

from natix_hf.data.sources.rows import Rows
from natix_hf.data.splits.certificate import bind, describe, prior_shift, read_certificate
from natix_hf.data.splits.certificate_text import certificate_text, shift_sentence, summary_lines
from natix_hf.data.splits.contracts import SPLITS
from natix_hf.data.splits.groups import Grouping, Pair
from natix_hf.documents.figures import Left
from natix_hf.documents.split_certificate import Halves, LabelConflict, LargestGroup, Rules, SplitCertificate
from natix_hf.errors import UserError

# id, label, group, split; b and c of the video v1 are copies of each other with different labels
ROWS = [
    ("a", 0, "v1", "train"),
    ("b", 0, "v1", "train"),
    ("c", 1, "v1", "train"),
    ("d", 1, "row:d", "train"),
    ("e", 0, "row:e", "val_select"),
    ("f", 1, "row:f", "val_select"),
    ("g", 0, "v2", "val_calib"),
    ("h", 1, "v2", "val_calib"),
    ("i", 0, "row:i", "val_calib"),
    ("j", 1, "row:j", "val_calib"),
    ("k", 0, "row:k", "val_test"),
    ("l", 1, "row:l", "val_test"),
]
PARTS = {"fit": ["g", "h"], "control": ["i", "j"]}


def table(rows: list[tuple], **changes) -> Dataset:
    """Rows as a saved folder has them; `changes` maps an id to the fingerprint of another photo."""
    ids, labels, groups, _ = map(list, zip(*rows))
    source = ["city" if name < "c" else "real" for name in ids]
    prints = [changes.get(name, 32 * name) for name in ids]
    return unopened(len(rows), id=ids, label=labels, group=groups, source=source, fingerprint=prints).data


def places(rows: list[tuple] = ROWS, **changes) -> dict[str, Dataset]:
    found = {split: table([row for row in rows if row[3] == split], **changes) for split in SPLITS}
    for part, ids in PARTS.items():
        found[f"val_calib/{part}"] = table([row for row in rows if row[0] in ids], **changes)
    return found


def grouping(rows: list[tuple] = ROWS, pairs: list[Pair] | None = None, ties: dict | None = None) -> Grouping:
    names, numbers = np.unique([row[2] for row in rows], return_inverse=True)
    pairs = [Pair(1, 2, "near-duplicate", "cropped", 0.97)] if pairs is None else pairs
    return Grouping(numbers, names.tolist(), ties or {"video": 3, "bytes": 0, "near-duplicate": 1}, pairs)


def document(rows: list[tuple] = ROWS, group=None, **facts) -> SplitCertificate:
    ratios = (0.4, 0.2, 0.2, 0.2)
    source = Rows(table(rows), [Left(id="x", reason="no such file")], [Left(id="y", reason="label 0, described")])
    return describe(places(rows), source, group or grouping(rows), **{"ratios": ratios, "seed": 3} | facts)


def test_everything_is_counted_from_the_rows():
    found = document(set_aside=[Left(id="z", reason="ties train and val_test")])
    assert json.loads(found.text())["version"] == 2
    assert found.sizes == {"train": 4, "val_select": 2, "val_calib": 4, "val_test": 2}
    assert found.reached == {"train": 4 / 12, "val_select": 2 / 12, "val_calib": 4 / 12, "val_test": 2 / 12}
    assert found.class_counts["train"] == {"None": 2, "Roadwork": 2}
    assert found.class_counts["val_calib/fit"] == {"None": 1, "Roadwork": 1}
    assert found.groups == {
        "train": 2,
        "val_select": 2,
        "val_calib": 3,
        "val_test": 2,
        "val_calib/fit": 1,
        "val_calib/control": 2,
    }
    assert found.group_sizes["train"] == {"1": 1, "2": 0, "3-5": 1, "6-10": 0, "over 10": 0}
    assert found.group_sizes["val_calib"] == {"1": 2, "2": 1, "3-5": 0, "6-10": 0, "over 10": 0}
    assert found.largest_group == LargestGroup(name="v1", rows=3, share=3 / 12)
    assert found.sources == {"city": 2, "real": 10}
    assert found.ties == {"video": 3, "bytes": 0, "near-duplicate": 1}
    assert found.straddling == 0
    assert found.conflicts == [LabelConflict(ids=["b", "c"], labels=["None", "Roadwork"], kind="near-duplicate")]
    assert found.ids["val_test"] == ["k", "l"]
    assert found.parts.val_calib == Halves(**PARTS)
    assert [rows[0].id for rows in (found.broken, found.dropped, found.set_aside)] == ["x", "y", "z"]
    assert found.prior_shift.chi2 == 0
    assert found.prior_shift.p == 1
    assert found.prior_shift.shares["val_calib"] == {"None": 0.5, "Roadwork": 0.5}


def test_fingerprints_are_those_of_the_description():
    digest = hashlib.blake2b(("k\0" + 32 * "k" + "\nl\0" + 32 * "l" + "\n").encode(), digest_size=16).hexdigest()
    photos = hashlib.blake2b((32 * "k" + "\n" + 32 * "l" + "\n").encode(), digest_size=16).hexdigest()
    found = document()
    assert found.fingerprints["val_test"] == digest
    assert found.byte_fingerprints["val_test"] == photos
    assert found.photo_prints["val_test"] == 16 * "k" + 16 * "l"
    shuffled = document([*reversed(ROWS)], group=grouping([*reversed(ROWS)], pairs=[]))
    assert shuffled.fingerprints == found.fingerprints
    assert shuffled.fingerprint == found.fingerprint


@pytest.mark.parametrize(
    ("size", "bucket"),
    [(1, "1"), (2, "2"), (3, "3-5"), (5, "3-5"), (6, "6-10"), (10, "6-10"), (11, "over 10")],
)
def test_sizes_of_groups_are_sorted_into_their_classes(size, bucket):
    rows = [(f"t{i:02d}", i % 2, "big", "train") for i in range(size)] + ROWS[3:]
    assert document(rows, group=grouping(rows, pairs=[])).group_sizes["train"][bucket] == 1 + (size == 1)


def test_straddling_counts_groups_by_their_ties_and_not_by_their_names():
    # The tie k-d joins a group of train with one of val_test, whatever the rows' column says.
    numbers = grouping().numbers.copy()
    numbers[10] = numbers[3]
    tied = Grouping(numbers, grouping().names, {"bytes": 1}, [Pair(3, 10, "bytes", "same", 1.0)])
    assert document(group=tied).straddling == 1


def test_rows_that_stand_nowhere_are_neither_in_conflict_nor_straddle():
    placed = places([row for row in ROWS if row[0] not in "ck"])
    found = describe(placed, Rows(table(ROWS), []), grouping(), ratios=None, seed=0)
    assert (found.conflicts, found.straddling, found.ratios) == ([], 0, None)


def test_a_conflict_takes_in_all_copies_and_the_least_sure_of_their_ties():
    pairs = [Pair(0, 1, "bytes", "same", 1.0), Pair(1, 2, "pixels", "same", 1.0), Pair(4, 5, "bytes", "same", 1.0)]
    assert document(group=grouping(pairs=pairs)).conflicts == [
        LabelConflict(ids=["a", "b", "c"], labels=["None", "None", "Roadwork"], kind="pixels"),
        LabelConflict(ids=["e", "f"], labels=["None", "Roadwork"], kind="bytes"),
    ]


def test_without_grouping_the_column_of_groups_is_what_counts():
    moved = [*ROWS[:2], ("c", 1, "v1", "val_test"), *ROWS[3:]]
    found = describe(places(moved), Rows(table(moved), []), None, ratios=None, seed=0)
    assert (found.straddling, found.ties, found.conflicts) == (1, {}, [])


def test_prior_shift_is_the_chi_squared_test_of_scipy():
    counts = {
        "train": {"None": 120, "Roadwork": 480},
        "val_select": {"None": 45, "Roadwork": 105},
        "val_calib": {"None": 30, "Roadwork": 120},
        "val_test": {"None": 10, "Roadwork": 90},
    }
    reference = chi2_contingency([[120, 480], [45, 105], [30, 120], [10, 90]])
    found = prior_shift(counts)
    assert (found.chi2, found.p) == pytest.approx((reference.statistic, reference.pvalue), rel=1e-12)
    assert found.dof == 3
    assert found.shares["val_test"] == {"None": 0.1, "Roadwork": 0.9}


def test_a_class_without_photos_is_left_out_of_the_test():
    counts = dict(zip(SPLITS, ({"a": 6, "b": 4, "c": 0}, {"a": 3, "b": 3, "c": 0}, {"a": 1, "b": 3, "c": 0})))
    assert prior_shift(counts | {"val_test": {"a": 2, "b": 2, "c": 0}}).dof == 3


def test_a_document_that_was_edited_is_refused(tmp_path):
    path = tmp_path / "splits.json"
    document().write(tmp_path)
    assert json.loads(read_certificate(tmp_path).text()) == json.loads(path.read_text())
    path.write_text(path.read_text().replace('"straddling": 0', '"straddling": 1'))
    with pytest.raises(UserError, match=r"splits\.json: edited by hand or damaged.*split again"):
        read_certificate(tmp_path)


def test_the_seal_is_the_digest_of_the_canonical_json():
    found = document(strata=["größe"], rules=Rules(group_columns=[], metres=30, seconds=1.5, near_duplicates=True))
    content = json.loads(found.text())
    del content["seal"]
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert '"metres":30,' in canonical
    assert found.seal == hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()
    SplitCertificate.parse(found.text(), "splits.json").check_seal("splits.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no certificate"),
        ("{", "not JSON"),
        ('{"version": 1}', "expected version 2, which this release reads; found 1"),
        ('{"version": 2}', "missing"),
        ("[]", "not a JSON object"),
    ],
)
def test_a_certificate_that_is_not_one_is_refused_in_one_line(tmp_path, content, message):
    if content is not None:
        (tmp_path / "splits.json").write_text(content)
    with pytest.raises(UserError, match=message) as error:
        read_certificate(tmp_path)
    assert "\n" not in str(error.value)


def test_the_rows_beside_a_certificate_are_compared_with_it():
    found = document()
    assert bind(found, places()) == []
    assert bind(found, places(k=32 * "0")) == [
        "val_test: the photos are not the ones that splits.json was made for (fingerprints differ)"
    ]
    moved = [*ROWS[:-1], ("l", 1, "row:l", "train")]
    assert bind(found, places(moved)) == [
        "train: 1 rows are not in splits.json: l",
        "train: the number of photos per class differs from splits.json",
        "val_test: 1 rows are in splits.json but not in the data set: l",
        "val_test: the number of photos per class differs from splits.json",
    ]
    relabelled = [("a", 1, "v1", "train"), *ROWS[1:]]
    assert bind(found, places(relabelled)) == ["train: the number of photos per class differs from splits.json"]
    in_fit = bind(found, places(g=32 * "0"))
    assert (
        in_fit[1] == "val_calib/fit: the photos are not the ones that splits.json was made for (fingerprints differ)"
    )


def test_the_text_says_what_the_document_says():
    rules = Rules(group_columns=["video"], metres=30.0, seconds=60.0, near_duplicates=True)
    found = document(rules=rules, hold_out={"city": ["Boston"]}, strata=["weather"])
    text = certificate_text(found)
    for line in (
        "| train | 4 | 40.0% | 33.3% | 2 | 2 | 2 |",
        "| val_calib/fit | 2 |  |  | 1 | 1 | 1 |",
        "Only in val_test: `city` = `Boston`.",
        "| city | 2 |",
        "| near-duplicate | 1 |",
        "| val_calib | 2 | 1 | 0 | 0 | 0 |",
        "- near-duplicate: `b` None, `c` Roadwork",
        "- `x`: no such file",
        f"| val_test | `{found.fingerprints['val_test']}` | `{found.byte_fingerprints['val_test']}` |",
    ):
        assert line in text.splitlines()
    assert (
        "0 groups straddle two splits. Rows are kept in one split if they share one of: the same `video`; within 30 m "
        "and 60 s" in text
    )
    assert "(chi-squared 0.00, 3 degrees of freedom, p = 1)" in text
    assert summary_lines(found)[0] == "train: 4 photos (33.3%), 2 groups; None 2, Roadwork 2"


def test_a_long_list_is_cut_and_says_how_much_is_missing():
    many = [Left(id=f"m{i:03d}", reason="two\nlines | and a bar") for i in range(57)]
    lines = certificate_text(document(set_aside=many)).splitlines()
    assert "57 rows that no split can take without a leak:" in lines
    assert lines.count("- `m049`: two lines | and a bar") == 1
    assert not any("m050" in line for line in lines)
    assert "- and 7 more, see splits.json" in lines


def test_a_shift_of_the_prior_is_told_in_a_sentence():
    counts = {
        "train": {"None": 120, "Roadwork": 480},
        "val_select": {"None": 45, "Roadwork": 105},
        "val_calib": {"None": 30, "Roadwork": 120},
        "val_test": {"None": 10, "Roadwork": 90},
    }
    assert shift_sentence(prior_shift(counts)).startswith(
        "Class shares differ between the splits, enough to matter: Roadwork is 70.0% in val_select and 90.0% "
        "in val_test (chi-squared 15.19"
    )
