"""Generated scenes are reproducible and varied, match their labels, and offer no shortcut to them."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from natix_hf.data.sources.known_sources import read_rows
from natix_hf.errors import UserError
from natix_hf.scenes import photos as scenes
from natix_hf.scenes.light import Light
from natix_hf.scenes.paint import paint
from natix_hf.scenes.photos import BLOCK, LABELS, encode, generate, scene
from natix_hf.scenes.world import CLASSES, SUPERSAMPLE, WORK, Thing, World, build

SMALL = (320, 180)
COUNT = 30 * BLOCK


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, list[dict[str, str]]]:
    """A folder of 720 photos and its metadata rows."""
    folder = generate(tmp_path_factory.mktemp("scenes") / "photos", COUNT, 11, size=SMALL, progress=False)
    with open(folder / "metadata.csv", newline="", encoding="utf-8") as file:
        return folder, list(csv.DictReader(file))


@pytest.fixture(scope="module")
def photos(made) -> list[Image.Image]:
    folder, rows = made
    return [ImageOps.exif_transpose(Image.open(folder / row["file_name"])).convert("RGB") for row in rows]


def _held_out_accuracy(features: np.ndarray, rows: list[dict[str, str]]) -> float:
    """Best accuracy of three logistic regressions on held-out groups, each averaged over four folds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels, groups = [row["label"] == "Roadwork" for row in rows], [row["group"] for row in rows]
    scores = []
    for strength in (0.001, 0.01, 0.1):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=200))
        scores.append(cross_val_score(model, features, labels, groups=groups, cv=GroupKFold(4)).mean())
    return max(scores)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_same_seed_and_index_give_the_same_bytes():
    assert encode(scene(3, 17, SMALL)) == encode(scene(3, 17, SMALL))
    assert encode(scene(3, 17, SMALL)) != encode(scene(4, 17, SMALL))


def test_number_of_workers_changes_no_byte(tmp_path):
    one = generate(tmp_path / "one", 20, 5, workers=1, size=SMALL, progress=False)
    three = generate(tmp_path / "three", 20, 5, workers=3, size=SMALL, progress=False)
    assert _files(one) == _files(three)
    assert len(_files(one)) == 22  # photos, metadata.csv, the marker


def test_far_scenes_are_other_photos_of_the_same_groups_and_have_boxes(tmp_path):
    far = generate(tmp_path / "far", 30, 5, workers=2, size=SMALL, far=True, progress=False)
    assert _files(far) == _files(generate(tmp_path / "again", 30, 5, workers=1, size=SMALL, far=True, progress=False))
    near = generate(tmp_path / "near", 30, 5, workers=2, size=SMALL, progress=False)
    rows, usual = (list(csv.DictReader((one / "metadata.csv").open(encoding="utf-8"))) for one in (far, near))
    assert [(row["label"], row["group"]) for row in rows] == [(row["label"], row["group"]) for row in usual]
    assert "boxes" not in usual[0]
    assert (far / "images/000000.jpg").read_bytes() != (near / "images/000000.jpg").read_bytes()
    for index, row in enumerate(rows):
        shown, boxes = scene(5, index, SMALL, far=True), json.loads(row["boxes"])
        corners = [(left, top, left + width, top + height) for left, top, width, height in boxes]
        assert corners == [box for kind, box in shown.objects if kind in WORK]
        assert bool(boxes) == (row["label"] == "Roadwork")
    with pytest.raises(UserError, match="contains other files"):
        generate(far, 30, 5, size=SMALL, progress=False)


def test_far_work_objects_are_as_small_as_six_pixels_of_a_squashed_wide_photo():
    heights = []
    for index in range(120):
        shown = scene(8, index, SMALL, far=True)
        width, height = shown.image.size
        found = [bottom - top for kind, (_, top, _, bottom) in shown.objects if kind in WORK]
        assert bool(found) == bool(shown.label)
        if found:
            assert max(found) + 0.5 >= 9.6 * min(width, height) / 360, index
            heights += [224 * max(found) / height] * (width > height)
    assert min(heights) < 10
    assert np.mean(np.array(heights) < 16) > 0.1  # less than a patch
    assert np.mean(np.array(heights) > 48) > 0.05


