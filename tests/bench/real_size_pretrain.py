"""One ExPLoRA step at the real size: ViT-H/16+, two crops of 224 px and six of 96, activation checkpointing.

    python tests/bench/real_size_pretrain.py [--batch_size 2] [--layers 4] [--objective distill]

Random weights of the true shape in memory, float32. Prints the most memory that the process held during the step
(looked at every 10 ms, Linux) beside what is expected from shapes. `--layers` takes fewer blocks, where the machine is
too small or too slow for all 32; a step of two photos is some 8 TFLOP. Not a test.
"""

from __future__ import annotations

import argparse
import time

import torch
from real_size import GIB, LAYERS, Peak, own_memory, random_backbone
from transformers import DINOv3ViTModel

from natix_hf.training.ema import Ema
from natix_hf.training.pretrain.memory import step_memory
from natix_hf.training.pretrain.pretrain_options import PretrainOptions
from natix_hf.training.pretrain.student import Student, free

SIDE = 224


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=int, default=2, help="photos in the step")
    parser.add_argument("--layers", type=int, default=LAYERS, help="blocks of the backbone")
    parser.add_argument("--objective", choices=["dino", "distill"], default="dino")
    given = parser.parse_args()
    options = PretrainOptions(pretrain_objective=given.objective, pretrain_local_crops=6)
    before, peak = own_memory(), Peak()
    student = Student(random_backbone(given.layers), options).train()
    student.activation_checkpointing_enable()
    trained = [p for p in student.parameters() if p.requires_grad]
    heads = sum(p.numel() for p in student.objective.parameters())
    print(
        f"parameters    {sum(p.numel() for p in student.parameters()) / 1e6:.1f} M, {heads / 1e6:.1f} M of them heads"
    )
    print(f"trainable     {sum(p.numel() for p in trained) / 1e6:.1f} M")
    average, optimizer = Ema(student, 0.994), torch.optim.AdamW(trained, lr=1e-4)
    for parameter in trained:  # Adam's moments are there from the second step on
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    print(f"held          {(own_memory() - before) / GIB:.2f} GiB before the step", flush=True)
    views, config = student.objective.views, student.backbone.config
    large = torch.randn(views * given.batch_size, 3, SIDE, SIDE)
    masks = torch.rand(len(large), (SIDE // config.patch_size) ** 2) < 0.3
    count, local = student.objective.local_crops(options), options.pretrain_local_size
    small = torch.randn(count * given.batch_size, 3, local, local) if count else None
    begin = time.monotonic()
    peak.begin()
    loss = student(large, masks, small, targets_by=average, temperature=0.04, heads_only=False)["loss"]
    loss.backward()
    optimizer.step()
    average.update(0)
    print(f"step          {time.monotonic() - begin:.0f} s, loss {loss.item():.2f}")
    with torch.device("meta"):
        sketch = DINOv3ViTModel(config)
    free(sketch, options)
    expected, activations = step_memory(sketch, options, photos=given.batch_size, side=SIDE, checkpointing=True)
    told = f"{expected / GIB:.2f} expected, {activations / GIB:.2f} of it activations"
    print(f"peak memory   {(peak.bytes - before) / GIB:.2f} GiB; {told}")


if __name__ == "__main__":
    main()
