"""Trained with `basic` and with the matching `challenge@...`, then tested on photos as that challenge sends them.

    python tests/bench/challenge_training.py --profiles challenge@2025 --count 1500 --epochs 4 --seeds 0 1

LoRA on the demo backbone and generated scenes. Each model sees `val_test` clean and as the profile sends it, its
levels equally likely, what is drawn for a photo depending on its id alone, so that both models get the very same
pixels. The difference is paired on these photos; 95 % intervals by resampling groups. What follows `--` goes to every
run. Prints Markdown.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from natix_hf.data.load_photos import load_photos
from natix_hf.inference.batches import logits_of, photo_batches
from natix_hf.inference.classify import load_classifier
from natix_hf.photos.decode import open_photo
from natix_hf.report.intervals import bootstrap_intervals, group_count, paired_differences
from natix_hf.streetvision.profiles import PROFILES, apply_challenge, cached_photo, draw_challenge

ROOT = Path(__file__).resolve().parents[2]
METRICS = {"accuracy": "accuracy", "mcc": "MCC", "log_loss": "NLL"}


class Sent:
    """The photos of some rows as a profile sends them, by index; `profile` None leaves them clean."""

    def __init__(self, rows: Any, profile: str | None) -> None:
        self.rows, self.profile = rows, profile

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Image.Image:
        row = self.rows[index]
        if self.profile is None:
            return open_photo(row["image"])
        seed = int.from_bytes(hashlib.blake2b(row["id"].encode(), digest_size=7).digest(), "big")
        photo = cached_photo(row["image"])
        return apply_challenge(photo, draw_challenge(self.profile, photo.size, seed=seed))


def train(augment: str, folder: Path, seed: int, given: argparse.Namespace, extra: list[str]) -> None:
    command = [sys.executable, "-m", "natix_hf.train", str(ROOT / "recipes" / "demo.yaml"), "--augment", augment]
    command += ["--dataset_config", str(given.count), "--output_dir", str(folder), "--seed", str(seed)]
    command += ["--split_ratios", "0.6", "0.1", "0.1", "0.2", "--num_train_epochs", str(given.epochs), *extra]
    print(f"== {folder.name}", file=sys.stderr, flush=True)
    if subprocess.run(command, stdout=sys.stderr, cwd=ROOT).returncode:
        sys.exit(f"{folder.name}: the main job failed, see above")


def main() -> None:
    own = sys.argv[1:]
    own, extra = (own[: own.index("--")], own[own.index("--") + 1 :]) if "--" in own else (own, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profiles", nargs="+", choices=list(PROFILES), default=["challenge@2025"])
    parser.add_argument("--count", type=int, default=1500)
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "challenge_training")
    given = parser.parse_args(own)
    splits = load_photos("builtin:scenes", dataset_config=str(given.count), split_ratios=[0.6, 0.1, 0.1, 0.2])
    rows = splits.rows("final_evaluation", step="predictions")
    labels, groups = np.array(rows["label"][:]), np.array(rows["group"][:])
    print(f"| profile | seed | trained with | tested | {' | '.join(METRICS.values())} |")
    print("|---" * (4 + len(METRICS)) + "|")
    for profile in given.profiles:
        for seed in given.seeds:
            found: dict[tuple[str, str], np.ndarray] = {}
            for augment in ("basic", profile):
                folder = given.output / f"{augment.replace('@', '-')}-{seed}"
                if not (folder / "metrics.json").exists():
                    train(augment, folder, seed, given, extra)
                model, processor = load_classifier(str(folder))
                for tested in (None, profile):
                    batches = photo_batches(Sent(rows, tested), processor, batch_size=64)
                    logits = np.concatenate([logits_of(model, pixels) for _, pixels, _ in batches])
                    found[augment, tested or "clean"] = logits
                    values = bootstrap_intervals(logits, labels, groups, n_boot=2000)
                    cells = [f"{v['value']:.3f} ({v['low']:.3f} to {v['high']:.3f})" for v in map(values.get, METRICS)]
                    print(
                        f"| {profile} | {seed} | {augment} | {tested or 'clean'} | {' | '.join(cells)} |", flush=True
                    )
            for tested in ("clean", profile):
                cells = []
                changes = paired_differences(
                    found[profile, tested], found["basic", tested], labels, groups, n_boot=2000
                )
                for metric in METRICS:
                    change = changes[metric]
                    cells.append(f"{change['difference']:+.3f} ({change['low']:+.3f} to {change['high']:+.3f})")
                print(f"| {profile} | {seed} | difference | {tested} | {' | '.join(cells)} |", flush=True)
    print(f"\n{len(labels)} test photos in {group_count(groups, len(labels))} groups.")


if __name__ == "__main__":
    main()
