"""Calibrate a finished model on photos of your own, without training.

python -m natix_hf.recalibrate runs/lora photos/ --max_fpr 0.01 --confidence 0.95 --prevalence 0.02 --output runs/mine

With labelled photos (class folders, a table or a data set; about 300) it writes a copy of the model with a new
temperature, prior and threshold and, with --max_fpr or a similar option, an abstain band with a guarantee. With
unlabelled photos it reports their class shares, the expected accuracy, and whether they drifted from the photos that
the model was calibrated on. Without photos it calibrates a run again on its own val_calib, for other views or another
size:

python -m natix_hf.recalibrate runs/lora --tta flip --output runs/mirrored
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from natix_hf.errors import CommandParser, UserError, command
from natix_hf.runs.recalibrate_options import check_given, parser
from natix_hf.startup import keep_freed_memory


def command_line() -> CommandParser:
    return parser(__doc__.split("\n")[0])


def main(argv: list[str]) -> None:
    keep_freed_memory()
    given = command_line().parse_args(argv)
    output = Path(given.output).expanduser()
    check_given(given, output)

    from transformers.utils.logging import disable_progress_bar

    from natix_hf.data.own_photos import OwnPhotos, have_labels, label_and_group
    from natix_hf.documents.recalibration import Recalibration
    from natix_hf.documents.split_logits import SavedLogits
    from natix_hf.inference.averaged_views import asked_views, check_views
    from natix_hf.inference.classify import load_classifier
    from natix_hf.inference.photo_size import processor_at
    from natix_hf.modeling.exports.export_form import labels_of
    from natix_hf.photos.geometry import Geometry
    from natix_hf.runs import recalibrate_model as room
    from natix_hf.runs.folder import check_one_model
    from natix_hf.runs.photos_of_run import calibration_rows

    options = room.asked_options(
        {"fpr": given.max_fpr, "fnr": given.max_fnr, "error": given.max_error, "precision": given.min_precision},
        given.confidence,
        given.prevalence,
        calibrator=given.calibrator,
        threshold_metric=given.threshold_metric,
        fold_threshold=given.fold_threshold == "true",
    )
    room.check_seen(given.photos, given.image_size, given.tta, given.calibrator)
    check_one_model(given.model, "natix_hf.recalibrate")
    folder = room.model_folder(given.model)
    where = given.photos, given.image_column_name, given.label_column_name, given.dataset_config
    labelled = given.photos is None or (not given.unlabelled and have_labels(*where))
    if labelled:
        room.check_changeable(folder, given.model)
    disable_progress_bar()  # loading takes a second
    model, processor = load_classifier(str(folder))
    processor, other_size = processor_at(str(folder), model, processor, given.image_size, force=given.force)
    views = given.tta or ()
    if not labelled:
        views, note = asked_views(given.model, getattr(model.config, "decision", None), given.tta)
        for line in filter(None, (other_size, note)):
            print(line)
    check_views(model, views)
    names = labels_of(model)
    calibration, document = room.calibration_of(folder, len(names))
    positive = room.positive_class(folder, document)
    halves = calibration_rows(folder) if given.photos is None else {}
    own = OwnPhotos.of_run(halves) if halves else _photos(given, folder, names, labelled)

    from natix_hf.inference.uncalibrated_logits import uncalibrated_logits

    def logits(rows):
        speed = {"batch_size": given.batch_size, "num_workers": given.num_workers, "views": views}
        return uncalibrated_logits(model, processor, rows["image"], calibration, **speed)

    source = given.model.rstrip("/").rpartition("/")[2]
    about = {"source": source, "labelled": labelled, "classes": names, "positive": positive}
    geometry = Geometry.of(processor)
    about |= {"seed": given.seed, "photos": own.counted(), "image_size": geometry.image_size}
    about |= {"views": list(views)} if views else {}
    if not labelled:
        from natix_hf.runs.unlabelled_estimates import seen_shares, unlabelled_lines, unlabelled_report

        seen = seen_shares(folder, document, given.model)
        facts = logits(own.rows), label_and_group(own.rows)["group"], calibration, document, seen, positive
        report = Recalibration(**about, **unlabelled_report(folder, *facts, seed=given.seed)._asdict())
        report.write(output)
        print("\n".join(unlabelled_lines(report)))
        print(f"{output / 'recalibration.json'}: the report; without labels no model is changed")
        print("next: label some 300 of these photos and run this again, to calibrate the model on them")
        return

    if not halves and len(own.rows) < room.LEAST:
        raise UserError(f"{given.photos}: expected at least {room.LEAST} usable photos, found {len(own.rows)}")
    called, halves = ("val_calib", halves) if halves else ("own photos", own.halves(given.seed))
    arrays = {half: label_and_group(rows) for half, rows in halves.items()}
    if options.risk != "none":
        control = arrays["control"]
        print(room.certifiable_line(control["label"], control["group"], options, names, positive), flush=True)
    for half, rows in halves.items():
        arrays[half]["logits"] = logits(rows)
    halved = [SavedLogits(**arrays[half]) for half in ("fit", "control")]
    asked = calibration, options, names, positive
    decided, figures = room.recalibrate(*halved, *asked, photos=called, seed=given.seed)
    report = Recalibration(**about, figures=figures, guarantee=decided.guarantee)
    lines = room.report_lines(decided, figures, names, document)
    parts = [(half, rows, arrays[half]["logits"]) for half, rows in halves.items()]
    lines += room.seen_lines(report, other_size)
    seen = geometry if other_size else None
    room.write_copy(folder, output, calibration, decided, report, parts, lines, seen)
    print("\n".join(lines))
    print(f"{output}: the model with this calibration; {given.model} is unchanged")
    print(f"next: natix-hf predict {shlex.quote(str(output))} PHOTOS --output predictions.csv")


def _photos(given, folder: Path, names: list[str], labelled: bool):
    """The usable photos; prints which ones are left out."""
    from natix_hf.data.own_photos import known_in, read_labelled, read_unlabelled

    known = known_in(folder)
    columns = {key: getattr(given, key) for key in ("image_column_name", "group_column", "dataset_config")}
    if labelled:
        columns |= {"label_column_name": given.label_column_name, "say": lambda line: print(line, flush=True)}
        own = read_labelled(given.photos, names, known, **columns)
    else:
        own = read_unlabelled(given.photos, known, **columns)
    if not known:
        print(f"{given.model} does not say which photos it was trained on: make sure that these are not among them")
    for photo in own.broken[:20]:
        print(f"not read: {photo.id}: {photo.reason}", file=sys.stderr)
    where = ", ".join(f"{count} of {split}" for split, count in own.known.items())
    for note in [*own.notes, *([f"left out, because the model's own data holds them: {where}"] if where else [])]:
        print(note)
    return own


if __name__ == "__main__":
    command(main)
