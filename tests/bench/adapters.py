"""LoRA, DoRA and DoRAN beside each other: what they reach with few and with all labels, and what a step costs.

    python tests/bench/adapters.py --photos 3000 --steps 60 --blocks 1 --image_size 160

Generated street photos, the demo's backbone, adapters on every linear of its last blocks. What stands below them is
frozen and computed once, so there is no augmentation. All have one learning rate, the head too; nothing is tuned.
Subsets of labels are whole groups, and all ways see the same batches. Prints Markdown: figures on `val_test`,
differences to LoRA (the mean over seeds, paired; their intervals speak of other photos, not of other seeds), the
processor time of a step as a ratio to LoRA's, and DoRAN's tau over time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from natix_hf import load_photos
from natix_hf.inference.batches import client_pixels
from natix_hf.modeling.adapters import add_lora
from natix_hf.modeling.checkpoints import build_model, load_processor
from natix_hf.modeling.doran import DoranLinear
from natix_hf.photos.geometry import Squash
from natix_hf.report.intervals import difference_of_means, group_count
from natix_hf.report.metrics import classification_metrics
from natix_hf.training.prefix import prefix_states

BACKBONE = "builtin:demo-backbone"
RATE = 3e-3
METRICS = {"accuracy": "accuracy", "mcc": "MCC", "log_loss": "NLL"}
TOLD = 5  # how often tau is looked at, start and end included


def lora(**options: Any) -> Callable[[nn.Module, int], nn.Module]:
    return lambda model, blocks: add_lora(model, lora_r=8, lora_alpha=16, lora_last_blocks=blocks, **options)


WAYS = {
    "LoRA": lora(),
    "DoRA": lora(use_dora=True),
    "DoRAN": lora(use_doran=True),
    "DoRAN, `doran_share: block`": lora(use_doran=True, doran_share="block"),
}


class Part(NamedTuple):
    """Photos of one split: activations `(n, tokens, hidden)` below the last blocks, labels and groups `(n,)`."""

    states: Tensor
    labels: Tensor
    groups: np.ndarray


class Trained(NamedTuple):
    logits: np.ndarray  # `(n, classes)` on val_test
    tau: list[tuple[float, float, float]]  # least, mean and most over layers, as shares of the norms of their rows


@torch.no_grad()
def part(model: nn.Module, rows: Any, processor: Any, blocks: int) -> Part:
    states = []
    for i in range(0, len(rows), 32):
        pixels = torch.stack([client_pixels(photo, processor) for photo in rows["image"][i : i + 32]])
        states.append(prefix_states(model, pixels, blocks))
    return Part(torch.cat(states), torch.tensor(rows["label"][:]), np.array(rows["group"][:]))


def adapted(way: Callable[[nn.Module, int], nn.Module], names: Sequence[str], blocks: int, seed: int) -> nn.Module:
    """A fresh model with adapters; the same seed gives all ways the same head."""
    torch.manual_seed(seed)
    model = way(build_model(BACKBONE, names, seed=seed), blocks)
    plain = model.get_base_model()
    plain.last_blocks = blocks
    return model


def subset(train: Part, share: float, seed: int) -> np.ndarray:
    """Indices of whole groups that hold this share of the photos."""
    groups = np.random.default_rng(seed).permutation(np.unique(train.groups))
    sizes = {group: int((train.groups == group).sum()) for group in groups}
    reached = np.cumsum([sizes[group] for group in groups])
    chosen = groups[: 1 + int(np.searchsorted(reached, share * len(train.groups)))]
    return np.flatnonzero(np.isin(train.groups, chosen))


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW without decay."""
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE, weight_decay=0.0)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, states: Tensor, labels: Tensor) -> None:
    model(prefix_states=states, labels=labels).loss.backward()
    nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimizer.step()
    optimizer.zero_grad()


@torch.no_grad()
def logits(model: nn.Module, states: Tensor) -> Tensor:
    model.eval()
    found = torch.cat([model(prefix_states=some).logits for some in states.split(64)])
    model.train()
    return found


@torch.no_grad()
def taus(model: nn.Module) -> tuple[float, float, float] | None:
    found = [
        float(m.lora_doran["default"].log_tau.exp() / m.base_layer.weight.norm(dim=1).mean())
        for m in model.modules()
        if isinstance(m, DoranLinear)
    ]
    return (min(found), statistics.fmean(found), max(found)) if found else None


