"""Hashes and thumbnails of photos match SciPy's cosine transform and survive alterations."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy.fft import dctn

from natix_hf.photos.perceptual_hashes import LOOK_BYTES, QUERIES, SIZE, WINDOWS, hashes, look, thumbnails, window
from natix_hf.scenes.photos import scene


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return scene(313, 5).image


def distance(one: np.ndarray, two: np.ndarray) -> int:
    return int(np.bitwise_count(one ^ two))


def test_the_hash_holds_the_signs_of_the_lowest_frequencies(photo):
    """The bits, read back in the order of frequencies, are the signs of SciPy's DCT (type II) of the same pixels."""
    seen = look(photo)
    grey = np.asarray(photo.convert("L").resize((128, 128), Image.Resampling.BILINEAR, reducing_gap=3.0))
    spectrum = dctn(grey.astype(np.float64))
    order = sorted(((y, x) for y in range(11) for x in range(11)), key=lambda f: (sum(f), f))[1:65]
    expected = np.array([spectrum[f] > 0 for f in order])
    bits = np.unpackbits(np.frombuffer(seen[:8], dtype=np.uint8)).astype(bool)
    assert (bits.reshape(8, 8).T.ravel() == expected).all()


def test_looks_have_a_fixed_length_and_come_apart_again(photo):
    looks = [look(photo), look(ImageOps.mirror(photo)), look(photo.resize((97, 51)))]
    assert {len(seen) for seen in looks} == {LOOK_BYTES}
    assert hashes(looks).shape == (3, QUERIES)
    assert hashes(looks).dtype == np.uint64
    small = thumbnails(looks)
    assert small.shape == (3, SIZE, SIZE)
    expected = np.asarray(photo.convert("L").resize((SIZE, SIZE), Image.Resampling.BOX)).astype(int)
    assert np.abs(small[0] - expected).mean() < 2
    assert np.abs(small[0].astype(int) - small[1][:, ::-1]).max() <= 1


def test_another_size_or_brightness_changes_few_bits(photo):
    plain = hashes([look(photo)])[0, 0]
    for other in (photo.resize((320, 180)), ImageEnhance.Brightness(photo).enhance(1.1), photo.resize((1280, 720))):
        assert distance(plain, hashes([look(other)])[0, 0]) <= 5


def test_each_query_is_the_hash_of_the_window_that_it_names(photo):
    table = hashes([look(photo)])[0]
    for query in range(QUERIES):
        mirrored, (top, height), (left, width) = window(query)
        box = (left * photo.width, top * photo.height, (left + width) * photo.width, (top + height) * photo.height)
        part = photo.crop(tuple(round(edge) for edge in box))
        part = ImageOps.mirror(part) if mirrored else part
        assert distance(table[query], hashes([look(part)])[0, 0]) <= 3, query


def test_queries_differ_from_each_other():
    assert window(0) == (False, (0.0, 1.0), (0.0, 1.0))
    assert len({window(query) for query in range(QUERIES)}) == QUERIES == 2 * len(WINDOWS)


def test_small_products_are_not_shared_out_over_threads(tmp_path, monkeypatch):
    """With two reading processes on two cores, threads spent nearly all the time waiting for each other."""
    from threadpoolctl import ThreadpoolController

    from natix_hf.photos import inspection

    seen: list[int] = []
    blas = ThreadpoolController().select(user_api="blas")
    monkeypatch.setattr(
        inspection, "look", lambda image: seen.extend(one["num_threads"] for one in blas.info()) or b""
    )
    Image.new("RGB", (64, 48)).save(tmp_path / "photo.png")
    with blas.limit(limits=2):
        inspection._inspect([{"path": str(tmp_path / "photo.png"), "bytes": None}], looks=True)
        after = {one["num_threads"] for one in blas.info()}
    assert seen
    assert set(seen) == {1}
    assert after == {2}
