"""The command-line options of `natix_hf.recalibrate`. Imports no slow modules."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from natix_hf.data.sources.named_places import check_there
from natix_hf.decision.calibrators import CALIBRATORS
from natix_hf.errors import CommandParser
from natix_hf.files import check_folder, check_new_folder
from natix_hf.inference.view_options import add_size_options, add_views_option, check_speed


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
    risk.add_argument("--max_fpr", type=float, help="guarantee: highest share of negatives that are called positive")
    risk.add_argument("--max_fnr", type=float, help="guarantee: highest share of positives that are called negative")
    risk.add_argument("--max_error", type=float, help="guarantee: highest share of photos that are decided wrongly")
    risk.add_argument(
        "--min_precision",
        type=float,
        help="guarantee: lowest share of positive decisions that are right, at --prevalence",
    )
    made.add_argument("--confidence", type=float, default=0.9, help="probability that the guarantee holds")
    made.add_argument("--prevalence", type=float, help="share of positives expected in use")
    both = ["temperature", "vector"]  # these photos may come in other class shares than the model learnt: a bias
    made.add_argument("--calibrator", nargs="+", default=both, help=f"one or more of {', '.join(CALIBRATORS)}")
    made.add_argument("--threshold_metric", default="mcc", help="mcc, accuracy, f1, fbeta:B, cost:FP:FN, precision>=P")
    made.add_argument(
        "--fold_threshold", choices=["true", "false"], default="false", help="true: decide at the best threshold"
    )
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
