"""Classify photos (a folder, glob, table or data set) and write probabilities as CSV, JSON lines or GeoJSON.

python -m natix_hf.predict runs/lora photos/ --output predictions.csv
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from natix_hf.data.sources.named_places import check_there
from natix_hf.errors import CommandParser, UserError, command
from natix_hf.files import check_folder, check_writable
from natix_hf.inference.view_options import add_size_options, add_views_option, check_speed
from natix_hf.startup import keep_freed_memory, quick_imports

if TYPE_CHECKING:
    import torch

    from natix_hf.inference.measured_pace import Pace


def _number(text: str) -> int | None:
    return None if text == "auto" else int(text)


def command_line() -> CommandParser:
    """The options of this verb."""
    parser = CommandParser(prog="python -m natix_hf.predict", description=__doc__.split("\n")[0])
    parser.add_argument(
        "model", help="folder of a finished run, a cascade of two or an export (natix_hf.export), or a Hub id"
    )
    parser.add_argument(
        "photos",
        help="folder (with subfolders), quoted glob, photo, .csv, .jsonl, .parquet, save_to_disk folder, or Hub id",
    )
    parser.add_argument("--output", required=True, help="file to write: .csv, .jsonl or .geojson")
    parser.add_argument("--image_column_name", default="image", help="column of photos, for a table or data set")
    parser.add_argument("--dataset_config", help="configuration of a Hub data set")
    parser.add_argument(
        "--batch_size",
        type=_number,
        default="auto",
        help="photos per batch; auto: 16, or on a GPU the fastest size",
    )
    parser.add_argument(
        "--num_workers",
        type=_number,
        default="auto",
        help="processes that decode photos; auto: 2, or on a GPU one per core",
    )
    parser.add_argument(
        "--precision",
        choices=["fp32", "auto"],
        default="fp32",
        help="auto: use bf16 or torch.compile if they are faster and decide the first photos the same way",
    )
    add_size_options(parser)
    add_views_option(parser)
    return parser


def main(argv: list[str]) -> None:
    keep_freed_memory()
    given = command_line().parse_args(argv)
    output = Path(given.output)
    _check(given, output)

    with quick_imports():
        from natix_hf.inference.named_photos import find_photos

    names, photos = find_photos(given.photos, given.image_column_name, given.dataset_config)

    with quick_imports():
        from transformers.utils.logging import disable_progress_bar

        from natix_hf.inference.averaged_views import asked_views, check_views
        from natix_hf.inference.classify import leave_early, load_classifier, predict_photos, write_rows
        from natix_hf.inference.measured_pace import decoding_workers, default_device
        from natix_hf.inference.photo_size import processor_at
        from natix_hf.inference.prediction_lines import prediction_lines, unread_lines
        from natix_hf.modeling.exports.export_form import labels_of
        from natix_hf.modeling.packed_linear import packing_line

    disable_progress_bar()  # loading takes seconds
    model, processor = load_classifier(given.model)
    rule = getattr(model.config, "decision", None)  # configs of other classes lack it
    processor, other_size = processor_at(given.model, model, processor, given.image_size, force=given.force)
    views, other_views = asked_views(given.model, rule, given.tta)
    check_views(model, views)
    device = default_device()
    model.to(device)
    pace = _pace(model, processor, photos, given, device)
    for line in filter(None, (packing_line(model, trained=False), pace.line, other_size, other_views)):
        print(line)
    workers = decoding_workers(device) if given.num_workers is None else given.num_workers
    options = {"batch_size": pace.batch_size, "num_workers": workers, "run": pace.run, "views": views}
    rows = predict_photos(model, processor, names, photos, **options)
    labels = labels_of(model)
    if output.suffix == ".geojson":
        from natix_hf.inference.geojson import model_fingerprint, write_geojson

        written = write_geojson(output, rows, photos, labels, rule, model_fingerprint(model))
    else:
        written = write_rows(output, rows, labels, rule, staged=leave_early(model))
    calibrated = "uncalibrated" if other_size or other_views else "calibrated"
    print(f"{output}: {written.good} photos, {calibrated} probabilities and the decision of each")
    for line in prediction_lines(written, output, model, labels, rule):
        print(line)
    for line in unread_lines(written, output):
        print(line, file=sys.stderr)
    if written.broken and not written.good:
        raise UserError(
            f"{given.photos}: expected photos, found none that can be read: {output} has the reason of each"
        )


def _check(given: Namespace, output: Path) -> None:
    """Raise `UserError` for what can be refused before anything slow is imported."""
    if output.suffix not in (".csv", ".jsonl", ".geojson"):
        raise UserError(f"--output: expected a name that ends in .csv, .jsonl or .geojson, found {output}")
    check_speed(given.batch_size, given.num_workers)
    if output.is_dir():
        raise UserError(f"--output {output}: is a folder: choose another name")
    check_writable(output.parent, "--output", any_name=True)
    check_there(given.photos)
    check_folder(given.model, bare_ids=True)


def _pace(model: Any, processor: Any, photos: Sequence[Any], given: Namespace, device: torch.device) -> Pace:
    """How to run the model; measured on the first photos on a GPU, or for --precision auto."""
    from natix_hf.inference.cascade_classifier import dearest
    from natix_hf.inference.measured_pace import choose_pace, first_pixels

    paced, sees = dearest(model, processor)
    precision = given.precision if paced is model else "fp32"  # the band of a cascade was chosen in fp32
    measured = device.type != "cpu" or given.precision == "auto"
    sample = first_pixels(photos, sees) if measured else ()
    return choose_pace(paced, sample, photos=len(photos), batch_size=given.batch_size, precision=precision)


if __name__ == "__main__":
    command(main)
