"""`report.html` as it may be published: no photo, no name of a photo or group, no path of this machine.

Put together from documents and predictions; the model isn't run. `runs/report_page.py` makes the page with photos
from the same parts.
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
    """Write the page of a run without anything of a single photo.

    Args:
        run: with `predictions/val_test.parquet` and, if it came from a recipe, `recipe.yaml`.
        documents: of the run, with a calibration; free of names already.
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
    """Predictions as the page takes them, with a run's calibration applied.

    Args:
        rows: with their logits before calibration.
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
    told = " and ".join(classes) if len(classes) == 2 else f"{len(classes)} classes"
    method = METHODS.get(documents.record.method, "")
    method = f"{method[:1].upper()}{method[1:]}. " if method else ""
    return f"Street photos: {told}. {method}Tested on {metrics.n} photos in {metrics.groups} groups."


def facts(run: Path, documents: RunDocuments) -> list[tuple[str, Table]]:
    """The tables of the page's last section."""
    record, tables = documents.record, []
    if recipe := read_recipe(run):
        names = [*SETTINGS, *(LORA_SETTINGS if recipe.get("method") == "lora" else ())]
        rows = [[name, _text(recipe[name])] for name in names if recipe.get(name) is not None]
        for name in ("dataset_name", "model_name_or_path"):
            value = str(recipe.get(name) or "")
            # A path on this machine means nothing elsewhere, and is nobody's business.
            shown = value if value.startswith("builtin:") else hub_id(value)
            rows.insert(0, [name, shown or "a local folder"])
        tables.append(("Settings", Table(["setting", "value"], rows)))
    if documents.photo_cost is not None:
        cells = [list(pair) for pair in zip(photo_cost.HEADS, photo_cost.cost_cells(documents.photo_cost))]
        cells.append(["timed on", documents.photo_cost.device])
        tables.append(("What a photo costs", Table(["forward alone", "a photo"], cells)))
    if (both := documents.two_models) is not None:
        rows = [list(row) for row in zip(photo_cost.HEADS, *map(photo_cost.cost_cells, both.costs))]
        rows += [
            ["parameters", *(f"{one.parameters / 1e6:.4g} M" for one in both.models)],
            ["weights", *(f"{one.bytes / 1e6:.1f} MB" for one in both.models)],
            ["timed on", *(cost.device for cost in both.costs)],
        ]
        heads = ["forward alone, a photo", *(f"{stage}: {one.run}" for stage, one in zip(STAGES, both.models))]
        tables.append(("The two models", Table(heads, rows)))
    if documents.speed is not None:
        times = [[phase, f"{seconds:.1f} s"] for phase, seconds in documents.speed.time.items()]
        tables.append(("Where the time went", Table(["phase", "time"], times)))
    versions = [[name, str(one)] for name, one in record.versions.items()]
    tables.append(("Versions", Table(["package", "version"], versions)))
    prints = [[name, str(value)] for name, value in record.fingerprints.items()]
    tables.append(("Fingerprints of the photos", Table(["split", "fingerprint"], prints)))
    return tables


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
