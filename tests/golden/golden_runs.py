"""Three small jobs whose results are written down: LoRA, a probe's grid of heads, full fine-tuning.

Each is typed as a user types it (`train`, then `predict`), on photos that are drawn here and on the demo backbone, in
fp32 on one CPU thread. `golden_run` returns what a user gets of it as plain values; `write.py` writes them down,
`test_golden_runs.py` compares with them. The photos come from this file and not from `natix_hf`, so that only a change
in how a run works changes a value.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from safetensors import safe_open

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
PHOTOS, NEW_PHOTOS = 320, 20


RECIPE = """\
model_name_or_path: builtin:demo-backbone
dataset_name: {photos}
group_column: [video]
split_ratios: [0.5, 0.15, 0.2, 0.15]
image_size: 96
label_names: ["None", Roadwork]
output_dir: {run}
per_device_train_batch_size: 16
num_train_epochs: 3
logging_steps: 1
dataloader_num_workers: 0
use_cpu: true
disable_tqdm: true
seed: 7
"""
METHODS = {
    "lora": "method: lora\nlora_r: 4\nlora_alpha: 8\nlora_dropout: 0.05\nlearning_rate: 1.5e-3\naugment: basic\n"
    "threshold_metric: mcc\nrisk: fpr\nrisk_alpha: 0.3\n",
    "probe_grid": "method: probe\nprobe_heads: grid\naugment: none\nprobe_learning_rates: [1e-3, 1e-2]\n"
    "probe_weight_decays: [0.0, 1e-3]\nprobe_poolings: [cls, cls_mean]\n",
    "full": "method: full\nlearning_rate: 3e-4\naugment: basic\nlabel_smoothing_factor: 0.05\n"
    "calibrator: [temperature, vector]\ntarget_prior: [0.5]\nfold_threshold: true\n",
}


def street(number: int, roadwork: bool) -> Image.Image:
    """A noisy photo, 160x120, with an orange triangle where there is roadwork; some are hard to see."""
    rng = np.random.default_rng([number, int(roadwork)])
    coarse = rng.integers(60, 180, (8, 10, 1)) + rng.integers(-25, 25, (8, 10, 3))
    image = Image.fromarray(coarse.astype(np.uint8)).resize((160, 120), Image.Resampling.BICUBIC)
    if roadwork or rng.random() < 0.15:  # some other things are triangles too, of another colour
        colour = (255, int(rng.integers(80, 150)), 0) if roadwork else (90, 110, int(rng.integers(120, 220)))
        height, x, y = int(rng.integers(5, 40)), int(rng.integers(30, 130)), int(rng.integers(50, 118))
        for row in range(height):
            image.paste(colour, (x - row // 2, y - height + row, x + row // 2 + 1, y - height + row + 1))
    return image


def write_photos(folder: Path) -> Path:
    """`labels.csv` with a video (two photos each) and a weather beside `PHOTOS` photos, a third of them roadwork."""
    (folder / "images").mkdir(parents=True)
    with (folder / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("image_path", "label", "video", "weather"))
        for i in range(PHOTOS):
            roadwork = i // 2 % 3 == 0
            street(i, roadwork).save(folder / "images" / f"{i:04d}.png")
            weather = "rain" if i % 5 == 0 else "sun"
            table.writerow((f"images/{i:04d}.png", "Roadwork" if roadwork else "None", f"v{i // 2}", weather))
    return folder


def write_new_photos(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for i in range(NEW_PHOTOS):
        street(10_000 + i, bool(i % 2)).save(folder / f"new-{i:02d}.png")
    return folder


def environment(home: Path) -> dict[str, str]:
    """That of a command, with its stores in `home`."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "NATIX_HF_HOME": str(home / "natix"),
        "HF_HOME": str(home / "hf"),
        "PYTHONPATH": str(REPOSITORY),
    }


def type_verb(home: Path, verb: str, *words: object) -> None:
    """`python -m natix_hf.VERB words`, with a store of its own."""
    done = subprocess.run(
        [sys.executable, "-m", f"natix_hf.{verb}", *map(str, words)],
        cwd=REPOSITORY,
        env=environment(home),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"natix_hf.{verb} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")


