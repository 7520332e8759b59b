"""Exports a finished run as an ONNX graph in int8: rounds it, calibrates it again, and compares its decisions.

Each split has one use here. Photos of `train` give the ranges of activations. On `val_calib/fit` the rounded model
gets its calibrator (of the kind that the run has), class prior and threshold, and on `val_calib/control` its guarantee
and the figures before and after. The decisions of graph and run are compared on `val_select`, on which neither
calibration was fitted; its labels are not used. `val_test` is not read.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from natix_hf.data.splits.certificate import read_certificate
from natix_hf.data.splits.contracts import PARTS, LockedSplits
from natix_hf.decision.calibration import Calibration
from natix_hf.decision.changed_decisions import changed_share
from natix_hf.decision.exit_options import without_exits
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.export import Export
from natix_hf.documents.ledger import note_reads
from natix_hf.documents.quantised import ChangedDecisions, Quantised
from natix_hf.documents.run_record import RunRecord
from natix_hf.documents.split_logits import SavedLogits
from natix_hf.errors import UserError
from natix_hf.files import check_new_folder, new_folder
from natix_hf.hub.export_forms import describe_export, open_run
from natix_hf.inference.batches import photo_batches
from natix_hf.inference.uncalibrated_logits import uncalibrated_logits
from natix_hf.modeling.adapter_natix_dinov3 import fingerprint
from natix_hf.modeling.exports import FORMS
from natix_hf.modeling.exports.export_form import FinishedModel, chosen_form
from natix_hf.modeling.exports.graph_files import write_beside_graph
from natix_hf.modeling.exports.int8 import add_head, logits_by, quantised_backbone
from natix_hf.runs.calibrate_run import carried, check_decision, decide, guaranteed
from natix_hf.runs.decision_options import DecisionOptions
from natix_hf.runs.photos_of_run import run_splits
from natix_hf.runs.recalibrate_model import LEAST, control_figures
from natix_hf.runs.saved_logits import read_predictions

RANGE_PHOTOS = 256
BATCH = 8


class Rows(NamedTuple):
    """Photos of a split, and the logits of the run in fp32."""

    photos: Sequence[Any]
    saved: SavedLogits


def export_int8(
    run: str | Path,
    form: str,
    output: str | Path,
    *,
    image_size: Sequence[int] | None = None,
    force: bool = False,
    dataset_name: str | None = None,
    say: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> Export:
    """Write a run's model in int8, as `hub.export_forms.export_run` writes the other formats.

    Args:
        run: the folder of a finished run.
        form: `onnx`; the other formats have no int8.
        output: a folder that is absent or empty.
        image_size, force: as in `open_run`; only the size of the run's training is allowed.
        dataset_name: where the run's photos are now, if not where its recipe says.
        say: prints progress and figures.
        options: options of the format; `dtype` is `int8`.

    Raises:
        UserError: as `export_run`; the run's photos are missing or too few; the graph changes too many decisions, or
            cannot keep the run's promise. Nothing is then written.
    """
    run, output, chosen = Path(run), Path(output).expanduser(), chosen_form(FORMS, form, **options)
    check_run(run)
    before = CalibrationFile.read(run)
    finished, other_size = open_run(run, image_size, force=force)
    if other_size:
        raise UserError(
            f"--image_size: {other_size}, but an int8 graph is compared with the decisions of the run at its own "
            "size: leave it out"
        )
    check_new_folder(output, "--output")
    splits = _photos_of(run, dataset_name)
    try:
        train = splits.rows("training", step="quantise")
        evenly = np.linspace(0, len(train) - 1, min(RANGE_PHOTOS, len(train))).round().astype(int)
        range_photos = train.select(evenly)["image"]
        rows = {"val_select": _rows(run, splits, "selection", "round-trip proof")}
        for part, step in zip(PARTS, ("fit calibration", "guarantee"), strict=True):
            rows[part] = _rows(run, splits, "policy", step, part)
            _check_enough(rows[part].saved, f"val_calib/{part}", read_certificate(run).label_names)
        weights = fingerprint(finished.model.state_dict())
        with new_folder(output) as stage, tempfile.TemporaryDirectory(prefix="natix_hf-int8-") as work:
            say(f"the ranges of activations are measured on {len(range_photos)} photos of train")
            batches = photo_batches(range_photos, finished.processor, batch_size=BATCH)
            pixels = (batch.pixels.numpy() for batch in batches if batch.indices)
            quantised_backbone(finished.model, finished.geometry.input_shape, pixels, Path(work))
            after, compared = _calibrated(finished, Path(work), rows, before, chosen.max_changed)
            quantised = Quantised(ranges_from="train", photos=len(range_photos), **compared)
            finished.model.set_calibration(**carried(after)._asdict())
            opset = add_head(finished.model, Path(work), stage / chosen.graph)
            write_beside_graph(finished, stage)
            after.write(stage)
            document = describe_export(finished, stage, form, "int8", model=weights, opset=opset, quantised=quantised)
    finally:
        note_reads(run, splits.new_reads())
    for line in quantised_lines(quantised):
        say(line)
    return document


def check_run(run: Path) -> None:
    """Raise `UserError` if the calibration of a run cannot be fitted again in int8."""
    if not RunRecord.there(run):
        raise UserError(
            f"--dtype int8: {run} is a recalibrated copy, but an int8 graph is calibrated on the photos of a run: "
            "name the run that it was made from, or export this one in fp32"
        )
    if RunRecord.read(run).purpose == "refit":
        raise UserError(
            f"--dtype int8: {run} is a refit, which was trained on all photos, so none is left to calibrate an int8 "
            "graph on: name its honest run, or export this one in fp32"
        )
    calibration = CalibrationFile.read(run) if CalibrationFile.there(run) else None
    if calibration is not None and calibration.cascade is not None:
        raise UserError(
            f"--dtype int8: {run} has early exits, and an int8 graph has only one stage: {without_exits(run)}"
        )
    if calibration is not None and calibration.calibrate_on != "clean":
        raise UserError(
            f"--dtype int8: {run} is calibrated for photos that {calibration.calibrate_on} sends, but an int8 graph "
            "is calibrated on clean photos: export it in fp32, or calibrate the run with --calibrate_on clean first"
        )


def _photos_of(run: Path, dataset_name: str | None) -> LockedSplits:
    try:
        return run_splits(run, dataset_name=dataset_name)
    except UserError as error:
        raise UserError(
            f"--dtype int8 needs photos of train, val_select and val_calib: {error}: say where they are with "
            "--dataset_name"
        ) from None


def _rows(run: Path, splits: LockedSplits, role: str, step: str, part: str | None = None) -> Rows:
    photos = splits.rows(role, step=step, part=part)
    split = "val_select" if part is None else "val_calib"
    saved = read_predictions(run, split, part)
    if list(saved.ids) != photos["id"][:]:
        raise UserError(f"{run}: predictions/{split}.parquet does not match the photos of {split}: restore the photos")
    return Rows(photos["image"], saved)


def _check_enough(rows: SavedLogits, place: str, names: Sequence[str]) -> None:
    """Raise `UserError` if these rows are too few to calibrate or compare."""
    counts = np.bincount(rows.label, minlength=len(names))
    if len(rows.label) < LEAST or not counts.all():
        held = ", ".join(f"{count} {name}" for count, name in zip(counts, names, strict=True))
        raise UserError(
            f"--dtype int8: expected at least {LEAST} photos of {place} and some of each class, found "
            f"{len(rows.label)} ({held}): export in fp32, or train with a larger share of val_calib (split_ratios)"
        )


def _calibrated(
    finished: FinishedModel,
    backbone: Path,
    rows: dict[str, Rows],
    run_calibration: CalibrationFile,
    max_changed: float,
) -> tuple[CalibrationFile, dict[str, Any]]:
    """The calibration of the rounded model, and how it compares with its run: fields of `Quantised`.

    Args:
        backbone: the folder that `quantised_backbone` wrote to.
        rows: rows of `val_select`, `fit` and `control`.
        run_calibration: calibration of the run.
        max_changed: highest share of decisions that may change.

    Raises:
        UserError: more decisions change, or a promise of the run is out of reach.
    """
    run = finished.run
    record, names = RunRecord.read(run), read_certificate(run).label_names
    before, answer = Calibration.from_document(run_calibration), logits_by(backbone)

    def in_int8(name: str) -> SavedLogits:
        photos = rows[name].photos
        logits = uncalibrated_logits(
            finished.model, finished.processor, photos, before, batch_size=BATCH, answer=answer
        )
        return dataclasses.replace(rows[name].saved, logits=logits, whole=None)

    # All options of the run, and the kind of calibrator that it chose.
    options = DecisionOptions(**run_calibration.options | {"calibrator": [run_calibration.calibrator]})
    target = check_decision(options, names, record.positive)
    trained = np.array(record.training_shares) if record.training_shares else None
    document = decide(in_int8("fit"), options, target, names, record.positive, trained, fitted_on="val_calib/fit")
    if run_calibration.prior.deployment:
        prior = document.prior.model_copy(update={"deployment": run_calibration.prior.deployment})
        document = document.model_copy(update={"prior": prior})
    after, control = Calibration.from_document(document), in_int8("control")
    figures = control_figures(before, after, rows["control"].saved, control, target, on="val_calib/control")

    decisions = _changed_decisions(before, after, rows["val_select"].saved, in_int8("val_select"), max_changed)
    if decisions.share > max_changed:
        raise UserError(
            f"{run}: int8 changes the decision on {decisions.changed} of {decisions.n} photos of val_select "
            f"({decisions.share:.1%}, 95 % interval {decisions.low:.1%} to {decisions.high:.1%}; NLL on "
            f"val_calib/control {figures.before['nll'].value:.4f} -> {figures.after['nll'].value:.4f}): expected at "
            f"most {max_changed:.1%}: use --dtype fp32, or allow more with --max_changed"
        )
    if options.risk != "none":
        guarantee = guaranteed(after, control, options, names, "val_calib/control")
        # A run whose own guarantee is out of reach loses none.
        if run_calibration.guarantee.reachable and not guarantee.reachable:
            raise UserError(f"{run}: no guarantee in int8: {guarantee.reason}: use --dtype fp32")
        document = document.model_copy(update={"guarantee": guarantee})
    promises = {"guarantee_before": run_calibration.guarantee, "guarantee_after": document.guarantee}
    return document, {"decisions": decisions, "figures": figures, **promises}


def _changed_decisions(
    before: Calibration, after: Calibration, saved: SavedLogits, rounded: SavedLogits, bound: float
) -> ChangedDecisions:
    """How many photos of `val_select` run and rounded model decide differently; `bound` is the allowed share."""
    changed = before.decisions(saved.logits) != after.decisions(rounded.logits)
    share = changed_share(changed, saved.group)
    return ChangedDecisions(
        on="val_select",
        n=len(changed),
        groups=len(np.unique(saved.group)),
        changed=int(changed.sum()),
        share=share.value,
        low=share.low,
        high=share.high,
        bound=bound,
    )


def quantised_lines(quantised: Quantised) -> list[str]:
    """The printed lines about a graph in int8."""
    decisions, figures = quantised.decisions, quantised.figures
    lines = [
        f"int8 changes the decision on {decisions.changed} of {decisions.n} photos of {decisions.on} in "
        f"{decisions.groups} groups: {decisions.share:.1%}, 95 % interval {decisions.low:.1%} to {decisions.high:.1%}"
        f"; at most {decisions.bound:.1%} allowed"
    ]
    for name in ("nll", "accuracy"):
        fp32, int8, change = figures.before[name], figures.after[name], figures.difference[name]
        lines.append(
            f"{name} on {figures.on}, calibrated again: {fp32.value:.4f} -> {int8.value:.4f}, change "
            f"{change.value:+.4f} [{change.low:+.4f}, {change.high:+.4f}]"
        )
    for when, guarantee in (("of the run", quantised.guarantee_before), ("in int8", quantised.guarantee_after)):
        lines += [] if guarantee is None else [f"guarantee {when}: {guarantee.lines[-1]}"]
    return lines
