"""What `natix_hf.recalibrate` is told on the command line. Imports nothing that takes time."""

from __future__ import annotations

from natix_hf.decision.calibrators import CALIBRATORS
from natix_hf.errors import CommandParser
from natix_hf.inference.view_options import add_size_options, add_views_option


def parser(description: str) -> CommandParser:
    """The parser of its command line."""
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
    risk.add_argument("--max_fpr", type=float, help="guarantee: of the negatives at most so many are called positive")
    risk.add_argument("--max_fnr", type=float, help="guarantee: of the positives at most so many are called negative")
    risk.add_argument("--max_error", type=float, help="guarantee: both at once")
    risk.add_argument("--min_precision", type=float, help="guarantee: so many positives are right, at --prevalence")
    made.add_argument("--confidence", type=float, default=0.9, help="of the guarantee")
    made.add_argument("--prevalence", type=float, help="share of positives where the model will work")
    both = ["temperature", "vector"]  # these photos may come in other class shares than the model learnt: a bias
    made.add_argument("--calibrator", nargs="+", default=both, help=f"one or more of {', '.join(CALIBRATORS)}")
    made.add_argument("--threshold_metric", default="mcc", help="mcc, accuracy, f1, fbeta:B, cost:FP:FN, precision>=P")
    made.add_argument("--fold_threshold", choices=["true", "false"], default="false", help="true: decide at that")
    made.add_argument("--unlabelled", action="store_true", help="do not look at labels, also where there are folders")
    made.add_argument("--image_column_name", default="image", help="column of photos, for a data set")
    made.add_argument("--label_column_name", default="label", help="column of labels, for a data set")
    made.add_argument("--dataset_config", help="configuration of a Hub data set")
    made.add_argument("--group_column", help="column of groups (video, camera, place) that are kept whole")
    add_size_options(made)
    add_views_option(made)
    made.add_argument("--seed", type=int, default=0, help="of the halves and of the intervals")
    made.add_argument("--batch_size", type=int, default=16, help="photos per batch")
    made.add_argument("--num_workers", type=int, default=2, help="processes that decode photos")
    return made
