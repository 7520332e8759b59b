"""Training views: pure functions of (seed, epoch, row id), and `none` is what the image processor does.

Of the policies (AutoAugment and the others) only what we add is tested: that they come after `basic`, and from which
random state they draw.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from sent_photos import challenge_photo
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import RandomResizedCrop
from transformers import DINOv3ViTImageProcessor

from natix_hf.errors import UserError
from natix_hf.inference import augment
from natix_hf.inference.augment import (
    AUGMENTATIONS,
    POLICIES,
    check_augment,
    photo_for_view,
    training_view,
    view_seed,
)
from natix_hf.photos.decode import open_photo
from natix_hf.photos.geometry import GEOMETRIES, Crop, Squash
from natix_hf.streetvision.profiles import PROFILES, cached_photo


def photo(width: int = 97, height: int = 61) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def view(image: Image.Image, **changes) -> torch.Tensor:
    options = {"augment": "basic", "geometry": Squash(32), "seed": 0, "epoch": 0, "row_id": "a.jpg"}
    return training_view(image, **(options | changes))


@pytest.mark.parametrize("size", [(97, 61), (20, 300), (1, 1), (32, 32), (33, 32), (32, 35), (34, 101)])
@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_without_augmentation_a_view_is_the_processors_photo(size, resize):
    image, square = photo(*size), {"height": 32, "width": 32}
    shape = {"size": square}
    if resize == "crop":
        shape = {"size": {"shortest_edge": 32}, "do_center_crop": True, "crop_size": square}
    processor = DINOv3ViTImageProcessor(**shape, do_normalize=False)
    expected = processor(image, return_tensors="pt")["pixel_values"][0] * 255
    found = view(image, augment="none", geometry=GEOMETRIES[resize](32))
    assert found.dtype == torch.uint8
    assert found.shape == (3, 32, 32)
    assert (found.float() - expected).abs().max() <= 1


@pytest.mark.parametrize("augment", [name for name in AUGMENTATIONS if name not in ("none", "challenge@2026-05")])
def test_a_view_depends_on_seed_epoch_and_row_alone(augment):
    image = photo()

    def views(**changes) -> torch.Tensor:  # several, since a single one may be the photo as it was
        return torch.stack([view(image, augment=augment, **{"row_id": f"{i}", **changes}) for i in range(4)])

    first = views()
    torch.rand(7)
    assert torch.equal(first, views())
    for change in ({"seed": 1}, {"epoch": 1}, {"row_id": "b.jpg"}):
        assert not torch.equal(first, views(**change))


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_a_view_leaves_the_global_random_state_alone(augment):
    torch.manual_seed(3)
    np.random.seed(3)
    expected, numbers = torch.rand(4), np.random.rand(4)
    torch.manual_seed(3)
    np.random.seed(3)
    view(photo(), augment=augment)
    assert torch.equal(torch.rand(4), expected)
    assert np.array_equal(np.random.rand(4), numbers)


class Views(Dataset):
    """Views of one photo under every augmentation, as worker processes make them."""

    def __len__(self) -> int:
        return 4 * len(AUGMENTATIONS)

    def __getitem__(self, index: int) -> torch.Tensor:
        if index % 3 == 0:
            torch.rand(index)  # another worker has drawn otherwise
        augment = AUGMENTATIONS[index % len(AUGMENTATIONS)]
        return view(photo(32, 32), augment=augment, row_id=str(index))


def test_every_augmentation_is_the_same_in_any_number_of_processes():
    alone, helped = (torch.cat(list(DataLoader(Views(), batch_size=4, num_workers=n))) for n in (0, 2))
    assert torch.equal(alone, helped)


@pytest.mark.parametrize("augment", [name for name in POLICIES if name != "basic"])
def test_a_policy_changes_the_views_of_basic_and_keeps_what_it_leaves_alone(augment):
    image = photo()
    before = [view(image, row_id=str(i)) for i in range(20)]
    after = [view(image, augment=augment, row_id=str(i)) for i in range(20)]
    assert all(v.shape == (3, 32, 32) and v.dtype == torch.uint8 for v in after)
    assert sum(torch.equal(a, b) for a, b in zip(before, after)) < 12
    # Whatever it does, the mean brightness of noise says that it is still the photo.
    difference = [abs(a.float().mean() - b.float().mean()) for a, b in zip(before, after)]
    assert float(np.median(difference)) < 40


@pytest.mark.parametrize("augment", PROFILES)
@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_a_challenge_view_is_the_photo_that_is_sent_brought_to_the_view_as_it_is_scored(augment, resize):
    image = photo(300, 200)
    sent = challenge_photo(image, augment, seed=view_seed(0, 2, "a.jpg"))
    pixels = torch.from_numpy(np.array(sent)).permute(2, 0, 1)
    for side in (224, 32):
        geometry = GEOMETRIES[resize](side)
        assert torch.equal(view(image, augment=augment, epoch=2, geometry=geometry), geometry.whole_view(pixels))


@pytest.mark.parametrize("augment", ["basic", *PROFILES])
def test_a_photo_is_turned_by_its_exif_and_coded_once_for_all_views_but_those_of_a_challenge(augment, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(96, 64).save(tmp_path / "a.jpg", exif=exif, quality=92)
    found = photo_for_view(tmp_path / "a.jpg", augment, Squash(32))
    expected = cached_photo(tmp_path / "a.jpg") if augment in PROFILES else open_photo(tmp_path / "a.jpg", min_side=64)
    assert found.size == ((96, 64) if augment in PROFILES else (64, 96))
    assert np.array_equal(np.asarray(found), np.asarray(expected))


def test_a_challenge_view_is_of_the_levels_that_are_asked_for():
    image, seed = photo(), view_seed(0, 0, "a.jpg")
    levels = [challenge_photo(image, "challenge@2025", level=level, seed=seed) for level in range(4)]
    for level, sent in enumerate(levels):
        probabilities = [float(i == level) for i in range(4)]
        found = view(image, augment="challenge@2025", challenge_levels=probabilities)
        assert torch.equal(found, view(sent, augment="none"))


@pytest.mark.parametrize(
    ("augment", "levels", "said"),
    [
        (
            "basic",
            [0.25] * 4,
            "challenge_levels: augment basic has no levels, only challenge@2025 and challenge@2026-04 have",
        ),
        ("challenge@2026-05", [1.0], "challenge_levels: augment challenge@2026-05 has no levels"),
        ("challenge@2025", [0.5, 0.5], "expected 4 probabilities that sum to 1"),
        ("challenge@2025", [0.5, 0.5, 0.5, -0.5], "expected 4 probabilities that sum to 1"),
        ("challenge@2025", [0.5, 0.5, 0.5, 0.5], "expected 4 probabilities that sum to 1"),
        ("challenge@2025", [float("nan"), 0.5, 0.5, 0.0], "expected 4 probabilities that sum to 1"),
    ],
)
def test_levels_that_an_augmentation_has_not_are_refused(augment, levels, said):
    with pytest.raises(UserError, match=re.escape(said)):
        check_augment(augment, levels)


def test_basic_views_mirror_half_of_the_time_and_crop():
    # A left-to-right ramp: a mirrored view falls from left to right, a crop spans less than the whole ramp.
    image = Image.fromarray(np.repeat(np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None], 64, 0).repeat(3, 2))
    views = torch.stack([view(image, row_id=str(i))[0].float() for i in range(400)])
    slope = views[:, :, -1].mean(1) - views[:, :, 0].mean(1)
    mirrored = (slope < 0).float().mean()
    assert abs(mirrored - 0.5) < 0.1  # four standard errors
    assert slope.abs().max() <= 255
    assert slope.abs().min() < 200


def test_an_unknown_augmentation_is_named_with_the_choices():
    with pytest.raises(
        UserError, match=r"none, basic, auto, .*, challenge@2025, challenge@2026-04, challenge@2026-05"
    ):
        view(photo(), augment="challenge@2024")


@pytest.mark.parametrize(("size", "resize"), [((1600, 900), "squash"), ((1600, 900), "crop"), ((600, 800), "crop")])
def test_crops_are_distributed_as_those_of_torchvision(size, resize, monkeypatch):
    """Shares of width, height and free room; torchvision draws offsets in pixels, here they are shares."""
    width, height = size
    aspect, most = (width / height, 1.0) if resize == "squash" else (1.0, min(size) / max(size))
    blank = torch.zeros(3, height, width, dtype=torch.uint8)
    draw = RandomResizedCrop(32, scale=(0.75 * most, most), ratio=(0.85 * aspect, aspect / 0.85)).make_params
    theirs = [[draw([blank])[key] for key in ("top", "left", "height", "width")] for _ in range(1500)]
    ours = []
    monkeypatch.setattr(augment.functional, "resized_crop", lambda _, *box, **__: ours.append(box[:4]) or blank)
    geometry = GEOMETRIES[resize](32)
    for number in range(1500):
        training_view(blank, augment="basic", geometry=geometry, seed=0, epoch=number, row_id="a")
    for first, second in zip(*(np.array(boxes, dtype=float).T for boxes in (ours, theirs))):
        assert ks_2samp(first, second).pvalue > 1e-4


@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_a_smaller_photo_is_cropped_alike(resize, monkeypatch):
    boxes, geometry = [], GEOMETRIES[resize](32)
    monkeypatch.setattr(augment.functional, "resized_crop", lambda p, *box, **__: boxes.append(box[:4]) or p)
    for number in range(50):
        for scale in (1, 4):
            blank = torch.zeros(3, 90 * scale, 160 * scale, dtype=torch.uint8)
            training_view(blank, augment="rand", geometry=geometry, seed=0, epoch=number, row_id="a")
    small, large = np.array(boxes[::2]), np.array(boxes[1::2])
    assert np.abs(small - large / 4).max() <= 1.5
    assert np.ptp(small, axis=0).min() > 10


def test_where_scored_photos_are_cropped_basic_keeps_three_quarters_of_the_largest_square():
    """Shapes around the square, not around the photo: what is scored is not squashed."""
    across, down = np.meshgrid(np.linspace(0, 255, 320), np.linspace(0, 255, 180))
    image = Image.fromarray(np.stack([across, down, 0 * down], axis=2).astype(np.uint8))
    for epoch in range(40):
        pixels = view(image, geometry=Crop(64), epoch=epoch).float() / 255
        width, height = (float(c.max() - c.min()) * n for c, n in zip(pixels[:2], (320, 180)))
        assert 0.70 * 180**2 <= width * height <= 1.01 * 180**2
        assert 0.8 <= width / height <= 1.25


def test_basic_shows_most_of_a_wide_photo_and_squashes_it_as_scoring_does():
    """The usual crops of 3:4 to 4:3 would cut the sides off every view of a 16:9 photo."""
    across, down = np.meshgrid(np.linspace(0, 255, 320), np.linspace(0, 255, 180))
    photo = Image.fromarray(np.stack([across, down, 0 * down], axis=2).astype(np.uint8))
    for epoch in range(40):
        pixels = view(photo, geometry=Squash(64), epoch=epoch).float() / 255
        width, height = (float(channel.max() - channel.min()) for channel in pixels[:2])
        assert 0.70 <= width * height <= 1.0
        assert 0.8 <= width / height <= 1.25
