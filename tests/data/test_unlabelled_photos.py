"""Which photos a source holds where labels do not count: the same as training finds, whatever the source."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict
from datasets import Image as ImageFeature

from natix_hf import UserError
from natix_hf.data.own_photos import have_labels, read_unlabelled
from natix_hf.data.sources.rows import load_rows
from natix_hf.inference.named_photos import find_photos


def copies(source: Path, *targets: Path) -> None:
    for target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())


def trained_on(folder: Path) -> list[str]:
    return sorted(f"{folder}/{name}" for name in load_rows(str(folder), broken_photos="skip").data["id"][:])


def test_predict_lists_what_training_does_and_names_what_cannot_be_read(photo_folder, tmp_path):
    photo = photo_folder / "None" / "000.jpg"
    copies(photo, *(photo_folder / "None" / name for name in ("._000.jpg", "__MACOSX/1.jpg", ".hidden/2.jpg")))
    copies(photo, tmp_path / "elsewhere" / "linked.jpg")
    (photo_folder / "Roadwork" / "more").symlink_to(tmp_path / "elsewhere")
    (photo_folder / "Roadwork" / "back").symlink_to(photo_folder)
    (photo_folder / "None" / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    (photo_folder / "None" / "notes.txt").write_text("no photo")
    names, _ = find_photos(str(photo_folder))
    assert len(names) == 48 + 2
    assert sorted({*names} - {f"{photo_folder}/None/phone.HEIC"}) == trained_on(photo_folder)
    found = read_unlabelled(str(photo_folder), {})
    assert [one.id for one in found.broken] == ["None/phone.HEIC"]
    assert sorted(f"{photo_folder}/{name}" for name in found.rows["id"][:]) == trained_on(photo_folder)


@pytest.mark.parametrize("files", [("run.json", "splits.json"), ("splits.json", "SPLITS.md"), ("find_lr.json",)])
def test_figures_and_tables_of_what_this_package_wrote_are_no_photos(photo_folder, files):
    ours = photo_folder / "None" / "lora"
    copies(photo_folder / "None" / "000.jpg", ours / "figures" / "reliability.png", ours / "conflicts.png")
    assert len(find_photos(str(photo_folder))[0]) == 50
    copies(photo_folder / "None" / "000.jpg", ours / "predictions" / "val_test.parquet")
    for name in files:
        (ours / name).write_text("{}")
    assert len(find_photos(str(photo_folder))[0]) == 48
    assert len(load_rows(str(photo_folder)).data) == 48
    with pytest.raises(UserError, match="no photos in this folder"):
        find_photos(str(ours))


@pytest.mark.parametrize("table", ["file,label,p_None,p_Roadwork,error\nx.jpg,None,1,0,\n", '{"file": "x.jpg"}\n'])
def test_predictions_written_beside_the_photos_change_nothing(photo_folder, table):
    (photo_folder / f"predictions.{'csv' if 'p_' in table else 'jsonl'}").write_text(table)
    assert len(find_photos(str(photo_folder))[0]) == 48
    assert have_labels(str(photo_folder))


def tables(folder: Path) -> list[str]:
    """Sources of the same five photos in every form that training takes."""
    photos = [f"None/{i:03d}.jpg" for i in range(3)] + [f"Roadwork/{i:03d}.jpg" for i in (3, 4)]
    labels = [name.split("/")[0] for name in photos]
    (folder / "some.csv").write_text("image_path,label\n" + "".join(f"{p},{n}\n" for p, n in zip(photos, labels)))
    lines = [f'{{"file_name": "{p}", "label": "{n}"}}\n' for p, n in zip(photos, labels)]
    (folder / "some.jsonl").write_text("".join(lines))
    rows = Dataset.from_dict({"image": [str(folder / p) for p in photos], "label": labels})
    rows = rows.cast_column("image", ImageFeature())
    rows.to_parquet(folder / "some.parquet")
    rows.save_to_disk(folder.parent / "saved")
    DatasetDict(train=rows.select([0, 1, 3]), test=rows.select([2, 4])).save_to_disk(folder.parent / "divided")
    return [
        *(str(folder / f"some.{kind}") for kind in ("csv", "jsonl", "parquet")),
        str(folder.parent / "saved"),
        str(folder.parent / "divided"),
    ]


@pytest.mark.parametrize("form", range(5))
@pytest.mark.parametrize("prefix", ["", "mine="])
def test_tables_and_saved_data_sets_are_read_by_predict_and_recalibrate_as_by_training(photo_folder, form, prefix):
    source = prefix + tables(photo_folder)[form]
    rows = load_rows(source).data
    names, photos = find_photos(source)
    assert sorted(name.removeprefix(f"{photo_folder}/") for name in names) == sorted(rows["id"][:])
    assert all(Path(name).is_file() for name in names) or form > 1
    assert len(photos) == 5
    assert all(photo["bytes"] or Path(photo["path"]).is_file() for photo in photos)
    assert have_labels(source)
    assert sorted(read_unlabelled(source, {}).rows["fingerprint"][:]) == sorted(rows["fingerprint"][:])


def test_rows_of_photos_without_ids_whose_names_are_not_their_own_are_numbered(photo_folder, tmp_path):
    paths = [str(photo_folder / name / "000.jpg") for name in ("None", "Roadwork")] * 2
    rows = Dataset.from_dict({"image": paths}).cast_column("image", ImageFeature())
    DatasetDict(train=rows, test=rows.select([0])).save_to_disk(tmp_path / "saved")
    assert find_photos(str(tmp_path / "saved"))[0] == ["train/0", "train/1", "train/2", "train/3", "test/0"]


def test_imagefolder_s_table_says_which_photos_there_are(photo_folder):
    rows = "".join(f"None/{i:03d}.jpg,None\nRoadwork/{i:03d}.jpg,Roadwork\n" for i in range(12))
    (photo_folder / "metadata.csv").write_text("file_name,label\n" + rows)
    assert len(find_photos(str(photo_folder))[0]) == 24
    assert sorted(find_photos(str(photo_folder))[0]) == trained_on(photo_folder)


def test_a_glob_below_folders_with_brackets(tmp_path, make_photos):
    make_photos(tmp_path / "site [north]" / "2024 [a]", {"None": (100, 120, 110)}, 3)
    folder = tmp_path / "site [north]"
    expected = [f"{folder}/2024 [a]/None/00{i}.jpg" for i in range(3)]
    for pattern in ("2024 [a]/None/*.jpg", "2024 [a]/*/0?[0-2].jpg", "**/*.jpg", "*/None/*", "* [a]/None/*.jpg"):
        assert find_photos(f"{folder}/{pattern}")[0] == expected, pattern
    assert find_photos(f"{folder}/2024 [a]/None/00[01].jpg")[0] == expected[:2]
    assert len(find_photos(f"{tmp_path}/site [[]north]/**/*.jpg")[0]) == 3


def test_a_glob_takes_the_photos_alone_where_there_are_any(photo_folder):
    (photo_folder / "None" / "notes.txt").write_text("no photo")
    copies(photo_folder / "None" / "000.jpg", photo_folder / "__MACOSX" / "000.jpg", photo_folder / "upload")
    assert len(find_photos(f"{photo_folder}/**")[0]) == 48
    assert find_photos(f"{photo_folder}/up*")[0] == [f"{photo_folder}/upload"]
    assert len(read_unlabelled(f"{photo_folder}/None/*", {}).rows) == 24
    assert not have_labels(f"{photo_folder}/None/*")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look into every folder")
def test_a_folder_that_cannot_be_looked_into_is_not_passed_over(photo_folder):
    (photo_folder / "None").chmod(0)
    try:
        with pytest.raises(PermissionError):
            find_photos(str(photo_folder))
    finally:
        (photo_folder / "None").chmod(0o755)
