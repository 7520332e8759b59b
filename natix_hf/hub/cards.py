"""The model card of a run, filled from what the run wrote and from nothing else.

Knows the files of a run folder, not the model or the photos. A card is public: local paths stay out of it, and no
figure stands in it without its interval and the number of photos.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from natix_hf.data.certificate import read_certificate
from natix_hf.errors import UserError
from natix_hf.files import read_json
from natix_hf.report.summary import (
    LABELS,
    calibration_lines,
    figure_text,
    honest_run_line,
    interval_text,
    read_before_line,
)

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
}
# What of the recipe a reader needs to judge or repeat the run; LoRA's keys only where LoRA was used.
SETTINGS = (
    *("method", "pooling", "feature_layers", "head", "resize", "augment", "seed"),
    *("learning_rate", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("loss", "optim", "weight_decay", "label_smoothing_factor", "mixup_alpha", "cutmix_alpha", "mix_switch_prob"),
    *("ema", "ema_decay", "split_seed"),
)
LORA_SETTINGS = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")


def model_card(run_folder: str | Path, model_id: str | None = None) -> str:
    """The text of `README.md`: front matter for the Hub, how to use the model, figures, photos, training and limits.

    Args:
        run_folder: a finished run with `config.json`, `metrics.json`, `splits.json`, `run.json` and, if it was
            calibrated, `calibration.json`. Without `recipe.yaml` (a run from Python) checkpoint and photos stay
            unnamed.
        model_id: the repository that the card will stand in; a placeholder stands for it otherwise.

    Raises:
        UserError: a file is missing; names it.
    """
    run_folder = Path(run_folder)
    config, metrics, run = (_document(run_folder, f"{n}.json") for n in ("config", "metrics", "run"))
    splits = read_certificate(run_folder)
    recipe_file, calibration_file = run_folder / "recipe.yaml", run_folder / "calibration.json"
    recipe = yaml.safe_load(recipe_file.read_text(encoding="utf-8")) if recipe_file.exists() else {}
    calibration = read_json(calibration_file) if calibration_file.exists() else None
    classes = [config["id2label"][key] for key in sorted(config["id2label"], key=int)]
    base, data = recipe.get("model_name_or_path"), recipe.get("dataset_name")
    method = run["method"]
    licence, licence_text = _licence(base)
    card = ModelCard.from_template(
        _card_data(classes, base, data, metrics, licence),
        template_str=template("model_card.md.jinja"),
        title=title(classes),
        classes=[cell(name) for name in classes],
        base_text=_base_text(base),
        method_text=METHODS[method],
        image_size=recipe.get("image_size"),
        calibrated_text=_calibrated_text(calibration),
        model_id=model_id or "the-id-of-this-repository",
        metrics=metrics,
        refit=run.get("refit"),
        whose=_sentence(honest_run_line(metrics)) if "honest_run" in metrics else None,
        level=f"{metrics['level'] * 100:g} %",
        figures=[
            {
                "label": label,
                "value": figure_text(metrics["metrics"][name]["value"]),
                "interval": interval_text(metrics["metrics"][name]),
            }
            for name, label in LABELS.items()
        ],
        positive=cell(metrics["positive_label"]),
        test_counts=_counts(metrics["labels"]),
        read_before=_sentence(read_before_line(metrics)),
        calibration=[_sentence(line) for line in calibration_lines(calibration, classes)] if calibration else [],
        data_text=_data_text(data, splits),
        splits=[
            {
                "name": name,
                "use": use,
                "photos": splits["sizes"][name],
                "counts": _counts(splits["class_counts"][name]),
            }
            for name, use in USES.items()
        ],
        certificate=_certificate_text(splits),
        fingerprint=splits["fingerprint"],
        settings=[
            (name, cell(recipe[name]))
            for name in (*SETTINGS, *(LORA_SETTINGS if method == "lora" else ()))
            if name in recipe
        ],
        versions=", ".join(f"{name} {version}" for name, version in run["versions"].items()),
        demo=base == "builtin:demo-backbone",
        licence_text=licence_text,
    )
    return str(card).rstrip("\n") + "\n"


def hub_id(name: str | None) -> str | None:
    """`name` if it can only be the id of a Hub repository, None for built-in things and for what is on this disk."""
    if name and re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name) and not Path(name).exists():
        return name
    return None


def _certificate_text(splits: Mapping[str, Any]) -> str:
    """What ties rows, and that nothing tied stands in two splits."""
    ties = [f"{count} by {cell(kind)}" for kind, count in splits["ties"].items() if count]
    tied = f"Rows that belong together were kept in one split ({', '.join(ties)}). " if ties else ""
    sought = "" if splits["rules"]["near_duplicates"] else " Altered copies of photos were not looked for."
    return f"{tied}Groups that stand in two splits: {splits['straddling']}.{sought}"


def _document(run_folder: Path, name: str) -> dict[str, Any]:
    path = run_folder / name
    if not path.exists():
        raise UserError(
            f"{path}: there is no such file, so the run is not finished; train it to the end, or run "
            f"`python -m natix_hf.evaluate {run_folder}`"
        )
    return read_json(path)


def template(name: str) -> str:
    """A template's text, from inside the installed package or from beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside, beside = package / "hub_cards" / name, package.parent / "hub_cards" / name
    return (inside if inside.exists() else beside).read_text(encoding="utf-8")


