"""Parts of `gpu.py` about training steps: ours beside a bare loop's, memory, attention, compiled models, caches."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from transformers import TrainerCallback

from natix_hf import NatixTrainer
from natix_hf.errors import UserError
from natix_hf.modeling.attention import SDPA_FA3, choose_attention, leave_fa3
from natix_hf.photos.geometry import Geometry, Squash, geometry_of

from .networks import network, trainer_for
from .place import Line, Place, median_ratio, seconds, settled

GB = 1e9
BATCH = {"ViT-S": 64, "ViT-L": 32, "ViT-H+": 32}


class StepClock(TrainerCallback):
    """Seconds of a step, from the end of one to the end of the last, once some have warmed up."""

    def __init__(self, device: str, warm: int) -> None:
        self.device, self.warm = device, warm
        self.started = self.begin = self.end = self.first = 0.0
        self.steps = 0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.started = settled(self.device)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1:
            self.first = settled(self.device) - self.started
        if state.global_step == self.warm:
            self.begin = settled(self.device)
        elif state.global_step == state.max_steps:
            self.end, self.steps = settled(self.device), state.max_steps - self.warm

    @property
    def step(self) -> float:
        return (self.end - self.begin) / self.steps


class Steps:
    """LoRA steps of one shape and geometry, ours and a bare loop's, on the same views.

    Args:
        batch: photos in a step.
    """

    def __init__(self, place: Place, shape: str, geometry: Geometry, batch: int) -> None:
        self.place, self.shape, self.geometry = place, shape, geometry
        self.batch = place.scaled(batch, 2)
        self.warm, self.steps = place.scaled(5, 1), place.scaled(25, 3)
        shown = (self.batch * self.steps, *geometry.input_shape)
        self.views = torch.randint(0, 255, shown, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def ours(self, **options: Any) -> tuple[NatixTrainer, StepClock]:
        """A trainer that has trained, and its clock."""
        gc.collect()  # trainers go in circles, and an earlier one would count in the peak of memory
        clock = StepClock(self.place.device, self.warm)
        model = network(self.place, self.shape, self.geometry)
        trainer = trainer_for(
            self.place,
            model,
            self.geometry,
            views=self.views,
            callbacks=[clock],
            max_steps=self.steps,
            per_device_train_batch_size=self.batch,
            **options,
        )
        trainer.train()
        return trainer, clock

    def bare(self) -> float:
        """Seconds of a step of the same model in plain PyTorch, on views that are normalised and in pinned memory."""
        place, device = self.place, self.place.device
        gc.collect()
        model = network(place, self.shape, self.geometry).train()
        weights = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=2e-4, fused=True)
        pixels = (self.views[: self.batch] / 255 - 0.45) / 0.23
        labels = torch.arange(self.batch, device=device) % 2
        pixels = pixels.pin_memory() if device == "cuda" else pixels
        begin = 0.0
        for step in range(self.steps):
            if step == self.warm:
                begin = settled(device)
            with torch.autocast(device, torch.bfloat16):
                logits = model(pixel_values=pixels.to(device, non_blocking=True)).logits
            torch.nn.functional.cross_entropy(logits.float(), labels).backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return (settled(device) - begin) / (self.steps - self.warm)

    def line(self, what: str, pairs: int) -> Line:
        """Our step over the bare loop's."""
        took: list[float] = []

        def ours() -> float:
            took.append(self.ours()[1].step)
            return took[-1]

        ratio, how = median_ratio(ours, self.bare, pairs)
        rate = self.batch / min(took)
        how += f"; {self.batch} photos in a step of {min(took) * 1e3:.0f} ms, {rate:.0f} photos/s"
        return Line(what, ratio, "", "<= 1.03", how)


def lora_steps(place: Place) -> Iterator[Line]:
    """A LoRA step beside a bare loop with the same layers, and its peak memory beside what can be told before it."""
    for shape, batch in BATCH.items():
        steps = Steps(place, shape, Squash(place.side), batch)
        yield steps.line(f"LoRA, {shape}: our step / a bare loop's", place.scaled(3, 1))
        gc.collect()
        if place.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        trainer, _ = steps.ours()
        # Weights; gradient, Adam's two moments and the average of what is trained; what a step keeps, as counted
        # before the first one in float32.
        state = 4 * (trainer.all_parameters + 4 * trainer.trainable_parameters)
        kept = steps.batch * trainer.accounting.kept
        how = f"weights and optimizer {state / GB:.2f} GB, activations in fp32 {kept / GB:.2f}"
        peak = None  # torch counts on GPUs alone
        if place.device == "cuda":
            peak = torch.cuda.max_memory_allocated()
            how = f"{peak / GB:.2f} GB; {how}"
        ratio = peak and peak / (state + kept)
        yield Line(f"LoRA, {shape}: peak memory / its estimate", ratio, "", "<= 1.1", how)
        del trainer


