"""The ratios that the package promises, each taken beside its peer in one run.

    python tests/bench/speed.py --example run_image_classification.py --timm pytorch-image-models --lightly bin/python
    python tests/bench/speed.py --photos 200 --lines train_help probe_again --output runs/small   # some of them, small

Photos are generated 1280x720 JPEG; `--photos` of them (default 2,000). Short lines are five pairs, taken in turn, and
their median; long ones are one pair. Lines of "processor time" run on one thread and count what it worked, so that
other work on the machine moves them little; the others go by the clock. The bare loop runs on tensors in memory and is
the limit of what a trainer can do with the layers as torch runs them; where packed layers are quicker, ours may be
ahead of it. The other trainers (`speed_parts/peers.py`) are fetched or installed by hand and no part of this
repository: the image-classification example of transformers, a checkout of timm's repository with its `train.py`, an
interpreter that has lightly-train and timm. Each trains a linear head on the same frozen backbone; its 20 epochs are
computed from runs of 2 and 4 and marked so. Prints Markdown, and writes OUTPUT/speed.md and OUTPUT/speed.json, line by
line; a line that is not measured this time stays as it was, and says so where that was in another setting. Not a test:
it takes most of an hour, and each of the other trainers six passes over the photos more.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from decode_for_training import alternating, photo_rows, ways
from PIL import Image
from speed_parts.peers import Peers, timed
from speed_parts.photos import SIZE, draw
from speed_parts.table import Table, setting

from natix_hf.modeling.packed_linear import packed_linears
from natix_hf.photos.copies import photo_copies
from natix_hf.photos.geometry import Squash
from natix_hf.scenes.photos import LABELS

ROOT = Path(__file__).resolve().parents[2]
BATCH = 32
PAIRS = 5


def median_ratio(first: Callable[[], float], second: Callable[[], float], pairs: int = PAIRS) -> tuple[float, str]:
    """The median of `first / second`, taken in turn, and how it was taken."""
    found = [first() / second() for _ in range(pairs)]
    return statistics.median(found), f"{pairs} pair{'s' * (pairs > 1)}, {min(found):.2f} to {max(found):.2f}"


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch works on one thread inside."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class NotGiven(Exception):
    """A line needs an option that this run lacks."""


class Bench:
    """One run of the benchmark: photos, backbone, and what several lines share."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.backbone = given, str(given.backbone)
        self.output = given.output.absolute()
        self.home = self.output / "home"

    @cached_property
    def photos(self) -> Path:
        return draw(self.output / f"photos-{self.given.photos}", self.given.photos)

    @cached_property
    def peers(self) -> Peers:
        return Peers(self.photos, self.backbone, self.output)

    @property
    def job(self) -> list[str]:
        """Our probe: 20 epochs, chosen, calibrated and tested."""
        words = [sys.executable, "-m", "natix_hf.train", str(ROOT / "recipes" / "probe.yaml")]
        words += ["--dataset_name", str(self.photos), "--group_column", "group", "--overwrite_output_dir", "true"]
        words += ["--model_name_or_path", self.backbone, "--num_train_epochs", "20"]
        return [*words, "--output_dir", str(self.output / "probe")]

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

    @cached_property
    def probe_seconds(self) -> float:
        """Seconds of our whole job, nothing cached."""
        shutil.rmtree(self.home, ignore_errors=True)
        return timed(self.job, self.home)

    def probe_job(self) -> tuple[float, str]:
        ours = self.probe_seconds
        bare = self.bare_forward()
        return ours / bare, f"one pair: {ours:.0f} s and {bare:.0f} s"

    def probe_tiles(self) -> tuple[float, str]:
        """Seconds of our whole job on a whole photo and nine tiles over those of its own pass through the backbone."""
        from natix_hf.documents.run_speed import RunSpeed

        run, home = self.output / "probe-tiles", self.output / "home-tiles"
        shutil.rmtree(home, ignore_errors=True)
        ours = timed([*self.job[:-1], str(run), "--views", "tiles"], home)
        seen = RunSpeed.read(run).speed.passes["features"].seconds
        return ours / seen, f"one run: {ours:.0f} s, {seen:.0f} s of them the pass"

    def _peer(self, option: str, seconds: Callable[[Path, int], float]) -> tuple[float, str]:
        if (trainer := getattr(self.given, option)) is None:
            raise NotGiven(f"needs --{option}")
        ours = self.probe_seconds
        two, four = seconds(trainer, 2), seconds(trainer, 4)
        if not two < four <= 2.1 * two:  # a start and four epochs take longer than a start and two, but not twice so
            raise RuntimeError(f"2 epochs took {two:.0f} s and 4 {four:.0f} s: the machine was busy, measure again")
        whole = two + (four - two) / 2 * 18
        return whole / ours, (
            f"one pair: {whole:.0f} s, computed from its 2 ({two:.0f} s) and 4 epochs ({four:.0f} s), and {ours:.0f} s"
        )

    def probe_example(self) -> tuple[float, str]:
        return self._peer("example", self.peers.example)

    def probe_timm(self) -> tuple[float, str]:
        return self._peer("timm", self.peers.timm)

    def probe_lightly(self) -> tuple[float, str]:
        return self._peer("lightly", self.peers.lightly)

    def probe_again(self) -> tuple[float, str]:
        """Seconds, not a ratio: another head on a warm cache, start included."""
        timed(self.job, self.home)
        found = timed([*self.job, "--probe_weight_decays", "0.01"], self.home)
        return found, "seconds, start included"

    def heads(self) -> tuple[float, str]:
        many = ["--probe_weight_decays", *(f"{1e-5 * 2**i:g}" for i in range(16))]  # 13 rates each: 208 heads
        one = ["--probe_learning_rates", "1e-2"]
        timed([*self.job, *one], self.home)
        return median_ratio(lambda: timed(self.job + many, self.home), lambda: timed(self.job + one, self.home))

    # -- LoRA --

    def _trainer(
        self,
        folder: str,
        *,
        lora: dict[str, Any],
        epochs: int = 1,
        size: Sequence[int] = (224,),
        views: str = "whole",
        **options: Any,
    ) -> Any:
        from natix_hf import NatixTrainer, NatixTrainingArguments, load_model, load_photos

        os.environ["NATIX_HF_HOME"] = str(self.home)
        splits = load_photos(self.photos, group_column=["group"])
        model, processor = load_model(
            self.backbone, splits.label_names, method="lora", lora=lora, image_size=list(size), views=views
        )
        args = NatixTrainingArguments(
            output_dir=folder,
            num_train_epochs=epochs,
            eval_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
            **{"dataloader_num_workers": 2, "per_device_train_batch_size": 16, **options.pop("arguments", {})},
        )
        return NatixTrainer(model, args, splits=splits, processing_class=processor, **options)

    def lora_step(
        self,
        alike: bool = False,
        size: Sequence[int] = (224,),
        batch: int = 16,
        steps: int = 12,
        views: str = "whole",
        clock: Callable[[], float] = time.perf_counter,
        pairs: int = PAIRS,
    ) -> tuple[float, str]:
        """Our step beside a bare loop's, both from views in memory.

        Args:
            alike: the bare loop on packed layers too.
            size: height and width of a view, or one side.
            batch: photos in a step.
            views: `tiles` shows the model ten views of each photo, all in one pass.
            clock: seconds, of which differences count.
            pairs: of our step and the bare one, in turn.
        """
        from transformers import TrainerCallback

        from natix_hf import load_model

        shape = ((10,) if views == "tiles" else ()) + (3, size[0], size[-1])
        pixels = torch.randint(0, 255, (batch * steps, *shape), dtype=torch.uint8)

        class InMemory(torch.utils.data.Dataset):
            def __len__(self) -> int:
                return len(pixels)

            def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
                return {"pixel_values": pixels[key[1]], "labels": key[1] % 2, "seed": 0}

        class Clock(TrainerCallback):
            def on_train_begin(self, *_: Any, **__: Any) -> None:
                self.begin = clock()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                self.end = clock()

        def ours() -> float:
            with tempfile.TemporaryDirectory() as folder:
                arguments = {"max_steps": steps, "logging_steps": 1000, "per_device_train_batch_size": batch}
                arguments["dataloader_num_workers"] = 0
                taken = Clock()
                trainer = self._trainer(
                    folder, lora={}, size=size, views=views, arguments=arguments, callbacks=[taken]
                )
                trainer.train_dataset = InMemory()
                trainer.sampler.count = len(pixels)
                trainer.train()
                return (taken.end - taken.begin) / steps

        def bare() -> float:
            model, processor = load_model(
                self.backbone, ["None", "Roadwork"], method="lora", lora={}, image_size=list(size), views=views
            )
            mean, std = (torch.tensor(v)[:, None, None] for v in (processor.image_mean, processor.image_std))
            weights = [p for p in model.parameters() if p.requires_grad]
            optimizer = torch.optim.AdamW(weights, lr=2e-4, fused=True)
            model.train()
            with packed_linears(model, frozen=True) if alike else nullcontext():
                begin = clock()
                for start in range(0, len(pixels), batch):
                    normalised = (pixels[start : start + batch] / 255 - mean) / std
                    logits = model(pixel_values=normalised).logits
                    torch.nn.functional.cross_entropy(logits, torch.arange(batch) % 2).backward()
                    torch.nn.utils.clip_grad_norm_(weights, 1.0)
                    optimizer.step()
                    optimizer.zero_grad()
                return (clock() - begin) / steps

        return median_ratio(ours, bare, pairs)

    def lora_step_packed(self) -> tuple[float, str]:
        return self.lora_step(alike=True)

    def _of_one_thread(self, **step: Any) -> tuple[float, str]:
        """A step and a bare loop with the same layers, by the processor time of one thread."""
        with one_thread():
            ratio, how = self.lora_step(alike=True, clock=time.process_time, pairs=3, **step)
        return ratio, f"{how}; processor time of one thread"

    def lora_step_wide(self) -> tuple[float, str]:
        """The same at 256 x 448 px, eight photos a step: about as many tokens as of sixteen squares."""
        return self._of_one_thread(size=(256, 448), batch=8, steps=4)

    def lora_step_tiles(self) -> tuple[float, str]:
        """The same with ten views of one photo: about as many tokens as of ten squares."""
        return self._of_one_thread(views="tiles", batch=1, steps=8)

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

    # -- inference --

    def predict(self, alike: bool = False) -> tuple[float, str]:
        """Photos a second of predict beside those of a bare loop over one batch; `alike`: on packed layers too."""
        from natix_hf.inference.classify import load_classifier, predict_photos

        model, processor = load_classifier(str(self.peers.our_class))
        paths = sorted(str(path) for path in (self.photos / "images").glob("*.jpg"))[:256]
        pixels = torch.randn(BATCH, 3, 224, 224)

        def ours() -> float:
            begin = time.perf_counter()
            count = sum(1 for _ in predict_photos(model, processor, paths, paths, batch_size=BATCH, num_workers=2))
            return count / (time.perf_counter() - begin)

        @torch.inference_mode()
        def bare() -> float:
            with packed_linears(model) if alike else nullcontext():
                begin = time.perf_counter()
                for _ in range(len(paths) // BATCH):
                    model(pixel_values=pixels)
                return len(paths) / (time.perf_counter() - begin)

        return median_ratio(ours, bare)

    def predict_packed(self) -> tuple[float, str]:
        return self.predict(alike=True)

    @cached_property
    def tiny_model(self) -> Path:
        """A random DINOv3 of 2 layers, 64 wide, in our class: memory per photo does not depend on the width."""
        from transformers import DINOv3ViTConfig, DINOv3ViTImageProcessor, DINOv3ViTModel

        from natix_hf import load_model

        torch.manual_seed(0)
        backbone, folder = self.output / "tiny-backbone", self.output / "tiny-model"
        sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
        DINOv3ViTModel(DINOv3ViTConfig(**sizes, num_register_tokens=4, image_size=224)).save_pretrained(backbone)
        DINOv3ViTImageProcessor(size={"height": 224, "width": 224}).save_pretrained(backbone)
        model, processor = load_model(str(backbone), list(LABELS), method="probe")
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        return folder

    def memory(self) -> tuple[float, str]:
        """Peak memory of predict over ten times as many photos."""
        small = self.output / "small-photos"
        small.mkdir(exist_ok=True)
        Image.new("RGB", (96, 64), (90, 120, 150)).save(small / "0.jpg")

        def peak(count: int) -> int:
            folder = self.output / f"copies-{count}"
            folder.mkdir(exist_ok=True)
            for number in range(count):
                if not (target := folder / f"{number:05d}.jpg").exists():
                    target.hardlink_to(small / "0.jpg")
            code = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, capture_output=True); "
            code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
            words = [sys.executable, "-c", code, sys.executable, "-m", "natix_hf.predict", str(self.tiny_model)]
            words += [str(folder), "--output", str(self.output / "answers.csv")]
            done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=True)
            peaks[count].append(int(done.stdout.split()[-1]) / 1024)
            return peaks[count][-1]

        peaks: dict[int, list[float]] = {500: [], 5000: []}
        ratio, how = median_ratio(lambda: peak(5000), lambda: peak(500))
        few, many = (statistics.median(found) for found in peaks.values())
        return ratio, f"{how}; {few:.0f} and {many:.0f} MiB"

    # -- decoding --

    @cached_property
    def decoding(self) -> dict[str, list[float]]:
        """Seconds a photo of every way to a view of 224 pixels, in every round; one core."""
        with one_thread(), tempfile.TemporaryDirectory() as cache:
            rows = photo_rows(self.output / "photos-1080p", min(self.given.photos, 100))
            copies = photo_copies(rows, side=Squash(224).copy_side(), cache_dir=cache, num_proc=1, progress=False)
            return alternating(ways(rows, 224, copies), len(rows))

    def _decoding(self, way: str) -> tuple[float, str]:
        found = [plain / ours for plain, ours in zip(self.decoding["plain PIL"], self.decoding[way])]
        spread = f"{min(found):.2f} to {max(found):.2f}"
        return statistics.median(found), f"{len(found)} pairs, {spread}; processor time of one core"

    def decode_first(self) -> tuple[float, str]:
        return self._decoding("first read")

    def decode_copy(self) -> tuple[float, str]:
        return self._decoding("pre-resized copy")

    # -- start --

    def train_help(self) -> tuple[float, str]:
        ours, bare = ["-m", "natix_hf.train", "--help"], ["-c", "from transformers import TrainingArguments"]
        return median_ratio(lambda: timed([sys.executable, *ours]), lambda: timed([sys.executable, *bare]))

    def data_help(self) -> tuple[float, str]:
        ours, bare = ["-m", "natix_hf.data", "--help"], ["-c", "import datasets"]
        return median_ratio(lambda: timed([sys.executable, *ours]), lambda: timed([sys.executable, *bare]))


