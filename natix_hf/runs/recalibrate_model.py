"""Recalibrates a finished model on other photos without training: temperature, prior, threshold and band.

One half of the photos (whole groups) is used to fit. The other half gives the guarantee and the figures before and
after. The folder of the model is not changed. A copy holds the new calibration in its weights, `config.json` and
`calibration.json`, and `recalibration.json` describes how it was fitted. The caller reads the photos and runs the
model.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset
from huggingface_hub import ModelCard

from natix_hf.data.own_photos import label_and_group
from natix_hf.decision.at_shares import before_and_after, figures_at_shares
from natix_hf.decision.calibration import Calibration
from natix_hf.decision.exit_options import without_exits
from natix_hf.decision.group_bounds import Groups
from natix_hf.decision.prior import ODDS_LIMIT
from natix_hf.decision.risk_control import smallest_alpha
from natix_hf.documents.before_and_after import BeforeAndAfter
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.export import size_text
from natix_hf.documents.recalibration import Recalibration
from natix_hf.documents.split_logits import SavedLogits
from natix_hf.errors import UserError, one_line
from natix_hf.files import check_folder, read_json, staging, write_json, write_text
from natix_hf.inference.graph_classifier import GRAPHS, graph_form
from natix_hf.photos.geometry import Geometry
from natix_hf.report.decision_lines import calibration_lines
from natix_hf.runs.assemble_model import write_into_weights
from natix_hf.runs.calibrate_run import carried, check_decision, decide, guaranteed
from natix_hf.runs.calibrated_model import CalibratedModel
from natix_hf.runs.decision_options import DecisionOptions
from natix_hf.runs.saved_logits import write_predictions

LEAST = 30  # photos; fewer say nothing about a temperature
# The files of a model folder that a copy keeps: the model and its origin. All others (figures, predictions,
# checkpoints) belong to the calibration that is replaced.
KEPT = (
    *("config.json", "*.safetensors", "*.safetensors.index.json", "adapter", "adapter_config.json", "*.py"),
    *("preprocessor_config.json", "splits.json", "recipe.yaml", "LICENSE*", "NOTICE*"),
)


def model_folder(name: str) -> Path:
    """The folder of a model: a run, an export, or a downloaded copy from the Hub.

    Raises:
        UserError: there is no such model.
    """
    check_folder(name)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            graphs = [f"{form.graph}*" for form in GRAPHS.values()]
            wanted = [*KEPT, *graphs, "labels.json", "decision.json", "adapter/*", "calibration.json", "README.md"]
            wanted += ["export.json", "recalibration.json", "predictions/val_calib*.parquet"]
            folder = Path(snapshot_download(name, allow_patterns=wanted))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise UserError(f"{name}: neither a folder here nor a model on the Hub: {one_line(error)}") from None
    return folder


def check_changeable(folder: Path, name: str) -> None:
    """Raise `UserError`, with the name of the model, if it is an exported graph or has early exits."""
    if not (folder / "config.json").is_file() and (form := graph_form(folder)):
        graph = form.upper()
        raise UserError(
            f"{name}: an {graph} graph cannot be recalibrated (photos without labels give a report): "
            f"recalibrate the run or its merged export, and export that to {graph}"
        )
    if read_json(folder / "config.json").get("views_exit"):
        raise UserError(
            f"{name}: its early exits were chosen on its own val_calib, so it cannot be recalibrated (photos without "
            f"labels give a report): {without_exits(name)}"
        )


def certifiable_line(
    labels: np.ndarray, groups: np.ndarray, options: DecisionOptions, names: Sequence[str], positive: int
) -> str:
    """A line with the smallest rate that the checking half can certify, known before the fit.

    Args:
        labels, groups: `(n,)`, labels and groups of the checking half.
        options: decision options with a risk.

    Raises:
        UserError: the requested rate is below it.
    """
    of = {k: Groups.of(groups[labels == k], int(np.sum(labels == k))) for k in (1 - positive, positive)}
    smallest = smallest_alpha(*of.values(), risk=options.risk, delta=options.risk_delta, prevalence=options.prevalence)
    bounding = {"fpr": [1 - positive], "fnr": [positive]}.get(options.risk, list(of))  # the classes that a rate is of
    counts = " and ".join(
        f"{int(of[k].sizes.sum())} photos of {names[k]} in {len(of[k].sizes)} groups" for k in bounding
    )
    sure = f"with {1 - options.risk_delta:.0%} confidence"
    if options.risk == "precision":
        asked, best, least = f"--min_precision {1 - options.risk_alpha:g}", f"precision {1 - smallest:.4f}", "at most"
        mend = f"--min_precision {np.floor((1 - smallest) * 1e4) / 1e4:g} or less"
    else:
        asked, best = f"--max_{options.risk} {options.risk_alpha:g}", f"{options.risk} {smallest:.4f}"
        mend, least = f"--max_{options.risk} {np.ceil(smallest * 1e4) / 1e4:g} or more", "at best"
    if options.risk_alpha < smallest:
        reach = f"set {mend}, or add" if smallest < 1 else "add"
        raise UserError(
            f"{asked} is out of reach: {sure} the checking half ({counts}) can certify {best} {least}: {reach} more "
            "photos from other groups"
        )
    return f"the checking half ({counts}) can certify {best} {least}, {sure}; requested: {asked}"


def recalibrate_on(
    halves: Mapping[str, Dataset],
    logits: Callable[[Dataset], np.ndarray],
    model: CalibratedModel,
    options: DecisionOptions,
    names: Sequence[str],
    *,
    photos: str,
    seed: int,
    say: Callable[[str], None],
) -> tuple[CalibrationFile, BeforeAndAfter, list[tuple[str, Dataset, np.ndarray]]]:
    """As `recalibrate`, from photos. What the checking half can certify is known before the model runs.

    Args:
        halves: `fit` and `control`.
        logits: from rows to their logits `(n, classes)` before any calibration.
        model: the model, with its present calibration.
        options, names, photos, seed: as in `recalibrate`.
        say: prints which rate can be certified.

    Returns:
        Calibration and figures of `recalibrate`, and name, rows and logits of each half.
    """
    arrays = {half: label_and_group(rows) for half, rows in halves.items()}
    if options.risk != "none":
        control = arrays["control"]
        say(certifiable_line(control["label"], control["group"], options, names, model.positive))
    saved = {half: SavedLogits(logits(rows), **arrays[half]) for half, rows in halves.items()}
    fitted = model.calibration, options, names, model.positive
    document, figures = recalibrate(saved["fit"], saved["control"], *fitted, photos=photos, seed=seed)
    return document, figures, [(half, rows, saved[half].logits) for half, rows in halves.items()]


def recalibrate(
    fit: SavedLogits,
    control: SavedLogits,
    before: Calibration,
    options: DecisionOptions,
    names: Sequence[str],
    positive: int,
    *,
    photos: str = "own photos",
    seed: int = 0,
) -> tuple[CalibrationFile, BeforeAndAfter]:
    """Fit the new calibration on one half; compute the guarantee and the figures on the other.

    Args:
        fit, control: the halves, with logits before any calibration.
        before: the present calibration of the model.
        options: decision options; `target_prior` if the class shares in use differ from those of the photos.
        photos: name of the photos in documents.

    Raises:
        UserError: the options do not fit the classes, or the guarantee is out of reach.
    """
    target = check_decision(options, names, positive)
    document = decide(fit, options, target, names, positive, fitted_on=f"{photos}/fit")
    after = Calibration.from_document(document)
    if options.risk != "none":
        guarantee = guaranteed(after, control, options, names, f"{photos}/control")
        if not guarantee.reachable:
            raise UserError(f"no guarantee: {guarantee.reason}")
        document = document.model_copy(update={"guarantee": guarantee})
    before = dataclasses.replace(before, positive=positive)
    figures = control_figures(before, after, control, control, target, on=f"{photos}/control", seed=seed)
    return document, figures


def control_figures(
    before: Calibration,
    after: Calibration,
    control: SavedLogits,
    control_after: SavedLogits,
    target: np.ndarray | None,
    *,
    on: str,
    seed: int = 0,
) -> BeforeAndAfter:
    """The figures of two calibrated models on the same photos.

    Args:
        before, after: their calibrations, with the same positive class.
        control, control_after: the photos with the logits of the one and of the other model.
        target: class shares `(classes,)` that the figures are for; None: those of the photos.
        on: name of the photos in documents.
        seed: seed of the intervals.
    """
    counts = np.bincount(control.label, minlength=control.logits.shape[1])
    shares = counts / counts.sum() if target is None else target
    sides = [
        figures_at_shares(
            one.calibrated(rows.logits),
            one.decisions(rows.logits),
            rows.label,
            rows.group,
            shares,
            positive=one.positive,
            seed=seed,
        )
        for one, rows in ((before, control), (after, control_after))
    ]
    return BeforeAndAfter(
        on=on,
        n=len(control.label),
        groups=len(np.unique(control.group)),
        shares=[float(share) for share in shares],
        level=0.95,
        **before_and_after(*sides),
    )


def report_lines(
    calibration: CalibrationFile, figures: BeforeAndAfter, names: Sequence[str], before: CalibrationFile | None
) -> list[str]:
    """The lines that a command prints and the card repeats: the new calibration, and each figure before and after.

    Args:
        calibration, figures: from `recalibrate`.
        names: class names.
        before: the model's own calibration, if it has one.
    """
    shares = " and ".join(f"{share:.1%} {name}" for share, name in zip(figures.shares, names, strict=True))
    lines = calibration_lines(calibration, names)
    lines.append(
        f"figures on {figures.on} ({figures.n} photos in {figures.groups} groups) for class shares of {shares}, "
        f"{figures.level:.0%} intervals:"
    )
    for name, old in figures.before.items():
        new, change = figures.after[name], figures.difference[name]
        lines.append(
            f"{name} {old.value:.4f} [{old.low:.4f}, {old.high:.4f}] -> {new.value:.4f} [{new.low:.4f}, "
            f"{new.high:.4f}], change {change.value:+.4f} [{change.low:+.4f}, {change.high:+.4f}]"
        )
    return lines + shares_line(calibration, before, names)


def seen_lines(report: Recalibration, other_size: str | None) -> list[str]:
    """Lines if photos were prepared differently from training; `other_size` is the line of `processor_at`."""
    lines = []
    if other_size:
        lines.append(f"{other_size} there; the new calibration is only for {size_text(report.image_size)}")
    if report.views:
        typed = ",".join(report.views)
        lines.append(f"the calibration is only for averages over views: predict with --tta {typed}")
    return lines


def shares_line(calibration: CalibrationFile, before: CalibrationFile | None, names: Sequence[str]) -> list[str]:
    """A line if the class shares differ from those of the model's calibration and the new one has no bias; else none.

    Args:
        calibration: the new calibration.
        before: the model's own calibration, if it has one.
        names: class names.
    """
    if before is None or any(calibration.calibrator_bias):
        return []
    old, new = np.array(before.prior.seen), np.array(calibration.prior.seen)
    known = (old > 0) & (new > 0)
    ratio = np.log(new[known] / old[known])
    if np.ptp(ratio) <= np.log(ODDS_LIMIT):
        return []
    k = calibration.positive
    return [
        f"note: {new[k]:.0%} of these photos show {names[k]}, but {old[k]:.0%} of those that the model was calibrated "
        "on, and the new calibration has no bias to correct this: its probabilities may lean towards the old shares; "
        "use 200 photos or more, and vector among --calibrator"
    ]


def write_copy(
    source: Path,
    output: Path,
    before: Calibration,
    calibration: CalibrationFile,
    report: Recalibration,
    halves: list[tuple[str, Dataset, np.ndarray]],
    lines: Sequence[str],
    geometry: Geometry | None = None,
) -> None:
    """Copy a model folder with another calibration. If it fails, nothing is left behind.

    Args:
        source: the model's folder, which is not changed.
        before: the calibration in the weights of the source.
        calibration: the new calibration.
        report: how it was fitted.
        halves: name, rows and logits `(n, classes)` of each half, for `predictions/val_calib.parquet`.
        lines: lines about the calibration for the card.
        geometry: the geometry of the copy; None: that of the source.

    Raises:
        UserError: the calibration is isotonic, which a stock class of transformers cannot store.
    """
    views = report.views or ()
    stock = read_json(source / "config.json").get("model_type") != "natix_dinov3"
    if stock and calibration.isotonic:
        raise UserError("--calibrator isotonic: the class of this model cannot store it: leave it out")
    made = not output.exists()
    try:
        with staging(output) as stage:
            for path in sorted({path for pattern in KEPT for path in source.glob(pattern)}):
                # Links, as in the Hub's cache, are followed. A checkpoint is copied, because its head will be changed.
                if path.is_dir():
                    shutil.copytree(path, stage / path.name)
                else:
                    shutil.copyfile(path, stage / path.name)
            calibration.write(stage)
            report.write(stage)
            write_predictions(stage / "predictions" / "val_calib.parquet", halves)
            if stock:
                _into_stock_head(stage, before, Calibration.from_document(calibration))
                # `predict` reads threshold and band from the config.
                config = read_json(stage / "config.json") | {"decision": carried(calibration, views).decision}
                write_json(stage / "config.json", config)
            else:
                write_into_weights(stage, calibration, views)
            if geometry:
                for path in stage.rglob("preprocessor_config.json"):  # of the model, and of its adapter
                    write_json(path, read_json(path) | geometry.processor_settings())
            if (source / "README.md").is_file():
                text = (source / "README.md").read_text(encoding="utf-8")
                write_text(stage / "README.md", recalibrated_card(text, lines, report.figures.on))
    except BaseException:
        if made:
            shutil.rmtree(output, ignore_errors=True)
        raise


def _into_stock_head(folder: Path, before: Calibration, after: Calibration) -> None:
    """Change T and bias in the last linear layer of a timm classifier, which stores `W / T` and `b / T + bias`."""
    import torch
    from safetensors.torch import load_file, save_file

    ratio = torch.tensor(before.temperature / after.temperature)
    old, new = torch.tensor(before.logit_bias), torch.tensor(after.logit_bias)
    changed = 0
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        names = [name for name in tensors if name in ("timm_model.head.weight", "timm_model.head.bias")]
        for name in names:
            values = tensors[name].double()
            values = values * ratio[:, None] if name.endswith("weight") else (values - old) * ratio + new
            tensors[name] = values.to(tensors[name].dtype)
        if names:
            save_file(tensors, path, metadata={"format": "pt"})
            path.chmod(0o644)
        changed += len(names)
    if changed != 2:
        raise UserError(
            f"expected timm_model.head.weight and timm_model.head.bias in the weights, found {changed} of them: "
            "recalibrate a model of natix_hf or its stock export"
        )


def recalibrated_card(text: str, lines: Sequence[str], on: str = "own photos/control") -> str:
    """A model's card with a first section on the recalibration, and without the results that the Hub would show.

    Args:
        text: the card of the model.
        lines: what the section says.
        on: name of the photos of the new figures.
    """
    card = ModelCard(text, ignore_metadata_errors=True)
    card.data.eval_results, card.data.model_name = None, None
    items = "\n".join(f"- {line}" for line in lines)
    where = "other photos" if on.startswith("own photos") else on.partition("/")[0]
    section = (
        f"## Recalibrated on {where}\n\n{items}\n\nAll figures below were measured earlier, on other photos "
        "and with another calibration.\n"
    )
    title, mark, rest = card.text.partition("\n## ")
    card.text = f"{title.rstrip()}\n\n{section}{mark}{rest}" if mark else f"{section}\n{card.text}"
    return str(card)
