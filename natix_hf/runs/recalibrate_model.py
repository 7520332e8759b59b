"""Recalibrates a finished model on other photos without training: temperature, prior, threshold and band.

One half of the photos (whole groups) is used to fit. The other half gives the guarantee and the figures before and
after. The folder of the model is not changed. A copy holds the new calibration in its weights, `config.json` and
`calibration.json`, and `recalibration.json` describes how it was fitted. Works on logits; the caller reads the photos
and runs the model.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import ModelCard

from natix_hf.decision.at_shares import before_and_after, figures_at_shares
from natix_hf.decision.calibration import Calibration
from natix_hf.decision.group_bounds import Groups
from natix_hf.decision.prior import ODDS_LIMIT
from natix_hf.decision.risk_control import smallest_alpha
from natix_hf.documents.before_and_after import BeforeAndAfter
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.export import size_text
from natix_hf.documents.recalibration import Recalibration
from natix_hf.documents.run_record import RunRecord
from natix_hf.documents.split_logits import SavedLogits
from natix_hf.errors import UserError, one_line
from natix_hf.files import only_a_path, read_json, staging, write_json, write_text
from natix_hf.inference.graph_classifier import GRAPHS, graph_form
from natix_hf.photos.geometry import Geometry
from natix_hf.report.decision_lines import calibration_lines
from natix_hf.runs.assemble_model import write_into_weights
from natix_hf.runs.calibrate_run import carried, check_decision, decide, guaranteed
from natix_hf.runs.decision_options import DecisionOptions
from natix_hf.runs.saved_logits import write_predictions

SIDES = {"precision": "min"}  # the other risks are named --max_...
LEAST = 30  # photos; fewer say nothing about a temperature
# Of a model folder: what makes up the model and what its origin is. All else (figures, predictions, checkpoints) was
# measured with the calibration that is replaced.
KEPT = (
    *("config.json", "*.safetensors", "*.safetensors.index.json", "adapter", "adapter_config.json", "*.py"),
    *("preprocessor_config.json", "splits.json", "recipe.yaml", "LICENSE*", "NOTICE*"),
)


def asked_options(
    rates: Mapping[str, float | None], confidence: float, prevalence: float | None, **options: Any
) -> DecisionOptions:
    """The decision options that `natix_hf.recalibrate` was given.

    Args:
        rates: risk -> the highest rate, of `precision` the least one; at most one is not None.
        confidence: of the guarantee.
        prevalence: share of positives where the model will work: the expected class share, and what a promise of
            precision is made for.
        options: other fields of `DecisionOptions`.

    Raises:
        UserError: a number that is no share.
    """
    risk, rate = next(((name, rate) for name, rate in rates.items() if rate is not None), ("none", None))
    words = {"--confidence": confidence, "--prevalence": prevalence, f"--{SIDES.get(risk, 'max')}_{risk}": rate}
    for word, value in words.items():
        if value is not None and not 0 < value < 1:
            raise UserError(f"{word} {value:g}: expected a number above 0 and below 1")
    if rate is not None:
        options |= {"risk_alpha": round(1 - rate, 12) if risk == "precision" else rate}
    return DecisionOptions(
        target_prior=None if prevalence is None else [prevalence],
        risk=risk,
        risk_delta=round(1 - confidence, 12),
        prevalence=prevalence,
        **options,
    )


def model_folder(name: str) -> Path:
    """The folder of a model: of a run, of an export, or a copy of what the Hub holds.

    Raises:
        UserError: there is no such model.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if only_a_path(name) or "/" not in name:
            raise UserError(f"{name}: no such folder")
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            graphs = [f"{form.graph}*" for form in GRAPHS.values()]
            wanted = [*KEPT, *graphs, "labels.json", "decision.json", "adapter/*", "calibration.json", "README.md"]
            wanted += ["export.json", "recalibration.json", "predictions/val_calib*.parquet"]
            folder = Path(snapshot_download(name, allow_patterns=wanted))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise UserError(f"{name}: no such folder, nor a model on the Hub: {one_line(error)}") from None
    return folder


def check_changeable(folder: Path, name: str) -> None:
    """Raise `UserError` for an exported graph, whose last layer cannot be told apart; `name` is what was asked for."""
    if not (folder / "config.json").is_file() and (form := graph_form(folder)):
        graph = form.upper()
        raise UserError(
            f"{name}: an {graph} graph cannot be given another calibration (photos without labels give a report): "
            f"recalibrate the run or its merged export, and export that to {graph}"
        )
    if read_json(folder / "config.json").get("views_exit"):
        raise UserError(
            f"{name}: its photos leave early by a band that was chosen on its own val_calib (photos without labels "
            f"give a report): take the exits off first, python -m natix_hf.calibrate {name} --views_exit none"
        )


