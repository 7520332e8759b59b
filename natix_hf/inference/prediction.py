"""A finished model over many photos, in constant memory: probabilities row by row into a file."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from tqdm.auto import tqdm

from natix_hf.decision.temperature import softmax
from natix_hf.errors import UserError, one_line
from natix_hf.files import read_json, replacing
from natix_hf.inference.batches import logits_of, photo_batches


class Prediction(NamedTuple):
    """One photo: its name and either calibrated probabilities `(classes,)` or the reason why there are none."""

    name: str
    probabilities: np.ndarray | None
    reason: str | None


def load_classifier(name_or_path: str) -> tuple[Any, Any]:
    """A finished model in eval mode, fp32, and its image processor; a run folder or a Hub id.

    Raises:
        UserError: there is no such model, or it is a backbone without a head.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

    if name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1:
        path = Path(name_or_path).expanduser()
        if not path.is_dir():
            raise UserError(f"{name_or_path}: no such folder")
    run = Path(name_or_path).expanduser()
    if (run / "run.json").exists() and read_json(run / "run.json").get("status") != "finished":
        raise UserError(f"{name_or_path}: the run is not finished: train it with --resume_from_checkpoint true first")
    try:
        config = AutoConfig.from_pretrained(run if run.is_dir() else name_or_path)
        if config.model_type == "dinov3_vit":
            raise UserError(f"{name_or_path}: a backbone without a head: train it first, python -m natix_hf.train ...")
        source = str(run) if run.is_dir() else name_or_path
        model = AutoModelForImageClassification.from_pretrained(source, dtype=torch.float32, use_safetensors=True)
        processor = AutoImageProcessor.from_pretrained(source)
    except (OSError, ValueError, SafetensorError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{name_or_path}: no model that can be loaded: {one_line(error)}") from None
    return model.eval(), processor


def predict_photos(
    model: Any,
    processor: Any,
    names: Sequence[str],
    photos: Sequence[Any],
    *,
    batch_size: int = 16,
    num_workers: int = 0,
) -> Iterator[Prediction]:
    """Predictions in the order of `photos`; a broken photo yields its reason and stops nothing."""
    progress = tqdm(total=len(names), desc="predict", unit="photo")
    with progress:
        for indices, pixels, broken in photo_batches(
            photos, processor, batch_size=batch_size, num_workers=num_workers
        ):
            found: dict[int, Prediction] = {i: Prediction(names[i], None, reason) for i, reason in broken}
            if indices:
                probabilities = softmax(logits_of(model, pixels))
                found |= {i: Prediction(names[i], p, None) for i, p in zip(indices, probabilities, strict=True)}
            progress.update(len(found))
            yield from (found[i] for i in sorted(found))


def write_rows(
    output: Path, predictions: Iterable[Prediction], labels: Sequence[str]
) -> tuple[int, list[tuple[str, str]]]:
    """Write CSV or JSON lines, by the ending of `output`: file, label, error, and a column a class of probabilities.

    Returns:
        How many photos have probabilities, and name and reason of those that have none.
    """
    good, broken = 0, []
    with replacing(output) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file) if output.suffix == ".csv" else None
        if table:
            table.writerow(["file", "label", *(f"p_{label}" for label in labels), "error"])
        for name, probabilities, reason in predictions:
            if probabilities is None:
                broken.append((name, reason or ""))
            else:
                good += 1
            label = None if probabilities is None else labels[int(probabilities.argmax())]
            values = [None] * len(labels) if probabilities is None else [round(float(p), 6) for p in probabilities]
            if table:
                table.writerow([name, label, *values, reason])
            else:
                row = {"file": name, "label": label, "probabilities": dict(zip(labels, values, strict=True))}
                file.write(
                    json.dumps(row if reason is None else {"file": name, "error": reason}, ensure_ascii=False) + "\n"
                )
    return good, broken
