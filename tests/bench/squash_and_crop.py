"""The picture of the README that shows what `resize: squash` and `resize: crop` leave of a wide photo.

    python tests/bench/squash_and_crop.py [--index 218] [--output docs/squash_and_crop.png]

One generated scene whose work zone is at its edge: the photo, the view of each policy as the image processor makes it,
and what of the photo lies outside the crop (darkened). Nothing is measured; the same call writes the same picture.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import matplotlib
import torch
from PIL import Image
from transformers import DINOv3ViTImageProcessor

from natix_hf.inference.batches import client_pixels
from natix_hf.scenes.photos import scene

REPOSITORY = Path(__file__).resolve().parents[2]
SIDE = 224


def view(image, resize: str) -> torch.Tensor:
    """`(224, 224, 3)` in 0 to 1: the pixels that the model is given, before they are normalised."""
    square = {"height": SIDE, "width": SIDE}
    shape = {"size": square}
    if resize == "crop":
        shape = {"size": {"shortest_edge": SIDE}, "do_center_crop": True, "crop_size": square}
    return client_pixels(image, DINOv3ViTImageProcessor(**shape, do_normalize=False)).permute(1, 2, 0).clamp(0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", type=int, default=218, help="photo of the series of seed 0")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "docs" / "squash_and_crop.png")
    args = parser.parse_args()
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    photo = scene(0, args.index)
    width, height = photo.image.size
    figure, axes = plt.subplots(1, 3, figsize=(8.2, 2.75), width_ratios=[width / height, 1, 1], layout="constrained")
    axes[0].imshow(photo.image)
    for left in (0, (width + height) / 2):
        axes[0].axvspan(left, left + (width - height) / 2, color="black", alpha=0.45, linewidth=0)
    axes[0].set_xlim(0, width)
    axes[0].set_title(f"photo, {width} x {height}; dark: lost by crop", fontsize=9)
    for axis, resize in zip(axes[1:], ("squash", "crop")):
        axis.imshow(view(photo.image, resize))
        axis.set_title(f"resize: {resize}", fontsize=9)
    for axis in axes:
        axis.set_axis_off()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100)
    Image.open(drawn).convert("RGB").quantize(256).save(args.output, optimize=True)  # a third of the size
    print(f"{args.output}: {args.output.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
