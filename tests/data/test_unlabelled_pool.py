"""A pool beside the splits: what is tied to val_* is left out and named, and a backbone tells what it has seen."""

import shutil

import pytest
from datasets import Dataset, Image
from PIL import Image as Pillow

from natix_hf import load_photos
from natix_hf.data.splits.contracts import SPLITS, STEPS
from natix_hf.data.splits.lineage import KEY, check_lineage, lineage
from natix_hf.data.splits.unlabelled_pool import read_pool
from natix_hf.errors import LeakageError, UserError


@pytest.fixture
def scenes(tmp_path):
    """Generated streets: photos that are told from each other by how they look."""
    from natix_hf.scenes.photos import generate

    return generate(tmp_path / "scenes", 60, 7)


@pytest.fixture
def split(scenes):
    return load_photos(str(scenes), group_column="group").dedicate("pretrain")


def photo_of(scenes, splits, name):
    """The path of the first photo of a split."""
    return next(
        path
        for path in sorted(scenes.rglob("*.jpg"))
        if path.stem in {i.rsplit("/")[-1].split(".")[0] for i in splits.description.ids[name]}
    )


def test_near_duplicates_of_val_rows_are_left_out_and_named_and_those_of_train_are_not(scenes, split, make_photos):
    pool = scenes.parent / "pool"
    pool.mkdir()
    for name in SPLITS:
        photo = Pillow.open(photo_of(scenes, split, name))
        photo.resize((photo.width // 2, photo.height // 2)).save(pool / f"{name}.jpg", quality=80)
    make_photos(pool / "more", {"x": (20, 200, 90)}, 3)
    described = split.add_pool(read_pool([str(pool)]))
    assert {one.id for one in described.tied} == {f"{name}.jpg" for name in SPLITS if name != "train"}
    assert all(f"of {one.id.removesuffix('.jpg')}" in one.reason for one in described.tied)
    assert described.photos == 4
    rows = split.rows("unlabelled", step="pretrain")
    assert {i.rsplit("/")[-1] for i in rows["id"][:]} == {"train.jpg", "000.jpg", "001.jpg", "002.jpg"}
    train = split.rows("training", step="pretrain")
    assert dict(zip(rows["id"][:], rows["group"][:]))["train.jpg"] in set(train["group"][:])
    entry = split.ledger[0]
    assert (entry.role, entry.split, entry.rows, entry.fingerprint) == ("unlabelled", "pool", 4, described.fingerprint)
    assert "4 photos without labels" in described.line()
    assert "3 are tied to val_* and left out" in described.line()


def test_a_tie_goes_on_through_other_photos_of_the_pool(scenes, split, make_photos):
    """A frame of the same video as a copy of a val photo is left out too, though it resembles nothing."""
    pool = make_photos(scenes.parent / "pool", {"video": (20, 200, 90), "other": (200, 20, 90)}, 2)
    shutil.copy(photo_of(scenes, split, "val_test"), pool / "video" / "copy.jpg")
    described = split.add_pool(read_pool([str(pool)], by_folder=True))
    assert {one.id for one in described.tied} == {"video/000.jpg", "video/001.jpg", "video/copy.jpg"}
    assert set(split.rows("unlabelled", step="pretrain")["id"][:]) == {"other/000.jpg", "other/001.jpg"}
    assert described.groups == 1


def test_a_value_of_a_group_column_ties_too(scenes, split, make_photos):
    folder = make_photos(scenes.parent / "pool", {"x": (20, 200, 90)}, 3)
    photos = sorted(str(path) for path in folder.rglob("*.jpg"))
    held = load_photos(str(scenes), group_column="group").rows("selection", step="choose checkpoint")
    table = folder.parent / "pool.parquet"
    rows = Dataset.from_dict({"image": photos, "group": [held["group"][0], "elsewhere", None]})
    rows.cast_column("image", Image()).to_parquet(table)
    described = split.add_pool(read_pool([str(table)], group_column=["group"]))
    assert len(described.tied) == 1
    assert "of val_select" in described.tied[0].reason
    assert described.photos == 2


def test_a_pool_that_is_all_tied_to_val_rows_is_refused(scenes, split):
    pool = scenes.parent / "pool"
    pool.mkdir()
    shutil.copy(photo_of(scenes, split, "val_calib"), pool / "copy.jpg")
    with pytest.raises(UserError, match=r"all 1 photos are tied to photos of val_\* \(copy.jpg is in one group with"):
        split.add_pool(read_pool([str(pool)]))


def test_a_pool_without_a_photo_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no photos in this folder"):
        read_pool([str(tmp_path / "empty")])
    (tmp_path / "empty" / "broken.jpg").write_bytes(b"nothing")
    with pytest.raises(UserError, match="none of its photos can be read"):
        read_pool([str(tmp_path / "empty")])


def test_a_pool_comes_once_for_pretraining_alone_and_nothing_else_reads_it(scenes, split, make_photos):
    pool = read_pool([str(make_photos(scenes.parent / "pool", {"x": (20, 200, 90)}, 2))])
    with pytest.raises(LeakageError, match="there is none: call add_pool"):
        split.rows("unlabelled", step="pretrain")
    split.add_pool(pool)
    with pytest.raises(LeakageError, match="can be added once"):
        split.add_pool(pool)
    with pytest.raises(LeakageError, match="the purpose of these splits is 'run'"):
        load_photos(str(scenes), group_column="group").add_pool(pool)
    for step in set(STEPS) - {"pretrain"}:
        with pytest.raises(LeakageError, match=f"step '{step}' asked for pool as unlabelled"):
            split.rows("unlabelled", step=step)
    with pytest.raises(LeakageError, match="asked for val_select as selection"):
        split.rows("selection", step="pretrain")
    with pytest.raises(LeakageError, match="may read only as training, selection, unlabelled"):
        split.rows("final_evaluation", step="final figures")


class Config:
    pass


def test_a_later_split_with_photos_that_were_seen_is_refused(scenes, split):
    seen = split.rows("training", step="pretrain")
    config = Config()
    check_lineage(config, split.description, "here")
    setattr(config, KEY, lineage([seen], base="base", certificate=split.description))
    check_lineage(config, split.description, "here")
    other = load_photos(str(scenes), group_column="group", split_seed=1).description
    with pytest.raises(LeakageError, match=r"here was pretrained on photos that this split tests with \(.* of val_"):
        check_lineage(config, other, "here")


def test_lineage_of_a_pretrained_base_goes_on(split):
    seen = split.rows("training", step="pretrain")
    first = lineage([seen.select(range(3))], base="a", certificate=split.description)
    both = lineage([seen.select(range(2, 5))], base="b", certificate=split.description, earlier=first)
    assert both["photos"] == 5
    assert both["base"] is None
    told = lineage([seen], base="facebook/dinov3-vits16-pretrain-lvd1689m", certificate=split.description)
    assert told["base"] == "facebook/dinov3-vits16-pretrain-lvd1689m"
    assert both["photo_prints"] == "".join(sorted(one[:16] for one in seen.select(range(5))["fingerprint"][:]))
