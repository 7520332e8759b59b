"""Photos as they are sent: held to `streetvision.profiles`, the client's pipeline, and one photo at a time."""

import numpy as np
import pytest
import torch
from PIL import Image
from sent_photos import challenge_photo, distort
from transformers.image_utils import load_image

from natix_hf import load_model, load_photos
from natix_hf.inference.robustness import SentPhotos, measure_latency, sent_logits
from natix_hf.streetvision.profiles import cached_photo, draw_challenge, jpeg
from natix_hf.streetvision.sent_photos import Case, cases_of, photo_seed, sent_photo

PROFILE = "challenge@2025"


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(1)
    small = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
    return small.resize((320, 240), Image.Resampling.BICUBIC)


@pytest.fixture
def probe(tiny_backbone):
    model, processor = load_model(str(tiny_backbone), ["None", "Roadwork"], method="probe", image_size=32)
    return model.eval(), processor


@pytest.fixture
def rows(photo_folder):
    return load_photos(photo_folder).rows("training", step="frozen features").select(range(6))


def test_the_ways_are_all_levels_and_each_distortion_by_itself():
    ways = [(case.level, case.distortion, case.severity) for case in cases_of(PROFILE)]
    names = ("saturation", "contrast", "downsampling", "noise", "blur")
    assert ways == [(level, None, None) for level in range(4)] + [(0, name, s) for name in names for s in (1, 2)]
    assert [case.level for case in cases_of("challenge@2026-05")] == [0]


@pytest.mark.parametrize("profile", ["challenge@2025", "challenge@2026-04", "challenge@2026-05"])
def test_a_photo_is_sent_as_the_profile_says(image, profile):
    for level in range(1 if profile.endswith("05") else 4):
        expected = challenge_photo(image, profile, level=level, seed=photo_seed(profile, "row"))
        assert sent_photo(image, Case(profile, level), "row").tobytes() == expected.tobytes()
    drawn = challenge_photo(image, profile, seed=photo_seed(profile, "row", view=3))
    assert sent_photo(image, Case(profile, view=3), "row").tobytes() == drawn.tobytes()


def test_a_distortion_alone_is_put_on_the_frame_before_the_jpeg_coding(image):
    frame = image.crop((40, 0, 280, 240)).resize((224, 224), Image.Resampling.BILINEAR)
    assert sent_photo(image, Case(PROFILE, 0), "row").tobytes() == jpeg(frame).tobytes()
    for name in ("contrast", "noise"):
        expected = jpeg(distort(frame, name, 2, seed=photo_seed(PROFILE, "row")))
        assert sent_photo(image, Case(PROFILE, 0, name, 2), "row").tobytes() == expected.tobytes()


def test_what_is_drawn_hangs_on_profile_row_and_view_alone():
    seeds = {photo_seed(p, row, view) for p in (PROFILE, "challenge@2026-04") for row in "ab" for view in (0, 1)}
    assert len(seeds) == 8
    assert photo_seed(PROFILE, "photos/a.jpg") == photo_seed(PROFILE, "photos/a.jpg") < 2**63
    drawn = [draw_challenge(PROFILE, (640, 480), level=level, seed=photo_seed(PROFILE, "a")) for level in (1, 2, 3)]
    assert len({(one.angle, one.crop) for one in drawn}) == 1  # levels differ in their distortions alone


def test_pixels_are_those_of_a_client_that_was_sent_the_photo(probe, rows, tmp_path):
    processor, cases = probe[1], cases_of(PROFILE)
    photos = SentPhotos(rows, processor, cases)
    assert len(photos) == 6 * 14
    for index in (0, 3, 13, 14, 75):
        number, case = divmod(index, 14)
        row = rows[number]
        sent_photo(cached_photo(row["image"]), cases[case], row["id"]).save(tmp_path / "sent.png")
        expected = processor(images=load_image(str(tmp_path / "sent.png")), return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(photos[index]["pixel_values"], expected, rtol=0, atol=0)
        assert photos[index]["labels"] == row["label"]


def test_logits_are_the_same_in_any_batch_and_in_the_order_of_rows_and_ways(probe, rows):
    model, processor = probe
    cases = cases_of(PROFILE)[:5]
    together = sent_logits(model, rows, processor, cases, batch_size=7)
    assert together.shape == (6, 5, 2)
    photos = SentPhotos(rows, processor, cases)
    with torch.inference_mode():
        alone = [model(pixel_values=photos[i]["pixel_values"][None]).logits[0].numpy() for i in range(30)]
    np.testing.assert_allclose(together.reshape(30, 2), alone, atol=1e-5)
    other_order = rows.select([4, 1])
    np.testing.assert_allclose(sent_logits(model, other_order, processor, cases), together[[4, 1]], atol=1e-5)


def test_latency_is_of_photos_one_by_one_and_leaves_the_model_alone(probe, rows):
    model, processor = probe
    model.train()
    seen, forward = [], model.forward
    model.forward = lambda **kwargs: (seen.append(kwargs["pixel_values"].shape[0]), forward(**kwargs))[1]
    found = measure_latency(model, processor, [row["image"] for row in rows], warm_up=1)
    assert seen == [1] * 7
    assert len(found["seconds"]) == 6
    assert all(seconds > 0 for seconds in found["seconds"])
    assert found["cores"] >= 1
    assert model.training
    # Time is up before the second photo, and one photo is measured all the same.
    assert len(measure_latency(model, processor, [rows[0]["image"]] * 5, seconds=0.0)["seconds"]) == 1
