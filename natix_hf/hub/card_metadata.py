"""What the Hub reads of a published model: the front matter of its card, and its evaluation results.

The rules are those that the Hub documents (hub-docs: `modelcard.md`, `eval_results.yaml`); the classes
of `documents.hub_metadata` hold them, and our own that a figure names its photos, groups and interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, eval_result_entries_to_yaml

from natix_hf.documents.final_figures import FinalFigures
from natix_hf.documents.hub_metadata import CardMetadata, EvaluationResult
from natix_hf.files import hub_id
from natix_hf.hub.card_text import title
from natix_hf.modeling.exports import FORMS
from natix_hf.report.summary import LABELS, figure_text, interval_text

# The Hub's ids of metrics that it knows; others stand under their own names.
METRIC_IDS = {"mcc": "matthews_correlation", "auroc": "roc_auc", "macro_f1": "f1"}


def metadata(
    *,
    classes: Sequence[str],
    base: str | None,
    data: str | None,
    metrics: FinalFigures,
    licence: Mapping[str, str],
    form: str = "merged",
) -> ModelCardData:
    """The front matter; a figure's interval and number of photos stand in its `metric_args`.

    Args:
        classes: in the order of their ids.
        base, data: `model_name_or_path` and `dataset_name`; only what is on the Hub is named.
        licence: see `base_licence`.
        form: that it is published in.

    Raises:
        UserError: the Hub would refuse it, or a figure stands alone.
    """
    of, base_id, data_id = metrics.honest_run, hub_id(base), hub_id(data)
    results = [
        EvalResult(
            task_type="image-classification",
            task_name="Image Classification",
            dataset_type=data_id or "imagefolder",
            dataset_name=data_id or ("generated street photos" if data == "builtin:scenes" else "own photos"),
            dataset_split=metrics.split,
            metric_type=METRIC_IDS.get(name, name),
            metric_name=LABELS[name] + (f" of the run {of} before this refit" if of else ""),
            metric_value=round(interval.value, 5),
            metric_args={
                "photos": metrics.n,
                "groups": metrics.groups,
                "level": metrics.level,
                "low": round(interval.low, 5),
                "high": round(interval.high, 5),
            },
        )
        for name, interval in metrics.metrics.items()
        if None not in (interval.value, interval.low, interval.high)
    ]
    front = ModelCardData(
        model_name=title(classes) if results else None,
        pipeline_tag="image-classification",
        library_name=FORMS[form].library,
        tags=["dinov3", "natix_hf", "street-photos", *(["refit"] if of else [])],
        base_model=base_id,
        base_model_relation=("adapter" if FORMS[form].on_base else "finetune") if base_id else None,
        datasets=[data_id] if data_id else None,
        metrics=["accuracy", *METRIC_IDS.values()],
        eval_results=results or None,
        **licence,
    )
    CardMetadata.check(front.to_dict(), "model_card_metadata")
    return front


def eval_results(metrics: FinalFigures, *, data: str, repo_id: str, fingerprint: str, date: str) -> list[Any]:
    """The content of `.eval_results/natix_hf.yaml`.

    The format has one number for a task and no room for its interval, so each figure is a task of its own and `notes`
    says what it rests on. The Hub shows them once the data set's `eval.yaml` declares tasks of these names.

    Args:
        data: Hub id of the data set.
        repo_id: where the results will stand.
        fingerprint: of the split, since the test rows are those that natix_hf cut.
        date: ISO-8601, of the evaluation.

    Raises:
        UserError: the Hub would refuse it.
    """
    of = f", of the run {metrics.honest_run} before this refit" if metrics.honest_run is not None else ""
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
            f"{interval_text(interval)}{of}",
        )
        for name, interval in metrics.metrics.items()
        if None not in (interval.value, interval.low, interval.high)
    ]
    document = eval_result_entries_to_yaml(entries)
    for entry in document:
        EvaluationResult.check(entry, "eval_results")
    return document
