"""How a plan divides rows: a publisher's test part, values held out, strata, altered copies, splits that grow."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Image, load_from_disk
from PIL import Image as Pillow
from PIL import ImageOps
from split_rows import unopened

from natix_hf.data.load_photos import load_photos, split_photos
from natix_hf.data.sources.rows import Rows
from natix_hf.data.splits.certificate import read_certificate
from natix_hf.data.splits.contracts import SPLITS
from natix_hf.data.splits.cut import cut
from natix_hf.data.splits.growing import _together
from natix_hf.data.splits.saved_folder import save
from natix_hf.data.splits.split_options import Plan
from natix_hf.documents.figures import Left
from natix_hf.documents.split_certificate import SplitCertificate
from natix_hf.errors import UserError
from natix_hf.scenes.photos import generate


def plan(**changes) -> Plan:
    return Plan(near_duplicates=False, **changes)


def homes(description: SplitCertificate) -> dict[str, str]:
    return {row: split for split in SPLITS for row in description.ids[split]}


def test_a_publishers_test_part_is_val_test_and_nothing_else_is():
    origin = ["test" if i >= 150 else "train" for i in range(200)]
    description = cut(unopened(origin=origin), plan()).description
    assert set(description.ids["val_test"]) == {f"r{i:04d}" for i in range(150, 200)}
    assert [description.sizes[split] for split in SPLITS[:3]] == [100, 25, 25]  # .60 : .15 : .15 of 150
    assert description.set_aside == []


def test_rows_tied_to_the_publishers_test_part_are_set_aside_and_listed():
    origin = ["test" if i >= 150 else "train" for i in range(200)]
    group = [f"row:{i}" for i in range(200)]
    group[3] = group[7] = group[160] = "video"
    description = cut(unopened(origin=origin, group=group), plan()).description
    assert {row.id for row in description.set_aside} == {"r0003", "r0007"}
    assert "'r0160' of the source's own test split" in description.set_aside[0].reason
    assert not {"r0003", "r0007"} & set(homes(description))
    assert description.straddling == 0


def test_a_publishers_test_part_is_pooled_only_when_asked():
    origin = ["test" if i >= 150 else "train" for i in range(200)]
    description = cut(unopened(origin=origin), plan(test_split="merge")).description
    there = Counter(homes(description)[f"r{i:04d}"] for i in range(150, 200))
    assert len(there) == 4
    assert description.sizes == dict(zip(SPLITS, (120, 30, 30, 20)))


def test_held_out_values_stand_in_val_test_alone_with_their_groups():
    city = ["Boston" if i % 10 == 0 else "Austin" for i in range(200)]
    group = [f"row:{i}" for i in range(200)]
    group[20] = group[21] = "one drive through both"
    done = cut(unopened(city=city, group=group), plan(hold_out={"city": ["Boston"]}))
    there = homes(done.description)
    assert {there[f"r{i:04d}"] for i in range(0, 200, 10)} == {"val_test"}
    assert there["r0021"] == "val_test"
    assert set(done.places["train"]["city"][:]) == {"Austin"}
    assert done.description.hold_out == {"city": ["Boston"]}


def test_values_that_are_to_be_the_whole_test_are_it_and_rows_tied_to_them_are_set_aside():
    city = ["Boston" if i % 10 == 0 else "Austin" for i in range(200)]
    origin = ["test" if i >= 150 else "train" for i in range(200)]
    group = [f"row:{i}" for i in range(200)]
    group[0] = group[1] = group[2] = "video"  # row 0 is in Boston
    held = {"hold_out": {"city": ["Boston"]}, "test_alone": True}
    done = cut(unopened(city=city, group=group, origin=origin), plan(**held))
    assert set(done.places["val_test"]["city"][:]) == {"Boston"}
    assert done.description.sizes["val_test"] == 20
    assert {row.id for row in done.description.set_aside} == {"r0001", "r0002"}
    assert "'r0000' of the values held out" in done.description.set_aside[0].reason
    sizes = [done.description.sizes[split] for split in SPLITS[:3]]
    assert sum(sizes) == 178
    assert sizes == pytest.approx([178 * share / 0.9 for share in (0.60, 0.15, 0.15)], abs=1)
    assert done.description.hold_out == {"city": ["Boston"]}
    assert done.description.straddling == 0
    # The publisher's own test part is pooled: its rows outside Boston train too.
    assert "train" in {homes(done.description)[f"r{i:04d}"] for i in range(151, 160)}


def test_a_whole_test_may_have_one_class():
    city = ["Boston" if i % 20 == 0 else "Austin" for i in range(200)]  # class None alone
    held = {"hold_out": {"city": ["Boston"]}, "test_alone": True}
    assert cut(unopened(city=city), plan(**held)).description.class_counts["val_test"] == {"None": 10, "Roadwork": 0}


def test_strata_are_kept_in_proportion_and_named():
    weather = ["fog" if i % 20 < 2 else "clear" for i in range(400)]
    done = cut(unopened(400, weather=weather), plan(strata=["weather"]))
    for split, count in zip(SPLITS, (24, 6, 6, 4)):
        assert Counter(done.places[split]["weather"][:])["fog"] == count
    assert done.description.strata == ["weather"]


def test_target_and_reached_ratios_are_reported_when_whole_groups_do_not_allow_the_target():
    group = [f"g{i // 40}" for i in range(200)]
    description = cut(unopened(group=group), plan(ratios=(0.4, 0.2, 0.2, 0.2))).description
    assert description.ratios == [0.4, 0.2, 0.2, 0.2]
    assert description.reached == {"train": 0.4, "val_select": 0.2, "val_calib": 0.2, "val_test": 0.2}
    small = cut(unopened(group=group), plan(ratios=(0.55, 0.15, 0.15, 0.15))).description
    assert sum(small.reached.values()) == pytest.approx(1)
    assert small.reached["train"] != 0.55


CITIES = ["Boston", "Austin"] * 100  # Boston has all photos of the class None
LONG_VIDEO = ["one long video" if i < 120 else f"row:{i}" for i in range(200)]


@pytest.mark.parametrize(
    ("columns", "changes", "line"),
    [
        ({}, {"test_split": "mix"}, "test_split: expected keep or merge, found 'mix'"),
        ({}, {"metres": 5.0}, "metres: needs place_column"),
        ({}, {"ratios": (0.5, 0.5, 0.1, 0.1)}, "four positive numbers"),
        ({}, {"strata": ["weather"]}, "no column 'weather'"),
        ({}, {"hold_out": {"town": ["x"]}}, "no column 'town'"),
        ({}, {"test_alone": True}, "test_alone: needs hold_out"),
        (
            {"city": CITIES},
            {"hold_out": {"city": ["Bostn"]}},
            "no row has city = 'Bostn': its values are Austin, Boston",
        ),
        ({"city": CITIES}, {"hold_out": {"city": ["Boston"]}, "test_alone": True}, "'None' has 0 photos"),
        ({"group": LONG_VIDEO}, {}, "'one long video' has 120 of 200 rows"),
    ],
)
def test_a_split_that_is_not_possible_is_refused(columns, changes, line):
    with pytest.raises(UserError, match=line):
        cut(unopened(**columns), plan(**changes))


def test_given_splits_hold_nothing_out():
    given = Rows(DatasetDict(dict.fromkeys(SPLITS, unopened(20).data)), [])
    with pytest.raises(UserError, match="already has the four splits, which are kept"):
        cut(given, plan(hold_out={"city": ["Boston"]}))


# -- real photos ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """60 scenes in class folders, 12 of them again as altered copies."""
    folder = tmp_path_factory.mktemp("with-copies")
    made = generate(folder / "scenes", 60, 41, workers=1, size=(320, 180), progress=False)
    lines = (made / "metadata.csv").read_text().splitlines()[1:]
    for i, line in enumerate(lines):
        name, label = line.split(",")[:2]
        target = folder / "photos" / label
        target.mkdir(parents=True, exist_ok=True)
        photo = ImageOps.exif_transpose(Pillow.open(made / name)).convert("RGB")
        photo.save(target / f"{i:03d}.jpg", quality=92)
        if i % 5 == 0:
            again = ImageOps.mirror(photo) if i % 2 else photo.resize((photo.width // 2, photo.height // 2))
            again.save(target / f"{i:03d}-copy.jpg", quality=70)
    return folder / "photos"


def test_altered_copies_stand_in_one_split(photos):
    description = load_photos(photos).description
    there = homes(description)
    copies = [row for row in there if row.endswith("-copy.jpg")]
    assert len(copies) == 12
    assert all(there[row] == there[row.replace("-copy", "")] for row in copies)
    assert description.ties["near-duplicate"] >= 12
    apart = homes(load_photos(photos, near_duplicates=False, split_seed=1).description)
    assert any(apart[row] != apart[row.replace("-copy", "")] for row in copies)  # chance would part some


def test_given_splits_with_an_altered_copy_in_two_are_refused_by_name(photos, tmp_path):
    done = cut_photos(photos)
    parts = {split: done.places[split] for split in SPLITS}
    copy = next(row for row in done.description.ids["train"] if row.endswith("-copy.jpg"))
    ids = parts["train"]["id"][:]
    moved = parts["train"].select([ids.index(copy)])
    parts["train"] = parts["train"].select([i for i, row in enumerate(ids) if row != copy])
    parts["val_test"] = Dataset.from_list([*parts["val_test"], *moved], features=moved.features)
    given = DatasetDict({split: part.remove_columns("group") for split, part in parts.items()})
    with pytest.raises(UserError, match=r"own splits share 1 near-duplicate: .*-copy.jpg.*near_duplicates: false"):
        load_photos(given)
    assert load_photos(given, near_duplicates=False).sizes["val_test"] == done.description.sizes["val_test"] + 1


def cut_photos(photos: Path, **plan_fields):
    return split_photos([photos], **plan_fields)


@pytest.fixture(scope="module")
def saved(photos, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "streets"
    save(cut_photos(photos), folder)
    return folder


def test_a_saved_split_comes_back_the_same_with_its_certificate(saved):
    document = read_certificate(saved)
    back = load_photos(saved)
    assert back.description == document
    assert (saved / "SPLITS.md").read_text().startswith("# ")
    assert {path.name for path in saved.iterdir()} == {*SPLITS, "dataset_dict.json", "splits.json", "SPLITS.md"}


def test_a_saved_split_holds_its_photos_and_no_path_of_this_machine(saved, photos):
    train = load_from_disk(str(saved))["train"].cast_column("image", Image(decode=False))
    row = train[0]
    assert row["image"]["bytes"] == (photos / row["id"]).read_bytes()
    assert "/" not in row["image"]["path"]
    assert "look" not in train.column_names


def test_a_splits_json_edited_by_hand_is_refused(saved, tmp_path):
    import shutil

    folder = shutil.copytree(saved, tmp_path / "edited")
    told = read_certificate(folder)
    told.model_copy(update={"sizes": told.sizes | {"train": 1}}).write(folder)
    with pytest.raises(UserError, match="edited by hand or damaged"):
        load_photos(folder)
    moved, *stay = told.ids["train"]
    ids = told.ids | {"train": stay, "val_test": [*told.ids["val_test"], moved]}
    SplitCertificate.sealed(**dict(told) | {"ids": ids}).write(folder)
    with pytest.raises(UserError, match="does not match the rows beside it"):
        load_photos(folder)


# -- growing ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def more(photos, tmp_path_factory) -> Path:
    """12 new scenes, a file that is already there, and a mirrored copy of a photo that is there."""
    folder = tmp_path_factory.mktemp("more")
    made = generate(folder / "scenes", 12, 42, workers=1, size=(320, 180), progress=False)
    for i, line in enumerate((made / "metadata.csv").read_text().splitlines()[1:]):
        name, label = line.split(",")[:2]
        (folder / "photos" / label).mkdir(parents=True, exist_ok=True)
        ImageOps.exif_transpose(Pillow.open(made / name)).save(folder / "photos" / label / f"{i:03d}.jpg", quality=92)
    label = next(path for path in photos.rglob("003.jpg")).parent.name
    (folder / "photos" / label / "same.jpg").write_bytes((photos / label / "003.jpg").read_bytes())
    mirrored = ImageOps.mirror(Pillow.open(photos / label / "003.jpg"))
    mirrored.save(folder / "photos" / label / "mirrored.jpg", quality=85)
    return folder / "photos"


def test_growing_moves_no_row_and_new_copies_join_their_photo(saved, more, photos):
    before, after = read_certificate(saved), split_photos([more], extend=saved).description
    old, new = homes(before), homes(after)
    assert {row: new[row] for row in old} == old
    for part in ("fit", "control"):
        assert set(getattr(before.parts.val_calib, part)) <= set(getattr(after.parts.val_calib, part))
    label = next(path for path in photos.rglob("003.jpg")).parent.name
    assert new[f"{label}/mirrored.jpg"] == old[f"{label}/003.jpg"]
    assert any(row.id == f"{label}/same.jpg" and "already there" in row.reason for row in after.dropped)
    assert len(new) == len(old) + 13
    assert after.straddling == 0
    renamed = [row for row in new if "~" in row]  # 000.jpg to 011.jpg were there in their class, as other photos
    assert renamed
    groups = {row: g for s in SPLITS for row, g in zip(before.ids[s], load_from_disk(str(saved))[s]["group"])}
    grown = split_photos([more], extend=saved)
    kept = {row: g for s in SPLITS for row, g in zip(grown.places[s]["id"][:], grown.places[s]["group"][:])}
    assert sum(kept[row] != name for row, name in groups.items()) <= 2  # but for the photo that got a copy


def test_group_columns_of_new_photos_continue_those_of_the_earlier_ones():
    rows = unopened(8, group=list("aabbccdd"), video=list("vvwwxxyy"))
    old = DatasetDict({split: rows.data.select([2 * i, 2 * i + 1]) for i, split in enumerate(SPLITS)})
    earlier = SimpleNamespace(places=old, description=SimpleNamespace(broken=[], dropped=[]))
    new = unopened(3, id=["r0000", "n1", "n2"], fingerprint=["f" * 32, f"{1:032x}", "e" * 32]).data
    columns = {"video": ["w", None, "z"], "weather": ["fog", "rain", None]}
    grown = _together(Rows(old, []), Rows(new, [], group_values=columns), earlier)
    assert grown.data["id"][8:] == ["r0000~ffffffff", "n2"]  # the second is a copy of a photo that is there
    assert grown.group_values == {
        "group": [*"aabbccdd", None, None],
        "video": [*"vvwwxxyy", "w", "z"],
        "weather": [None] * 8 + ["fog", None],
    }


def test_a_new_photo_that_ties_rows_of_two_splits_is_set_aside(tmp_path):
    base = unopened(200, group=[f"v{i // 2}" for i in range(200)])
    earlier = cut(base, plan())
    there = homes(earlier.description)
    first = next(row for row in there if there[row] == "train")
    second = next(row for row in there if there[row] == "val_test")
    together = Dataset.from_list(
        [*base.data, {**base.data[0], "id": "bridge", "fingerprint": "f" * 32, "group": "x"}],
        features=base.data.features,
    )
    places = {row: i for i, row in enumerate(base.data["id"][:])}
    bridge = [None] * 200 + ["b"]
    drives = [None] * 200 + ["d"]
    bridge[places[first]], drives[places[second]] = "b", "d"
    values = {"group": [*base.data["group"][:], None], "bridge": bridge, "drive": drives}
    grown = cut(Rows(together, [], group_values=values), plan(), earlier=earlier).description
    assert grown.set_aside == [Left(id="bridge", reason="tied to rows of train and val_test")]
    assert homes(grown) == there


def test_only_a_folder_of_splits_can_be_extended(photos, more):
    with pytest.raises(UserError, match="no certificate"):
        split_photos([more], extend=photos)


def test_the_same_rows_in_any_order_give_the_same_certificate(photos):
    first = cut_photos(photos).description
    paths = sorted(photos.rglob("*.jpg"), key=lambda path: path.name[::-1])
    table = {"image": [str(path) for path in paths], "label": [path.parent.name for path in paths]}
    table["id"] = [str(path.relative_to(photos)) for path in paths]
    second = split_photos([Dataset.from_dict(table).cast_column("image", Image())]).description
    same = ("fingerprints", "ties", "reached", "group_sizes", "class_counts")
    assert [getattr(first, name) for name in same] == [getattr(second, name) for name in same]
    assert np.all([set(first.ids[split]) == set(second.ids[split]) for split in SPLITS])
