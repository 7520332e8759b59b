"""The ratios that the package promises, each taken beside its peer in one run.

    python tests/bench/speed.py --backbone FOLDER [--example run_image_classification.py]
    python tests/bench/speed.py --backbone FOLDER --photos 200 --lines train_help probe_again     # some of them, small

Photos are generated 1280x720 JPEG; `--photos` of them (default 2,000). Short lines are five pairs, taken in turn, and
their median; long ones are one pair. The bare loop runs on tensors in memory and is the limit; `--example` is the
image-classification example of transformers (fetched, not part of this repository), given our model class with the
backbone frozen; its 20 epochs are computed from runs of 2 and 4 and marked so. Prints Markdown, writes the same as
JSON to OUTPUT/speed.json. Not a test: it takes most of an hour.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from natix_hf.data.scenes import LABELS, scene

ROOT = Path(__file__).resolve().parents[2]
SIZE, BATCH = (1280, 720), 32
PAIRS = 5


def draw(folder: Path, count: int) -> Path:
    """Class folders of `count` generated photos of one size."""
    from concurrent.futures import ProcessPoolExecutor
    from itertools import count as counter

    done = folder / "labels.csv"
    if not done.exists():
        numbers, rows = counter(), []
        (folder / "images").mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor() as pool:
            while len(rows) < count:
                part = [next(numbers) for _ in range(64)]
                rows += [row for row in pool.map(_one, [(folder, n) for n in part], chunksize=8) if row]
        with open(done, "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerows([("image_path", "label", "group"), *rows[:count]])
        for row in rows[count:]:
            (folder / row[0]).unlink()
    return folder


def _one(task: tuple[Path, int]) -> tuple[str, str, str] | None:
    folder, number = task
    drawn = scene(7, number, SIZE)
    if drawn.image.size != SIZE:
        return None
    name = f"images/{number:06d}.jpg"
    drawn.image.save(folder / name, quality=90)
    return name, LABELS[drawn.label], drawn.group


def timed(words: list[str], home: Path | None = None, **environment: str) -> float:
    """Seconds of a command, start included."""
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", **environment}
    if home is not None:
        variables["NATIX_HF_HOME"] = str(home)
    begin = time.perf_counter()
    done = subprocess.run(words, cwd=ROOT, env=variables, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: {done.stderr.strip().splitlines()[-1:]}")
    return time.perf_counter() - begin


def median_ratio(first: Callable[[], float], second: Callable[[], float], pairs: int = PAIRS) -> tuple[float, str]:
    """The median of `first / second`, taken in turn, and how it was taken."""
    found = [first() / second() for _ in range(pairs)]
    return statistics.median(found), f"{pairs} pair{'s' * (pairs > 1)}, {min(found):.2f} to {max(found):.2f}"


class Bench:
    """One run of the benchmark: photos, backbone, and what several lines share."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.backbone = given, str(given.backbone)
        self.output = given.output.absolute()
        self.photos = draw(self.output / f"photos-{given.photos}", given.photos)
        self.home = self.output / "home"
        self.job = [sys.executable, "-m", "natix_hf.train", str(ROOT / "recipes" / "probe.yaml")]
        self.job += ["--dataset_name", str(self.photos), "--group_column", "group", "--overwrite_output_dir", "true"]
        self.job += ["--model_name_or_path", self.backbone, "--num_train_epochs", "20"]
        self.job += ["--output_dir", str(self.output / "probe")]

    # -- a probe --

    def bare_forward(self) -> float:
        """Seconds of one pass of the bare backbone over as many photos as there are, from tensors in memory."""
        from transformers import AutoModel

        model = AutoModel.from_pretrained(self.backbone, dtype=torch.float32).eval()
        pixels = torch.randn(BATCH, 3, 224, 224)
        with torch.inference_mode():
            model(pixels)
            begin = time.perf_counter()
            for start in range(0, self.given.photos, BATCH):
                model(pixels[: self.given.photos - start])
        return time.perf_counter() - begin

    def probe_job(self) -> tuple[float, str]:
        shutil.rmtree(self.home, ignore_errors=True)
        ours = timed(self.job, self.home)
        bare = self.bare_forward()
        self.probe_seconds = ours
        return ours / bare, f"one pair: {ours:.0f} s and {bare:.0f} s"

    def probe_example(self) -> tuple[float, str]:
        if self.given.example is None:
            raise LookupError("needs --example")
        ours = getattr(self, "probe_seconds", None) or (self.probe_job() and self.probe_seconds)
        two, four = (self._example(epochs) for epochs in (2, 4))
        whole = two + (four - two) / 2 * 18
        return whole / ours, f"one pair; 20 epochs of the example computed from 2 ({two:.0f} s) and 4 ({four:.0f} s)"

    def _example(self, epochs: int) -> float:
        with open(self.photos / "labels.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        folder = self.output / "example-photos"
        for row in rows:
            target = folder / row["label"] / Path(row["image_path"]).name
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                target.symlink_to(self.photos / row["image_path"])
        model = self.output / "example-model"
        if not model.exists():
            self._as_our_class(model)
        runner = (
            "import sys, runpy, natix_hf; from natix_hf.modeling.modeling_natix_dinov3 import "
            "NatixDinov3ForImageClassification as M; old = M.from_pretrained.__func__\n"
            "def frozen(cls, *a, **k):\n"
            "    m = old(cls, *a, **{n: v for n, v in k.items() if n not in ('token', 'ignore_mismatched_sizes')}); "
            "m.backbone.requires_grad_(False); return m\n"
            "M.from_pretrained = classmethod(frozen); sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], "
            "run_name='__main__')"
        )
        words = [sys.executable, "-c", runner, str(self.given.example), "--train_dir", str(folder), "--do_train"]
        words += ["--do_eval", "--model_name_or_path", str(model), "--num_train_epochs", str(epochs)]
        words += ["--per_device_train_batch_size", "64", "--output_dir", str(self.output / f"example-{epochs}")]
        words += ["--remove_unused_columns", "false", "--eval_strategy", "epoch", "--learning_rate", "1e-3"]
        words += ["--dataloader_num_workers", "2", "--label_column_name", "label", "--report_to", "none"]
        return timed(words, self.home)

    def _as_our_class(self, folder: Path) -> None:
        from natix_hf import load_model

        model, processor = load_model(self.backbone, ["None", "Roadwork"], method="probe")
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        # The example reads a processor's size as one of the older ones.
        path = folder / "preprocessor_config.json"
        path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")

    def probe_again(self) -> tuple[float, str]:
        """Seconds, not a ratio: another head on a warm cache, start included."""
        timed(self.job, self.home)
        found = timed([*self.job, "--probe_weight_decays", "0.01"], self.home)
        return found, "seconds, start included"

    def heads(self) -> tuple[float, str]:
        many = ["--probe_weight_decays", *(f"{1e-5 * 2**i:g}" for i in range(16))]  # 13 rates each: 208 heads
        one = ["--probe_learning_rates", "1e-2"]
        timed([*self.job, *one], self.home)
        return median_ratio(lambda: timed(self.job + many, self.home), lambda: timed(self.job + one, self.home), 3)

    # -- LoRA --

    def _trainer(self, folder: str, *, lora: dict[str, Any], epochs: int = 1, **options: Any) -> Any:
        from natix_hf import NatixTrainer, NatixTrainingArguments, load_model, load_photos

        os.environ["NATIX_HF_HOME"] = str(self.home)
        splits = load_photos(self.photos, group_column=["group"])
        model, processor = load_model(self.backbone, splits.label_names, method="lora", lora=lora)
        args = NatixTrainingArguments(
            output_dir=folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=16,
            eval_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
            **{"dataloader_num_workers": 2, **options.pop("arguments", {})},
        )
        return NatixTrainer(model, args, splits=splits, processing_class=processor, **options)

    def lora_step(self) -> tuple[float, str]:
        """Our step beside a bare loop's, both from views in memory."""
        from natix_hf import load_model

        steps, batch = 12, 16
        views = torch.randint(0, 255, (batch * steps, 3, 224, 224), dtype=torch.uint8)

        class InMemory(torch.utils.data.Dataset):
            def __len__(self) -> int:
                return len(views)

            def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
                return {"pixel_values": views[key[1]], "labels": key[1] % 2, "seed": 0}

        def ours() -> float:
            with tempfile.TemporaryDirectory() as folder:
                trainer = self._trainer(
                    folder, lora={}, arguments={"dataloader_num_workers": 0, "max_steps": steps, "logging_steps": 1000}
                )
                trainer.train_dataset = InMemory()
                trainer.sampler.count = len(views)
                trainer.train()
                return (trainer.accounting.stepping + trainer.accounting.waited) / trainer.accounting.steps

        def bare() -> float:
            model, processor = load_model(self.backbone, ["None", "Roadwork"], method="lora", lora={})
            mean, std = (torch.tensor(v)[:, None, None] for v in (processor.image_mean, processor.image_std))
            weights = [p for p in model.parameters() if p.requires_grad]
            optimizer = torch.optim.AdamW(weights, lr=2e-4, fused=True)
            model.train()
            begin = time.perf_counter()
            for start in range(0, len(views), batch):
                pixels = (views[start : start + batch] / 255 - mean) / std
                loss = torch.nn.functional.cross_entropy(model(pixel_values=pixels).logits, torch.arange(batch) % 2)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(weights, 1.0)
                optimizer.step()
                optimizer.zero_grad()
            return (time.perf_counter() - begin) / steps

        return median_ratio(ours, bare, 3)

    def prefix(self) -> tuple[float, str]:
        """Training seconds per epoch after the first, uncached over cached."""

        def epoch(**options: Any) -> float:
            from transformers import TrainerCallback

            times: list[float] = []

            class Clock(TrainerCallback):
                def on_epoch_begin(self, *_: Any, **__: Any) -> None:
                    times.append(time.perf_counter())

                def on_train_end(self, *_: Any, **__: Any) -> None:
                    times.append(time.perf_counter())

            with tempfile.TemporaryDirectory() as folder:
                trainer = self._trainer(
                    folder, lora={"lora_last_blocks": 3}, epochs=3, callbacks=[Clock()], fixed_views=1, **options
                )
                trainer.train()
            return (times[3] - times[1]) / 2

        return epoch() / (cached := epoch(prefix_cache_gb=20.0)), f"one pair, {cached:.0f} s an epoch cached"

    # -- inference and start --

    def predict(self) -> tuple[float, str]:
        from natix_hf.inference.prediction import load_classifier, predict_photos

        model_folder = self.output / "example-model"
        if not model_folder.exists():
            self._as_our_class(model_folder)
        model, processor = load_classifier(str(model_folder))
        paths = sorted(str(path) for path in (self.photos / "images").glob("*.jpg"))[:256]
        pixels = torch.randn(BATCH, 3, 224, 224)

        def ours() -> float:
            begin = time.perf_counter()
            count = sum(1 for _ in predict_photos(model, processor, paths, paths, batch_size=BATCH, num_workers=2))
            return count / (time.perf_counter() - begin)

        @torch.inference_mode()
        def bare() -> float:
            begin = time.perf_counter()
            for _ in range(len(paths) // BATCH):
                model(pixel_values=pixels)
            return len(paths) / (time.perf_counter() - begin)

        return median_ratio(ours, bare, 3)

    def memory(self) -> tuple[float, str]:
        """Peak memory of predict over ten times as many photos."""
        model_folder = self.output / "example-model"
        if not model_folder.exists():
            self._as_our_class(model_folder)
        small = self.output / "small-photos"
        small.mkdir(exist_ok=True)
        Image.new("RGB", (96, 64), (90, 120, 150)).save(small / "0.jpg")
        peaks = []
        for count in (500, 5000):
            folder = self.output / f"copies-{count}"
            folder.mkdir(exist_ok=True)
            for number in range(count):
                if not (target := folder / f"{number:05d}.jpg").exists():
                    target.hardlink_to(small / "0.jpg")
            words = [
                sys.executable,
                "-c",
                "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, ",
            ]
            words[-1] += "capture_output=True); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
            words += [sys.executable, "-m", "natix_hf.predict", str(model_folder), str(folder)]
            words += ["--output", str(self.output / "answers.csv")]
            done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=True)
            peaks.append(int(done.stdout.split()[-1]))
        return peaks[1] / peaks[0], f"one pair: {peaks[0] / 1024:.0f} and {peaks[1] / 1024:.0f} MiB"

    def train_help(self) -> tuple[float, str]:
        ours, bare = ["-m", "natix_hf.train", "--help"], ["-c", "from transformers import TrainingArguments"]
        return median_ratio(lambda: timed([sys.executable, *ours]), lambda: timed([sys.executable, *bare]))

    def data_help(self) -> tuple[float, str]:
        ours, bare = ["-m", "natix_hf.data", "--help"], ["-c", "import datasets"]
        return median_ratio(lambda: timed([sys.executable, *ours]), lambda: timed([sys.executable, *bare]))


LINES = {
    "train_help": ("`train --help` / importing TrainingArguments", "<= 1.2"),
    "data_help": ("`data --help` / `import datasets`", "<= 1.2"),
    "lora_step": ("LoRA, all linear layers: our step / a bare loop", "<= 1.05"),
    "predict": ("`predict` photos/s / bare forward photos/s, batch 32", ">= 0.9"),
    "memory": ("`predict`, 5,000 photos / 500: peak memory", "<= 1.05"),
    "prefix": ("LoRA, last 3 blocks: uncached / prefix-cached, an epoch after the first", ">= 2"),
    "probe_job": ("probe, 20 epochs: whole job / one bare forward pass", "<= 1.25"),
    "probe_again": ("probe again with another head, cache warm (seconds)", "<= 15"),
    "heads": ("208 heads / 1 head, features cached, whole jobs", "<= 2"),
    "probe_example": ("probe, 20 epochs: transformers' example, frozen / ours", ">= 12"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = ROOT.parent / "shared" / "backbones" / "dinov3-vits16-like"
    parser.add_argument("--backbone", type=Path, default=default)
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--lines", nargs="+", choices=list(LINES), default=list(LINES))
    parser.add_argument("--example", type=Path, help="run_image_classification.py of transformers")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "speed")
    given = parser.parse_args()
    if not given.backbone.is_dir():
        print(f"{given.backbone}: no such backbone: nothing measured", file=sys.stderr)
        return
    given.backbone = given.backbone.absolute()
    bench, found = Bench(given), {}
    print("| line | ratio | target | how |")
    print("|---|---|---|---|")
    for name in given.lines:
        what, target = LINES[name]
        try:
            ratio, how = getattr(bench, name)()
        except LookupError as error:
            print(f"| {what} | - | {target} | {error} |", flush=True)
            continue
        found[name] = {"ratio": ratio, "target": target, "how": how}
        print(f"| {what} | {ratio:.2f} | {target} | {how} |", flush=True)
    bench.output.mkdir(parents=True, exist_ok=True)
    (bench.output / "speed.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