def golden_run(method: str, folder: Path, typed: Callable[..., None] = type_verb) -> dict[str, Any]:
    """Train one of `METHODS` in `folder` and predict new photos with it.

    Args:
        typed: called with the home of a command, its verb and its words.

    Returns:
        `losses` (the first 10, or the first 10 heads of a grid with their scores), `val_select`, `val_test`,
        `calibration`, `probabilities` and `files`.
    """
    photos, new = write_photos(folder / "photos"), write_new_photos(folder / "new")
    run, recipe = folder / "run", folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(photos=photos, run=run) + METHODS[method])
    typed(folder / "home", "train", recipe)
    typed(folder / "home", "predict", run, new, "--output", folder / "predictions.csv")
    record = json.loads((run / "run.json").read_text())
    evaluations = [entry for entry in record["log_history"] if "eval_mcc" in entry]
    if method == "probe_grid":
        first = json.loads((run / "probe.json").read_text())["heads"][:10]
    else:
        first = [entry["loss"] for entry in record["log_history"] if "loss" in entry][:10]
    with (folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    calibration = json.loads((run / "calibration.json").read_text())
    measured = ("temperature", "logit_bias", "threshold", "nll_before", "nll_after", "calibrator", "kept")
    return {
        "losses": first,
        "val_select": [{k: v for k, v in entry.items() if _repeats(k)} for entry in evaluations],
        "val_test": json.loads((run / "metrics.json").read_text())["metrics"],
        "calibration": {name: calibration[name] for name in measured},
        "probabilities": {Path(row.pop("file")).name: {k: _number(v) for k, v in row.items()} for row in rows},
        "files": files_of(run),
    }


def _repeats(name: str) -> bool:
    """Whether a value of the log is the same each time: seconds and rates are not."""
    return not name.endswith(("runtime", "per_second"))


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def files_of(run: Path) -> dict[str, list[str]]:
    """Every file of a run that is published or read later -> the names in it (keys, columns, tensors)."""
    return {
        path.relative_to(run).as_posix(): _names_in(path)
        for path in sorted(run.rglob("*"))
        if path.is_file() and "checkpoints" not in path.parts
    }


def _names_in(path: Path) -> list[str]:
    if path.suffix == ".json":
        return sorted(json.loads(path.read_text()))
    if path.suffix == ".parquet":
        return pq.read_schema(path).names
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            return sorted(file.keys())
    if path.suffix == ".yaml":
        return [line.split(":")[0] for line in path.read_text().splitlines() if line and line[0] not in "#- "]
    return []


def written(method: str) -> dict[str, Any]:
    """The values that were written down."""
    return json.loads((HERE / f"{method}.json").read_text())


def differences(found: Any, wanted: Any, tolerance: float, where: str = "") -> list[str]:
    """Each place where two nested values differ, numbers by more than `tolerance` (absolute)."""
    if isinstance(wanted, bool) or not isinstance(wanted, int | float | dict | list):
        return [] if found == wanted else [f"{where}: {found!r}, was {wanted!r}"]
    if isinstance(wanted, int | float):
        near = isinstance(found, int | float) and abs(found - wanted) <= tolerance
        return [] if near else [f"{where}: {found!r}, was {wanted!r}"]
    if isinstance(wanted, list):
        if not isinstance(found, list) or len(found) != len(wanted):
            return [f"{where}: {found!r}, was {wanted!r}"]
        pairs = enumerate(zip(found, wanted))
        return [line for i, (f, w) in pairs for line in differences(f, w, tolerance, f"{where}[{i}]")]
    if not isinstance(found, dict):
        return [f"{where}: {found!r}, was {wanted!r}"]
    odd = [f"{where}.{name}: {'new' if name in found else 'gone'}" for name in sorted(found.keys() ^ wanted.keys())]
    for name in wanted.keys() & found.keys():
        odd += differences(found[name], wanted[name], tolerance, f"{where}.{name}")
    return odd
