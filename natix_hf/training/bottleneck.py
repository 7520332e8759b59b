"""Summarises `speed.json`: where the time of a run went, and what slowed it down most."""

from __future__ import annotations

from collections.abc import Mapping

from natix_hf.documents.run_speed import PassSpeed, Speed

MUCH_WAITING, MUCH_OUTSIDE, MUCH_OF_PEAK = 0.15, 0.35, 0.5
LITTLE = 0.01  # share of a run below which a phase is not printed

# The network that fills each cache, and the cache that each phase fills.
NETWORKS = {"features": "the frozen backbone", "prefixes": "the blocks below the cut"}
PASSES = {"features": "features", "prefix": "prefixes"}
PHASES = {
    "photos": (
        "the phase photos, which opens and checks every photo: raise preprocessing_num_workers or use a faster disk"
    ),
    "heads": "training the grid of heads: use fewer probe_learning_rates, probe_layers or probe_poolings",
}


def bottleneck(speed: Speed, times: Mapping[str, float]) -> str:
    """One sentence on what slowed a run down most, and how to reduce it.

    Args:
        speed: of the run; `speed.bottleneck` is not read.
        times: seconds by phase.
    """
    phases = dict(times)
    whole = sum(phases.values())
    if speed.beside is None:  # a grid of heads is not trained in Trainer steps
        phases["heads"] = phases.pop("train", 0.0)
        phase = max(phases, key=phases.get)
        return f"{phases[phase] / max(whole, 1e-9):.0%} of the time was spent on {_phase(phase, speed)}"
    train = phases.pop("train", 0.0)
    phase, longest = max(phases.items(), key=lambda item: item[1], default=("scoring", 0.0))
    much_outside = speed.beside > MUCH_OUTSIDE
    if speed.waiting > MUCH_WAITING and not (much_outside and longest > speed.waiting * (1 - speed.beside) * whole):
        return (
            f"training waited for data {speed.waiting:.0%} of the time: raise dataloader_num_workers, set "
            "decode_copy: true, or use prefix_cache_gb if only the last blocks are trained"
        )
    if much_outside:
        inside = train - (1 - speed.beside) * whole
        what = "evaluations and checkpoints during training" if inside > longest else _phase(phase, speed)
        return f"{speed.beside:.0%} of the time was spent outside training steps, most of it on {what}"
    if speed.share_of_peak is not None and speed.share_of_peak < MUCH_OF_PEAK:
        return (
            f"the model ran at {speed.share_of_peak:.0%} of this machine's matrix-product speed: a larger "
            "per_device_train_batch_size, bf16 or torch_compile may help"
        )
    return (
        "most time was spent in the model itself: train fewer blocks (lora_last_blocks with prefix_cache_gb), or use "
        "a smaller backbone or smaller images"
    )


def _phase(phase: str, speed: Speed) -> str:
    """What a phase does, and how to shorten it."""
    kind = PASSES.get(phase)
    if kind is None:
        return PHASES.get(phase, f"the phase {phase}")
    cost = (speed.passes or {}).get(kind)
    if cost is None or not cost.photos:
        return f"the phase {phase}, which reads the cache and verifies it"
    line = f"the pass of {cost.photos} photos through {NETWORKS[kind]}"
    if cost.waiting > MUCH_WAITING:
        return (
            f"{line}, which waited for photos to be decoded {cost.waiting:.0%} of the time: raise "
            "dataloader_num_workers"
        )
    line += "; the result is cached, so the next " + ("head costs nothing" if kind == "features" else "run skips it")
    if cost.share_of_peak is not None and cost.share_of_peak < MUCH_OF_PEAK:
        line += (
            f"; it ran at {cost.share_of_peak:.0%} of this machine's matrix-product speed: a larger "
            "per_device_eval_batch_size may help"
        )
    return line


def speed_lines(speed: Speed | None, times: Mapping[str, float] | None = None) -> list[str]:
    """The lines that a run prints about its `speed` and its seconds by phase."""
    if speed is None:
        return []
    lines = []
    if speed.photos_per_second is not None:
        lines.append(f"{speed.photos_per_second:.1f} photos/s in training{_rates(speed)}")
    for kind, cost in (speed.passes or {}).items():
        line = f"{cost.photos} photos through {NETWORKS[kind]}"
        if cost.photos:
            line += f", {cost.photos_per_second:.1f} photos/s{_rates(cost)}"
        lines.append(f"{line}; {cost.served} read from the cache")
    lines.append(f"peak memory {speed.peak_memory_mib / 1024:.1f} GiB")
    if times:
        least = LITTLE * sum(times.values())
        longest = sorted((item for item in times.items() if item[1] > least), key=lambda item: -item[1])
        lines.append("seconds: " + ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in longest))
    return [f"speed: {lines[0]}", *(f"  {line}" for line in lines[1:]), f"  bottleneck: {speed.bottleneck}"]


def _rates(cost: Speed | PassSpeed) -> str:
    line = ""
    if cost.flop_per_second is not None:
        line += f", {cost.flop_per_second / 1e9:.0f} GFLOP/s"
    if cost.share_of_peak is not None and cost.share_of_peak > 1:
        line += ", above this machine's measured matrix-product speed (it was busy when that was measured)"
    elif cost.share_of_peak is not None:
        line += f" ({cost.share_of_peak:.0%} of the machine's matrix-product speed)"
    return f"{line}, {cost.waiting:.0%} of the time waiting for data"
