"""The real size on this machine: a ViT-H/16+ (840.6 M parameters) saved, loaded, given LoRA, and trained.

    python tests/bench/real_size.py [--batch_size 1] [--image_size 256 448] [--folder /tmp]
    python tests/bench/real_size.py --tiles 3          # the whole photo and three of its nine tiles
    python tests/bench/real_size.py --tiles 9 --layers 4   # fewer blocks, where the machine is too small or too slow

Random weights of the true shape, float32, 224 px by default, activation checkpointing. Saving and training run in a
child process each, so that the peak of one doesn't hide the other's. Memory is that of the process beside the weights
on disk, which it maps and the system may drop again; it is looked at every 10 ms. Beside it stands what is expected
from shapes. The folder (3.4 GB) is removed at the end. Not a test: it takes a minute or more.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
GIB = 2**30
LAYERS = 32
# Freed blocks go back to the system at once; gaps between them would otherwise count as held.
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "262144"}


def config(layers: int) -> Any:
    """The shape of `facebook/dinov3-vith16plus-pretrain-lvd1689m`, of so many blocks."""
    from transformers import DINOv3ViTConfig

    return DINOv3ViTConfig(
        hidden_size=1280,
        num_hidden_layers=layers,
        num_attention_heads=20,
        intermediate_size=5120,
        num_register_tokens=4,
        use_gated_mlp=True,
        hidden_act="silu",
    )


def random_backbone(layers: int) -> Any:
    """A `DINOv3ViTModel` of that shape."""
    import torch
    from transformers import DINOv3ViTModel

    with torch.device("meta"):
        model = DINOv3ViTModel(config(layers))
    model.to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Plain uniform: transformers' truncated normal takes minutes at this size.
            parameter.fill_(1.0) if "norm" in name or "lambda1" in name else parameter.uniform_(-0.03, 0.03)
    return model


def own_memory() -> int:
    """Bytes that this process holds beside mapped files (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


class Peak:
    """The most memory that this process held at once since `begin`, mapped files aside."""

    def __init__(self) -> None:
        self.bytes = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def begin(self) -> None:
        """Forget what was before."""
        self.bytes = own_memory()

    def _watch(self) -> None:
        while True:
            self.bytes = max(self.bytes, own_memory())
            time.sleep(0.01)


def save(folder: Path, layers: int) -> None:
    """A random backbone as its checkpoint is laid out."""
    from transformers import DINOv3ViTImageProcessor

    model = random_backbone(layers)
    print(f"parameters            {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M")
    model.save_pretrained(folder)
    DINOv3ViTImageProcessor().save_pretrained(folder)


def step(folder: Path, batch_size: int, image_size: list[int], tiles: int) -> None:
    """Load the folder, add LoRA to all linears, take an AdamW step."""
    import torch

    from natix_hf.modeling.adapters import add_lora
    from natix_hf.modeling.checkpoints import build_model
    from natix_hf.training.accounting import kept_for_backward
    from natix_hf.training.tiles import checkpointed

    def report(what: str, since: float) -> None:
        print(f"{what:<22}{time.monotonic() - since:6.1f} s   holds {own_memory() / GIB:5.2f} GiB", flush=True)

    start, peak = time.monotonic(), Peak()
    views = {"tiles": 9, "aggregate": "top_k", "top_k": 2} if tiles else None
    model = build_model(str(folder), ["None", "Roadwork"], views=views)
    model = add_lora(model, lora_r=16).train()  # activations are kept or computed anew where a model trains alone
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    report("load, add LoRA", start)
    print(f"trainable             {sum(p.numel() for p in trained) / 1e6:.2f} M")
    before = own_memory()  # torch, transformers, adapters
    photos = torch.randn(batch_size, *((1 + tiles,) if tiles else ()), 3, image_size[0], image_size[-1])
    with kept_for_backward(model) as kept:
        model(pixel_values=photos[:1])
    backbone = model.config.backbone_config
    patches = image_size[0] // backbone.patch_size * (image_size[-1] // backbone.patch_size)
    tokens = (1 + tiles) * (1 + backbone.num_register_tokens + patches)
    activations = batch_size * checkpointed(
        sum(kept.values()), backbone.num_hidden_layers, tokens, backbone.hidden_size
    )
    without = batch_size * sum(kept.values())
    states = 12 * sum(p.numel() for p in trained)  # the gradient and two moments
    print(
        f"expected to be kept   {activations / GIB:.2f} GiB of activations; {without / GIB:.2f} without checkpointing"
    )
    model.activation_checkpointing_enable()
    for parameter in trained:  # Adam's moments are there from the second step on
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    start = time.monotonic()
    peak.begin()
    loss = model(pixel_values=photos, labels=torch.arange(batch_size) % 2).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    report(f"step (loss {loss.item():.3f})", start)
    weights = sum(p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad)
    print(
        f"peak memory           {(peak.bytes - before) / GIB:.2f} GiB of a step (expected: "
        f"{(states + activations) / GIB:.2f}), {weights / GIB:.2f} of frozen weights and {before / GIB:.2f} of "
        f"adapters, torch and transformers: {(weights + peak.bytes) / GIB:.2f} in all"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=int, default=1, help="photos in the step")
    parser.add_argument("--image_size", type=int, nargs="+", default=[224], help="one number, or height and width")
    parser.add_argument("--tiles", type=int, default=0, help="so many tiles of nine beside the whole photo")
    parser.add_argument("--layers", type=int, default=LAYERS, help="blocks of the backbone")
    parser.add_argument("--folder", default=None, help="where the 3.4 GB go for a while")
    parser.add_argument("--only", choices=["save", "step"], default=None, help="run one part, in this process")
    arguments = parser.parse_args()
    if arguments.only == "save":
        return save(Path(arguments.folder), arguments.layers)
    if arguments.only == "step":
        return step(Path(arguments.folder), arguments.batch_size, arguments.image_size, arguments.tiles)
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="real-size-") as folder:
        for part in ("save", "step"):
            command = [sys.executable, __file__, "--only", part, "--folder", folder]
            command += ["--batch_size", str(arguments.batch_size), "--tiles", str(arguments.tiles)]
            command += ["--image_size", *map(str, arguments.image_size), "--layers", str(arguments.layers)]
            start = time.monotonic()
            subprocess.run(command, cwd=REPOSITORY, check=True, env=os.environ | RETURNED)
            print(f"{part}: {time.monotonic() - start:.0f} s in all", flush=True)


if __name__ == "__main__":
    main()