def calibration_of(folder: Path, classes: int) -> tuple[Calibration, CalibrationFile | None]:
    """The calibration of a model folder, or one that changes nothing if the folder has none.

    Returns:
        The calibration, and its document if there is one.
    """
    if CalibrationFile.there(folder):
        document = CalibrationFile.read(folder)
        return Calibration.from_document(document), document
    zeros = np.zeros(classes)
    return Calibration("none", np.ones(classes), zeros, zeros, zeros), None


def positive_class(folder: Path, document: CalibrationFile | None) -> int:
    """The id of the positive class: as the calibration or the run says, else 1."""
    if document is not None:
        return document.positive
    return RunRecord.read(folder).positive if RunRecord.there(folder) else 1


def check_seen(
    photos: str | None, image_size: Sequence[int] | None, tta: Sequence[str] | None, calibrators: Sequence[str]
) -> None:
    """Refuse a calibration without photos that nothing sees otherwise, and one of views that it cannot be for.

    Args:
        photos: of one's own; None: val_calib of the run.
        image_size, tta: how the photos are seen, as commands are told.
        calibrators: that are tried.

    Raises:
        UserError: one of them.
    """
    if photos is None and not image_size and not tta:
        raise UserError(
            "no photos given: name them, or say how those of val_calib are to be seen (--tta flip, or --image_size "
            "with --force); python -m natix_hf.calibrate RUN changes a calibration otherwise"
        )
    if tta and "isotonic" in calibrators:
        raise UserError(
            "--calibrator isotonic: calibrated logits of several views are averaged, which holds for temperature and "
            "vector alone: leave isotonic out, or --tta"
        )


def certifiable_line(
    labels: np.ndarray, groups: np.ndarray, options: DecisionOptions, names: Sequence[str], positive: int
) -> str:
    """A line with the smallest rate that the checking half can certify, known before the fit.

    Args:
        labels, groups: `(n,)` of the checking half.
        options: with a risk.

    Raises:
        UserError: the rate asked for is below it.
    """
    of = [Groups.of(groups[labels == k], int(np.sum(labels == k))) for k in (1 - positive, positive)]
    smallest = smallest_alpha(*of, risk=options.risk, delta=options.risk_delta, prevalence=options.prevalence)
    counts = " and ".join(
        f"{int(one.sizes.sum())} photos of {names[k]} in {len(one.sizes)} groups"
        for k, one in zip((1 - positive, positive), of, strict=True)
        if options.risk not in ("fpr", "fnr") or (options.risk == "fpr") == (k != positive)
    )
    sure = f"with {1 - options.risk_delta:.0%} confidence"
    if options.risk == "precision":
        asked, best, least = f"--min_precision {1 - options.risk_alpha:g}", f"precision {1 - smallest:.4f}", "at most"
        mend = f"--min_precision {np.floor((1 - smallest) * 1e4) / 1e4:g} or less"
    else:
        asked, best = f"--max_{options.risk} {options.risk_alpha:g}", f"{options.risk} {smallest:.4f}"
        mend, least = f"--max_{options.risk} {np.ceil(smallest * 1e4) / 1e4:g} or more", "at best"
    if options.risk_alpha < smallest:
        reach = f"set {mend}, or bring" if smallest < 1 else "bring"
        raise UserError(
            f"{asked} is out of reach: {sure} the checking half ({counts}) can certify {best} {least}: {reach} more "
            "photos from other groups"
        )
    return f"the checking half ({counts}) can certify {best} {least}, {sure}; asked for: {asked}"


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
    """The new calibration from one half, the guarantee and the figures from the other.

    Args:
        fit, control: the halves, with their logits before any calibration.
        before: what the model does now.
        options: of the decision; `target_prior` where the classes will come in other shares than here.
        photos: what the two halves are halves of.

    Raises:
        UserError: options that these classes cannot have, or a guarantee that this model cannot give.
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
        control, control_after: the photos with the logits of either model.
        target: class shares `(classes,)` at which the figures are put together; None: those of the photos.
        on: what the photos are called.
        seed: of the intervals.
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
    """What a command prints and a card repeats: the new calibration, and each figure before and after; `before` is the
    model's own calibration, if it has one."""
    shares = " and ".join(f"{share:.1%} {name}" for share, name in zip(figures.shares, names, strict=True))
    lines = calibration_lines(calibration, names)
    lines.append(
        f"figures on {figures.on} ({figures.n} photos in {figures.groups} groups) where {shares} are met, "
        f"{figures.level:.0%} intervals:"
    )
    for name, one in figures.before.items():
        two, change = figures.after[name], figures.difference[name]
        lines.append(
            f"{name} {one.value:.4f} [{one.low:.4f}, {one.high:.4f}] -> {two.value:.4f} [{two.low:.4f}, "
            f"{two.high:.4f}], change {change.value:+.4f} [{change.low:+.4f}, {change.high:+.4f}]"
        )
    return lines + shares_line(calibration, before, names)


