"""What validators send, against its description: draws by Kolmogorov-Smirnov and chi-square, pixels by formula.

All draws are seeded, so a test passes or fails for good; 0.001 is the level of every statistical test.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from sent_photos import array, challenge_photo, coded, distort, noise_photo
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional

from natix_hf.errors import UserError
from natix_hf.streetvision import profiles as challenge_module
from natix_hf.streetvision.distortions import SEVERITIES
from natix_hf.streetvision.profiles import (
    PROFILES,
    apply_challenge,
    check_profiles,
    draw_challenge,
    letterbox,
    letterboxed,
)

DRAWS = 2000
# RGB to YCbCr of BT.601 in the broadcast range, 8 bits, without the offsets.
LUMA = np.array([0.299, 0.587, 0.114])
FORWARD = np.stack([219 / 255 * LUMA, 224 / 255 * ([0, 0, 1] - LUMA) / 1.772, 224 / 255 * ([1, 0, 0] - LUMA) / 1.402])


@functools.cache
def draws(profile: str, size=(1000, 1000), **options):
    return [draw_challenge(profile, size, seed=seed, **options) for seed in range(DRAWS)]


def flat(*colour: int, size=(64, 64)) -> Image.Image:
    return Image.new("RGB", size, colour if len(colour) == 3 else colour * 3)


def ramp(width: int = 320, height: int = 180) -> Image.Image:
    """Brighter to the right in red, downwards in green."""
    across, down = np.meshgrid(np.linspace(20, 235, width), np.linspace(20, 235, height))
    return Image.fromarray(np.stack([across, down, 0 * down + 128], axis=2).astype(np.uint8))


# -- what is drawn ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["challenge@2025", "challenge@2026-04"])
def test_the_four_levels_are_equally_likely_unless_told_otherwise(profile):
    counts = np.bincount([c.level for c in draws(profile)], minlength=4)
    assert stats.chisquare(counts).pvalue > 0.001
    given = (0.1, 0.0, 0.3, 0.6)
    counts = np.bincount([c.level for c in draws(profile, level_probabilities=given)], minlength=4)
    assert counts[1] == 0
    assert stats.chisquare(counts[[0, 2, 3]], np.array([0.1, 0.3, 0.6]) * DRAWS).pvalue > 0.001


@pytest.mark.parametrize("profile", ["challenge@2025", "challenge@2026-04"])
@pytest.mark.parametrize("level", [1, 2, 3])
def test_angles_are_uniform_within_20_degrees(profile, level):
    angles = [c.angle for c in draws(profile, level=level)]
    assert stats.kstest(angles, stats.uniform(-20, 40).cdf).pvalue > 0.001


def test_a_square_photo_is_cropped_to_a_fifth_to_all_of_its_area_anywhere():
    crops = np.array([c.crop for c in draws("challenge@2025", level=1)])
    shares = (crops[:, 2] / 1000) ** 2
    assert stats.kstest(shares, stats.uniform(0.2, 0.8).cdf).pvalue > 0.001
    assert crops[:, :2].min() >= 0
    assert (crops[:, :2] + crops[:, 2:]).max() <= 1000
    crops = crops[crops[:, 2] < 900]
    for start in (crops[:, 0], crops[:, 1]):
        assert stats.kstest(start / (1000 - crops[:, 2]), stats.uniform(0, 1).cdf).pvalue > 0.001


@pytest.mark.parametrize("size", [(1600, 900), (900, 1600), (1000, 1000)])
def test_crops_are_distributed_as_torchvision_s(size):
    ours = np.array([c.crop for c in draws("challenge@2025", size, level=3)])
    blank = torch.empty(1, size[1], size[0])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = [RandomResizedCrop.get_params(blank, (0.2, 1.0), (1.0, 1.0)) for _ in range(DRAWS)]
    theirs = np.array([(left, top, side) for top, left, side, _ in theirs])
    for column in range(3):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 0.001


@pytest.mark.parametrize(
    ("level", "most"),
    [
        (0, {}),
        (1, {}),
        (2, {"saturation": 1, "contrast": 1, "downsampling": 1}),
        (3, {"saturation": 2, "contrast": 2, "downsampling": 2, "noise": 2, "blur": 2}),
    ],
)
@pytest.mark.parametrize("profile", ["challenge@2025", "challenge@2026-04"])
def test_severities_of_a_level_are_drawn_evenly_and_independently(profile, level, most):
    found = [c.severities for c in draws(profile, level=level)]
    assert all(list(severities) == list(most) for severities in found)
    drawn = np.array([[severities[name] for name in most] for severities in found])
    for column, greatest in zip(drawn.T, most.values()):
        assert stats.chisquare(np.bincount(column, minlength=greatest + 1)).pvalue > 0.001
    if most:
        off = np.corrcoef(drawn.T)[~np.eye(len(most), dtype=bool)]
        assert abs(off).max() < 4 / np.sqrt(DRAWS)


def test_what_is_rotated_and_cropped_at_which_level():
    for level in range(4):
        old, new = (draw_challenge(p, (300, 200), level=level) for p in ("challenge@2025", "challenge@2026-04"))
        assert (old.angle is None) == (new.angle is None) == (level == 0)
        assert old.crop is not None
        assert new.crop is None
    last = draw_challenge("challenge@2026-05", (300, 200))
    assert (last.level, last.angle, last.crop, last.severities) == (0, None, None, {})


# -- frames -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1920, 1080), (1080, 1920), (225, 224), (100, 37)])
def test_level_0_of_2025_is_the_square_in_the_middle_resized(size):
    image = noise_photo(*size)
    expected = functional.resize(functional.center_crop(image, [min(size)]), [224, 224])
    assert abs(array(challenge_photo(image, "challenge@2025", level=0)) - array(coded(expected))).mean() < 4
    left, top, side = draw_challenge("challenge@2025", size, level=0).crop
    assert abs(2 * left + side - size[0]) <= 1
    assert abs(2 * top + side - size[1]) <= 1
    assert side == min(size)


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((1920, 1080), (0, 49, 224, 175)),
        ((1080, 1920), (49, 0, 175, 224)),
        ((640, 480), (0, 28, 224, 196)),
        ((500, 500), (0, 0, 224, 224)),
        ((300, 101), (0, 74, 224, 149)),  # 75.4 rows are 75; 74 bars above and 75 below
        # In floating point 126 comes out a little below itself, and so does 224.
        ((640, 360), (0, 49, 224, 174)),
        ((1280, 720), (0, 49, 224, 174)),
        ((720, 1280), (49, 0, 174, 224)),
        ((100, 111), (11, 0, 212, 223)),
        ((2000, 9), (0, 111, 224, 112)),  # one row of pixels is left
    ],
)
def test_the_letterbox_keeps_the_whole_photo_between_black_bars(size, box):
    image = letterbox(flat(200, size=size))
    assert image.size == (224, 224)
    assert image.getbbox() == box
    assert image.crop(box).getextrema() == ((200, 200),) * 3


def test_the_letterbox_has_the_sides_that_validators_compute():
    for width, height in np.random.default_rng(0).integers(30, 2500, (500, 2)).tolist():
        scale = min(224 / width, 224 / height)
        assert letterboxed((width, height)) == (int(width * scale), int(height * scale))


@pytest.mark.parametrize("size", [(3000, 10), (10, 3000), (225, 1)])
def test_a_strip_that_rounds_to_no_pixels_is_never_sent(size):
    message = rf"challenge@2026-04: a photo of {size[0]} x {size[1]} pixels would be shrunk to .*never send"
    for level in range(4):
        with pytest.raises(UserError, match=message):
            challenge_photo(flat(200, size=size), "challenge@2026-04", level=level)
    for profile in ("challenge@2025", "challenge@2026-05"):
        challenge_photo(flat(200, size=size), profile)  # these send it


def test_level_0_of_2026_04_is_the_letterbox_after_jpeg():
    image = noise_photo()
    assert np.array_equal(array(challenge_photo(image, "challenge@2026-04", level=0)), array(coded(letterbox(image))))


def test_2026_05_is_the_photo_after_jpeg_at_its_own_size():
    image = noise_photo(301, 187)
    found = challenge_photo(image, "challenge@2026-05", seed=3)
    assert found.size == image.size
    assert np.array_equal(array(found), array(coded(image)))
    assert abs(array(found) - array(image)).mean() > 1


@pytest.mark.parametrize("profile", ["challenge@2025", "challenge@2026-04"])
def test_a_rotation_takes_the_nearest_pixel_keeps_the_frame_and_fills_with_black(profile):
    image = ramp(224, 224)
    challenge = draw_challenge(profile, image.size, level=1, seed=1)
    whole = {**vars(challenge), "crop": None}
    found = array(apply_challenge(image, type(challenge)(**whole)))
    expected = functional.to_pil_image(functional.rotate(functional.pil_to_tensor(image), challenge.angle))
    assert expected.getpixel((0, 0)) == (0, 0, 0)
    assert found.shape == (224, 224, 3)
    assert abs(found - array(coded(expected))).mean() < 1


@pytest.mark.parametrize("profile", PROFILES)
def test_no_photo_is_ever_mirrored(profile):
    for seed in range(30):
        pixels = array(challenge_photo(ramp(), profile, seed=seed))
        middle = pixels.shape[0] // 2
        row, column = pixels[middle, :, 0], pixels[:, middle, 1]
        for line in (row[20:-20], column[65:-65]):
            assert line[len(line) // 2 :].mean() > line[: len(line) // 2].mean()


def test_every_level_ends_with_jpeg_at_pillow_s_default_quality(monkeypatch):
    image = noise_photo(400, 300)
    sent = {
        (p, n): challenge_photo(image, p, level=n, seed=5) for p, levels in PROFILES.items() for n in range(levels)
    }
    monkeypatch.setattr(challenge_module, "jpeg", lambda photo: photo)
    for (profile, level), photo in sent.items():
        before = challenge_photo(image, profile, level=level, seed=5)
        assert np.array_equal(array(photo), array(coded(before))), (profile, level)
        assert not np.array_equal(array(photo), array(before)), (profile, level)


# -- distortions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("severity", "factor"), [(1, 0.4), (2, 0.3)])
def test_saturation_scales_the_chroma_and_keeps_the_luma(severity, factor):
    colours = np.random.default_rng(1).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    found = array(distort(Image.fromarray(colours), "saturation", severity)) @ FORWARD.T
    before = colours.astype(float) @ FORWARD.T
    assert abs(found[..., 0] - before[..., 0]).max() < 1
    assert abs(found[..., 1:] - factor * before[..., 1:]).max() < 1


@pytest.mark.parametrize(("severity", "factor"), [(1, 0.85), (2, 0.725)])
def test_contrast_multiplies_every_pixel(severity, factor):
    values = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    found = array(distort(Image.fromarray(values), "contrast", severity))
    assert np.array_equal(found, np.floor(values.astype(np.float32) * np.float32(factor)))


def test_downsampling_by_2_is_the_mean_of_four_and_by_3_the_middle_of_nine():
    pixels = np.random.default_rng(2).integers(0, 256, (36, 36), dtype=np.uint8)
    blocks = pixels.astype(float).reshape(18, 2, 18, 2).mean((1, 3))
    image = Image.fromarray(pixels).convert("RGB")
    for severity, small in ((1, blocks), (2, pixels[1::3, 1::3].astype(float))):
        k = severity + 1
        place = (np.arange(36) + 0.5) / k - 0.5
        weights = np.maximum(0, 1 - abs(place.clip(0, 36 / k - 1)[:, None] - np.arange(36 // k)))  # (36, 36 / k)
        expected = weights @ small @ weights.T
        assert abs(array(distort(image, "downsampling", severity))[..., 0] - expected).max() <= 1.01


@pytest.mark.parametrize(("severity", "variance"), [(1, 0.001), (2, 0.002)])
def test_noise_has_its_variance_in_each_channel_of_ycbcr(severity, variance):
    found = array(distort(flat(128, size=(300, 300)), "noise", severity, seed=4)).reshape(-1, 3)
    noise = (found - 127.5) @ FORWARD.T / 255  # decimals are cut off: half a level less
    assert abs(noise.mean(0)).max() < 5 * np.sqrt(variance / len(noise))
    covariance = np.cov(noise.T)
    rounding = (FORWARD**2).sum(1) / 12 / 255**2  # of a cut-off decimal, uniform on a level
    # four standard errors of a variance, sqrt(2 / n), and of a covariance, sqrt(1 / n)
    assert abs(covariance.diagonal() - rounding - variance).max() < 4 * variance * np.sqrt(2 / len(noise))
    assert abs(covariance[~np.eye(3, dtype=bool)]).max() < 4 * variance / np.sqrt(len(noise)) + rounding.max()
    normal = stats.kstest(noise[:DRAWS, 0], stats.norm(0, np.sqrt(variance)).cdf)
    assert normal.pvalue > 0.001


def test_noise_is_another_one_for_another_seed():
    first, again, other = (array(distort(flat(128), "noise", 1, seed=seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("severity", "kernel"), [(1, 7), (2, 9)])
def test_blur_spreads_a_dot_as_the_gaussian_kernel(severity, kernel):
    pixels = np.zeros((31, 31, 3), dtype=np.uint8)
    pixels[15, 15] = 255
    offsets = np.arange(31) - 15
    line = np.exp(-0.5 * (offsets / (kernel / 6)) ** 2) * (abs(offsets) <= kernel // 2)
    expected = 255 * np.outer(line, line) / line.sum() ** 2
    found = array(distort(Image.fromarray(pixels), "blur", severity))
    assert abs(found - expected[..., None]).max() <= 0.51
    assert np.array_equal(array(distort(flat(77), "blur", severity)), array(flat(77)))


@pytest.mark.parametrize("name", SEVERITIES)
def test_severity_0_is_the_photo_itself_and_others_keep_its_size(name):
    image = noise_photo()
    assert np.array_equal(array(distort(image, name, 0)), array(image))
    first, second = (array(distort(image, name, severity)) for severity in (1, 2))
    assert first.shape == second.shape == array(image).shape
    assert not np.array_equal(first, second)


def test_distortions_are_applied_in_order():
    challenge = next(c for c in draws("challenge@2026-04", level=3) if all(c.severities.values()))
    image = letterbox(ramp()).rotate(challenge.angle, fillcolor=(0, 0, 0))
    for name in ("saturation", "contrast", "downsampling", "noise", "blur"):
        image = distort(image, name, challenge.severities[name], seed=challenge.noise_seed)
    assert np.array_equal(array(apply_challenge(ramp(), challenge)), array(coded(image)))


# -- purity and refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
def test_a_photo_is_a_function_of_its_seed_and_leaves_the_random_states_alone(profile):
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    image = noise_photo()
    photos = [array(challenge_photo(image, profile, seed=seed)) for seed in (1, 2**62, 1)]
    assert np.array_equal(photos[0], photos[2])
    assert (profile == "challenge@2026-05") == np.array_equal(photos[0], photos[1])
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


@pytest.mark.parametrize(
    ("profile", "options", "message"),
    [
        ("challenge@2027", {}, "challenge@2025, challenge@2026-04, challenge@2026-05"),
        ("challenge@2025", {"level": 4}, "challenge@2025: expected level 0 to 3, found 4"),
        ("challenge@2026-05", {"level": 1}, "expected level 0 to 0, found 1"),
        ("challenge@2025", {"level_probabilities": (0.5, 0.5)}, "expected 4 probabilities that sum to 1"),
        ("challenge@2025", {"level_probabilities": (0.5, 0.6, -0.1, 0.0)}, "expected 4 probabilities that sum to 1"),
    ],
)
def test_what_there_is_not_is_refused(profile, options, message):
    with pytest.raises(UserError, match=message):
        challenge_photo(noise_photo(), profile, **options)


@pytest.mark.parametrize(("name", "severity"), [("fog", 1), ("blur", 3), ("blur", -1)])
def test_an_unknown_distortion_or_severity_is_refused(name, severity):
    with pytest.raises(UserError, match="saturation, contrast" if name == "fog" else "0 .none., 1 or 2"):
        distort(noise_photo(), name, severity)


@pytest.mark.parametrize(
    ("profiles", "message"),
    [
        (["challenge@2024"], "robustness: challenge profile 'challenge@2024' is unknown"),
        (["challenge@2025"] * 2, "twice"),
    ],
)
def test_unknown_and_repeated_profiles_are_refused_by_the_option_s_name(profiles, message):
    with pytest.raises(UserError, match=message):
        check_profiles(profiles, "robustness")
    check_profiles(["challenge@2025", "challenge@2026-05"], "robustness")
