"""Photos to calibrated probabilities: a folder, a glob or a data set to CSV, JSON lines or GeoJSON.

python -m natix_hf.predict runs/lora photos/ --output predictions.csv
"""

from __future__ import annotations

import sys
from pathlib import Path

from natix_hf.errors import CommandParser, UserError, command
from natix_hf.files import check_writable


def main(argv: list[str]) -> None:
    parser = CommandParser(prog="python -m natix_hf.predict", description=__doc__.split("\n")[0])
    parser.add_argument("model", help="folder of a finished run or of an export (natix_hf.export), or a Hub id")
    parser.add_argument(
        "photos",
        help="folder (with all its subfolders), quoted glob, one photo, .parquet, save_to_disk folder, or Hub id",
    )
    parser.add_argument("--output", required=True, help="file to write: .csv, .jsonl or .geojson")
    parser.add_argument("--image_column_name", default="image", help="column of photos, for a data set")
    parser.add_argument("--batch_size", type=int, default=16, help="photos per batch")
    parser.add_argument("--num_workers", type=int, default=2, help="processes that decode photos")
    given = parser.parse_args(argv)
    output = Path(given.output)
    if output.suffix not in (".csv", ".jsonl", ".geojson"):
        raise UserError(f"--output {output}: a name that ends in .csv, .jsonl or .geojson expected")
    if given.batch_size < 1 or given.num_workers < 0:
        raise UserError("--batch_size: at least 1 expected; --num_workers: at least 0")
    if output.is_dir():
        raise UserError(f"--output {output}: a folder of that name is in the way")
    check_writable(output.parent, "--output")

    from natix_hf.inference.listing import find_photos
    from natix_hf.inference.prediction import load_classifier, predict_photos, write_rows

    names, photos = find_photos(given.photos, given.image_column_name)
    model, processor = load_classifier(given.model)
    rows = predict_photos(model, processor, names, photos, batch_size=given.batch_size, num_workers=given.num_workers)
    labels = [model.config.id2label[i] for i in range(model.config.num_labels)]
    rule = getattr(model.config, "decision", None)  # other classes' configs do not know the name
    if output.suffix == ".geojson":
        from natix_hf.inference.geojson import model_fingerprint, write_geojson

        written = write_geojson(output, rows, photos, labels, rule, model_fingerprint(model))
    else:
        written = write_rows(output, rows, labels, rule)
    print(f"{output}: {written.good} photos, calibrated probabilities and the decision of each")
    if rule and any(rule["threshold_bias"]):
        print(
            f"{written.differing} photos decided differently from the larger probability: threshold "
            f"{rule['threshold']:.3g} on {labels[rule['positive']]}"
        )
    if rule and rule["abstain_band"]:
        low, high = rule["abstain_band"]
        print(
            f"{written.asking} photos for a person to decide: probability of {labels[rule['positive']]} between "
            f"{low:.3g} and {high:.3g}"
        )
    for name, reason in written.broken[:20]:
        print(f"not read: {reason if name in reason else f'{name}: {reason}'}", file=sys.stderr)
    if written.broken:
        print(
            f"{len(written.broken)} photos could not be read; they stand in {output} with the reason", file=sys.stderr
        )


if __name__ == "__main__":
    command(main)
