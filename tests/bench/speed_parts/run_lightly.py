"""Trains a linear head on a frozen timm backbone with lightly-train, through its public function; nothing is changed.

    python run_lightly.py FOLDER WEIGHTS --out FOLDER --model timm/NAME --classes None Roadwork --epochs 2 ...

FOLDER holds `train/CLASS/` and `validation/CLASS/`, WEIGHTS is a state dict under timm's names. Colour jitter, which
the other trainers go without, is left out here too. It pools a timm DINOv3 by the mean of its patches, where the
others read the class token; that costs the same. Runs under the interpreter that has lightly-train; imports nothing
of ours.
"""

import argparse
from pathlib import Path

import lightly_train

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--classes", nargs="+", required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--batch_size", type=int, required=True)
    parser.add_argument("--num_workers", type=int, required=True)
    parser.add_argument("--learning_rate", type=float, required=True)
    given = parser.parse_args()
    # It counts steps, and drops the last batch of an epoch where that is not full.
    steps = max(1, len(list((given.folder / "train").rglob("*.jpg"))) // given.batch_size)
    # It multiplies the rate by sqrt(batch / 16).
    rate = given.learning_rate / (given.batch_size / 16) ** 0.5
    lightly_train.train_image_classification(
        out=given.out,
        data={
            "train": str(given.folder / "train"),
            "val": str(given.folder / "validation"),
            "classes": dict(enumerate(given.classes)),
        },
        model=given.model,
        steps=steps * given.epochs,
        batch_size=given.batch_size,
        num_workers=given.num_workers,
        precision="32-true",
        gradient_accumulation_steps=1,
        model_args={
            "backbone_freeze": True,
            "backbone_weights": given.weights,
            "lr": rate,
        },
        transform_args={"image_size": (224, 224), "color_jitter": None},
        logger_args={"val_every_num_steps": steps},
    )
