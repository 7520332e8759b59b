"""Candidates match a search of all pairs; copies are found, similar photos are not; many equal rows stay cheap."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from natix_hf.data.duplicates import candidates
from natix_hf.data.duplicates.candidates import DISTANCE, search
from natix_hf.data.duplicates.near_duplicates import HOW, find_copies
from natix_hf.data.splits.places import components
from natix_hf.photos.perceptual_hashes import look
from natix_hf.scenes.photos import scene

SEED = 313  # not a series on which the thresholds were chosen or are measured


def flipped_bits(rng: np.random.Generator, hashes: np.ndarray, most: int) -> np.ndarray:
    """The hashes with 0 to `most` random bits changed."""
    changed = hashes.copy()
    for bits in range(most):
        some = rng.random(len(hashes)) < (bits + 1) / most
        changed[some] ^= np.uint64(1) << rng.integers(0, 64, some.sum(), dtype=np.uint64)
    return changed


def saved(photo: Image.Image, quality: int = 90) -> Image.Image:
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


@pytest.fixture(scope="module")
def streets() -> list[tuple[Image.Image, str]]:
    return [(photo.image, photo.group) for photo in (scene(SEED, index) for index in range(48))]


@pytest.mark.parametrize("small", [0, candidates.SMALL])
def test_search_finds_every_pair_within_the_promised_distance(monkeypatch, small):
    monkeypatch.setattr(candidates, "SMALL", small)  # with tables, and by comparing all pairs
    rng = np.random.default_rng(0)
    centres = rng.integers(0, 2**64, 60, dtype=np.uint64)
    values = np.unique(flipped_bits(rng, np.repeat(centres, 30), 8))
    queries = flipped_bits(rng, rng.choice(values, (500, 3)).ravel(), 9).reshape(500, 3)
    found = search(values, queries)
    exact = np.bitwise_count(queries[:, :, None] ^ values)
    row, query, value = np.nonzero(exact <= DISTANCE)
    assert len(row) > 1000
    expected = set(zip(row.tolist(), query.tolist(), value.tolist()))
    got = list(zip(found.row.tolist(), found.query.tolist(), found.value.tolist()))
    assert len(got) == len(set(got))  # each once
    assert set(got) == expected
    assert (found.distance == exact[found.row, found.query, found.value]).all()
    assert found.crowded == 0


def test_search_does_not_depend_on_the_size_of_the_chunks(monkeypatch):
    rng = np.random.default_rng(1)
    values = np.unique(flipped_bits(rng, np.repeat(rng.integers(0, 2**64, 20, dtype=np.uint64), 20), 8))
    monkeypatch.setattr(candidates, "SMALL", 0)
    whole = search(values, values[:, None])
    monkeypatch.setattr(candidates, "CHUNK", 37)
    monkeypatch.setattr(candidates.chunks, "__defaults__", (11,))
    parts = search(values, values[:, None])
    assert all((getattr(whole, name) == getattr(parts, name)).all() for name in ("row", "query", "value", "distance"))


def test_over_full_buckets_are_counted(monkeypatch):
    values = np.arange(500, dtype=np.uint64)  # all have six bytes in common
    monkeypatch.setattr(candidates, "SMALL", 0)
    monkeypatch.setattr(candidates, "CROWD", 100)
    assert search(values, values[:, None]).crowded > 0


ALTERATIONS = {
    "JPEG quality 60": (lambda photo: saved(photo, 60), "same"),
    "resized": (lambda photo: saved(photo.resize((photo.width // 2, photo.height // 2))), "same"),
    "brighter": (lambda photo: saved(ImageEnhance.Brightness(photo).enhance(1.2)), "same"),
    "flipped": (lambda photo: saved(ImageOps.mirror(photo)), "mirrored"),
    "cropped centre": (lambda photo: saved(cut(photo, 0.025, 0.025, 0.975, 0.975)), "cropped"),
    "cropped left": (lambda photo: saved(cut(photo, 0.05, 0, 1, 1)), "cropped"),
    "cropped corner": (lambda photo: saved(cut(photo, 0, 0.05, 0.95, 1)), "cropped"),
    "flipped and cropped": (
        lambda photo: saved(cut(ImageOps.mirror(photo), 0.05, 0.05, 1, 1)),
        "mirrored and cropped",
    ),
}


def cut(photo: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    width, height = photo.size
    return photo.crop((round(left * width), round(top * height), round(right * width), round(bottom * height)))


@pytest.mark.parametrize("name", ALTERATIONS)
def test_altered_copies_are_found_and_named(streets, name):
    alter, how = ALTERATIONS[name]
    photos = [photo for photo, _ in streets[::4]]
    looks = [look(photo) for photo in photos] + [look(alter(photo)) for photo in photos]
    found = find_copies(looks)
    pairs = dict(zip(zip(found.first.tolist(), found.second.tolist()), found.how.tolist()))
    expected = {(i, i + len(photos)) for i in range(len(photos))}
    got = {(min(pair), max(pair)): HOW[number] for pair, number in pairs.items()}
    assert len(expected & set(got)) >= len(photos) - 1
    assert sum(got[pair] == how for pair in expected & set(got)) >= len(photos) - 2


def test_frames_of_one_camera_are_not_copies(streets):
    found = find_copies([look(photo) for photo, _ in streets])
    assert len({group for _, group in streets}) < 40  # there are sequences
    assert found.compared > 0  # their frames have similar hashes
    assert len(found.first) <= 1


def test_flat_photos_do_not_tie_for_being_flat():
    rng = np.random.default_rng(3)

    def wall(level: float, noise: float) -> Image.Image:
        pixels = level + rng.normal(0, noise, (90, 160, 3)) + np.linspace(-3, 3, 160)[:, None]
        return saved(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)))

    looks = [look(wall(level, noise)) for level in (0, 4, 90, 250) for noise in (0, 2, 6) for _ in range(5)]
    looks += [look(Image.new("RGB", (160, 90), (level,) * 3)) for level in (0, 0, 0, 255, 255)]
    assert len(find_copies(looks).first) == 0


def test_flat_photos_tie_where_all_their_pixels_are_equal():
    looks = [look(Image.new("RGB", (160, 90))) for _ in range(4)]
    found = find_copies(looks, same_pixels=lambda i, j: {i, j} != {0, 3})
    assert list(zip(found.first.tolist(), found.second.tolist())) == [(0, 1), (0, 2)]
    assert found.pixels.all()


def test_pixels_are_asked_only_where_thumbnails_are_all_but_equal(streets):
    photo, other = streets[0][0], streets[9][0]
    asked = []
    looks = [look(photo), look(photo), look(other), look(saved(photo, 30)), look(ImageOps.mirror(photo))]
    found = find_copies(looks, same_pixels=lambda i, j: asked.append((i, j)) or True)
    assert (0, 1) in asked
    assert all(pair in {(0, 1), (0, 3), (1, 3)} for pair in asked)
    assert found.pixels[(found.first == 0) & (found.second == 1)].all()


def test_many_copies_cost_about_one_comparison_each(streets):
    photo = streets[0][0]
    looks = [look(photo)] * 150 + [look(saved(photo, quality)) for quality in range(30, 95)]
    looks += [look(saved(ImageOps.mirror(photo), quality)) for quality in range(30, 95)]
    found = find_copies(looks)
    assert len(set(components(len(looks), found.first, found.second))) == 1
    assert len(found.first) == len(looks) - 1
    assert found.compared < 1.2 * len(looks)


def test_thousands_of_different_photos_of_one_hash_are_left_out_and_counted(streets, monkeypatch):
    """A fixed camera: every frame has the same hash, and no two are copies."""
    monkeypatch.setattr("natix_hf.data.duplicates.near_duplicates.ROUNDS", 2)
    monkeypatch.setattr("natix_hf.data.duplicates.near_duplicates.MOST", 2)
    seen = look(streets[0][0])
    rng = np.random.default_rng(4)
    looks = []
    for _ in range(40):
        small = np.frombuffer(seen[-64 * 64 :], dtype=np.uint8).reshape(64, 64).copy()
        row, column = rng.integers(0, 48, 2)
        small[row : row + 16, column : column + 16] = rng.integers(0, 256)
        looks.append(seen[: -64 * 64] + small.tobytes())
    found = find_copies(looks)
    assert found.crowded > 30
    assert found.compared < 200


def test_no_photos_have_no_copies():
    found = find_copies([])
    assert len(found.first) == found.compared == found.crowded == 0
