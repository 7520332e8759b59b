"""The command-line options of `natix_hf.recalibrate`, and what they mean. Imports no slow modules."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from natix_hf.data.sources.named_places import check_there
from natix_hf.decision.calibrators import CALIBRATORS
from natix_hf.errors import CommandParser, UserError
from natix_hf.files import check_folder, check_new_folder
from natix_hf.inference.view_options import add_size_options, add_views_option, check_speed
from natix_hf.runs.decision_options import DecisionOptions, add_fold_threshold

RATES = {
    "max_fpr": "highest share of negatives that are called positive",
    "max_fnr": "highest share of positives that are called negative",
    "max_error": "highest share of photos that are decided wrongly",
    "min_precision": "lowest share of positive decisions that are right, at --prevalence",
}


def parser(description: str) -> CommandParser:
    """The command-line parser."""
    made = CommandParser(prog="python -m natix_hf.recalibrate", description=description)
    made.add_argument("model", help="folder of a finished run or of an export, or a Hub id")
    made.add_argument(
        "photos",
        nargs="?",
        help="class folders, folder, glob, .csv, .jsonl, .parquet, saved data set or Hub id; left out: the val_calib "
        "of the run",
    )
    made.add_argument("--output", required=True, help="folder to write, absent or empty")
    risk = made.add_mutually_exclusive_group()
    for name, meaning in RATES.items():
        risk.add_argument(f"--{name}", type=float, help=f"guarantee: {meaning}")
    made.add_argument("--confidence", type=float, default=0.9, help="probability that the guarantee holds")
    made.add_argument("--prevalence", type=float, help="share of positives expected in use")
    both = ["temperature", "vector"]  # these photos may come in other class shares than the model learnt: a bias
    made.add_argument("--calibrator", nargs="+", default=both, help=f"one or more of {', '.join(CALIBRATORS)}")
    made.add_argument("--threshold_metric", default="mcc", help="mcc, accuracy, f1, fbeta:B, cost:FP:FN, precision>=P")
    add_fold_threshold(made, default=False)
    made.add_argument("--unlabelled", action="store_true", help="do not read labels, even if there are class folders")
    made.add_argument("--image_column_name", default="image", help="column of photos, for a data set")
    made.add_argument("--label_column_name", default="label", help="column of labels, for a data set")
    made.add_argument("--dataset_config", help="configuration of a Hub data set")
    made.add_argument("--group_column", help="column of groups (video, camera, place) that are not divided")
    add_size_options(made)
    add_views_option(made)
    made.add_argument("--seed", type=int, default=0, help="seed of the split into halves and of the intervals")
    made.add_argument("--batch_size", type=int, default=16, help="photos per batch")
    made.add_argument("--num_workers", type=int, default=2, help="processes that decode photos")
    return made


def check_given(given: Namespace, output: Path) -> None:
    """Raise `UserError` for arguments that are wrong whatever the model and the photos hold."""
    check_new_folder(output, "--output")
    check_folder(given.model)
    if given.photos is not None:
        check_there(given.photos)
    check_speed(given.batch_size, given.num_workers)
    if given.photos is None and not given.image_size and not given.tta:
        raise UserError(
            "no photos given: name them, or say how those of val_calib are prepared (--tta flip, or --image_size with "
            "--force); python -m natix_hf.calibrate RUN makes other changes to a calibration"
        )
    if given.tta and "isotonic" in given.calibrator:
        raise UserError(
            "--calibrator isotonic: calibrated logits of several views are averaged, which is correct only for "
            "temperature and vector: leave out isotonic, or --tta"
        )


def asked_options(given: Namespace) -> DecisionOptions:
    """The decision options of a call. The prevalence is also the expected class share.

    Raises:
        UserError: an option is out of bounds.
    """
    rates = {word: rate for word in RATES if (rate := getattr(given, word)) is not None}  # at most one
    words = {"confidence": given.confidence, "prevalence": given.prevalence, **rates}
    for word, value in words.items():
        if value is not None and not 0 < value < 1:
            raise UserError(f"--{word}: expected a number above 0 and below 1, found {value:g}")
    promised = {}
    for word, rate in rates.items():
        alpha = round(1 - rate, 12) if word == "min_precision" else rate
        promised = {"risk": word.partition("_")[2], "risk_alpha": alpha}
    return DecisionOptions(
        calibrator=given.calibrator,
        target_prior=None if given.prevalence is None else [given.prevalence],
        threshold_metric=given.threshold_metric,
        fold_threshold=given.fold_threshold,
        risk_delta=round(1 - given.confidence, 12),
        prevalence=given.prevalence,
        **promised,
    )
