"""What a run says of its time: where it went, and what to mend first. Knows `speed.json`, no model."""

from __future__ import annotations

from collections.abc import Mapping

from natix_hf.documents.run_speed import PassSpeed, Speed

MUCH_WAITING, MUCH_BESIDE, MUCH_OF_PEAK = 0.15, 0.35, 0.5
LITTLE = 0.01  # share of a run under which a phase is not worth a word

# A phase and the cache that its passes fill: what passes there.
NETWORKS = {"features": "the frozen backbone", "prefixes": "the blocks below the cut"}
PASSES = {"features": "features", "prefix": "prefixes"}
PHASES = {
    "photos": "the phase photos, which opens and inspects each of them: preprocessing_num_workers, a quicker disk",
    "heads": "the heads of the grid: fewer probe_learning_rates, probe_layers or probe_poolings",
}


def bottleneck(speed: Speed, times: Mapping[str, float]) -> str:
    """What to mend first, in a sentence: the largest loss of the run.

    Args:
        speed: of the run; its own `bottleneck` is not looked at.
        times: seconds by phase.
    """
    phases = {phase: seconds for phase, seconds in times.items() if phase != "total"}
    whole = sum(phases.values())
    if speed.beside is None:  # a grid trains its heads without the parent's steps
        phases |= {"heads": phases.pop("train", 0.0)}
        phase = max(phases, key=phases.get)
        return f"{phases[phase] / max(whole, 1e-9):.0%} of the run went to {_phase(phase, speed)}"
    train = phases.pop("train", 0.0)
    phase, longest = max(phases.items(), key=lambda item: item[1], default=("scoring", 0.0))
    much_beside = speed.beside > MUCH_BESIDE
    if speed.waiting > MUCH_WAITING and not (much_beside and longest > speed.waiting * (1 - speed.beside) * whole):
        return (
            f"training waited for data {speed.waiting:.0%} of the time: more dataloader_num_workers, decode_copy: "
            "true, or prefix_cache_gb where only the last blocks are trained"
        )
    if much_beside:
        inside = train - (1 - speed.beside) * whole
        what = "scoring and saving while training" if inside > longest else _phase(phase, speed)
        return f"{speed.beside:.0%} of the run went beside training, most of it to {what}"
    if speed.share_of_peak is not None and speed.share_of_peak < MUCH_OF_PEAK:
        return (
            f"the model ran at {speed.share_of_peak:.0%} of this machine's matrix product: a larger "
            "per_device_train_batch_size, bf16 or torch_compile may help"
        )
    return (
        "the model itself: fewer trained blocks (lora_last_blocks with prefix_cache_gb), a smaller backbone or image"
    )


def _phase(phase: str, speed: Speed) -> str:
    """A phase in the words of what would shorten it."""
    kind = PASSES.get(phase)
    if kind is None:
        return PHASES.get(phase, f"the phase {phase}")
    one = (speed.passes or {}).get(kind)
    if one is None or not one.photos:
        return f"the phase {phase}, which reads back and checks what is kept"
    told = f"the pass of {one.photos} photos through {NETWORKS[kind]}"
    if one.waiting > MUCH_WAITING:
        return f"{told}, which waited for photos {one.waiting:.0%} of the time (decoding): more dataloader_num_workers"
    told += "; it is kept, so that the next " + ("head costs nothing" if kind == "features" else "run skips it")
    if one.share_of_peak is not None and one.share_of_peak < MUCH_OF_PEAK:
        told += (
            f"; it ran at {one.share_of_peak:.0%} of this machine's matrix product: a larger "
            "per_device_eval_batch_size may help"
        )
    return told


def speed_lines(speed: Speed | None, times: Mapping[str, float] | None = None) -> list[str]:
    """What a run prints of its `speed`, and of its seconds by phase."""
    if speed is None:
        return []
    told = []
    if speed.photos_per_second is not None:
        told.append(f"{speed.photos_per_second:.1f} photos/s in training{_rates(speed)}")
    for kind, one in (speed.passes or {}).items():
        line = f"{one.photos} photos through {NETWORKS[kind]}"
        if one.photos:
            line += f", {one.photos_per_second:.1f} photos/s{_rates(one)}"
        told.append(f"{line}; {one.served} came from the cache")
    told.append(f"peak memory {speed.peak_memory_mib / 1024:.1f} GiB")
    if times and (phases := {phase: seconds for phase, seconds in times.items() if phase != "total"}):
        least = LITTLE * sum(phases.values())
        longest = sorted((one for one in phases.items() if one[1] > least), key=lambda one: -one[1])
        told.append("seconds: " + ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in longest))
    return [f"speed: {told[0]}", *(f"  {line}" for line in told[1:]), f"  first to mend: {speed.bottleneck}"]


def _rates(one: Speed | PassSpeed) -> str:
    line = ""
    if one.flop_per_second is not None:
        line += f", {one.flop_per_second / 1e9:.0f} GFLOP/s"
    if one.share_of_peak is not None and one.share_of_peak > 1:
        line += ", more than the matrix product that the machine was measured by while it was busy"
    elif one.share_of_peak is not None:
        line += f" ({one.share_of_peak:.0%} of the machine's matrix product)"
    return f"{line}, {one.waiting:.0%} of it waiting for data"