LINES = {
    "train_help": ("`train --help` / importing TrainingArguments", "<= 1.2"),
    "data_help": ("`data --help` / `import datasets`", "<= 1.2"),
    "decode_first": ("decode to 224 from 1920x1080: plain PIL / our first read", ">= 2"),
    "decode_copy": ("decode to 224 from 1920x1080: plain PIL / the pre-resized copy", ">= 6"),
    "lora_step": ("LoRA, all linear layers: our step / a bare loop", "<= 1.05"),
    "lora_step_packed": ("the same, the bare loop on packed layers too", "no target"),
    "lora_step_wide": ("the same at 256x448, packed layers in both", "<= 1.05"),
    "lora_step_tiles": ("the same with `views: tiles`, a whole photo and nine tiles", "<= 1.05"),
    "predict": ("`predict` photos/s / bare forward photos/s, batch 32", ">= 0.9"),
    "predict_packed": ("the same, the bare forward on packed layers too", "no target"),
    "memory": ("`predict`, 5,000 photos / 500: peak memory", "<= 1.05"),
    "prefix": ("LoRA, last 3 blocks: uncached / prefix-cached, an epoch after the first", ">= 2"),
    "probe_job": ("probe, 20 epochs: whole job / one bare forward pass", "<= 1.25"),
    "probe_tiles": ("the same with `views: tiles`: whole job / its own pass", "<= 1.25"),
    "probe_again": ("probe again with another head, cache warm (seconds)", "<= 15"),
    "heads": ("208 heads / 1 head, features cached, whole jobs", "<= 2"),
    "probe_example": ("probe, 20 epochs: transformers' example, frozen / ours", ">= 12"),
    "probe_timm": ("probe, 20 epochs: timm's train.py, frozen / ours", "no target"),
    "probe_lightly": ("probe, 20 epochs: lightly-train, frozen / ours", "no target"),
}