def train(model: nn.Module, parts: dict[str, Part], chosen: np.ndarray, steps: int, seed: int) -> Trained:
    """Batches of 16, a tenth of warm-up and a cosine to zero."""
    optimizer, rng, tau = optimizer_of(model), np.random.default_rng(seed), [taus(model)]
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda n: min(1.0, 10 * (n + 1) / steps) * (1 + np.cos(np.pi * n / steps)) / 2
    )
    order: list[int] = []
    model.train()
    for number in range(1, steps + 1):
        if len(order) < 16:
            order = [*order, *rng.permutation(chosen)]
        batch, order = order[:16], order[16:]
        step(model, optimizer, parts["train"].states[batch], parts["train"].labels[batch])
        schedule.step()
        if number * (TOLD - 1) % steps < TOLD - 1:
            tau.append(taus(model))
    return Trained(logits(model, parts["val_test"].states).numpy(), [one for one in tau if one])


def step_times(names: Sequence[str], part: Part, blocks: int, rounds: int) -> dict[str, float]:
    """Median over rounds of each way's processor time for a step of 16 photos, over LoRA's in the same round."""
    models = {name: adapted(way, names, blocks, 0).train() for name, way in WAYS.items()}
    optimizers = {name: optimizer_of(model) for name, model in models.items()}
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds + 1):
        for name, model in models.items():
            begin = time.process_time()
            for _ in range(4):
                step(model, optimizers[name], part.states[:16], part.labels[:16])
            found[name].append(time.process_time() - begin)
    return {
        name: statistics.median(own / base for own, base in zip(found[name][1:], found["LoRA"][1:])) for name in WAYS
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=3000, help="streets that are drawn")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--blocks", type=int, default=1, help="last blocks that bear adapters")
    parser.add_argument("--image_size", type=int, default=160)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 1.0], help="of the labels")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=20, help="in which a step is timed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    options = {
        "split_ratios": [0.3, 0.07, 0.43, 0.2],
        "near_duplicates": False,
    }  # a calibration set is not needed here
    splits = load_photos("builtin:scenes", dataset_config=str(arguments.photos), **options)
    names, blocks = splits.label_names, arguments.blocks
    base, processor = build_model(BACKBONE, names), load_processor(BACKBONE, Squash(arguments.image_size))
    wanted = {
        "train": ("training", "train"),
        "val_test": ("final_evaluation", "predictions"),
    }
    parts = {
        split: part(base, splits.rows(role, step=what), processor, blocks) for split, (role, what) in wanted.items()
    }
    test = parts["val_test"]
    labels = test.labels.numpy()
    print(
        f"{len(parts['train'].labels)} photos to train on, {len(labels)} in {group_count(test.groups, len(labels))} "
        f"groups to test; {arguments.steps} steps of 16, seeds {' '.join(map(str, arguments.seeds))}.\n"
    )
    times = step_times(names, parts["train"], blocks, arguments.rounds)
    print("| adapters | trained in the backbone | time of a step |\n|---|---|---|")
    for name, way in WAYS.items():
        model = adapted(way, names, blocks, 0)
        count = sum(p.numel() for n, p in model.named_parameters() if p.requires_grad and ".head." not in n)
        print(f"| {name} | {count:,} | {times[name]:.2f} |", flush=True)
    for share in arguments.shares:
        print(f"\n| {share:.0%} of the labels | {' | '.join(METRICS.values())} | less LoRA: accuracy | MCC | NLL |")
        print("|---" * 7 + "|", flush=True)
        found: dict[str, list[Trained]] = {}
        for name, way in WAYS.items():
            runs = found[name] = []
            for seed in arguments.seeds:
                chosen = subset(parts["train"], share, seed)
                model = adapted(way, names, blocks, seed)
                runs.append(train(model, parts, chosen, arguments.steps, seed))
            figures = [classification_metrics(one.logits, labels, 1) for one in runs]
            cells = [f"{statistics.fmean(one[metric] for one in figures):.3f}" for metric in METRICS]
            pairs = [one.logits for one in runs], [one.logits for one in found["LoRA"]]
            for metric in METRICS:
                gap = difference_of_means(*pairs, labels, test.groups, metric)
                told = f"{gap['difference']:+.3f} ({gap['low']:+.3f} to {gap['high']:+.3f})"
                cells.append("" if name == "LoRA" else told)
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
        shown = [f"{number / (TOLD - 1):.0%} of the steps" for number in range(TOLD)]
        print(f"\n| tau / mean norm of the rows | {' | '.join(shown)} |\n{'|---' * (TOLD + 1)}|")
        for name, runs in found.items():
            if runs[0].tau:
                taken = np.array([one.tau for one in runs])  # (seeds, TOLD, 3)
                low, mean, high = taken[:, :, 0].min(axis=0), taken[:, :, 1].mean(axis=0), taken[:, :, 2].max(axis=0)
                cells = [f"{mean[i]:.3f} ({low[i]:.3f} to {high[i]:.3f})" for i in range(TOLD)]
                print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
