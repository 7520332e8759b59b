"""Runs a finished model over many photos in constant memory and writes probabilities to a file."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from tqdm.auto import tqdm

from natix_hf.decision.calibration import DecisionRule
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.cascade import STAGES, TwoModels, cost_text
from natix_hf.documents.run_record import NOT_FINISHED, RunRecord
from natix_hf.errors import UserError, one_line
from natix_hf.files import check_folder, read_json, replacing
from natix_hf.inference.averaged_views import view_batches
from natix_hf.inference.batches import logits_of, staged_logits_of
from natix_hf.inference.cascade_classifier import CascadeClassifier, StageProcessors
from natix_hf.inference.graph_classifier import GRAPHS, GraphClassifier, graph_form
from natix_hf.inference.tiled_models import check_same_views
from natix_hf.logits import softmax
from natix_hf.modeling.checkpoints import check_finite, refuse_pickles
from natix_hf.modeling.packed_linear import packed_linears
from natix_hf.photos.client_view import ClientTally

# Words that pandas reads as a missing value, quoted or not.
MISSING = ("None", "NA", "N/A", "n/a", "NaN", "nan", "-NaN", "-nan", "NULL", "null", "<NA>", "#NA", "#N/A", "#N/A N/A")


class Prediction(NamedTuple):
    """The prediction for one photo: its name and calibrated probabilities `(classes,)`, or why there are none.

    Attributes:
        decision: class id with the largest served score. With a threshold other than 0.5 this need not be the class
            with the largest probability.
        asks: the probability is in the abstain band, so a person must decide.
        client: how a client's pipeline sees a different picture (`client_view.seen_otherwise`), or "".
        stage: with early exits 1 if the whole view (or the first model) decided alone, 2 if the tiles (or the second
            model) took part.
    """

    name: str
    probabilities: np.ndarray | None
    reason: str | None
    decision: int | None = None
    asks: bool = False
    client: str = ""
    stage: int | None = None

    def answer(self, labels: Sequence[str]) -> str:
        """The class of the decision, or `abstain` if a person must decide."""
        return "abstain" if self.asks else labels[self.decision]

    def rounded(self) -> list[float]:
        """The probabilities with the digits that are written to files."""
        return [round(float(p), 6) for p in self.probabilities]

    @property
    def differs(self) -> bool:
        """Whether the decision is not the class with the largest probability."""
        return self.decision is not None and self.decision != self.probabilities.argmax()


@dataclass
class Written:
    """Counts of what was written, and name and reason of each photo without probabilities.

    Attributes:
        differing: photos whose decision is not the class with the largest probability.
        asking: photos that a person must decide.
        client: readable photos that a client's pipeline sees differently.
        early: photos that left after the first stage.
    """

    good: int = 0
    broken: list[tuple[str, str]] = field(default_factory=list)
    differing: int = 0
    asking: int = 0
    client: ClientTally = field(default_factory=ClientTally)
    early: int = 0

    def count(self, prediction: Prediction) -> None:
        if prediction.probabilities is None:
            self.broken.append((prediction.name, prediction.reason or ""))
            return
        self.good += 1
        self.differing += prediction.differs
        self.asking += prediction.asks
        self.early += prediction.stage == 1
        self.client.count(prediction.client, prediction.name)


def load_classifier(name_or_path: str) -> tuple[Any, Any]:
    """A finished model in eval mode and fp32, with its image processor: from a run folder, an export or a Hub id.

    For a cascade of two runs these are a `CascadeClassifier` and its `StageProcessors`.

    Raises:
        UserError: the model does not exist, its weights are pickled, or it is a backbone without a head.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

    run = Path(name_or_path).expanduser()
    check_folder(name_or_path, bare_ids=True)
    if RunRecord.there(run) and RunRecord.read(run).status != "finished":
        raise UserError(f"{name_or_path}: {NOT_FINISHED}")
    if TwoModels.there(run):
        loaded = (load_classifier(str(run / stage)) for stage in STAGES)
        (first, first_processor), (second, second_processor) = loaded
        cascade = CascadeClassifier(first, second, CalibrationFile.read(run)).eval()
        return cascade, StageProcessors(first_processor, second_processor)
    source = str(run) if run.is_dir() else name_or_path
    try:
        if folder := _graph_folder(source):
            model = GraphClassifier(folder, graph_form(folder))
            return model.eval(), AutoImageProcessor.from_pretrained(folder)
        refuse_pickles(name_or_path, run)
        if AutoConfig.from_pretrained(source).model_type == "dinov3_vit":
            raise UserError(f"{name_or_path}: a backbone without a head: train it first with python -m natix_hf.train")
        model = AutoModelForImageClassification.from_pretrained(source, dtype=torch.float32, use_safetensors=True)
        processor = AutoImageProcessor.from_pretrained(source)
    except UserError:
        raise
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        absent = "" if run.is_dir() else "no such folder, and as a Hub id "
        raise UserError(f"{name_or_path}: {absent}no model that can be loaded: {one_line(error)}") from None
    check_finite(name_or_path, model)
    check_same_views(getattr(model.config, "views", None), processor)  # other classes' configs do not know the name
    return model.eval(), processor


def leave_early(model: Any) -> bool:
    """Whether a model has early exits."""
    return bool(getattr(model.config, "views_exit", None))  # other classes' configs do not know the name