def measure(bench: Bench, names: list[str]) -> bool:
    """Measure lines, print them and keep them beside what OUTPUT has already; whether all went well."""
    table, well = Table(bench.output, LINES, setting(bench.given.photos, SIZE)), True
    for name in names:
        try:
            ratio, how = getattr(bench, name)()
        except NotGiven as missing:
            table.skip(name, str(missing))
        except Exception as error:  # whatever it was, the other lines are worth measuring
            table.fail(name, error)
            well = False
        else:
            table.add(name, ratio, how)
    return well


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = ROOT.parent / "shared" / "backbones" / "dinov3-vits16-like"
    parser.add_argument("--backbone", type=Path, default=default)
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--lines", nargs="+", choices=list(LINES), default=list(LINES))
    parser.add_argument("--example", type=Path, help="run_image_classification.py of transformers")
    parser.add_argument("--timm", type=Path, help="folder of a checkout of pytorch-image-models")
    parser.add_argument("--lightly", type=Path, help="a Python interpreter that has lightly-train and timm")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "speed")
    given = parser.parse_args()
    if not given.backbone.is_dir():
        print(f"{given.backbone}: no such backbone: nothing measured", file=sys.stderr)
        return
    given.backbone = given.backbone.absolute()
    sys.exit(not measure(Bench(given), given.lines))


if __name__ == "__main__":
    main()
