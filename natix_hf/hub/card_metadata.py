"""Builds the metadata that the Hub reads of a published model: the card's front matter and the evaluation results.

The classes of `documents.hub_metadata` check the Hub's rules (hub-docs: `modelcard.md`, `eval_results.yaml`) and our
own rule that each figure names its photos, groups and interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, eval_result_entries_to_yaml

from natix_hf.documents.figures import Interval
from natix_hf.documents.final_figures import FinalFigures
from natix_hf.documents.hub_metadata import CardMetadata, EvaluationResult
from natix_hf.files import hub_id
from natix_hf.hub.card_text import title
from natix_hf.modeling.exports import FORMS
from natix_hf.report.summary import LABELS, figure_text, interval_text

# Our metric name -> the Hub's metric id. Other metrics keep their names.
METRIC_IDS = {"mcc": "matthews_correlation", "auroc": "roc_auc", "macro_f1": "f1"}


def metadata(
    *,
    classes: Sequence[str],
    base: str | None,
    data: str | None,
    metrics: FinalFigures,
    licence: Mapping[str, str],
    form: str = "merged",
    int8: bool = False,
) -> ModelCardData:
    """The front matter of the model card. `metric_args` holds a figure's interval and number of photos.

    Args:
        classes: class names in the order of their ids.
        base, data: `model_name_or_path` and `dataset_name`; the front matter names them only if they are Hub ids.
        metrics: the run's final figures.
        licence: `front` of `base_licence.Licence`.
        form: the published form, one of `exports.FORMS`.
        int8: the model computes in int8; the figures are those of its run in fp32.

    Raises:
        UserError: the Hub would refuse the front matter, or a figure lacks its interval or its photos.
    """
    honest_run, base_id, data_id = metrics.honest_run, hub_id(base), hub_id(data)
    origin = _origin(metrics, int8)
    results = [
        EvalResult(
            task_type="image-classification",
            task_name="Image Classification",
            dataset_type=data_id or "imagefolder",
            dataset_name=data_id or ("generated street photos" if data == "builtin:scenes" else "own photos"),
            dataset_split=metrics.split,
            metric_type=METRIC_IDS.get(name, name),
            metric_name=LABELS[name] + (f" {origin}" if origin else ""),
            metric_value=round(interval.value, 5),
            metric_args={
                "photos": metrics.n,
                "groups": metrics.groups,
                "level": metrics.level,
                "low": round(interval.low, 5),
                "high": round(interval.high, 5),
            },
        )
        for name, interval in _defined(metrics)
    ]
    front = ModelCardData(
        model_name=title(classes) if results else None,
        pipeline_tag="image-classification",
        library_name=FORMS[form].library,
        tags=["dinov3", "natix_hf", "street-photos", *(["refit"] if honest_run else []), *(["int8"] if int8 else [])],
        base_model=base_id,
        base_model_relation=("adapter" if FORMS[form].on_base else "finetune") if base_id else None,
        datasets=[data_id] if data_id else None,
        metrics=["accuracy", *METRIC_IDS.values()],
        eval_results=results or None,
        **licence,
    )
    CardMetadata.check(front.to_dict(), "model_card_metadata")
    return front


def _origin(metrics: FinalFigures, int8: bool) -> str:
    """Which model the figures are of, if they are not those of the published one; else an empty text."""
    if int8:
        return "of the run in fp32"
    return "" if metrics.honest_run is None else f"of the run {metrics.honest_run} before this refit"


def _defined(metrics: FinalFigures) -> list[tuple[str, Interval]]:
    """The metrics that have a value and an interval, by name."""
    figures = metrics.metrics.items()
    return [(name, figure) for name, figure in figures if None not in (figure.value, figure.low, figure.high)]


def eval_results(
    metrics: FinalFigures, *, data: str, repo_id: str, fingerprint: str, date: str, int8: bool = False
) -> list[Any]:
    """The content of `.eval_results/natix_hf.yaml`.

    The format has one number per task and no field for an interval. Each figure is therefore a separate task, and its
    `notes` give photos, groups and interval. The Hub shows the results if the data set's `eval.yaml` declares these
    tasks.

    Args:
        metrics: the run's final figures.
        data: Hub id of the data set.
        repo_id: Hub id of the model repository.
        fingerprint: fingerprint of the splits, which identifies the test rows.
        date: date of the evaluation, ISO 8601.
        int8: as in `metadata`.

    Raises:
        UserError: the Hub would refuse the results.
    """
    origin = _origin(metrics, int8)
    entries = [
        EvalResultEntry(
            dataset_id=data,
            task_id=f"{metrics.split}_{name}",
            value=round(interval.value, 5),
            date=date,
            source_url=f"https://huggingface.co/{repo_id}/blob/main/metrics.json",
            source_name="final figures",
            notes=f"{LABELS[name]} {figure_text(interval.value)} on {metrics.n} photos in {metrics.groups} "
            f"groups of {metrics.split} (split {fingerprint}), {metrics.level * 100:g} % interval "
            f"{interval_text(interval)}" + (f", {origin}" if origin else ""),
        )
        for name, interval in _defined(metrics)
    ]
    document = eval_result_entries_to_yaml(entries)
    for entry in document:
        EvaluationResult.check(entry, "eval_results")
    return document
