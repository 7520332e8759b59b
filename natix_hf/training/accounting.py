"""Measures where the time of a run goes: photos per second, share of the machine's peak, waiting for data.

Steps are timed from outside, without synchronising the device at every step. Operations are counted once, on a single
example before training; the random state is restored, so counting does not change the result. Passes that fill caches
are counted where they happen (`pass_costs`); for a grid of heads they are most of the work. The peak is the speed of a
large matrix product on this machine, measured once and cached; runs of a few seconds skip it. If a run was faster than
the cached peak, the machine was busy when the peak was measured: it is measured again, and the larger value is kept.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import TrainerCallback

from natix_hf.documents.run_speed import PassSpeed, Speed
from natix_hf.files import home, read_json, write_json
from natix_hf.inference.pass_costs import Passes, operations
from natix_hf.inference.photo_cost import device_name
from natix_hf.modeling.packed_linear import pack, worth_packing
from natix_hf.modeling.packed_linear import times as packed_product
from natix_hf.training.bottleneck import bottleneck

PEAK_SECONDS = 2.0
WORTH_A_PEAK = 30.0  # seconds of training or of passes below which the peak is not measured


class PhaseTimes(dict[str, float]):
    """Seconds of a run by phase, as stored in `run.json`."""

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the seconds of a block to a phase."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self[phase] = round(self.get(phase, 0.0) + time.perf_counter() - begin, 3)


@contextmanager
def kept_for_backward(model: torch.nn.Module) -> Iterator[dict[StorageWeakRef, int]]:
    """Count what autograd would keep for a backward pass inside the block: bytes by storage, without parameters.

    Each tensor is counted and released, so counting needs the memory of one layer, even if a full step would not fit.
    A backward pass reads zeros in place of these tensors, so its gradients are meaningless.
    """
    weights = {StorageWeakRef(parameter.untyped_storage()) for parameter in model.parameters()}
    kept: dict[StorageWeakRef, int] = {}  # not keyed by address, which a later storage may reuse

    def count(tensor: torch.Tensor) -> torch.Tensor | tuple[torch.Size, torch.dtype, torch.device]:
        storage = StorageWeakRef(tensor.untyped_storage())
        if storage in weights:
            return tensor
        kept[storage] = tensor.untyped_storage().nbytes()
        return tensor.shape, tensor.dtype, tensor.device

    def stand_in(counted: torch.Tensor | tuple[torch.Size, torch.dtype, torch.device]) -> torch.Tensor:
        if isinstance(counted, torch.Tensor):
            return counted
        shape, dtype, device = counted
        return torch.zeros(shape, dtype=dtype, device=device)

    with torch.autograd.graph.saved_tensors_hooks(count, stand_in):
        yield kept


class Accounting(TrainerCallback):
    """Count photos, steps and seconds during training; `document` returns the result.

    Args:
        args: `NatixTrainingArguments`.
        times: seconds of the run by phase.
        passes: passes through frozen networks, by the cache that they fill; some happen before training.
    """

    def __init__(self, args: Any, method: str, times: PhaseTimes, passes: Mapping[str, Passes]) -> None:
        self.args, self.method, self.times, self.passes = args, method, times, passes
        self.photos = self.steps = 0
        self.waited = self.stepping = 0.0
        self.flop: int | None = None
        self.kept: int | None = None  # bytes kept for the backward pass of one example, without checkpointing
        self._step_began: float | None = None
        self._passed_before = self._passed()  # seconds of passes before training; later ones are part of `predict`

    def count_operations(self, model: torch.nn.Module, example: Mapping[str, torch.Tensor]) -> None:
        """Count operations (forward and backward) and kept bytes of a training step on one example."""
        inputs = {k: v.to(self.args.device) for k, v in example.items() if k not in ("labels", "seed")}
        was_training = model.training
        model.train()
        try:
            with torch.random.fork_rng(), operations() as counter:
                with kept_for_backward(model) as kept:
                    logits = model(**inputs).logits
                self.kept = sum(kept.values())
                logits.float().sum().backward()
        finally:
            model.zero_grad(set_to_none=True)
            model.train(was_training)
        self.flop = counter.get_total_flops()

    def waiting(self, seconds: float) -> None:
        """Add seconds spent waiting for a batch."""
        self.waited += seconds

    def seen(self, photos: int) -> None:
        """Add the photos of one training pass, over all processes."""
        self.photos += photos

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._step_began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._step_began is not None:
            self.stepping += time.perf_counter() - self._step_began
            self.steps += 1

    def _passed(self) -> float:
        return sum(one.seconds for one in self.passes.values())

    def document(self) -> Speed | None:
        """The `speed` of `speed.json`; None if nothing was timed."""
        args, times = self.args, dict(self.times)
        passes = {kind: one for kind, one in self.passes.items() if one.known}
        training, whole = self.stepping + self.waited, sum(times.values())
        if not (whole or training or passes):
            return None
        later = self._passed() - self._passed_before
        if self.method == "probe" and later:  # a probe predicts from features
            times["predict"] = max(0.0, times.get("predict", 0.0) - later)
            times["features"] = times.get("features", 0.0) + later
        steps: dict[str, float | None] = {"peak_flop_per_second": None}
        if self.steps and training:
            flop = None if self.flop is None else self.flop * self.photos
            kind = torch.bfloat16 if args.bf16 else torch.float32
            peak = None
            if training >= WORTH_A_PEAK and flop:
                peak = measured_peak(args.device, kind, flop / training / args.world_size)
            steps = _rates(self.photos, training, self.waited, flop, peak and peak * args.world_size)
            steps |= {"beside": max(0.0, 1 - training / max(whole, training)), "peak_flop_per_second": peak}
        speed = Speed(**steps, peak_memory_mib=peak_memory(), bottleneck="")
        if passes:
            costs = {kind: _pass_speed(one, args.device) for kind, one in passes.items()}
            speed = speed.model_copy(update={"passes": costs})
        return speed.model_copy(update={"bottleneck": bottleneck(speed, times)})


def _pass_speed(one: Passes, device: torch.device) -> PassSpeed:
    peak = None
    if one.seconds >= WORTH_A_PEAK and one.flop:
        peak = measured_peak(device, torch.float32, one.flop / one.seconds)
    rates = _rates(one.photos, one.seconds, one.waited, one.flop, peak)
    return PassSpeed(served=one.served, seconds=round(one.seconds, 3), **rates)


def _rates(
    photos: int, seconds: float, waited: float, flop: int | None, peak: float | None
) -> dict[str, float | None]:
    """The fields that `Speed` and `PassSpeed` share."""
    rate = flop / seconds if flop and seconds else None
    return {
        "photos": photos,
        "photos_per_second": photos / seconds if seconds else None,
        "waiting": min(1.0, waited / seconds) if seconds else 0.0,
        "flop_per_photo": flop // photos if flop and photos else None,
        "flop_per_second": rate,
        "share_of_peak": rate / peak if rate and peak else None,
    }


def measured_peak(device: torch.device, kind: torch.dtype, seen: float = 0.0) -> float:
    """FLOP/s of a large matrix product on one device, measured once and cached in `peak.json`.

    Args:
        device: where to measure.
        kind: precision.
        seen: FLOP/s that a run reached there. If the cached value is not larger, it is measured again.
    """
    packed = device.type == "cpu" and kind == torch.float32 and worth_packing()
    name = str(kind).removeprefix("torch.")
    key = f"{device_name(device)}, {name}, torch {torch.__version__}{', packed' * packed}"
    path = home() / "peak.json"
    try:
        known = read_json(path)
    except (OSError, ValueError):
        known = None
    known = known if isinstance(known, dict) else {}
    kept = known.get(key) if isinstance(known.get(key), float) else 0.0
    if kept <= seen:
        known[key] = max(kept, _peak(device, kind, packed))
        with suppress(OSError):  # if it cannot be cached, the next run measures it again
            write_json(path, known)
    return known[key]


def _peak(device: torch.device, kind: torch.dtype, packed: bool) -> float:
    side = 8192 if device.type == "cuda" else 1536
    chance = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(side, side, device=device, dtype=kind, generator=chance) for _ in range(2))
    laid_out = pack(right) if packed else None  # as frozen layers run on this CPU
    best, end = 0.0, time.perf_counter() + PEAK_SECONDS
    while time.perf_counter() < end:
        begin = time.perf_counter()
        torch.mm(left, right) if laid_out is None else packed_product(left, laid_out)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - begin))
    return best


def peak_memory() -> float:
    """Peak memory in MiB: what torch held on the GPU, or what the process held if there is no GPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**20 if sys.platform == "darwin" else most / 2**10
