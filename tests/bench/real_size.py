"""The real size on this machine: a ViT-H/16+ (840.6 M parameters) saved, loaded, given LoRA, and trained.

    python tests/bench/real_size.py [--batch_size 1] [--image_size 256 448] [--folder /tmp]

Random weights of the true shape, float32, 224 px by default, activation checkpointing. Saving and training run in a
child process each, so that the peak of one doesn't hide the other's. The folder (3.4 GB) is removed at the end. Not a
test: it takes a minute or more.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
GIB = 2**30


def save(folder: Path) -> None:
    """A random ViT-H/16+ as `facebook/dinov3-vith16plus-pretrain-lvd1689m` is laid out."""
    import torch
    from transformers import DINOv3ViTConfig, DINOv3ViTImageProcessor, DINOv3ViTModel

    config = DINOv3ViTConfig(
        hidden_size=1280,
        num_hidden_layers=32,
        num_attention_heads=20,
        intermediate_size=5120,
        num_register_tokens=4,
        use_gated_mlp=True,
        hidden_act="silu",
    )
    with torch.device("meta"):
        model = DINOv3ViTModel(config)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Plain uniform: transformers' truncated normal takes minutes at this size.
            parameter.fill_(1.0) if "norm" in name or "lambda1" in name else parameter.uniform_(-0.03, 0.03)
    print(f"parameters            {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M")
    model.save_pretrained(folder)
    DINOv3ViTImageProcessor().save_pretrained(folder)


def step(folder: Path, batch_size: int, image_size: list[int]) -> None:
    """Load the folder, add LoRA to all linears, take one AdamW step."""
    import torch

    from natix_hf.modeling.adapters import add_lora
    from natix_hf.modeling.checkpoints import build_model

    def report(what: str, since: float) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
        print(f"{what:<22}{time.monotonic() - since:6.1f} s   peak so far {peak:5.2f} GiB")

    start = time.monotonic()
    model = build_model(str(folder), ["None", "Roadwork"])
    report("load", start)
    start = time.monotonic()
    model = add_lora(model, lora_r=16)
    model.activation_checkpointing_enable()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    report("add LoRA", start)
    print(f"trainable             {sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6:.2f} M")
    photos = torch.randn(batch_size, 3, image_size[0], image_size[-1])
    labels = torch.arange(batch_size) % 2
    for number in (1, 2):
        start = time.monotonic()
        loss = model(pixel_values=photos, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        report(f"step {number} (loss {loss.item():.3f})", start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=int, default=1, help="photos in the step")
    parser.add_argument("--image_size", type=int, nargs="+", default=[224], help="one number, or height and width")
    parser.add_argument("--folder", default=None, help="where the 3.4 GB go for a while")
    parser.add_argument("--only", choices=["save", "step"], default=None, help="run one part, in this process")
    arguments = parser.parse_args()
    if arguments.only == "save":
        return save(Path(arguments.folder))
    if arguments.only == "step":
        return step(Path(arguments.folder), arguments.batch_size, arguments.image_size)
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="real-size-") as folder:
        for part in ("save", "step"):
            command = [sys.executable, __file__, "--only", part, "--folder", folder]
            command += ["--batch_size", str(arguments.batch_size)]
            command += ["--image_size", *map(str, arguments.image_size)]
            start = time.monotonic()
            subprocess.run(command, cwd=REPOSITORY, check=True)
            print(f"{part}: {time.monotonic() - start:.0f} s in all", flush=True)
    # The greatest of the children; `save` holds the weights once, `step` more.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / GIB
    print(f"peak memory           {peak:.2f} GiB of resident memory, mapped files included")


if __name__ == "__main__":
    main()
