"""Builds the model card of a run from the files in the run folder.

It never loads the model or the photos. A card is public: it contains no local paths, photo names or places, and each
figure comes with its interval and its number of photos.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from natix_hf.decision.calibrators import CALIBRATORS
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.cascade import STAGES, TwoModels
from natix_hf.documents.export import size_text
from natix_hf.documents.final_figures import FinalFigures
from natix_hf.documents.provenance import Provenance
from natix_hf.documents.quantised import Quantised
from natix_hf.documents.run_documents import RunDocuments
from natix_hf.documents.run_record import RunRecord
from natix_hf.documents.split_certificate import SplitCertificate
from natix_hf.errors import UserError
from natix_hf.files import hub_id, read_json, read_recipe
from natix_hf.hub import card_sections
from natix_hf.hub.base_licence import Licence, base_licence
from natix_hf.hub.card_metadata import metadata
from natix_hf.hub.card_text import cell, counts_text, section_table, template, title
from natix_hf.hub.privacy import Names, names_of, public
from natix_hf.modeling.exports import FORMS, ExportForm
from natix_hf.report import sections
from natix_hf.report.photo_cost import cost_line
from natix_hf.report.sections import Section
from natix_hf.report.summary import (
    LABELS,
    MEANINGS,
    figure_text,
    honest_run_line,
    interval_text,
    read_before_line,
    sentence,
)
from natix_hf.streetvision.reward_report import reward_sections

USES = {
    "train": "training",
    "val_select": "checkpoint selection",
    "val_calib": "calibration",
    "val_test": "final figures",
}
METHODS = {
    "lora": "small added weights (LoRA adapters) and a classification layer were trained, then merged into the model",
    "probe": "the network stayed unchanged, and only a classification layer (a probe) was trained",
    "full": "all weights of the network and a classification layer were trained",
    "cascade": "a cheap model classifies each photo, and a larger one those that the cheap model is uncertain about",
}
# Recipe keys that a reader needs to judge or repeat the run. LORA_SETTINGS are shown only for LoRA runs.
SETTINGS = (
    *("method", "pooling", "feature_layers", "head", "resize", "augment", "seed"),
    *("learning_rate", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("loss", "optim", "weight_decay", "label_smoothing_factor", "mixup_alpha", "cutmix_alpha", "mix_switch_prob"),
    *("ema", "ema_decay", "split_seed"),
)
WORST, SHOWN = 8, 3  # rows of the slice table, figures per row
ONLY_THE_PACKAGE = "No class of transformers holds two models, so only `natix_hf` can load this folder.\n"
LORA_SETTINGS = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")


def model_card(
    run_folder: str | Path,
    documents: RunDocuments,
    model_id: str | None = None,
    *,
    form: str = "run",
    base: str | None = None,
    licence: Licence | None = None,
    extra: Sequence[Section] = (),
    include_photos: bool = False,
    quantised: Quantised | None = None,
) -> str:
    """The text of `README.md`: front matter for the Hub, usage, figures, photos, training and limits.

    Args:
        run_folder: a finished run with `config.json`. Without `recipe.yaml` (a run from Python) the card does not name
            the checkpoint or the data set.
        documents: the run's documents; for an int8 graph with the graph's calibration.
        model_id: Hub id of the repository that the card is for; a placeholder by default.
        form: what the repository holds: the run folder itself (`run`) or one of `exports.FORMS`.
        base: Hub id of the base that an adapter names, if it differs from the run's.
        licence: licence of the base checkpoint; by default derived from its name and the files beside it.
        extra: sections to insert after the slices and before the pictures.
        include_photos: also publish metadata values that name photos or places.
        quantised: for an int8 graph: what int8 changed.

    Raises:
        UserError: `config.json` is missing, or the Hub would refuse the front matter.
    """
    run_folder = Path(run_folder)
    names = Names(frozenset()) if include_photos else names_of(run_folder, documents.splits)
    pictures = card_sections.pictures(run_folder, documents.reward, names)
    documents = documents if include_photos else public(documents, names)
    recipe, cascade = read_recipe(run_folder), documents.two_models is not None
    model_recipes = [read_recipe(run_folder / stage) for stage in STAGES] if cascade else [recipe]
    bases, data = {part.get("model_name_or_path") for part in model_recipes}, model_recipes[-1].get("dataset_name")
    classes = documents.splits.label_names if cascade else _classes(run_folder)
    licence = licence or _licence(bases)
    published_as = "merged" if form == "run" else form
    if cascade:
        model_id = run_folder.resolve().name
    model_id = model_id or "the-id-of-this-repository"
    usage = ONLY_THE_PACKAGE if cascade else _usage(FORMS[published_as], _tiles(recipe), model_id)
    card = ModelCard.from_template(
        metadata(
            classes=classes,
            base=base or recipe.get("model_name_or_path"),
            data=data,
            metrics=documents.metrics,
            licence=licence.front,
            form=published_as,
            int8=quantised is not None,
        ),
        template_str=template("model_card.md.jinja"),
        title=title(classes),
        form=form,
        classes=[cell(name) for name in classes],
        model_id=model_id,
        usage=usage,
        refit=documents.record.refit,
        int8=quantised and card_sections.int8_section(quantised),
        decisions=card_sections.decision_lines(documents.calibration, classes),
        section_table=section_table,
        counts_text=counts_text,
        extra=[*reward_sections(documents.reward), *extra],
        pictures=pictures,
        demo="builtin:demo-backbone" in bases,
        licence_text=licence.text,
        made=_made_text(Provenance.of(run_folder), form),
        **_model_texts(documents, recipe),
        **_figure_texts(documents),
        **_section_tables(documents),
        **_photo_texts(documents.splits, data),
        **_training_texts(documents.record, recipe),
    )
    return str(card).rstrip("\n") + "\n"


def _tiles(recipe: dict[str, Any]) -> list[int] | None:
    """Rows and columns of the tiles that a run was trained on; None for the whole photo alone."""
    return recipe["views_grid"] if recipe.get("views") == "tiles" else None


def _usage(form: type[ExportForm], tiles: list[int] | None, model_id: str) -> str:
    usage = form.tiles_usage if tiles and form.tiles_usage else form.usage
    return usage.replace("MODEL_ID", model_id)


def _model_texts(documents: RunDocuments, recipe: dict[str, Any]) -> dict[str, Any]:
    """What the model is and how it sees photos."""
    return {
        "two_models": documents.two_models and _two_models_text(documents.two_models),
        "base_text": _base_text(recipe.get("model_name_or_path")),
        "method_text": METHODS[documents.record.method],
        "image_size": size_text(recipe["image_size"], _tiles(recipe)) if "image_size" in recipe else None,
        "calibrated_text": _calibrated_text(documents.calibration),
    }


def _figure_texts(documents: RunDocuments) -> dict[str, Any]:
    """The final figures, and the photos that they were measured on."""
    metrics, cost = documents.metrics, documents.photo_cost
    return {
        "metrics": metrics,
        "whose": sentence(honest_run_line(metrics)) if metrics.honest_run is not None else None,
        "level": f"{metrics.level * 100:g} %",
        "labels": LABELS,
        "meanings": MEANINGS,
        "figure_text": figure_text,
        "interval_text": interval_text,
        "positive": cell(metrics.positive_label),
        "read_before": sentence(read_before_line(metrics)),
        "cost": cost and sentence(cost_line(cost)),
    }


def _section_tables(documents: RunDocuments) -> dict[str, Section | None]:
    """The sections that the report has too; None for those without a document."""
    selective, robustness, slices = documents.selective, documents.robustness, documents.slices
    return {
        "stages": sections.stages_section(documents.metrics, documents.record.positive),
        "band": selective and sections.band_section(selective),
        "cascade": selective and sections.cascade_section(selective),
        "robustness": robustness and sections.robustness_section(robustness, distortions=False),
        "slices": slices and sections.slices_section(slices, most=WORST, figures=SHOWN),
        "over_probe": documents.over_probe and sections.probe_section(documents.over_probe),
    }


def _photo_texts(splits: SplitCertificate, data: str | None) -> dict[str, Any]:
    """The data set, the four splits, and how they were made."""
    return {
        "splits": splits,
        "uses": USES,
        "data_text": _data_text(data, splits),
        "certificate": _certificate_text(splits),
    }


def _training_texts(record: RunRecord, recipe: dict[str, Any]) -> dict[str, Any]:
    """Settings and versions of the training."""
    names = (*SETTINGS, *(LORA_SETTINGS if record.method == "lora" else ()))
    settings = [(name, cell(recipe[name])) for name in names if name in recipe]
    return {
        "settings": settings + card_sections.prefix_settings(record.prefix),
        "versions": ", ".join(f"{name} {version}" for name, version in record.versions.items()),
    }


def _two_models_text(two_models: TwoModels) -> str:
    """Which model classifies which photos, and what that costs."""
    first, second = (f"{cost:.4g} GFLOP" for cost in two_models.gigaflop)
    return (
        f"The run `{cell(two_models.first.run)}` classifies each photo ({first}). If it is uncertain, the run "
        f"`{cell(two_models.second.run)}` classifies the photo instead ({second} more)."
    )


def _licence(bases: set[str | None]) -> Licence:
    """The licence of the base checkpoint, or of both base checkpoints of a cascade."""
    licences = [base_licence(base) for base in sorted(bases, key=str)]
    if len(licences) == 1:
        return licences[0]
    return Licence({"license": "unknown"}, "\n\n".join(licence.text for licence in licences))


def _certificate_text(splits: SplitCertificate) -> str:
    """How rows were grouped, and how many groups are in more than one split."""
    ties = [f"{count} by {cell(kind)}" for kind, count in splits.ties.items() if count]
    tied = f"Rows that belong together were kept in one split ({', '.join(ties)}). " if ties else ""
    unsearched = "" if splits.rules.near_duplicates else " Altered copies of photos were not searched for."
    return f"{tied}Groups in more than one split: {splits.straddling}.{unsearched}"


def _made_text(provenance: Provenance, form: str) -> str | None:
    """Which step computed the figures, when and from which inputs; None if the run has no record of it (a refit)."""
    step = provenance.made(FinalFigures.file_name)
    if step is None or step.name != "evaluate":
        return None
    logits, calibration = (step.reads.get(name) for name in ("predictions/val_test.parquet", "calibration.json"))
    where = "`steps/`" if form == "run" else "`provenance.json`"
    versions = f"natix_hf {step.versions['natix_hf']}, torch {step.versions['torch']}"
    made_from = f"the logits `{logits.fingerprint[:12]}` and the calibration `{calibration.fingerprint[:12]}`"
    return (
        f"The step `evaluate` computed the figures on {step.started[:10]} with {versions}, from {made_from}. "
        f"{where} records every step with its inputs, options and versions, back to the fingerprints of the photos."
    )


def _classes(run_folder: Path) -> list[str]:
    """The names of the classes, in the order of their ids."""
    path = run_folder / "config.json"
    if not path.exists():
        raise UserError(f"{path}: no such file, so the run is not finished: train it to the end")
    names = read_json(path)["id2label"]
    return [names[key] for key in sorted(names, key=int)]


def _base_text(base: str | None) -> str:
    if base == "builtin:demo-backbone":
        return "the small demonstration backbone of the package"
    return f"[{base}](https://huggingface.co/{base})" if hub_id(base) else "a local DINOv3 checkpoint"


def _data_text(data: str | None, splits: SplitCertificate) -> str:
    if data == "builtin:scenes":
        source = "Generated street photos (`natix_hf.scenes.photos`), not real ones"
    else:
        source = f"[{data}](https://huggingface.co/datasets/{data})" if hub_id(data) else "The trainer's own photos"
    if splits.ratios is None:
        return f"{source}, in their original four splits. No group and no photo is in more than one split."
    return (
        f"{source}, divided into four splits stratified by class, with whole groups kept together (seed "
        f"{splits.seed}). No group and no photo is in more than one split."
    )


def _calibrated_text(calibration: CalibrationFile | None) -> str:
    if calibration is None or calibration.options["calibrator"] == ["none"]:
        return "not calibrated"
    if not calibration.kept:
        return "not changed by calibration, because no calibrator predicted held-out photos clearly better"
    name = CALIBRATORS[calibration.calibrator].description
    text = f"calibrated with {name} fitted on {calibration.n} photos that training had not seen"
    if calibration.prior.target:
        text += ", then adjusted to the class shares expected in use"
    if calibration.folded:
        text += (
            f"; the decision threshold of {calibration.threshold:.3f} was then moved to 0.5, so the scores are no "
            "longer calibrated probabilities"
        )
    return text
