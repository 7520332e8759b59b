"""CPU seconds a photo of a model that sees tiles, by the share of photos that leave early; ViT-S/16 of random weights.

    python tests/bench/exit_seconds.py --photos 16

Generated scenes of 960 x 540, the whole and 3 x 3 tiles at 224 x 224, on one thread; the time of other processes does
not count. `prepare` is the image processor, which cuts the tiles of every photo; `network` the forward pass in batches
of `--batch`, the faster of two rounds. Prints Markdown.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from transformers import DINOv3ViTConfig, DINOv3ViTImageProcessor

from natix_hf.inference.batches import pixels_of, staged_logits_of
from natix_hf.modeling.configuration_natix_dinov3 import NatixDinov3Config
from natix_hf.modeling.image_processing_natix_dinov3 import NatixDinov3ImageProcessor
from natix_hf.modeling.modeling_natix_dinov3 import NatixDinov3ForImageClassification
from natix_hf.modeling.packed_linear import packed_linears
from natix_hf.photos.decode import open_photo
from natix_hf.photos.geometry import Squash, Tiles
from natix_hf.scenes.photos import encode, scene

GRID = 3
STAGE = {"temperature": [1.0, 1.0], "bias": [0.0, 0.0], "isotonic": None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4)
    given = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    backbone = DINOv3ViTConfig(
        hidden_size=384, intermediate_size=1536, num_attention_heads=6, num_hidden_layers=12, num_register_tokens=4
    )
    views = {"tiles": GRID**2, "aggregate": "top_k", "top_k": 2}
    model = NatixDinov3ForImageClassification(NatixDinov3Config(backbone_config=backbone, views=views)).eval()
    photos = [open_photo(encode(scene(0, index, (960, 540)))) for index in range(given.photos)]
    prepared = {}
    kinds = {"whole": (DINOv3ViTImageProcessor, Squash(224))}
    kinds["tiles"] = NatixDinov3ImageProcessor, Tiles(224, 224, (GRID, GRID), 0.2)
    for name, (kind, geometry) in kinds.items():
        processor, begin = kind(**geometry.processor_settings()), time.process_time()
        pixels = torch.stack([pixels_of(photo, processor) for photo in photos])
        prepared[name] = (time.process_time() - begin) / len(photos)
    with torch.inference_mode():
        whole = model.head(model.extract_features(pixels[:, :1]), whole_alone=True).double().softmax(dim=-1)[:, 1]
    print(f"prepare: {prepared['whole']:.4f} s a photo for the whole view, {prepared['tiles']:.4f} s with its tiles\n")
    print("| leave early | views a photo | network, CPU seconds a photo |\n|---|---|---|")
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        high = 1.1 if share == 0 else float(np.quantile(whole, 1 - share))
        exits = {"low": -0.1, "high": high, "positive": 1, "stages": [STAGE, STAGE]}
        model.set_calibration(1.0, views_exit=exits)
        taken = []
        with packed_linears(model):
            for _ in range(2):
                begin = time.process_time()
                stages = [staged_logits_of(model, batch).stage for batch in pixels.split(given.batch)]
                taken.append((time.process_time() - begin) / len(photos))
        early = np.mean(np.concatenate(stages) == 1)
        print(f"| {early:.0%} | {1 + GRID**2 * (1 - early):.2f} | {min(taken):.3f} |")


if __name__ == "__main__":
    main()
