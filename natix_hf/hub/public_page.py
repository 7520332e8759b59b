"""Writes the public `report.html`: without photos, names of photos or groups, and local paths.

It uses documents and predictions and does not run the model. `runs/report_page.py` makes the page with photos from the
same parts.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from natix_hf.decision.calibration import Calibration
from natix_hf.documents.cascade import STAGES
from natix_hf.documents.run_documents import RunDocuments
from natix_hf.documents.split_logits import SavedLogits
from natix_hf.files import hub_id, read_recipe, write_text
from natix_hf.hub.cards import LORA_SETTINGS, METHODS, SETTINGS
from natix_hf.logits import softmax
from natix_hf.report import photo_cost
from natix_hf.report.charts import Table
from natix_hf.report.metrics import log_odds
from natix_hf.report.page import report_html
from natix_hf.report.page_sections import Rows
from natix_hf.streetvision.reward_report import reward_sections


def write_public_page(run: Path, documents: RunDocuments, path: Path) -> None:
    """Write the page of a run without anything about single photos.

    Args:
        run: run folder with `predictions/val_test.parquet` and, if the run has a recipe, `recipe.yaml`.
        documents: the run's documents, with a calibration and with private names already withheld.
        path: the file to write.
    """
    table = pq.read_table(run / "predictions" / "val_test.parquet", columns=["group", "label", "logits"])
    labels = table["label"].to_numpy()
    rows = SavedLogits(
        logits=np.array(table["logits"].to_pylist(), dtype=np.float64),
        label=labels,
        group=np.array(table["group"].to_pylist(), dtype=object),
        ids=np.full(len(labels), "", dtype=object),
    )
    page = report_html(
        run.resolve().name,
        documents,
        served_rows("val_test", rows, Calibration.from_document(documents.calibration)),
        pictures=None,
        lead=lead(documents),
        extra=reward_sections(documents.reward),
        facts=facts(run, documents),
        version=version("natix_hf"),
    )
    write_text(path, page)


def served_rows(split: str, rows: SavedLogits, calibration: Calibration) -> Rows:
    """Predictions in the form that the page needs, with the run's calibration applied.

    Args:
        split: name of the split.
        rows: labels and logits before calibration.
        calibration: the run's calibration.
    """
    logits = rows.logits
    calibrated = calibration.calibrated(logits)
    return Rows(
        split,
        rows.ids,
        rows.label,
        rows.group,
        softmax(logits),
        softmax(calibrated),
        log_odds(calibrated),
        calibration.served(logits).argmax(axis=1),
        rows.slices,
    )


def lead(documents: RunDocuments) -> str:
    """The sentence under the page's title."""
    metrics, classes = documents.metrics, documents.splits.label_names
    class_text = " and ".join(classes) if len(classes) == 2 else f"{len(classes)} classes"
    method = METHODS.get(documents.record.method, "")
    method = f"{method[:1].upper()}{method[1:]}. " if method else ""
    return f"Street photos: {class_text}. {method}Tested on {metrics.n} photos in {metrics.groups} groups."


def facts(run: Path, documents: RunDocuments) -> list[tuple[str, Table]]:
    """The tables of the page's last section."""
    record, tables = documents.record, []
    if recipe := read_recipe(run):
        names = [*SETTINGS, *(LORA_SETTINGS if recipe.get("method") == "lora" else ())]
        rows = [[name, _text(recipe[name])] for name in names if recipe.get(name) is not None]
        for name in ("dataset_name", "model_name_or_path"):
            value = str(recipe.get(name) or "")
            # Local paths are private and useless on other machines.
            shown = value if value.startswith("builtin:") else hub_id(value)
            rows.insert(0, [name, shown or "a local folder"])
        tables.append(("Settings", Table(["setting", "value"], rows)))
    if documents.photo_cost is not None:
        cells = [list(pair) for pair in zip(photo_cost.HEADS, photo_cost.cost_cells(documents.photo_cost))]
        cells.append(["device", documents.photo_cost.device])
        tables.append(("Cost per photo", Table(["forward pass only", "per photo"], cells)))
    if (two_models := documents.two_models) is not None:
        models, costs = two_models.models, two_models.costs
        rows = [list(row) for row in zip(photo_cost.HEADS, *map(photo_cost.cost_cells, costs))]
        rows += [
            ["parameters", *(f"{model.parameters / 1e6:.4g} M" for model in models)],
            ["weights", *(f"{model.bytes / 1e6:.1f} MB" for model in models)],
            ["device", *(cost.device for cost in costs)],
        ]
        heads = ["forward pass only, per photo", *(f"{stage}: {model.run}" for stage, model in zip(STAGES, models))]
        tables.append(("The two models", Table(heads, rows)))
    if documents.speed is not None:
        times = [[phase, f"{seconds:.1f} s"] for phase, seconds in documents.speed.time.items()]
        tables.append(("Where the time went", Table(["phase", "time"], times)))
    versions = [[name, str(number)] for name, number in record.versions.items()]
    tables.append(("Versions", Table(["package", "version"], versions)))
    prints = [[name, str(value)] for name, value in record.fingerprints.items()]
    tables.append(("Fingerprints of the photos", Table(["split", "fingerprint"], prints)))
    return tables


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