def _card_data(
    classes: list[str], base: str | None, data: str | None, metrics: Mapping[str, Any], licence: Mapping[str, str]
) -> ModelCardData:
    """The front matter; a figure's interval and number of photos stand in its `metric_args`."""
    of = metrics.get("honest_run")
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=hub_id(data) or "imagefolder",
            dataset_name=hub_id(data) or ("generated street photos" if data == "builtin:scenes" else "own photos"),
            dataset_split=metrics["split"],
            metric_type=name,
            metric_name=LABELS[name] + (f" of the run {of} before this refit" if of else ""),
            metric_value=round(interval["value"], 5),
            metric_args={
                "photos": metrics["n"],
                "groups": metrics["groups"],
                "level": metrics["level"],
                "low": round(interval["low"], 5),
                "high": round(interval["high"], 5),
            },
        )
        for name, interval in metrics["metrics"].items()
        if None not in interval.values()
    ]
    base_id = hub_id(base)
    return ModelCardData(
        model_name=title(classes),
        pipeline_tag="image-classification",
        library_name="transformers",
        tags=["dinov3", "natix_hf", "street-photos", *(["refit"] if of else [])],
        base_model=base_id,
        base_model_relation="finetune" if base_id else None,
        datasets=[hub_id(data)] if hub_id(data) else None,
        metrics=["accuracy", "matthews_correlation", "roc_auc"],
        eval_results=results,
        **licence,
    )


def _licence(base: str | None) -> tuple[dict[str, str], str]:
    """Front matter and sentence about the licence, which follows the weights that the run started from."""
    if base == "builtin:demo-backbone":
        return {"license": "apache-2.0"}, "Apache-2.0, as the demonstration backbone that the weights started from."
    base_id = hub_id(base)
    if base_id and re.match(r"(facebook/dinov3|timm/.*dinov3)", base_id):
        front = {
            "license": "other",
            "license_name": "dinov3-license",
            "license_link": "https://ai.meta.com/resources/models-and-libraries/dinov3-license",
        }
        return front, f"The weights are derived from {base_id}: the DINOv3 License applies to them."
    return {}, "The licence of the checkpoint that the weights started from applies to them."


def title(classes: list[str]) -> str:
    shown = " / ".join(classes) if len(classes) <= 4 else f"{len(classes)} classes"
    return f"Street photos: {shown}"


def _base_text(base: str | None) -> str:
    if base == "builtin:demo-backbone":
        return "the small demonstration backbone of the package"
    return f"[{base}](https://huggingface.co/{base})" if hub_id(base) else "a local DINOv3 checkpoint"


def _data_text(data: str | None, splits: Mapping[str, Any]) -> str:
    if data == "builtin:scenes":
        source = "Generated street photos (`natix_hf.data.scenes`), no real ones"
    else:
        source = f"[{data}](https://huggingface.co/datasets/{data})" if hub_id(data) else "The trainer's own photos"
    if splits["ratios"] is None:
        return f"{source}, in the four splits that they came with; no group and no photo stands in two of them."
    return (
        f"{source}, cut into four splits by class with whole groups kept together (seed {splits['seed']}); no group "
        "and no photo stands in two of them."
    )


def _calibrated_text(calibration: Mapping[str, Any] | None) -> str:
    asked = {} if calibration is None else calibration.get("options", {})
    if calibration is None or asked.get("calibrator", [calibration["calibrator"]]) == ["none"]:
        return "not calibrated"
    if not calibration["kept"]:
        return "left as they were, since no calibration made them better"
    name = {"temperature": "a temperature", "vector": "a temperature and a bias a class"}.get(
        calibration["calibrator"], "isotonic regression"
    )
    text = f"calibrated with {name} fitted on {calibration['n']} photos that training had not seen"
    if calibration.get("prior", {}).get("target"):
        text += ", and moved to the class shares expected in use"
    if calibration.get("folded"):
        text += (
            f"; a threshold of {calibration['threshold']:.3f} was then moved to 0.5, so that the model decides by it "
            "and its scores are no longer the probabilities themselves"
        )
    return text


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {cell(name)}" for name, count in counts.items())


def cell(value: Any) -> str:
    """A value as text that cannot break a Markdown table."""
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."