def test_scenes_are_asked_for_by_count_size_and_distance(tmp_path, monkeypatch):
    monkeypatch.setenv("NATIX_HF_HOME", str(tmp_path))
    rows = read_rows("builtin:scenes", dataset_config="4 128x72 far")
    assert "boxes" in rows.data.column_names
    assert set(zip(rows.data["width"][:], rows.data["height"][:])) <= {(128, 72), (72, 128), (96, 54), (160, 90)}
    assert [path.name for path in tmp_path.glob("scenes/*")] == [f"100-4-v{scenes.VERSION}-128x72-far"]
    for odd in ("many", "4 near", "4 128", "4 128x72x3", "4 1x1", "4 far far", "4 far 128x72", " "):
        with pytest.raises(UserError, match="expects the number of photos, optionally followed by their size and far"):
            read_rows("builtin:scenes", dataset_config=odd)


def test_a_later_start_continues_the_same_series(tmp_path):
    later = generate(tmp_path / "later", 4, 5, workers=1, size=SMALL, start=7, progress=False)
    for index in range(7, 11):
        assert (later / f"images/{index:06d}.jpg").read_bytes() == encode(scene(5, index, SMALL))


def test_half_of_every_block_shows_roadwork(made):
    labels = np.asarray([LABELS.index(row["label"]) for row in made[1]]).reshape(-1, BLOCK)
    assert (labels.sum(axis=1) == BLOCK // 2).all()


def test_groups_are_sequences_of_one_street_with_one_label(made, photos):
    members: dict[str, list[int]] = {}
    for index, row in enumerate(made[1]):
        members.setdefault(row["group"], []).append(index)
    sizes = {len(indices) for indices in members.values()}
    assert sizes == {1, 3, 4, 5, 6, 7, 8}
    within, between = [], []
    for indices in members.values():
        assert len({made[1][i]["label"] for i in indices}) == 1
        assert len({photos[i].size for i in indices}) == 1
        for a, b in pairwise(indices):
            within.append(_difference(photos[a], photos[b]))
    wide = [photo for photo in photos if photo.size == SMALL]
    between = [_difference(a, b) for a, b in zip(wide[:-9], wide[9:], strict=True)]
    assert min(within) > 0  # the camera moves
    assert np.mean(within) < 0.5 * np.mean(between)


def _difference(a: Image.Image, b: Image.Image) -> float:
    a, b = (np.asarray(photo.resize((32, 32), Image.Resampling.BOX), np.float32) for photo in (a, b))
    return float(np.abs(a - b).mean())


def test_exif_orientations_and_shapes_vary(made, photos):
    folder, rows = made
    tags = [Image.open(folder / row["file_name"]).getexif()[0x0112] for row in rows]
    assert set(tags) == {1, 3, 6, 8}
    assert 0.1 < np.mean(np.asarray(tags) != 1) < 0.4
    ratios = {round(photo.width / photo.height, 1) for photo in photos}
    assert ratios == {1.8, 0.6, 1.3, 1.0}
    assert len({photo.size for photo in photos}) == 6
    assert {row["weather"] for row in rows} == {"clear", "overcast", "rain", "fog", "snow"}
    assert {row["daytime"] for row in rows} == {"day", "dusk", "night"}


def test_a_stored_photo_is_turned_as_its_tag_says():
    shown = next(s for s in (scene(2, i, SMALL) for i in range(200)) if s.orientation == 6)
    stored = Image.open(io.BytesIO(encode(shown)))
    assert stored.size == shown.image.size[::-1]
    assert _difference(ImageOps.exif_transpose(stored), shown.image) < 3


def test_work_zone_objects_stand_exactly_where_the_label_says_roadwork(made):
    for row in made[1]:
        seen = set(row["objects"].split())
        assert seen <= set(CLASSES)
        assert bool(seen & set(WORK)) == (row["label"] == "Roadwork"), row
    named = {kind for row in made[1] for kind in row["objects"].split()}
    assert named == set(CLASSES)


def test_boxes_lie_in_the_photo_and_a_work_object_is_28_pixels_high_at_360_rows():
    for seed, index in [*product((3, 8), range(BLOCK)), (0, 30), (7, 4)]:
        shown = scene(seed, index, SMALL)
        unit = min(shown.image.size) / 360
        largest = 0.0
        for kind, (left, top, right, bottom) in shown.objects:
            assert 0 <= left < right <= shown.image.width
            assert 0 <= top < bottom <= shown.image.height
            largest = max(largest, (bottom - top + 0.5) / unit if kind in WORK else 0.0)  # boxes are whole pixels
        assert largest >= 28 or shown.label == 0, (seed, index)


class OnlyAt(Light):
    """A light in which an object at the depth `visibility` is white and everything else is black."""

    def tint(self, depth: float):
        seen = (255, 255, 255) if depth == self.visibility else (0, 0, 0)
        return lambda colour, shine: seen


def _share_seen(world: World, frame: int, thing: Thing) -> float:
    """Share of an object's whole outline that is inside the photo and not hidden."""
    view = world.views[frame]
    width, height = view.width, view.height
    wide = replace(view, width=3 * width, height=3 * height, horizon=view.horizon + height, centre=view.centre + width)
    black = (0.0, 0.0, 0.0)
    light = OnlyAt("day", "fog", black, 0.0, black, thing.z - view.z, black, black)

    def outline(things: tuple[Thing, ...]) -> np.ndarray:
        shown = replace(world, light=light, things=things, views=(wide,))
        return np.asarray(paint(shown, 0, np.random.default_rng(0), 1)[0])[:, :, 0] > 128

    among_all, alone = outline(world.things), outline((thing,))
    rows, columns = alone.shape[0] // 3, alone.shape[1] // 3
    return among_all[rows : 2 * rows, columns : 2 * columns].sum() / alone.sum()


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4, 5, 56, 68, 103])
def test_every_frame_with_roadwork_shows_a_work_object_in_the_open(seed):
    frames = 1 + 2 * (seed % 3)
    world = build(np.random.default_rng([seed, 5]), True, frames, SMALL)
    for frame in {0, frames - 1}:
        view = world.views[frame]
        large = [
            thing
            for thing in world.things
            if thing.kind in WORK and view.focal * thing.height / (thing.z - view.z) / world.unit / SUPERSAMPLE > 31
        ]
        assert max(_share_seen(world, frame, thing) for thing in large) >= 0.6


