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

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from natix_hf.errors import CommandParser, UserError, command
from natix_hf.runs.recalibrate_options import asked_options, check_given, parser
from natix_hf.startup import keep_freed_memory

if TYPE_CHECKING:
    from natix_hf.data.own_photos import OwnPhotos
    from natix_hf.runs.calibrated_model import CalibratedModel

say = partial(print, flush=True)


def command_line() -> CommandParser:
    return parser(__doc__.split("\n")[0])


def main(argv: list[str]) -> None:
    keep_freed_memory()
    given = command_line().parse_args(argv)
    output = Path(given.output).expanduser()
    check_given(given, output)
    options = asked_options(given)

    from transformers.utils.logging import disable_progress_bar

    from natix_hf.data.own_photos import OwnPhotos, have_labels
    from natix_hf.documents.recalibration import Recalibration
    from natix_hf.inference.averaged_views import asked_views, check_views
    from natix_hf.inference.classify import load_classifier
    from natix_hf.inference.photo_size import processor_at
    from natix_hf.inference.uncalibrated_logits import uncalibrated_logits
    from natix_hf.modeling.exports.export_form import labels_of
    from natix_hf.photos.geometry import Geometry
    from natix_hf.runs import recalibrate_model as room
    from natix_hf.runs.calibrated_model import CalibratedModel
    from natix_hf.runs.folder import check_one_model, predict_line
    from natix_hf.runs.photos_of_run import calibration_rows

    check_one_model(given.model, "natix_hf.recalibrate")
    folder = room.model_folder(given.model)
    place = given.photos, given.image_column_name, given.label_column_name, given.dataset_config
    labelled = given.photos is None or (not given.unlabelled and have_labels(*place))
    if labelled:
        room.check_changeable(folder, given.model)
    disable_progress_bar()  # loading takes a second
    network, processor = load_classifier(str(folder))
    processor, other_size = processor_at(str(folder), network, processor, given.image_size, force=given.force)
    views = given.tta or ()
    if not labelled:
        views, note = asked_views(given.model, getattr(network.config, "decision", None), given.tta)
        for line in filter(None, (other_size, note)):
            print(line)
    check_views(network, views)
    names, geometry = labels_of(network), Geometry.of(processor)
    model = CalibratedModel.read(folder, len(names))
    parts = calibration_rows(folder) if given.photos is None else {}
    own = OwnPhotos.of_run(parts) if parts else _photos(given, folder, names, labelled)

    def logits(rows):
        speed = {"batch_size": given.batch_size, "num_workers": given.num_workers, "views": views}
        return uncalibrated_logits(network, processor, rows["image"], model.calibration, **speed)

    about = {
        "source": given.model.rstrip("/").rpartition("/")[2],
        "labelled": labelled,
        "classes": names,
        "positive": model.positive,
        "seed": given.seed,
        "photos": own.counted(),
        "image_size": geometry.image_size,
        **({"views": list(views)} if views else {}),
    }
    if not labelled:
        _estimate(given, output, model, own, logits, about)
        return

    photos = "val_calib" if parts else "own photos"
    decided, figures, predicted = room.recalibrate_on(
        parts or own.halves(given.seed), logits, model, options, names, photos=photos, seed=given.seed, say=say
    )
    report = Recalibration(**about, figures=figures, guarantee=decided.guarantee)
    lines = room.report_lines(decided, figures, names, model.document) + room.seen_lines(report, other_size)
    room.write_copy(folder, output, model.calibration, decided, report, predicted, lines, other_size and geometry)
    print("\n".join(lines))
    print(f"{output}: the model with this calibration; {given.model} is unchanged")
    print(predict_line(output))


def _estimate(given, output: Path, model: CalibratedModel, own: OwnPhotos, logits, about: dict) -> None:
    """Report on photos without labels."""
    from natix_hf.data.own_photos import label_and_group
    from natix_hf.documents.recalibration import Recalibration
    from natix_hf.runs.unlabelled_estimates import seen_shares, unlabelled_lines, unlabelled_report

    seen, groups = seen_shares(model, given.model), label_and_group(own.rows)["group"]
    estimates = unlabelled_report(model, seen, logits(own.rows), groups, seed=given.seed)
    report = Recalibration(**about, **estimates._asdict())
    report.write(output)
    print("\n".join(unlabelled_lines(report)))
    print(f"{output / report.file_name}: the report; without labels no model is changed")
    print("next: label some 300 of these photos and run this again, to calibrate the model on them")


def _photos(given, folder: Path, names: list[str], labelled: bool) -> OwnPhotos:
    """The usable photos; prints which ones are left out."""
    from natix_hf.data.own_photos import known_in, read_labelled, read_unlabelled
    from natix_hf.runs.recalibrate_model import LEAST

    known = known_in(folder)
    columns = {key: getattr(given, key) for key in ("image_column_name", "group_column", "dataset_config")}
    if labelled:
        own = read_labelled(given.photos, names, known, label_column_name=given.label_column_name, say=say, **columns)
    else:
        own = read_unlabelled(given.photos, known, **columns)
    if not known:
        print(f"{given.model} does not say which photos it was trained on: make sure that these are not among them")
    for photo in own.broken[:20]:
        print(f"not read: {photo.id}: {photo.reason}", file=sys.stderr)
    for note in own.notes:
        print(note)
    if own.known:
        counts = ", ".join(f"{count} of {split}" for split, count in own.known.items())
        print(f"left out, because the model's own data holds them: {counts}")
    if labelled and len(own.rows) < LEAST:
        raise UserError(f"{given.photos}: expected at least {LEAST} usable photos, found {len(own.rows)}")
    return own


if __name__ == "__main__":
    command(main)