def seen_lines(report: Recalibration, other_size: str | None) -> list[str]:
    """What to know where the photos were seen otherwise than in training; `other_size` as `processor_at` says it."""
    lines = []
    if other_size:
        lines.append(f"{other_size} there; this one holds for {size_text(report.image_size)} alone")
    if report.views:
        typed = ",".join(report.views)
        lines.append(f"the calibration holds for averages over views alone: predict with --tta {typed}")
    return lines


def shares_line(calibration: CalibrationFile, before: CalibrationFile | None, names: Sequence[str]) -> list[str]:
    """A line where the photos come in other class shares than those of the model's calibration, and the new one has no
    bias that could allow for it; else nothing.

    Args:
        calibration: the new one.
        before: the model's own, if it has one.
        names: of the classes.
    """
    if before is None or any(calibration.calibrator_bias):
        return []
    one, other = np.array(before.prior.seen), np.array(calibration.prior.seen)
    there = (one > 0) & (other > 0)
    ratio = np.log(other[there] / one[there])
    if np.ptp(ratio) <= np.log(ODDS_LIMIT):
        return []
    k = calibration.positive
    return [
        f"note: {other[k]:.0%} of these photos show {names[k]}, {one[k]:.0%} of those that the model was calibrated "
        "on, and the new calibration has no bias that allows for it: its probabilities may lean to the former shares; "
        "bring 200 photos or more and let --calibrator hold vector"
    ]


def write_copy(
    source: Path,
    output: Path,
    before: Calibration,
    calibration: CalibrationFile,
    report: Recalibration,
    halves: list[tuple[str, Any, np.ndarray]],
    lines: Sequence[str],
    geometry: Geometry | None = None,
) -> None:
    """Copy a model folder with another calibration. If it fails, nothing is left behind.

    Args:
        source: the model's folder, which stays as it is.
        before: what is in the source's weights.
        calibration: the new one.
        report: what it rests on.
        halves: name, rows and logits `(n, classes)` of each, for `predictions/val_calib.parquet`: what the model is
            calibrated on now.
        lines: what the card says about it.
        geometry: how the copy is to see photos; None: as the source does.

    Raises:
        UserError: an isotonic calibration for a class of transformers' own, which cannot hold it.
    """
    views = report.views or ()
    stock = read_json(source / "config.json").get("model_type") != "natix_dinov3"
    if stock and calibration.isotonic:
        raise UserError("calibrator isotonic: this model's class cannot hold it: leave it out of --calibrator")
    made = not output.exists()
    try:
        with staging(output) as stage:
            for path in sorted({path for pattern in KEPT for path in source.glob(pattern)}):
                # Links (the Hub's cache is made of them) are followed; a checkpoint is copied, not linked, since its
                # head is written to.
                if path.is_dir():
                    shutil.copytree(path, stage / path.name)
                else:
                    shutil.copyfile(path, stage / path.name)
            calibration.write(stage)
            report.write(stage)
            write_predictions(stage / "predictions" / "val_calib.parquet", halves)
            if stock:
                _into_stock_head(stage, before, Calibration.from_document(calibration))
                # Threshold and band stand in its config too, for predict.
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
    """The last linear layer of a timm classifier, which holds `W / T` and `b / T + bias`, for another T and bias."""
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
            f"the weights hold {changed} of timm_model.head.weight and timm_model.head.bias: this is neither a model "
            "of natix_hf nor its stock export, and what is its last layer is not known"
        )


def recalibrated_card(text: str, lines: Sequence[str], on: str = "own photos/control") -> str:
    """A model's card with a section on the recalibration in front, and without the results that the Hub would show;
    `on` is what the new figures were measured on."""
    card = ModelCard(text, ignore_metadata_errors=True)
    card.data.eval_results, card.data.model_name = None, None
    said = "\n".join(f"- {line}" for line in lines)
    where = "other photos" if on.startswith("own photos") else on.partition("/")[0]
    section = (
        f"## Recalibrated on {where}\n\n{said}\n\nAll figures below were measured before that, on other photos "
        "and with another calibration.\n"
    )
    title, mark, rest = card.text.partition("\n## ")
    card.text = f"{title.rstrip()}\n\n{section}{mark}{rest}" if mark else f"{section}\n{card.text}"
    return str(card)
