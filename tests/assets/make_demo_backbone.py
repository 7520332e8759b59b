"""How the demo backbone was made: `python tests/assets/make_demo_backbone.py OUT --cache /tmp/pretraining`.

A small DINOv3 ViT learns from generated scenes of seeds that no demo uses which objects stand where: every patch
says which of the 20 object classes it shows, the CLS token which classes the picture shows. It is never told
whether a picture is roadwork. First it sees details of 48 pixels around an object,
then quarter pictures, then whole ones: a small network learns what things look like where it is cheap to show them.
Objects come from the generator, so the result knows drawn streets only.
The backbone's README gives the two commands that made it; two cores need about an hour.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers import DINOv3ViTConfig, DINOv3ViTImageProcessor, DINOv3ViTModel

from natix_hf.errors import command
from natix_hf.scenes.photos import scene
from natix_hf.scenes.world import CLASSES

SIDE, PATCH, MOST = 224, 16, 64  # pixels of a squashed picture and of a patch; objects kept per picture
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 5,
    "num_attention_heads": 2,
    "num_register_tokens": 4,
    "patch_size": PATCH,
    "image_size": SIDE,
    "layerscale_value": 1.0,
    "initializer_range": 0.07,  # near 1 / sqrt(128); the usual 0.02 is for far wider models and learns slowly here
    "pos_embed_rescale": None,
}


def _picture(task: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A squashed scene `(224, 224, 3)` and its objects `(64, 5)`: class (-1: none), left, top, right, bottom."""
    shown = scene(*task, size=(448, 252))
    pixels = np.asarray(shown.image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    scale = np.asarray([SIDE / shown.image.width, SIDE / shown.image.height] * 2)
    objects = np.full((MOST, 5), -1, np.float32)
    for row, (kind, box) in zip(objects, shown.objects[-MOST:], strict=False):  # the nearest come last
        row[0], row[1:] = CLASSES.index(kind), np.asarray(box) * scale
    return pixels, objects


def pictures(cache: Path, count: int, seed: int, workers: int) -> tuple[np.ndarray, np.ndarray]:
    """The scenes as arrays `(count, 224, 224, 3)` and `(count, 64, 5)`, drawn where `cache` lacks them."""
    cache.mkdir(parents=True, exist_ok=True)
    names = [cache / f"{part}-{seed}-{count}.npy" for part in ("pixels", "objects")]
    if not names[1].exists():
        pixels = np.lib.format.open_memmap(names[0], "w+", np.uint8, (count, SIDE, SIDE, 3))
        objects = np.zeros((count, MOST, 5), np.float32)
        with ProcessPoolExecutor(workers) as pool:
            tasks = [(seed, index) for index in range(count)]
            for index, (picture, boxes) in enumerate(pool.map(_picture, tasks, chunksize=16)):
                pixels[index], objects[index] = picture, boxes
        pixels.flush()
        np.save(names[1], objects)
    return np.load(names[0], mmap_mode="r"), np.load(names[1])


def patch_targets(objects: np.ndarray, left: int, top: int, side: int) -> np.ndarray:
    """Which classes each patch of a crop shows, `(side / 16, side / 16, classes)` of 0 and 1.

    A patch shows an object that covers a quarter of it, or a quarter of which lies in it.
    """
    cells = side // PATCH
    found = np.zeros((cells, cells, len(CLASSES)), np.float32)
    edges = np.arange(cells) * PATCH
    for kind, x0, y0, x1, y1 in objects[objects[:, 0] >= 0]:
        across = np.clip(np.minimum(x1 - left, edges + PATCH) - np.maximum(x0 - left, edges), 0, None)
        down = np.clip(np.minimum(y1 - top, edges + PATCH) - np.maximum(y0 - top, edges), 0, None)
        least = 0.25 * min(PATCH * PATCH, max((x1 - x0) * (y1 - y0), 1.0))
        found[:, :, int(kind)] = np.maximum(found[:, :, int(kind)], np.outer(down, across) >= least)
    return found


class Pretraining(nn.Module):
    """The backbone with two linear heads that are thrown away: objects per patch, objects per picture."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = DINOv3ViTModel(DINOv3ViTConfig(**SHAPE))
        self.per_patch = nn.Linear(SHAPE["hidden_size"], len(CLASSES))
        self.per_picture = nn.Linear(SHAPE["hidden_size"], len(CLASSES))
        for head in (self.per_patch, self.per_picture):
            nn.init.constant_(head.bias, -3.0)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels `(batch, 3, side, side)` to logits `(batch, patches, classes)` and `(batch, classes)`."""
        tokens = self.backbone(pixels).last_hidden_state  # (batch, 1 + 4 + patches, 128)
        return self.per_patch(tokens[:, 1 + SHAPE["num_register_tokens"] :]), self.per_picture(tokens[:, 0])


@torch.no_grad()
def start_from_statistics(model: Pretraining, pixels: np.ndarray) -> None:
    """Patch embedding = the first 128 principal components of patches, their variances evened out.

    Small things differ from their surroundings in components of little variance; from random weights most of the
    training would go into finding those.
    """
    few = normalised(pixels[:: max(1, len(pixels) // 400)])  # (n, 3, 224, 224)
    cells = functional.unfold(few, PATCH, stride=PATCH).transpose(1, 2).reshape(-1, 3 * PATCH * PATCH)
    mean = cells.mean(dim=0)
    variances, directions = torch.linalg.eigh(torch.cov((cells - mean).T))
    variances, directions = variances.flip(0), directions.flip(1)
    width = SHAPE["hidden_size"]
    weights = (directions[:, :width] * variances[:width] ** -0.35).T  # (128, 768)
    weights = weights / (cells[:5000] - mean).matmul(weights.T).std() * 0.7
    embedding = model.backbone.embeddings.patch_embeddings
    embedding.weight.copy_(weights.view_as(embedding.weight))
    embedding.bias.copy_(-weights @ mean)


def normalised(pixels: np.ndarray) -> Tensor:
    """Pixels `(n, side, side, 3)` of 0 to 255 as the network takes them, `(n, 3, side, side)`."""
    images = torch.from_numpy(np.ascontiguousarray(pixels, np.float32)).permute(0, 3, 1, 2) / 255
    return ((images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]).contiguous()


def batch(
    pixels: np.ndarray, objects: np.ndarray, size: int, side: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """`size` random crops of `side` pixels, most around an object: `(size, 3, side, side)`, targets per patch."""
    views, targets = [], []
    for index in rng.integers(0, len(pixels), size):
        left, top = rng.integers(0, SIDE - side + 1, 2) if side < SIDE else (0, 0)
        boxes = objects[index, objects[index, :, 0] >= 0]
        if side < SIDE and len(boxes) and rng.random() < 0.8:
            kinds = np.unique(boxes[:, 0])
            of_kind = boxes[boxes[:, 0] == rng.choice(kinds)]
            box = of_kind[rng.integers(len(of_kind))]
            middle = np.asarray([(box[1] + box[3]) / 2, (box[2] + box[4]) / 2])
            left, top = np.clip(middle - side * rng.uniform(0.3, 0.7, 2), 0, SIDE - side).astype(int)
        view = pixels[index, top : top + side, left : left + side].astype(np.float32)
        view = view * rng.uniform(0.85, 1.15) + rng.uniform(-12, 12)
        near = (boxes[:, 1] < left + side) & (boxes[:, 3] > left) & (boxes[:, 2] < top + side) & (boxes[:, 4] > top)
        target = patch_targets(boxes[near], int(left), int(top), side)
        if rng.random() < 0.5:
            view, target = view[:, ::-1], target[:, ::-1]
        views.append(np.clip(view, 0, 255))
        targets.append(target.reshape(-1, len(CLASSES)))
    return normalised(np.stack(views)), torch.from_numpy(np.stack(targets))


def loss_of(model: Pretraining, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The sum that is minimised, then its parts per patch and per picture (means over classes)."""
    patches, picture = model(images)
    seen = targets.amax(dim=1)
    # the boxes of these hold mostly background
    trust = torch.tensor([0.1 if kind in ("tree", "lamp_post", "crane", "awning") else 1.0 for kind in CLASSES])
    local = functional.binary_cross_entropy_with_logits(patches, targets, trust, pos_weight=torch.tensor(4.0))
    whole = functional.binary_cross_entropy_with_logits(picture, seen)
    return 20 * local + 2 * whole, local, whole


def train(model: Pretraining, data: tuple[np.ndarray, np.ndarray], args: argparse.Namespace) -> None:
    """Details, quarter pictures, then whole ones, under one learning-rate schedule (linear warm-up, cosine)."""
    pixels, objects = data
    held = slice(len(pixels) - 200, len(pixels))
    stages = [(3 * PATCH, 128, args.details), (SIDE // 2, 32, args.quarters), (SIDE, 12, args.wholes)]
    plan = [(side, size) for side, size, shown in stages for _ in range(shown // size)]
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.98))
    cost = np.cumsum([side * side * size for side, size in plan])
    cost = cost / cost[-1]
    rng, began, recent = np.random.default_rng(args.seed), time.time(), []
    for step, (side, size) in enumerate(plan):
        rate = (
            args.learning_rate * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * (1 + math.cos(math.pi * cost[step])) / 2)
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        model.train()
        # positions are relative to the picture's edges: stretching them at random lets quarters teach wholes
        model.backbone.config.pos_embed_rescale = 2.0 if side < SIDE else None
        loss, local, whole = loss_of(model, *batch(pixels[: held.start], objects[: held.start], size, side, rng))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        recent = [*recent[-49:], (local.item(), whole.item())]
        if step % 50 == 49 or step == len(plan) - 1:
            figures = "per patch {:.4f} per picture {:.4f}".format(*np.mean(recent, axis=0))
            print(f"{step + 1}/{len(plan)} side {side} {figures} {time.time() - began:.0f} s", flush=True)
        if step % 400 == 399 or step == len(plan) - 1:
            print(
                f"  average precision per picture, held out: {average_precision(model, pixels[held], objects[held])}"
            )
            save(model, Path(args.folder))


@torch.no_grad()
def average_precision(model: Pretraining, pixels: np.ndarray, objects: np.ndarray) -> dict[str, float]:
    """Average precision of the CLS head per class on whole pictures."""
    from sklearn.metrics import average_precision_score

    model.eval()
    scores, truth = [], []
    for start in range(0, len(pixels), 20):
        scores.append(model(normalised(pixels[start : start + 20]))[1].numpy())
        truth += [patch_targets(boxes, 0, 0, SIDE).max(axis=(0, 1)) for boxes in objects[start : start + 20]]
    scores, truth = np.concatenate(scores), np.stack(truth)
    return {
        kind: round(float(average_precision_score(truth[:, i], scores[:, i])), 3)
        for i, kind in enumerate(CLASSES)
        if truth[:, i].any()
    }


def save(model: Pretraining, folder: Path) -> None:
    """Write the backbone in fp16 with its processor, as `AutoModel` and `AutoImageProcessor` load them."""
    half = DINOv3ViTModel(DINOv3ViTConfig(**SHAPE, dtype="float16")).half()
    half.load_state_dict(model.backbone.state_dict())
    half.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    DINOv3ViTImageProcessor(size=size, image_mean=list(MEAN), image_std=list(STD)).save_pretrained(folder)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Make the demo backbone.")
    parser.add_argument("folder", help="where config.json, model.safetensors and preprocessor_config.json go")
    parser.add_argument("--cache", required=True, help="folder for the drawn scenes, about 150 KB each")
    parser.add_argument("--count", type=int, default=6000, help="scenes (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1_000_000, help="series of scenes (default %(default)s)")
    parser.add_argument(
        "--details", type=int, default=128_000, help="details of 48 pixels shown (default %(default)s)"
    )
    parser.add_argument("--quarters", type=int, default=32_000, help="quarter pictures shown (default %(default)s)")
    parser.add_argument("--wholes", type=int, default=12_000, help="whole pictures shown (default %(default)s)")
    parser.add_argument("--learning_rate", type=float, default=2e-3, help="highest rate (default %(default)s)")
    parser.add_argument("--start_from", help="go on from the backbone in this folder, with new heads")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="(default %(default)s)")
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    data = pictures(Path(args.cache), args.count, args.seed, args.threads)
    model = Pretraining()
    if args.start_from:
        model.backbone = DINOv3ViTModel.from_pretrained(args.start_from, dtype=torch.float32)
    else:
        start_from_statistics(model, data[0])
    train(model, data, args)


if __name__ == "__main__":
    command(main)
