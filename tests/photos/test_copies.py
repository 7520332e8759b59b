"""Pre-resized copies have the right pixels, are made once, never stale or damaged, and survive interruption."""

from __future__ import annotations

import io
import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Value
from datasets import Image as Photo
from photo_files import encoded
from PIL import Image

from natix_hf.errors import PhotoError, UserError
from natix_hf.files import fingerprint_bytes
from natix_hf.photos import copies as module
from natix_hf.photos.copies import copied, open_copy, photo_copies
from natix_hf.photos.decode import open_photo


def smooth(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Large soft blobs, which resizing and JPEG preserve."""
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 7, len(mode)), dtype=np.uint8)
    return Image.fromarray(pixels, mode).resize((width, height), Image.Resampling.BICUBIC)


def copy_of(content: bytes, side: int) -> Image.Image:
    return Image.open(io.BytesIO(copied({"bytes": content, "path": None}, fingerprint_bytes(content), side)))


def rows_of(photos: list[bytes | Path]) -> Dataset:
    contents = [photo if isinstance(photo, bytes) else photo.read_bytes() for photo in photos]
    images = [
        {"bytes": photo, "path": None} if isinstance(photo, bytes) else {"bytes": None, "path": str(photo)}
        for photo in photos
    ]
    columns = {
        "id": [f"row {i}" for i in range(len(photos))],
        "image": images,
        "fingerprint": [fingerprint_bytes(content) for content in contents],
    }
    kinds = {"id": Value("string"), "image": Photo(decode=False), "fingerprint": Value("string")}
    return Dataset.from_dict(columns, features=Features(kinds))


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Ten JPEGs of 96x64."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(10):
        smooth(96, 64, seed=i).save(folder / f"{i}.jpg", quality=95)
    return sorted(folder.iterdir())


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of four rows."""
    monkeypatch.setattr(module, "SHARD_ROWS", 4)


def shards(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file in the cache -> (inode, time of writing)."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def expected(photos: list[Path], side: int = 32) -> list[bytes]:
    return [copied({"bytes": None, "path": str(p)}, fingerprint_bytes(p.read_bytes()), side) for p in photos]


# -- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "turned"])
def test_a_copy_shows_what_open_photo_shows(mode):
    """Upright, RGB, transparency blended with white, with the requested short side and the photo's aspect ratio."""
    if mode == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        content, size = encoded(smooth(300, 150), "JPEG", exif=exif, quality=95), (64, 128)
    elif mode == "RGBA":
        content, size = encoded(smooth(300, 150, "RGBA")), (128, 64)
    else:
        content, size = encoded(smooth(300, 150).convert(mode), "TIFF" if mode == "CMYK" else "PNG"), (128, 64)
    copy = copy_of(content, 64)
    assert (copy.mode, copy.size, copy.format) == ("RGB", size, "JPEG")
    assert not copy.getexif()
    reference = open_photo(content).resize(size, Image.Resampling.BICUBIC)
    difference = np.abs(np.asarray(copy, dtype=float) - np.asarray(reference, dtype=float))
    assert difference.mean() < 2
    assert difference.max() < 25


@pytest.mark.parametrize("min_side", [64, 32, 16])
def test_the_pixels_of_a_copy_are_those_that_pillow_decodes(min_side):
    content = copied({"bytes": (photo := encoded(smooth(300, 200))), "path": None}, fingerprint_bytes(photo), 64)
    image = Image.open(io.BytesIO(content))
    image.draft(None, (min_side, min_side))
    expected, found = np.asarray(image).transpose(2, 0, 1), open_copy(content, min_side=min_side)
    assert found.dtype == torch.uint8
    assert found.shape == expected.shape
    assert found.shape[1] == min_side
    # Two builds of one library may round differently.
    assert np.abs(found.numpy().astype(int) - expected).max() <= 2


def test_colours_keep_their_resolution():
    """Red and blue lines of one pixel, which 4:2:0 would mix."""
    stripes = np.zeros((32, 32, 3), dtype=np.uint8)
    stripes[:, ::2, 0] = stripes[:, 1::2, 2] = 255
    copy = np.asarray(copy_of(encoded(Image.fromarray(stripes)), 32), dtype=float)
    assert copy[:, ::2, 0].mean() - copy[:, 1::2, 0].mean() > 200


@pytest.mark.parametrize(("size", "copy"), [((300, 20), (300, 20)), ((64, 64), (64, 64)), ((1, 90), (1, 90))])
def test_a_photo_is_never_enlarged(size, copy):
    assert copy_of(encoded(smooth(*size)), 64).size == copy


@pytest.mark.parametrize(("size", "copy"), [((1921, 1080), (114, 64)), ((64, 65), (64, 65)), ((500, 71), (451, 64))])
def test_the_short_side_is_met_exactly_and_the_shape_kept(size, copy):
    assert copy_of(encoded(smooth(*size), "JPEG"), 64).size == copy


# -- the folder -------------------------------------------------------------------------------------------------------


def test_every_row_gets_its_copy_and_rows_with_the_same_bytes_share_one(photos, tmp_path, few_rows):
    rows = rows_of([*photos, photos[3].read_bytes()])
    found = photo_copies(rows, side=32, cache_dir=tmp_path / "cache")
    assert [found[i] for i in range(len(found))] == expected([*photos, photos[3]])
    assert len(shards(tmp_path / "cache")) == 3


def test_workers_and_a_pickled_object_give_the_same_bytes(photos, tmp_path, few_rows):
    alone = photo_copies(rows_of(photos), side=32, cache_dir=tmp_path / "a")
    helped = photo_copies(rows_of(photos), side=32, cache_dir=tmp_path / "b", num_proc=2)
    assert shards(tmp_path / "a").keys() == shards(tmp_path / "b").keys()
    again = pickle.loads(pickle.dumps(helped))
    assert [again[i] for i in range(10)] == [alone[i] for i in range(10)]


def test_a_second_run_and_another_recipe_over_the_same_photos_make_nothing(photos, tmp_path, few_rows):
    photo_copies(rows_of(photos), side=32, cache_dir=tmp_path / "cache")
    before = shards(tmp_path / "cache")
    other = photo_copies(rows_of(photos[::-2]), side=32, cache_dir=tmp_path / "cache")
    assert [other[i] for i in range(5)] == expected(photos[::-2])
    assert shards(tmp_path / "cache") == before
    photo_copies(rows_of(photos), side=48, cache_dir=tmp_path / "cache")
    assert len(shards(tmp_path / "cache")) == 2 * len(before)


def test_a_changed_photo_is_never_served_stale(photos, tmp_path):
    photo_copies(rows_of(photos), side=32, cache_dir=tmp_path / "cache")
    smooth(96, 64, seed=99).save(photos[0], quality=95)
    found = photo_copies(rows_of(photos), side=32, cache_dir=tmp_path / "cache")
    assert found[0] == expected(photos[:1])[0]


def test_a_photo_that_changes_under_the_run_stops_the_pass(photos, tmp_path):
    rows = rows_of(photos)
    smooth(96, 64, seed=99).save(photos[2], quality=95)
    with pytest.raises(PhotoError, match=r"2\.jpg: the photo has changed"):
        photo_copies(rows, side=32, cache_dir=tmp_path / "cache")
    photos[2].unlink()
    with pytest.raises(PhotoError, match=r"2\.jpg: no such file"):
        photo_copies(rows, side=32, cache_dir=tmp_path / "cache")


# -- damage -----------------------------------------------------------------------------------------------------------


def damage(path: Path, way: str) -> None:
    if way == "removed":
        path.unlink()
        return
    content = bytearray(path.read_bytes())
    if way == "cut short":
        del content[-100:]
    elif way == "empty":
        content.clear()
    elif way == "in its head":
        content[20] ^= 255
    elif way == "one bit of a photo":
        content[-50] ^= 1
    elif way == "all but its head":
        content[400:] = bytes(len(content) - 400)
    path.write_bytes(content)


WAYS = ["removed", "cut short", "empty", "in its head", "one bit of a photo", "all but its head"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("when", ["between runs", "while running", "while running, shared with another recipe"])
def test_a_damaged_shard_is_made_again_and_never_served(photos, tmp_path, few_rows, way, when):
    wanted = photos[:6] if "shared" in when else photos
    found = photo_copies(rows_of(photos), side=32, cache_dir=tmp_path / "cache")
    if "shared" in when:
        found = photo_copies(rows_of(wanted), side=32, cache_dir=tmp_path / "cache")
    for path in sorted(tmp_path.rglob("*.safetensors")):
        damage(path, way)
    if when == "between runs":
        found = photo_copies(rows_of(wanted), side=32, cache_dir=tmp_path / "cache")
    assert [found[i] for i in range(len(wanted))] == expected(wanted)
    if "shared" in when and way == "all but its head":
        assert len(shards(tmp_path / "cache")) == 3  # the second shard, of which only a part was needed, was replaced
    if when != "between runs" and way not in ("removed", "all but its head"):
        return  # a running pass checks only what it reads; the next start checks everything
    # The new copies stay: another start reads them and opens no original.
    for photo in wanted:
        photo.rename(photo.with_suffix(".away"))
    images = [{"bytes": None, "path": str(photo)} for photo in wanted]
    rows = Dataset.from_dict({"image": images, "fingerprint": [value.hex() for value in found.fingerprints]})
    last = photo_copies(rows, side=32, cache_dir=tmp_path / "cache")
    assert [last[i] for i in range(len(wanted))] == [found[i] for i in range(len(wanted))]


def test_a_list_of_names_that_was_tampered_with_hands_nobody_another_photo(photos, tmp_path):
    found = photo_copies(rows_of(photos), side=32, cache_dir=tmp_path / "cache")
    (path,) = tmp_path.rglob("*.safetensors")
    first, second = found.fingerprints[:2]
    content = path.read_bytes().replace(first, b"x" * 16).replace(second, first).replace(b"x" * 16, second)
    path.write_bytes(content)
    found = photo_copies(rows_of(photos), side=32, cache_dir=tmp_path / "cache")
    assert [found[i] for i in range(10)] == expected(photos)


KILLED = """
import os, pickle, signal, sys
from natix_hf.photos import copies
copies.SHARD_ROWS, written, write = 4, [], copies.save_file
def cut(tensors, path):
    write(tensors, path)
    written.append(path)
    if len(written) == 2:
        os.truncate(path, 300)
        os.kill(os.getpid(), signal.SIGKILL)
copies.save_file = cut
copies.photo_copies(pickle.load(sys.stdin.buffer), side=32, cache_dir=sys.argv[1], num_proc=int(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_that_was_killed_goes_on_with_the_missing_shards(photos, tmp_path, few_rows, workers):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "cache"), str(workers)]
    # Not captured, since workers that lost their parent keep a pipe open for seconds.
    killed = subprocess.run(command, input=pickle.dumps(rows_of(photos)), stderr=subprocess.DEVNULL)
    assert killed.returncode == -signal.SIGKILL
    (half,) = (tmp_path / "cache").rglob(".*.tmp.safetensors")
    os.utime(half, (0, 0))
    whole = {name: facts for name, facts in shards(tmp_path / "cache").items() if "/." not in name}
    assert len(whole) == 1
    found = photo_copies(rows_of(photos), side=32, cache_dir=tmp_path / "cache")
    assert [found[i] for i in range(10)] == expected(photos)
    after = shards(tmp_path / "cache")
    assert {name: after[name] for name in whole} == whole
    assert not half.exists()


def test_two_passes_at_once_do_no_harm(photos, tmp_path, few_rows):
    with ThreadPoolExecutor(2) as pool:
        passes = [pool.submit(photo_copies, rows_of(photos), side=32, cache_dir=tmp_path) for _ in range(2)]
    for found in passes:
        assert [found.result()[i] for i in range(10)] == expected(photos)


def test_a_full_disk_is_one_line_and_leaves_whole_shards_only(photos, tmp_path, few_rows, monkeypatch):
    save_file, calls = module.save_file, []

    def full(tensors, path):
        calls.append(path)
        save_file(tensors, path)
        if len(calls) == 2:
            os.truncate(path, 300)
            raise module.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(UserError, match=r"No space left on device .*free some space or choose another cache_dir"):
        photo_copies(rows_of(photos), side=32, cache_dir=tmp_path / "cache")
    assert len(shards(tmp_path / "cache")) == 1
    found = photo_copies(rows_of(photos), side=32, cache_dir=tmp_path / "cache")
    assert [found[i] for i in range(10)] == expected(photos)


def test_a_folder_that_cannot_be_written_is_named(photos, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"cache_dir .*file.* cannot be written"):
        photo_copies(rows_of(photos), side=32, cache_dir=tmp_path / "file")