def _graph_folder(source: str) -> Path | None:
    """The folder of an exported graph, downloaded from the Hub if needed; None for other models."""
    if Path(source).is_dir():
        return Path(source) if graph_form(Path(source)) else None
    from huggingface_hub import snapshot_download
    from transformers.utils import cached_file

    description = cached_file(source, "export.json", _raise_exceptions_for_missing_entries=False)
    form = None if description is None else GRAPHS.get(read_json(description).get("format"))
    return form and Path(snapshot_download(source, allow_patterns=["*.json", f"{form.graph}*"]))


def predict_photos(
    model: Any,
    processor: Any,
    names: Sequence[str],
    photos: Sequence[Any],
    *,
    batch_size: int = 16,
    num_workers: int = 0,
    run: Callable[[torch.Tensor], np.ndarray] | None = None,
    views: Sequence[str] = (),
) -> Iterator[Prediction]:
    """Predictions in the order of `photos`; an unreadable photo yields its reason and does not stop the others.

    `decision` of the model's config says how it decides; without that entry the largest score wins. `run` gives the
    logits of a batch, see `measured_pace.Pace`; by default, and always with early exits, the model itself does. Logits
    are averaged over a photo and its `views`, see `averaged_views`.
    """
    run = run or partial(logits_of, model)
    rule = getattr(model.config, "decision", None) or {}  # other classes' configs do not know the name
    shift, band = np.asarray(rule.get("threshold_bias", 0.0)), rule.get("abstain_band")
    staged = leave_early(model)
    progress = tqdm(total=len(names), desc="predict", unit="photo")
    with progress, packed_linears(model):
        speed = {"batch_size": batch_size, "num_workers": num_workers}
        for batch, pixels in view_batches(model, processor, photos, views, **speed):
            predictions: dict[int, Prediction] = {i: Prediction(names[i], None, reason) for i, reason in batch.broken}
            if batch.indices:
                if staged:
                    logits, stages = staged_logits_of(model, *pixels)
                    served, stages = logits.astype(np.float64), stages.tolist()
                else:
                    served = np.mean([run(view).astype(np.float64) for view in pixels], axis=0)
                    stages = [None] * len(served)
                probabilities = softmax(served - shift)
                columns = batch.indices, served, probabilities, batch.client, stages
                for i, scores, p, client, stage in zip(*columns, strict=True):
                    asks = band is not None and band[0] < p[rule["positive"]] < band[1]
                    predictions[i] = Prediction(names[i], p, None, int(scores.argmax()), asks, client, stage)
            progress.update(len(predictions))
            yield from (predictions[i] for i in sorted(predictions))


def left_early_line(model: Any, written: Written) -> str:
    """One line with the number of photos that left early and the mean cost of a photo."""
    share = written.early / written.good
    if isinstance(model, CascadeClassifier):
        cost, unit = model.cost, "GFLOP"
    else:
        cost, unit = (1, model.config.views["tiles"]), "views"
    mean = cost_text(cost[0] + cost[1] * (1 - share))
    return f"{written.early} photos left early ({share:.1%}): {mean} of {sum(cost):.4g} {unit} per photo"


def missing_line(output: Path, labels: Sequence[str]) -> str | None:
    """A note on how to read a CSV if pandas takes a class name for a missing value; None if no class is affected."""
    misread = [label for label in labels if label in MISSING]
    if output.suffix != ".csv" or not misread:
        return None
    return (
        f"note: pandas reads the class {misread[0]} as a missing value, quoted or not: "
        f"pandas.read_csv('{output.name}', keep_default_na=False) keeps it; a .jsonl file does not have this problem"
    )


def write_rows(
    output: Path,
    predictions: Iterable[Prediction],
    labels: Sequence[str],
    rule: DecisionRule | None = None,
    *,
    staged: bool = False,
) -> Written:
    """Write CSV or JSON lines, chosen by the suffix of `output`: file, label, one probability per class, error.

    The label is the decision; the probabilities are calibrated. A model with a guarantee also has a column `answer`:
    the label, or `abstain` if a person must decide. A model with a threshold has a column `note`, which says where the
    label is not the class with the largest probability. A model with early exits has a column `stage`: 1 if the first
    stage decided, else 2.

    Args:
        predictions: one per row.
        rule: `decision` of the model's config.
        staged: whether the model has early exits.
    """
    rule = rule or {}
    banded, noted = rule.get("abstain_band") is not None, any(rule.get("threshold_bias", ()))
    extra = [name for name, needed in (("answer", banded), ("note", noted), ("stage", staged)) if needed]
    written = Written()
    with replacing(output) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file) if output.suffix == ".csv" else None
        if table:
            table.writerow(["file", "label", *(f"p_{label}" for label in labels), *extra, "error"])
        for prediction in predictions:
            written.count(prediction)
            name, reason = prediction.name, prediction.reason
            if prediction.probabilities is None:
                label, values, extras = None, [None] * len(labels), dict.fromkeys(extra)
                row = {"file": name, "error": reason}
            else:
                label, values = labels[prediction.decision], prediction.rounded()
                extras = {
                    "answer": prediction.answer(labels),
                    "note": f"decided by threshold {rule['threshold']:.3f}" if prediction.differs else None,
                    "stage": prediction.stage,
                }
                extras = {column: extras[column] for column in extra}
                row = {"file": name, "label": label, "probabilities": dict(zip(labels, values, strict=True))}
                row |= {column: text for column, text in extras.items() if text is not None}
            if table:
                table.writerow([name, label, *values, *extras.values(), reason])
            else:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return written
