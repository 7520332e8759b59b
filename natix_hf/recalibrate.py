"""Another calibration for a finished model, from photos of one's own and without training.

python -m natix_hf.recalibrate runs/lora photos/ --max_fpr 0.01 --confidence 0.95 --prevalence 0.02 --output runs/mine

Labelled photos (class folders, a table, a data set; some 300) give a copy of the model with new temperature, prior,
threshold and, with --max_fpr and the like, an abstain band with a guarantee. Photos without labels give a report:
their class shares, the accuracy to be expected, and whether they drifted from what the model was calibrated on.
"""

from __future__ import annotations

import sys
from pathlib import Path

from natix_hf.decision.calibrators import CALIBRATORS
from natix_hf.errors import CommandParser, UserError, command
from natix_hf.files import check_new_folder
from natix_hf.startup import keep_freed_memory


def parser() -> CommandParser:
    made = CommandParser(prog="python -m natix_hf.recalibrate", description=__doc__.split("\n")[0])
    made.add_argument("model", help="folder of a finished run or of an export, or a Hub id")
    made.add_argument("photos", help="class folders, folder, glob, .csv, .jsonl, .parquet, saved data set or Hub id")
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
    made.add_argument("--seed", type=int, default=0, help="of the halves and of the intervals")
    made.add_argument("--batch_size", type=int, default=16, help="photos per batch")
    made.add_argument("--num_workers", type=int, default=2, help="processes that decode photos")
    return made


def main(argv: list[str]) -> None:
    keep_freed_memory()
    given = parser().parse_args(argv)
    output = Path(given.output).expanduser()
    check_new_folder(output, "--output")
    if given.batch_size < 1 or given.num_workers < 0:
        raise UserError("--batch_size: at least 1 expected; --num_workers: at least 0")

    from transformers.utils.logging import disable_progress_bar

    from natix_hf.data.own_photos import have_labels, label_and_group
    from natix_hf.documents.recalibration import Recalibration
    from natix_hf.documents.split_logits import SavedLogits
    from natix_hf.inference.classify import load_classifier
    from natix_hf.modeling.exports.export_form import labels_of
    from natix_hf.runs import recalibrate_model as room

    options = room.asked_options(
        {"fpr": given.max_fpr, "fnr": given.max_fnr, "error": given.max_error, "precision": given.min_precision},
        given.confidence,
        given.prevalence,
        calibrator=given.calibrator,
        threshold_metric=given.threshold_metric,
        fold_threshold=given.fold_threshold == "true",
    )
    folder = room.model_folder(given.model)
    where = given.photos, given.image_column_name, given.label_column_name, given.dataset_config
    labelled = not given.unlabelled and have_labels(*where)
    if labelled:
        room.check_changeable(folder, given.model)
    disable_progress_bar()  # loading takes a second
    model, processor = load_classifier(str(folder))
    names = labels_of(model)
    calibration, document = room.calibration_of(folder, len(names))
    positive = room.positive_class(folder, document)
    own = _photos(given, folder, names, labelled)

    from natix_hf.inference.uncalibrated_logits import uncalibrated_logits

    def logits(rows):
        speed = {"batch_size": given.batch_size, "num_workers": given.num_workers}
        return uncalibrated_logits(model, processor, rows["image"], calibration, **speed)

    source = given.model.rstrip("/").rpartition("/")[2]
    about = {"source": source, "labelled": labelled, "classes": names, "positive": positive}
    about |= {"seed": given.seed, "photos": own.counted()}
    if not labelled:
        from natix_hf.runs.unlabelled_estimates import seen_shares, unlabelled_lines, unlabelled_report

        seen = seen_shares(folder, document, given.model)
        found = logits(own.rows), label_and_group(own.rows)["group"], calibration, document, seen, positive
        report = Recalibration(**about, **unlabelled_report(folder, *found, seed=given.seed)._asdict())
        report.write(output)
        print("\n".join(unlabelled_lines(report)))
        print(f"{output / 'recalibration.json'}: the report; without labels no model is changed")
        return

    if len(own.rows) < room.LEAST:
        raise UserError(f"{given.photos}: {len(own.rows)} photos that can be used, at least {room.LEAST} are needed")
    halves = own.halves(given.seed)
    arrays = {half: label_and_group(rows) for half, rows in halves.items()}
    if options.risk != "none":
        control = arrays["control"]
        print(room.certifiable_line(control["label"], control["group"], options, names, positive), flush=True)
    for half, rows in halves.items():
        arrays[half]["logits"] = logits(rows)
    halved = [SavedLogits(**arrays[half]) for half in ("fit", "control")]
    decided, figures = room.recalibrate(*halved, calibration, options, names, positive, seed=given.seed)
    report = Recalibration(**about, figures=figures, guarantee=decided.guarantee)
    lines = room.report_lines(decided, figures, names, document)
    parts = [(half, rows, arrays[half]["logits"]) for half, rows in halves.items()]
    room.write_copy(folder, output, calibration, decided, report, parts, lines)
    print("\n".join(lines))
    print(f"{output}: the model with this calibration; {given.model} is as it was")


def _photos(given, folder: Path, names: list[str], labelled: bool):
    """The photos that can be used; what is left out is told."""
    from natix_hf.data.own_photos import known_in, read_labelled, read_unlabelled

    known = known_in(folder)
    columns = {key: getattr(given, key) for key in ("image_column_name", "group_column", "dataset_config")}
    if labelled:
        columns |= {"label_column_name": given.label_column_name, "say": lambda line: print(line, flush=True)}
        own = read_labelled(given.photos, names, known, **columns)
    else:
        own = read_unlabelled(given.photos, known, **columns)
    if not known:
        print(f"{given.model} does not say which photos it was trained on: make sure that these are none of them")
    for photo in own.broken[:20]:
        print(f"not read: {photo.id}: {photo.reason}", file=sys.stderr)
    where = ", ".join(f"{count} of {split}" for split, count in own.known.items())
    for note in [*own.notes, *([f"left out, since the model's own data holds them: {where}"] if where else [])]:
        print(note)
    return own


if __name__ == "__main__":
    command(main)
