"""Folds done by one process and by two that share a disk, as two machines would: wall time and passes of the backbone.

    python tests/bench/two_workers.py --photos 900

Probes on generated street photos, one fold for each time of day. Every way starts with an empty store of its own, so
that each computes the features once. One process goes first, then two that were given the same command at the same
same time, with `--threads` threads each. Prints Markdown. On a machine with as many cores as one process uses, two
cannot be twice as quick: what counts there is that no photo passes through the backbone twice.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from natix_hf.documents.run_speed import RunSpeed
from natix_hf.documents.several_runs import Folds

RECIPE = """\
model_name_or_path: builtin:demo-backbone
dataset_name: builtin:scenes
dataset_config: {photos}
method: probe
probe_heads: grid
image_size: 224
near_duplicates: false
use_cpu: true
output_dir: {output}
"""


def worked(folder: Path, workers: int, photos: int, threads: int) -> list[str]:
    """Do the folds in a fresh folder; the cells of a row of the table."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(RECIPE.format(photos=photos, output=folder / "run"), encoding="utf-8")
    words = [sys.executable, "-m", "natix_hf.folds", str(folder / "recipe.yaml"), "--hold_out_each", "daytime"]
    home = {"NATIX_HF_HOME": str(folder / "home"), "OMP_NUM_THREADS": str(threads)}
    begin = time.perf_counter()
    started = [subprocess.Popen(words, stdout=sys.stderr, env=os.environ | home) for _ in range(workers)]
    statuses = [process.wait() for process in started]
    seconds = time.perf_counter() - begin
    if any(statuses):
        sys.exit(f"folds failed, see above: {statuses}")
    output = folder / "run-folds"
    names = [fold.name for fold in Folds.read(output).folds if fold.status == "finished"]
    passes = [RunSpeed.read(output / name).speed.passes["features"] for name in names]
    computed, served = sum(one.photos for one in passes), sum(one.served for one in passes)
    return [str(workers), str(threads), str(len(names)), f"{seconds:.0f}", str(computed), str(served)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=900, help="streets that are drawn")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--output", type=Path, default=Path("runs/bench-two-workers"))
    arguments = parser.parse_args()
    head = ["processes", "threads each", "folds", "seconds", "photos through the backbone", "from the cache"]
    print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|")
    for workers in (1, 2):
        cells = worked(arguments.output / str(workers), workers, arguments.photos, arguments.threads)
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