def wide_and_tiles(place: Place) -> Iterator[Line]:
    """The same step on photos of 256x448, and on the whole photo with nine tiles."""
    wide = geometry_of("squash", [32, 48] if place.tiny else [256, 448])
    tiles = geometry_of("squash", place.side, views="tiles", views_grid=3)
    yield Steps(place, "ViT-L", wide, 16).line("LoRA, ViT-L at 256x448: our step / a bare loop's", 1)
    yield Steps(place, "ViT-L", tiles, 4).line("LoRA, ViT-L with 3x3 tiles: our step / a bare loop's", 1)


def attention(place: Place) -> Iterator[Line]:
    """Forward and backward of a ViT-L by each attention that is here, in bf16."""
    device = torch.device(place.device)
    chosen = choose_attention("auto", bf16=True, device=device).name
    leave_fa3()
    for size, photos in (([place.side], 16), ([48, 64] if place.tiny else [512, 896], 4)):
        geometry = geometry_of("squash", size)
        pixels = torch.randn(place.scaled(photos, 2), *geometry.input_shape, device=device)
        named = "x".join(map(str, geometry.input_shape[-2:]))
        base = 0.0
        for name in ("sdpa", "eager", "flash_attention_2", SDPA_FA3):
            what = f"ViT-L at {named}: forward and backward by {name} / by sdpa"
            try:
                took = _pass(place, geometry, pixels, name)
            except (UserError, ImportError, ValueError, RuntimeError) as error:
                yield Line(what, None, how="not run: " + shorten(str(error), 160, placeholder=" ..."))
                continue
            base = base or took
            how = f"{took * 1e3:.1f} ms for {len(pixels)} photos" + "; what auto takes" * (name == chosen)
            yield Line(what, took / base, how=how)


def _pass(place: Place, geometry: Geometry, pixels: torch.Tensor, name: str) -> float:
    """Seconds of forward and backward of a backbone, the best of three."""
    loaded = name
    if name == SDPA_FA3:  # of the others transformers says itself what is not here
        loaded = choose_attention(name, bf16=True, device=pixels.device).loaded
    try:
        model = network(place, "ViT-L", geometry, method="full", attention=loaded).backbone

        def work() -> None:
            for _ in range(place.scaled(5, 1)):
                with torch.autocast(place.device, torch.bfloat16):
                    features = model(pixels).pooler_output
                features.float().sum().backward()

        work()
        return min(seconds(work, place.device) for _ in range(3)) / place.scaled(5, 1)
    finally:
        leave_fa3()


def compiled(place: Place) -> Iterator[Line]:
    """A LoRA step of a ViT-S compiled by torch, over one that is not."""
    steps = Steps(place, "ViT-S", Squash(place.side), BATCH["ViT-S"])
    plain = steps.ours()[1].step
    _, clock = steps.ours(torch_compile=True)
    how = f"{clock.step * 1e3:.0f} and {plain * 1e3:.0f} ms"
    yield Line("LoRA, ViT-S: a compiled step / one that is not", clock.step / plain, "", "<= 1", how)
    yield Line("LoRA, ViT-S: seconds until the first compiled step is done", clock.first, "s")


def prefix_cache(place: Place) -> Iterator[Line]:
    """An epoch of LoRA in the last three blocks after the first, uncached over cached."""

    class Epochs(TrainerCallback):
        def __init__(self) -> None:
            self.times: list[float] = []

        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            self.times.append(settled(place.device))

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.times.append(settled(place.device))

    def epoch(**speed: Any) -> float:
        clock, geometry = Epochs(), Squash(place.side)
        model = network(place, "ViT-L", geometry, lora={"lora_last_blocks": 3})
        with tempfile.TemporaryDirectory(dir=place.folder) as cache:
            trainer = trainer_for(
                place,
                model,
                geometry,
                callbacks=[clock],
                num_train_epochs=3,
                per_device_train_batch_size=place.scaled(32, 4),
                speed={"fixed_views": 1, "cache_dir": Path(cache), **speed},
            )
            trainer.train()
        return (clock.times[3] - clock.times[1]) / 2

    plain, cached = epoch(), epoch(prefix_cache_gb=20.0)
    how = f"{plain:.2f} and {cached:.2f} s an epoch"
    yield Line("LoRA, ViT-L, last 3 blocks: uncached / prefix-cached", plain / cached, "", ">= 2", how)


def heads(place: Place) -> Iterator[Line]:
    """208 heads on cached features of a ViT-L beside one."""
    geometry = Squash(place.side)
    rates = {"probe_weight_decays": [1e-5 * 2**i for i in range(16)]}  # 13 learning rates each
    one = {"probe_weight_decays": [0.0], "probe_learning_rates": [1e-2]}

    def train(wanted: dict[str, Any]) -> float:
        model = network(place, "ViT-L", geometry, method="probe").to(place.device)
        settings = {"probe_heads": "grid", "num_train_epochs": 20, "bf16": False, "eval_strategy": "epoch"}
        trainer = trainer_for(place, model, geometry, augment="none", **settings, **wanted)
        return seconds(trainer.train, place.device)

    train(one)  # which fills the cache
    many, single = train(rates), train(one)
    how = f"{many:.1f} and {single:.1f} s, features cached"
    yield Line("probe, ViT-L: 208 heads / 1 head", many / single, "", "<= 2", how)
