"""The model card of a run, filled from what the run wrote and from nothing else.

Knows the files of a run folder, not the model or the photos. A card is public: local paths, names of photos and places
stay out of it, and no figure stands in it without its interval and the number of photos.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from huggingface_hub import ModelCard

from natix_hf.decision.calibrators import CALIBRATORS
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.cascade import STAGES, TwoModels
from natix_hf.documents.export import size_text
from natix_hf.documents.final_figures import FinalFigures
from natix_hf.documents.provenance import Provenance
from natix_hf.documents.run_documents import RunDocuments
from natix_hf.documents.split_certificate import SplitCertificate
from natix_hf.errors import UserError
from natix_hf.files import hub_id, read_json, read_recipe
from natix_hf.hub import card_sections
from natix_hf.hub.base_licence import Licence, base_licence
from natix_hf.hub.card_metadata import metadata
from natix_hf.hub.card_text import cell, counts_text, section_table, template, title
from natix_hf.hub.privacy import Names, names_of, public
from natix_hf.modeling.exports import FORMS
from natix_hf.report import sections
from natix_hf.report.photo_cost import cost_line
from natix_hf.report.sections import Section
from natix_hf.report.summary import LABELS, figure_text, honest_run_line, interval_text, read_before_line, sentence
from natix_hf.streetvision.reward_report import reward_sections

USES = {
    "train": "training",
    "val_select": "choice of the checkpoint",
    "val_calib": "calibration",
    "val_test": "final figures",
}
METHODS = {
    "lora": "LoRA adapters and a head were trained, then merged into the weights",
    "probe": "the backbone stayed frozen and a head was trained",
    "full": "all weights were trained",
    "cascade": "a cheap model answers each photo, and a dearer one those that it is not certain of",
}
# What of the recipe a reader needs to judge or repeat the run; LoRA's keys only where LoRA was used.
SETTINGS = (
    *("method", "pooling", "feature_layers", "head", "resize", "augment", "seed"),
    *("learning_rate", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("loss", "optim", "weight_decay", "label_smoothing_factor", "mixup_alpha", "cutmix_alpha", "mix_switch_prob"),
    *("ema", "ema_decay", "split_seed"),
)
WORST, SHOWN = 8, 3  # slices of the table, and figures of each
ONLY_THE_PACKAGE = "No class of transformers holds two models: the folder answers through `natix_hf` alone.\n"
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
) -> str:
    """The text of `README.md`: front matter for the Hub, how to use the model, figures, photos, training and limits.

    Args:
        run_folder: a finished run with `config.json`. Without `recipe.yaml` (a run from Python) checkpoint and photos
            stay unnamed.
        documents: of the run.
        model_id: the repository that the card will stand in; a placeholder stands for it otherwise.
        form: what stands there: the run's own folder (`run`) or one of `exports.FORMS`.
        base: Hub id of the base that an adapter names, if that is not the run's.
        licence: of the base checkpoint; by default what its name and what lies beside it say.
        extra: sections between those about slices and the pictures.
        include_photos: values of metadata that name photos or places need not be withheld.

    Raises:
        UserError: there is no `config.json`, or the Hub would refuse the front matter.
    """
    run_folder = Path(run_folder)
    both = documents.two_models
    classes = _classes(run_folder) if both is None else documents.splits.label_names
    names = Names(frozenset()) if include_photos else names_of(run_folder, documents.splits)
    reward = documents.reward
    documents = documents if include_photos else public(documents, names)
    run, splits, metrics = documents.record, documents.splits, documents.metrics
    calibration = documents.calibration
    recipe_file = run_folder / "recipe.yaml"
    recipe = yaml.safe_load(recipe_file.read_text(encoding="utf-8")) if recipe_file.exists() else {}
    trained_from, data = recipe.get("model_name_or_path"), recipe.get("dataset_name")
    method, bases = run.method, {trained_from}
    if both is not None:
        of_stages = [read_recipe(run_folder / stage) for stage in STAGES]
        bases = {one.get("model_name_or_path") for one in of_stages}
        data, model_id = of_stages[1].get("dataset_name"), run_folder.resolve().name
    licence = licence or _licence(bases)
    published_as = "merged" if form == "run" else form
    model_id = model_id or "the-id-of-this-repository"
    tiles = recipe["views_grid"] if recipe.get("views") == "tiles" else None
    kind = FORMS[published_as]
    usage = kind.tiles_usage if tiles and kind.tiles_usage else kind.usage
    usage = usage if both is None else ONLY_THE_PACKAGE
    card = ModelCard.from_template(
        metadata(
            classes=classes,
            base=base or trained_from,
            data=data,
            metrics=metrics,
            licence=licence.front,
            form=published_as,
        ),
        template_str=template("model_card.md.jinja"),
        title=title(classes),
        form=form,
        classes=[cell(name) for name in classes],
        two_models=both and _two_models_text(both),
        base_text=_base_text(trained_from),
        method_text=METHODS[method],
        image_size=size_text(recipe["image_size"], tiles) if "image_size" in recipe else None,
        calibrated_text=_calibrated_text(calibration),
        model_id=model_id,
        usage=usage.replace("MODEL_ID", model_id),
        metrics=metrics,
        refit=run.refit,
        whose=sentence(honest_run_line(metrics)) if metrics.honest_run is not None else None,
        level=f"{metrics.level * 100:g} %",
        figures=[
            {
                "label": label,
                "value": figure_text(metrics.metrics[name].value),
                "interval": interval_text(metrics.metrics[name]),
            }
            for name, label in LABELS.items()
        ],
        positive=cell(metrics.positive_label),
        test_counts=counts_text(metrics.labels),
        made=_made_text(Provenance.of(run_folder), form),
        read_before=sentence(read_before_line(metrics)),
        cost=documents.photo_cost and sentence(cost_line(documents.photo_cost)),
        decisions=card_sections.decision_lines(calibration, classes),
        section_table=section_table,
        stages=sections.stages_section(metrics, run.positive),
        band=documents.selective and sections.band_section(documents.selective),
        cascade=documents.selective and sections.cascade_section(documents.selective),
        robustness=documents.robustness and sections.robustness_section(documents.robustness, distortions=False),
        slices=documents.slices and sections.slices_section(documents.slices, most=WORST, figures=SHOWN),
        extra=[*reward_sections(documents.reward), *extra],
        over_probe=documents.over_probe and sections.probe_section(documents.over_probe),
        pictures=card_sections.pictures(run_folder, reward, names),
        data_text=_data_text(data, splits),
        splits=[
            {
                "name": name,
                "use": use,
                "photos": splits.sizes[name],
                "groups": splits.groups[name],
                "counts": counts_text(splits.class_counts[name]),
            }
            for name, use in USES.items()
        ],
        certificate=_certificate_text(splits),
        fingerprint=splits.fingerprint,
        settings=[
            (name, cell(recipe[name]))
            for name in (*SETTINGS, *(LORA_SETTINGS if method == "lora" else ()))
            if name in recipe
        ]
        + card_sections.prefix_settings(run.prefix),
        versions=", ".join(f"{name} {version}" for name, version in run.versions.items()),
        demo="builtin:demo-backbone" in bases,
        licence_text=licence.text,
    )
    return str(card).rstrip("\n") + "\n"


def _two_models_text(both: TwoModels) -> str:
    """What answers, and at which cost, in sentences."""
    first, second = (f"{cost:.4g} GFLOP" for cost in both.gigaflop)
    return (
        f"The run `{cell(both.first.run)}` answers each photo, for {first}; where it is not certain, the run "
        f"`{cell(both.second.run)}` answers in its place, for {second} more."
    )


def _licence(bases: set[str | None]) -> Licence:
    """The licence of what a model was trained from; of a cascade, of what both were."""
    licences = [base_licence(base) for base in sorted(bases, key=str)]
    if len(licences) == 1:
        return licences[0]
    return Licence({"license": "unknown"}, "\n\n".join(one.text for one in licences))


def _certificate_text(splits: SplitCertificate) -> str:
    """What ties rows, and that nothing tied stands in two splits."""
    ties = [f"{count} by {cell(kind)}" for kind, count in splits.ties.items() if count]
    tied = f"Rows that belong together were kept in one split ({', '.join(ties)}). " if ties else ""
    sought = "" if splits.rules.near_duplicates else " Altered copies of photos were not looked for."
    return f"{tied}Groups that stand in two splits: {splits.straddling}.{sought}"


def _made_text(provenance: Provenance, form: str) -> str | None:
    """Which step made the figures, when, of what and by what; None where nothing says so (a refit)."""
    step = provenance.made(FinalFigures.file_name)
    if step is None or step.name != "evaluate":
        return None
    logits, calibration = (step.reads.get(name) for name in ("predictions/val_test.parquet", "calibration.json"))
    where = "`steps/`" if form == "run" else "`provenance.json`"
    versions = f"natix_hf {step.versions['natix_hf']}, torch {step.versions['torch']}"
    made_from = f"the logits `{logits.fingerprint[:12]}` and the calibration `{calibration.fingerprint[:12]}`"
    return (
        f"They were computed by the step `evaluate` on {step.started[:10]}, with {versions}, from {made_from}; "
        f"{where} has every step with its inputs, options and versions, back to the fingerprints of the photos."
    )


def _classes(run_folder: Path) -> list[str]:
    """The names of the classes, in the order of their ids."""
    path = run_folder / "config.json"
    if not path.exists():
        raise UserError(f"{path}: there is no such file, so the run is not finished: train it to the end")
    names = read_json(path)["id2label"]
    return [names[key] for key in sorted(names, key=int)]


def _base_text(base: str | None) -> str:
    if base == "builtin:demo-backbone":
        return "the small demonstration backbone of the package"
    return f"[{base}](https://huggingface.co/{base})" if hub_id(base) else "a local DINOv3 checkpoint"


def _data_text(data: str | None, splits: SplitCertificate) -> str:
    if data == "builtin:scenes":
        source = "Generated street photos (`natix_hf.scenes.photos`), no real ones"
    else:
        source = f"[{data}](https://huggingface.co/datasets/{data})" if hub_id(data) else "The trainer's own photos"
    if splits.ratios is None:
        return f"{source}, in the four splits that they came with; no group and no photo stands in two of them."
    return (
        f"{source}, cut into four splits by class with whole groups kept together (seed {splits.seed}); no group "
        "and no photo stands in two of them."
    )


def _calibrated_text(calibration: CalibrationFile | None) -> str:
    if calibration is None or calibration.options["calibrator"] == ["none"]:
        return "not calibrated"
    if not calibration.kept:
        return "left as they were, since no calibration predicted held-out photos clearly better"
    told = CALIBRATORS[calibration.calibrator].told
    text = f"calibrated with {told} fitted on {calibration.n} photos that training had not seen"
    if calibration.prior.target:
        text += ", and moved to the class shares expected in use"
    if calibration.folded:
        text += (
            f"; a threshold of {calibration.threshold:.3f} was then moved to 0.5, so that the model decides by it "
            "and its scores are no longer the probabilities themselves"
        )
    return text
