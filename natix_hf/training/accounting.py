"""Where the time of a run went: photos a second, share of the machine's peak, waiting for data, what to mend first.

A step is timed from outside, without waiting for the device at every one of them. Operations are counted once, on a
single example before training starts, with the random state left as it was, so that counting changes no weight. The
peak is that of a large matrix product on this machine, measured once and kept; runs that train for seconds do without.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from natix_hf.files import home, read_json, write_json
from natix_hf.schemas import validate

if TYPE_CHECKING:
    from natix_hf.training.trainer import NatixTrainer

PEAK_SECONDS = 2.0
WORTH_A_PEAK = 30.0  # seconds of training under which no peak is measured for its own sake
MUCH_WAITING, MUCH_BESIDE, MUCH_OF_PEAK = 0.15, 0.35, 0.5


class Accounting(TrainerCallback):
    """Counts while a `NatixTrainer` trains; `document` tells.

    Args:
        trainer: calls `waiting` around each fetch of a batch.
    """

    def __init__(self, trainer: NatixTrainer) -> None:
        self.trainer = trainer
        self.photos = self.steps = 0
        self.waited = self.stepping = 0.0
        self.flop: int | None = None
        self._step_began: float | None = None

    def count_operations(self, example: Mapping[str, torch.Tensor]) -> None:
        """Floating-point operations of a training step on one example, forward and backward."""
        if self.trainer.args.torch_compile:
            return
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        inputs = {k: v.to(self.trainer.args.device) for k, v in example.items() if k not in ("labels", "seed")}
        was_training = model.training
        model.train()
        try:
            with torch.random.fork_rng(), _counter() as counter:
                model(**inputs).logits.float().sum().backward()
        finally:
            model.zero_grad(set_to_none=True)
            model.train(was_training)
        self.flop = counter.get_total_flops()

    def waiting(self, seconds: float) -> None:
        """Note the time until a batch was there."""
        self.waited += seconds

    def seen(self, photos: int) -> None:
        """Note the photos of one pass, on all processes."""
        self.photos += photos

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._step_began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._step_began is not None:
            self.stepping += time.perf_counter() - self._step_began
            self.steps += 1

    def document(self) -> dict[str, Any] | None:
        """The `speed` of `run.json`; None where no step was taken.

        Keys: `photos`, `photos_per_second` (of training alone, waiting included), `waiting` (share of training time
        spent waiting for data), `beside` (share of the whole run beside steps and waiting), `flop_per_photo`,
        `flop_per_second`, `peak_flop_per_second`, `share_of_peak`, `peak_memory_mib`, `bottleneck`.
        """
        training = self.stepping + self.waited
        if not self.steps or not training:
            return None
        args, times = self.trainer.args, self.trainer.times
        whole = sum(seconds for phase, seconds in times.items() if phase != "total")
        rate = None if self.flop is None else self.flop * self.photos / training
        peak = measured_peak(args) if training >= WORTH_A_PEAK and rate else None
        found = {
            "photos": self.photos,
            "photos_per_second": self.photos / training,
            "waiting": self.waited / training,
            "beside": max(0.0, 1 - training / max(whole, training)),
            "flop_per_photo": self.flop,
            "flop_per_second": rate,
            "peak_flop_per_second": peak,
            "share_of_peak": rate / (peak * args.world_size) if peak and rate else None,
            "peak_memory_mib": peak_memory(),
        }
        return found | {"bottleneck": bottleneck(found, times)}


def _counter() -> Any:
    from torch.utils import flop_counter

    def forward(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return flop_counter.sdpa_flop_count(query, key, value)

    def backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return flop_counter.sdpa_backward_flop_count(grad, query, key, value)

    aten = torch.ops.aten
    # The counter knows attention on GPUs only.
    extra = {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    return flop_counter.FlopCounterMode(display=False, custom_mapping=extra)


def measured_peak(args: Any) -> float:
    """FLOP/s of one device at a large matrix product in the run's precision; measured once and kept in `peak.json`."""
    kind = torch.bfloat16 if args.bf16 else torch.float32
    name = torch.cuda.get_device_name() if args.device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    key = f"{name}, {str(kind).removeprefix('torch.')}, torch {torch.__version__}"
    path = home() / "peak.json"
    try:
        known = read_json(path)
    except (OSError, ValueError):
        known = {}
    if not isinstance(known.get(key), float):
        known[key] = _peak(args.device, kind)
        write_json(path, known)
    return known[key]


def _peak(device: torch.device, kind: torch.dtype) -> float:
    side = 8192 if device.type == "cuda" else 1536
    left, right = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    best, end = 0.0, time.perf_counter() + PEAK_SECONDS
    while time.perf_counter() < end:
        begin = time.perf_counter()
        torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - begin))
    return best


def peak_memory() -> float:
    """MiB: the most that torch held on the GPU, or without one the most that the process did."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**20 if sys.platform == "darwin" else most / 2**10


def bottleneck(found: Mapping[str, Any], times: Mapping[str, float]) -> str:
    """What to mend first, in a sentence.

    Args:
        found: `waiting`, `beside`, `share_of_peak` as in `Accounting.document`.
        times: seconds by phase.
    """
    if found["waiting"] > MUCH_WAITING:
        return (
            f"training waited for data {found['waiting']:.0%} of the time: more dataloader_num_workers, decode_copy: "
            "true, or prefix_cache_gb where only the last blocks are trained"
        )
    if found["beside"] > MUCH_BESIDE:
        phases = {phase: seconds for phase, seconds in times.items() if phase not in ("train", "total")}
        phase = max(phases, key=phases.get, default="scoring")
        longest = max(phases.values(), default=0.0)
        inside = times.get("train", 0.0) - (1 - found["beside"]) * sum(times.values())
        what = "scoring and saving while training" if inside > longest else f"the phase {phase}"
        return f"{found['beside']:.0%} of the run went beside training, most of it to {what}"
    if found["share_of_peak"] is not None and found["share_of_peak"] < MUCH_OF_PEAK:
        return (
            f"the model ran at {found['share_of_peak']:.0%} of this machine's matrix product: a larger "
            "per_device_train_batch_size, bf16 or torch_compile may help"
        )
    return (
        "the model itself: fewer trained blocks (lora_last_blocks with prefix_cache_gb), a smaller backbone or image"
    )


def speed_lines(speed: Mapping[str, Any] | None) -> list[str]:
    """What a run prints of its `speed`."""
    if speed is None:
        return []
    line = f"speed: {speed['photos_per_second']:.1f} photos/s in training"
    if speed["flop_per_second"] is not None:
        line += f", {speed['flop_per_second'] / 1e9:.0f} GFLOP/s"
    if speed["share_of_peak"] is not None:
        line += f" ({speed['share_of_peak']:.0%} of the machine's matrix product)"
    line += f", {speed['waiting']:.0%} of it waiting for data, peak memory {speed['peak_memory_mib'] / 1024:.1f} GiB"
    return [line, f"  first to mend: {speed['bottleneck']}"]


def keep_speed(run: Path, speed: Mapping[str, Any] | None) -> None:
    """Add `speed` to a run's `run.json`."""
    record = read_json(run / "run.json")
    record |= {"speed": speed}
    validate(record, "run")
    write_json(run / "run.json", record)