def test_colour_histograms_do_not_tell_the_label(made, photos):
    def histogram(photo: Image.Image) -> np.ndarray:
        cells = (np.asarray(photo) // 32).reshape(-1, 3).astype(np.int64) @ [64, 8, 1]
        return np.sqrt(np.bincount(cells, minlength=512) / len(cells))

    for mode in ("RGB", "HSV"):
        features = np.stack([histogram(photo.convert(mode)) for photo in photos])
        assert _held_out_accuracy(features, made[1]) < 0.75


def test_a_random_backbone_does_not_tell_the_label(made, photos):
    import torch
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    from tests.assets.make_demo_backbone import MEAN, SHAPE, STD

    torch.manual_seed(0)
    backbone = DINOv3ViTModel(DINOv3ViTConfig(**SHAPE)).eval()
    pixels = np.stack([np.asarray(photo.resize((224, 224), Image.Resampling.BILINEAR)) for photo in photos])
    features = []
    for chunk in np.array_split(pixels, len(pixels) // 16):
        images = torch.from_numpy(chunk).permute(0, 3, 1, 2) / 255
        images = (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        with torch.no_grad():
            tokens = backbone(images).last_hidden_state
        features.append(torch.cat([tokens[:, 0], tokens[:, 5:].mean(dim=1)], dim=1).numpy())
    assert _held_out_accuracy(np.concatenate(features), made[1]) < 0.80


def test_a_finished_folder_is_kept_and_another_is_refused(tmp_path):
    folder = generate(tmp_path / "photos", 3, 1, workers=1, size=SMALL, progress=False)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert generate(folder, 3, 1, workers=2, size=SMALL, progress=False) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    with pytest.raises(UserError, match="contains other files"):
        generate(folder, 4, 1, workers=1, size=SMALL, progress=False)


def test_a_failure_half_way_leaves_nothing_behind(tmp_path, monkeypatch):
    write = scenes._write

    def fail(task):
        if task[2] == 3:
            raise OSError(28, "No space left on device")
        return write(task)

    monkeypatch.setattr(scenes, "_write", fail)
    with pytest.raises(OSError, match="No space"):
        generate(tmp_path / "photos", 6, 1, workers=1, size=SMALL, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_another_process_that_draws_the_same_streets_and_is_quicker_is_no_fault(tmp_path, monkeypatch):
    draw = scenes._write_all

    def overtaken(tasks, workers, progress):
        monkeypatch.setattr(scenes, "_write_all", draw)
        generate(tmp_path / "scenes", 2, seed=3, workers=1, progress=False)
        return draw(tasks, workers, progress)

    monkeypatch.setattr(scenes, "_write_all", overtaken)
    folder = generate(tmp_path / "scenes", 2, seed=3, workers=1, progress=False)
    assert len(list((folder / "images").iterdir())) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["scenes"]


def test_killed_while_drawing_the_folder_does_not_appear_and_the_next_run_completes_it(tmp_path):
    command = [sys.executable, "-m", "natix_hf.scenes.photos", str(tmp_path / "photos"), "--seed", "1", "--count"]
    run = subprocess.Popen([*command, "500"], stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".photos.partial-*/images/*.jpg")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert list(tmp_path.glob(".photos.partial-*/images/*.jpg"))
    assert not (tmp_path / "photos").exists()
    subprocess.run([*command, "2", "--workers", "1"], check=True, capture_output=True)
    assert len(list((tmp_path / "photos/images").iterdir())) == 2


@pytest.mark.parametrize("bad", ["count", "file in the way", "other files"])
def test_bad_input_is_one_line_and_exit_status_2(tmp_path, bad):
    folder, count = tmp_path / "photos", "2"
    if bad == "count":
        count = "0"
    elif bad == "file in the way":
        (tmp_path / "taken").write_text("")
        folder = tmp_path / "taken/photos"
    else:
        folder.mkdir()
        (folder / "mine.txt").write_text("")
    before = sorted(tmp_path.rglob("*"))
    command = [sys.executable, "-m", "natix_hf.scenes.photos", str(folder), "--count", count]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2
    assert len(run.stderr.strip().splitlines()) == 1
    assert run.stderr.startswith("error: ")
    assert sorted(tmp_path.rglob("*")) == before


def test_the_class_called_none_stands_in_the_table_as_a_word(made):
    lines = (made[0] / "metadata.csv").read_text().splitlines()
    assert lines[0] == "file_name,label,group,daytime,weather,objects"
    assert {line.split(",")[1] for line in lines[1:]} == {"None", "Roadwork"}


def test_scenes_of_an_older_version_are_neither_taken_nor_in_the_way(tmp_path, monkeypatch):
    monkeypatch.setenv("NATIX_HF_HOME", str(tmp_path))
    with monkeypatch.context() as older:
        older.setattr(scenes, "VERSION", scenes.VERSION - 1)
        read_rows("builtin:scenes", dataset_config="4")
    read_rows("builtin:scenes", dataset_config="4")
    versions = [json.loads(path.read_text())["version"] for path in tmp_path.glob("scenes/*/.scenes.json")]
    assert sorted(versions) == [scenes.VERSION - 1, scenes.VERSION]
