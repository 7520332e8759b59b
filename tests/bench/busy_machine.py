"""How much slower a LoRA step on the CPU gets beside other busy processes, with torch's settings and with a command's.

    python tests/bench/busy_machine.py                     # about four minutes
    python tests/bench/busy_machine.py --settings torch command spin=1000 passive one-thread --rounds 2

Every measurement is a process of its own that takes steps for some seconds, alone or beside `--busy` processes that
only count (one per core by default). Settings and loads take turns, so that other work on the machine falls on all of
them. `slower` is the median over the rounds of the time of a step beside the busy processes over that without them, in
the same round, `to torch` that of a step without them over that with the first settings; the rest are medians, `CPU`
of the processor time of a step. Prints Markdown; exits with 1 where a command gets more than three times as slow, or
loses over 5 % to torch's settings without the busy processes. Run it on a machine where nothing else runs.

Settings: torch (as `import torch` finds them), command (what `natix_hf.startup.prepare` sets), spin=N (libgomp's
threads look N times before they sleep), passive (they sleep at once), one-thread.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SLOWER, LOSS = 3.0, 1.05
READ_BY_OPENMP = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def steps(seconds: float, size: int, batch: int, as_command: bool) -> dict[str, float]:
    """LoRA steps for some seconds in this process: milliseconds by the clock and of the processor, medians."""
    if as_command:
        from natix_hf.startup import prepare

        prepare()
    import torch

    from natix_hf.inference.load_model import load_model
    from natix_hf.modeling.packed_linear import packed_linears

    torch.manual_seed(0)
    model, _ = load_model("builtin:demo-backbone", ["None", "Roadwork"], method="lora", image_size=size, seed=0)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    pixels, labels = torch.randn(batch, 3, size, size), torch.arange(batch) % 2
    walls, processor = [], []
    with packed_linears(model, frozen=True):
        begin = time.perf_counter()
        while len(walls) < 5 or time.perf_counter() - begin < seconds:
            wall, used = time.perf_counter(), time.process_time()
            model(pixel_values=pixels, labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            walls.append(1000 * (time.perf_counter() - wall))
            processor.append(1000 * (time.process_time() - used))
    # The first two warm up. Means: the time that a step lost to another process is the point.
    return {"wall": statistics.fmean(walls[2:]), "cpu": statistics.fmean(processor[2:])}


@contextmanager
def load(processes: int) -> Iterator[None]:
    """Inside the block so many processes keep a core busy each."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def measure(setting: str, given: argparse.Namespace) -> dict[str, float]:
    """`steps` in a fresh process with a setting."""
    environment = {name: value for name, value in os.environ.items() if name not in READ_BY_OPENMP}
    environment["PYTHONPATH"] = str(ROOT)
    words = ["--seconds", str(given.seconds), "--size", str(given.size), "--batch", str(given.batch), "--one"]
    if setting.startswith("spin="):
        environment["GOMP_SPINCOUNT"] = setting.removeprefix("spin=")
    elif setting == "passive":
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
    elif setting == "one-thread":
        environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(
        [sys.executable, __file__, *words, setting], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def medians(rounds: list[dict[str, tuple[dict, dict]]], setting: str) -> dict[str, float]:
    """Of one setting over the rounds; ratios are taken within a round."""
    found = [(one[setting], next(iter(one.values()))) for one in rounds]
    return {
        "alone": statistics.median(alone["wall"] for (alone, _), _ in found),
        "to first": statistics.median(alone["wall"] / first["wall"] for (alone, _), (first, _) in found),
        "busy": statistics.median(busy["wall"] for (_, busy), _ in found),
        "slower": statistics.median(busy["wall"] / alone["wall"] for (alone, busy), _ in found),
        "cpu alone": statistics.median(alone["cpu"] for (alone, _), _ in found),
        "cpu busy": statistics.median(busy["cpu"] for (_, busy), _ in found),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", default=["torch", "command"])
    parser.add_argument("--busy", type=int, default=os.cpu_count(), help="processes beside ours (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(steps(given.seconds, given.size, given.batch, given.one == "command")))
        return
    others = os.getloadavg()[0]
    rounds = []
    for number in range(1, given.rounds + 1):
        found = {}
        for setting in given.settings:
            print(f"round {number}/{given.rounds}: {setting}", file=sys.stderr, flush=True)
            alone = measure(setting, given)
            with load(given.busy):
                found[setting] = alone, measure(setting, given)
        rounds.append(found)
    print(f"LoRA on the demo backbone, {given.batch} photos of {given.size} pixels a step; {os.cpu_count()} cores;")
    print(f"busy processes: {given.busy}; load of the machine before: {others:.1f}; rounds: {given.rounds}.\n")
    print(f"| settings | alone (ms) | to {given.settings[0]} | busy (ms) | slower | CPU alone (ms) | CPU busy (ms) |")
    print("|---|---|---|---|---|---|---|")
    told = {setting: medians(rounds, setting) for setting in given.settings}
    for setting, one in told.items():
        print(
            f"| {setting} | {one['alone']:.0f} | {one['to first']:.2f} | {one['busy']:.0f} | {one['slower']:.1f} "
            f"| {one['cpu alone']:.0f} | {one['cpu busy']:.0f} |"
        )
    if given.settings == ["torch", "command"]:
        slower, loss = told["command"]["slower"], told["command"]["to first"]
        sys.exit(slower > SLOWER or loss > LOSS)


if __name__ == "__main__":
    main()
