"""A frozen backbone and a linear head, trained by three other trainers: what `speed.py` measures ours against.

Each method takes a number of epochs and returns the seconds of the whole job, start included. All three have the same
backbone with the weights frozen, the same photos (85 % to train with, 15 % to validate on after every epoch), batches
of 64, two decoding workers, random crops and flips, AdamW at 1e-3, float32, and no network. Each run starts from an
empty folder, so that what is prepared once is paid once in every run. The trainers themselves are not part of this
repository: their user fetches or installs them, and the runners beside this file say what little is changed in them.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import time
from functools import cached_property
from pathlib import Path

import torch

from natix_hf.scenes.photos import LABELS

HERE = Path(__file__).resolve().parent
BATCH, WORKERS, LEARNING_RATE = 64, 2, 1e-3
TIMM_MODEL = "vit_small_patch16_dinov3_qkvb"


def timed(words: list[str], home: Path | None = None, **environment: str) -> float:
    """Seconds of a command, start included.

    Args:
        words: the command.
        home: what it finds as NATIX_HF_HOME.
        environment: further variables.

    Raises:
        RuntimeError: it failed; with the last line that it said.
    """
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", **environment}
    if home is not None:
        variables["NATIX_HF_HOME"] = str(home)
    begin = time.perf_counter()
    done = subprocess.run(words, cwd=HERE.parents[2], env=variables, capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        said = done.stderr.strip().splitlines() or ["without a word"]
        raise RuntimeError(f"{' '.join(words[:4])} ... ended with {done.returncode}: {said[-1]}")
    return seconds


class Peers:
    """Photos and backbone in the forms that the other trainers read, made once and kept in `output`."""

    def __init__(self, photos: Path, backbone: str, output: Path) -> None:
        """Photos as `photos.draw` leaves them (`labels.csv` and what it names), a DINOv3 folder, a folder to write."""
        self.photos, self.backbone, self.output = photos, backbone, output

    @cached_property
    def folders(self) -> Path:
        """`train/CLASS/` and `validation/CLASS/`, links to the photos."""
        with open(self.photos / "labels.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        folder = self.output / f"peers-{self.photos.name}"
        for number, row in enumerate(rows):
            split = "validation" if number % 20 < 3 else "train"
            target = folder / split / row["label"] / Path(row["image_path"]).name
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.is_symlink():
                target.symlink_to((self.photos / row["image_path"]).resolve())
        return folder

    @cached_property
    def our_class(self) -> Path:
        """The backbone with a fresh head in our model class, which `AutoModelForImageClassification` loads."""
        from natix_hf import load_model

        folder = self.output / "our-class"
        model, processor = load_model(self.backbone, list(LABELS), method="probe")
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        return folder

    @cached_property
    def timm_weights(self) -> Path:
        """The same model under timm's names; its tokens agree with those of transformers to 5e-6."""
        from natix_hf import load_model
        from natix_hf.modeling.stock import stock_weights

        path = self.output / "timm-weights.pth"
        model, _ = load_model(self.backbone, list(LABELS), method="probe")
        torch.save({name.removeprefix("timm_model."): value for name, value in stock_weights(model).items()}, path)
        return path

    def _fresh(self, name: str) -> Path:
        folder = self.output / name
        shutil.rmtree(folder, ignore_errors=True)
        return folder

    def example(self, script: Path, epochs: int) -> float:
        """Seconds of transformers' `run_image_classification.py`, run through `run_example.py`."""
        output = self._fresh("example")
        words = [sys.executable, str(HERE / "run_example.py"), str(script.absolute()), "--do_train", "--do_eval"]
        words += ["--train_dir", str(self.folders / "train"), "--validation_dir", str(self.folders / "validation")]
        words += ["--model_name_or_path", str(self.our_class), "--output_dir", str(output / "run")]
        words += ["--cache_dir", str(output / "cache"), "--num_train_epochs", str(epochs), "--eval_strategy", "epoch"]
        words += ["--per_device_train_batch_size", str(BATCH), "--per_device_eval_batch_size", str(BATCH)]
        words += ["--learning_rate", str(LEARNING_RATE), "--dataloader_num_workers", str(WORKERS)]
        words += ["--remove_unused_columns", "false", "--report_to", "none"]
        return timed(words)

    def timm(self, checkout: Path, epochs: int) -> float:
        """Seconds of `train.py` of a pytorch-image-models checkout with its own timm, run through `run_timm.py`."""
        checkout, output = checkout.absolute(), self._fresh("timm")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        words = [sys.executable, str(HERE / "run_timm.py"), str(checkout / "train.py")]
        words += ["--data-dir", str(self.folders), "--train-split", "train", "--val-split", "validation"]
        words += ["--model", TIMM_MODEL, "--gp", "token", "--initial-checkpoint", str(self.timm_weights)]
        words += ["--num-classes", str(len(LABELS)), "--img-size", "224", "--device", device, "--no-prefetcher"]
        words += ["--opt", "adamw", "--lr", str(LEARNING_RATE), "--warmup-epochs", "0", "--epochs", str(epochs)]
        words += ["--batch-size", str(BATCH), "--workers", str(WORKERS), "--color-jitter", "0", "--smoothing", "0"]
        words += ["--output", str(output), "--checkpoint-hist", "1"]
        return timed(words, PYTHONPATH=str(checkout))

    def lightly(self, python: Path, epochs: int) -> float:
        """Seconds of lightly-train's `train_image_classification`, by an interpreter that has it and timm."""
        output = self._fresh("lightly")
        cache = output.with_name("lightly-cache")
        shutil.rmtree(cache, ignore_errors=True)
        words = [str(python.absolute()), str(HERE / "run_lightly.py"), str(self.folders), str(self.timm_weights)]
        words += ["--out", str(output), "--model", f"timm/{TIMM_MODEL}", "--classes", *LABELS]
        words += ["--epochs", str(epochs), "--batch_size", str(BATCH), "--num_workers", str(WORKERS)]
        words += ["--learning_rate", str(LEARNING_RATE)]
        # Its usage events go to a server; there is no network here, and no waiting for one.
        return timed(words, LIGHTLY_TRAIN_EVENTS_DISABLED="1", LIGHTLY_TRAIN_CACHE_DIR=str(cache))
