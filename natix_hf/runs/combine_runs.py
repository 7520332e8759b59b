"""Combines two finished runs into a cascade: a folder with both models, their logits, and the exit band.

The folder is a run: it can be calibrated, evaluated, compared and used to predict like any other. It holds copies of
the models, so it can be moved and both runs can be deleted. Reads only files of the runs; no model runs.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from natix_hf.data.splits.certificate import read_certificate
from natix_hf.decision.exit_options import without_exits
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.cascade import STAGES, StageModel, TwoModels, cost_text
from natix_hf.documents.photo_cost import PhotoCost
from natix_hf.documents.run_record import RunRecord
from natix_hf.documents.split_certificate import SplitCertificate
from natix_hf.errors import UserError
from natix_hf.files import check_new_folder, replacing
from natix_hf.runs import folder as run_folder
from natix_hf.runs.calibrate_run import calibrate_run, options_of
from natix_hf.runs.compare_runs import differing_classes
from natix_hf.runs.provenance import now, versions
from natix_hf.runs.saved_logits import WHOLE, read_predictions
from natix_hf.runs.steps import COMBINE, carried_out

# The files of each run that are copied: the model, what is needed to load it, and its documents.
MODEL = (
    *("config.json", "preprocessor_config.json", "*.safetensors", "*.safetensors.index.json", "*.py"),
    *("recipe.yaml", "calibration.json", PhotoCost.file_name, "LICENSE*", "NOTICE*"),
)
PLACES = ("val_test", "val_calib/fit", "val_calib/control", "val_select", "train")
TYPED = "python -m natix_hf.calibrate --cascade runs/small runs/large --output runs/cascade"


class Member(NamedTuple):
    """One of the two runs."""

    run: Path
    record: RunRecord
    splits: SplitCertificate
    cost: PhotoCost


def combine_runs(folders: Sequence[str | Path], output: Path, asked: dict[str, Any]) -> tuple[CalibrationFile, str]:
    """Make the folder of a cascade and calibrate it.

    Args:
        folders: folders of the two runs, the cheaper one first.
        output: folder to create, absent or empty.
        asked: decision options. The others are those of the second run, with `views_exit` `risk`.

    Returns:
        The calibration, and a line that says what the folder holds.

    Raises:
        UserError: the runs cannot form a cascade, or there are too few control rows for the promise. No folder is
            then left.
    """
    check_new_folder(output, "--output")
    first, second = _members(folders)
    plain = dataclasses.replace(options_of(second.run), views_exit=["risk"], calibrate_on="clean", robustness=[])
    options = dataclasses.replace(plain, **asked)
    there = output.exists()
    try:
        output.mkdir(parents=True, exist_ok=True)
        with carried_out(output, COMBINE, dataclasses.asdict(options), purpose="cascade"):
            line = _combine(first, second, output)
        return calibrate_run(output, options, insist=True), line
    except BaseException:
        shutil.rmtree(output, ignore_errors=True)
        if there:
            output.mkdir()
        raise


def _members(folders: Sequence[str | Path]) -> tuple[Member, Member]:
    """The two runs, after a check that they can form a cascade."""
    if len(folders) != 2:
        raise UserError(f"--cascade: expected two runs, the cheaper one first; found {len(folders)}: {TYPED}")
    first, second = (_member(folder) for folder in folders)
    if first.run.resolve() == second.run.resolve():
        raise UserError(f"--cascade: expected two runs, the cheaper one first; found {first.run} twice: {TYPED}")

    positives = first.record.positive, second.record.positive
    fault = differing_classes(first.splits, second.splits, *positives)
    prints = first.splits.fingerprints, second.splits.fingerprints
    if fault is None and (place := next((place for place in PLACES if prints[0][place] != prints[1][place]), None)):
        fault = f"other photos in {place} (fingerprints differ)"
    if fault:
        raise UserError(
            f"--cascade: {second.run} has {fault} than {first.run}: train both on the same photos with the same split "
            "(seed, ratios, groups)"
        )
    return first, second


def _member(folder: str | Path) -> Member:
    run = run_folder.finished(folder)
    record = RunRecord.read(run)
    if record.purpose == "refit":
        raise UserError(
            f"--cascade: {run} is a refit, which was trained on the rows that calibrate a cascade: name its honest run"
        )
    if record.purpose == "cascade":
        raise UserError(
            f"--cascade: {run} is itself a cascade, and a cascade has only two stages: name runs of one model"
        )
    if CalibrationFile.read(run).cascade:
        raise UserError(
            f"--cascade: {run} already has early exits, and a cascade has only two stages: {without_exits(run)}"
        )
    return Member(run, record, read_certificate(run), PhotoCost.read(run))


def _combine(first: Member, second: Member, output: Path) -> str:
    """Write all files of the cascade except its calibration; returns a line that says what the folder holds."""
    for path in sorted((second.run / "predictions").glob("val_*.parquet")):
        if "@" not in path.stem:  # predictions under a challenge profile are left out
            put_beside(first.run, second.run, path.stem, output / "predictions" / path.name)
    for stage, member in zip(STAGES, (first, second)):
        (output / stage).mkdir()
        for path in sorted({path for pattern in MODEL for path in member.run.glob(pattern)}):
            shutil.copyfile(path, output / stage / path.name)
    shutil.copyfile(second.run / "splits.json", output / "splits.json")
    models = {stage: _stage_model(member) for stage, member in zip(STAGES, (first, second))}
    both = TwoModels(**models)
    both.write(output)
    record, begun = second.record, now()
    RunRecord(
        status="finished",
        started=begun,
        finished=begun,
        versions=versions(),
        method="cascade",
        positive=record.positive,
        fingerprints={"splits": second.splits.fingerprint, **second.splits.fingerprints},
        purpose="cascade",
        hold_out=record.hold_out,
        parameters=both.first.parameters + both.second.parameters,
    ).write(output)
    size = (both.first.bytes + both.second.bytes) / 1e6
    return (
        f"{output}: {both.first.run} answers first, {both.second.run} if the first is not certain; the folder holds "
        f"copies of both models ({size:.1f} MB), so it can be moved"
    )


def _stage_model(member: Member) -> StageModel:
    return StageModel(
        run=member.run.resolve().name,
        parameters=member.record.parameters,
        bytes=sum(path.stat().st_size for path in member.run.glob("*.safetensors")),
        training_shares=member.record.training_shares,
        cost=member.cost,
    )


def price_line(both: TwoModels) -> str | None:
    """A warning if the first model is not the cheaper one."""
    first, second = both.gigaflop
    if first < second:
        return None
    return (
        f"warning: {both.first.run} takes {cost_text(first)} GFLOP per photo and {both.second.run} "
        f"{cost_text(second)}, so the first model is not the cheaper one: name the cheaper run first"
    )


def put_beside(first: Path, second: Path, split: str, path: Path) -> None:
    """Write the predictions of the second run, with the logits of the first run in a column of their own.

    Args:
        first, second: runs that predicted the same rows, in any order.
        split: the split of these rows.
        path: path of the new file.

    Raises:
        UserError: the runs predicted different photos, or photos with different labels or groups.
    """
    early, full = read_predictions(first, split), read_predictions(second, split)
    row = {name: i for i, name in enumerate(early.ids)}
    if row.keys() != set(full.ids):
        raise UserError(
            f"--cascade: {first} and {second} have predictions for different photos of {split}: restore their files"
        )
    order = np.array([row[name] for name in full.ids])
    for what, one, other in (("labels", early.label, full.label), ("groups", early.group, full.group)):
        if odd := int(np.sum(one[order] != other)):
            raise UserError(
                f"--cascade: {second} has other {what} than {first} for {odd} of {len(order)} photos in {split}: "
                "train both on the same photos with the same split"
            )
    table = pq.read_table(Path(second) / "predictions" / f"{split}.parquet")
    if WHOLE in table.column_names:  # the whole view of a second model with tiles is not a stage here
        table = table.drop_columns(WHOLE)
    table = table.append_column(WHOLE, pa.array(early.logits[order].tolist(), pa.list_(pa.float32())))
    with replacing(path) as temporary:
        pq.write_table(table, temporary)
