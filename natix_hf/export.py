"""Write a finished run as a folder that clients can load, and verify that it gives the same answers.

python -m natix_hf.export runs/lora --format stock --output out/
"""

from __future__ import annotations

import shutil
from dataclasses import Field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from natix_hf.errors import CommandParser, UserError, command
from natix_hf.hub.proof_options import add_proof_options
from natix_hf.inference.view_options import add_size_options
from natix_hf.modeling.exports import FORMS

if TYPE_CHECKING:
    from natix_hf.documents.export import Proof


def _form_options() -> dict[str, Field]:
    return {field.name: field for form in FORMS.values() for field in fields(form)}


def command_line() -> CommandParser:
    """The options of this verb."""
    parser = CommandParser(prog="python -m natix_hf.export", description=__doc__.split("\n")[0])
    parser.add_argument("run", help="folder of a finished run, or of a recalibrated copy of one")
    parser.add_argument(
        "--format",
        required=True,
        metavar="FORM",
        help="; ".join(f"{name}: {form.summary}" for name, form in FORMS.items()),
    )
    parser.add_argument("--output", required=True, help="folder to write, absent or empty")
    for name, field in _form_options().items():
        kind = float if isinstance(field.default, float) else str
        parser.add_argument(f"--{name}", type=kind, default=field.default, help=field.metadata["help"])
    add_proof_options(parser, "the export")
    parser.add_argument("--no_proof", action="store_true", help="do not verify the export")
    add_size_options(parser)
    return parser


def main(argv: list[str]) -> None:
    given = command_line().parse_args(argv)

    from natix_hf.runs.folder import exportable, predict_line

    run = exportable(given.run)

    from transformers.utils import logging

    from natix_hf.documents.export import size_text
    from natix_hf.hub.export_forms import export_run
    from natix_hf.hub.proof import clients_of, prove
    from natix_hf.hub.proof_photos import photo_files
    from natix_hf.modeling.exports.adapter_folder import base_folder

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    photos = photo_files(given.photos)
    form = {name: getattr(given, name) for name in _form_options()}
    size = {"image_size": given.image_size, "force": given.force}
    if given.dtype == "int8":
        from natix_hf.runs.export_int8 import export_int8

        place = {"dataset_name": given.dataset_name}
        document = export_int8(run, given.format, given.output, say=print, **place, **size, **form)
    else:
        document = export_run(run, given.format, given.output, **size, **form)
    print(f"{given.output}: {given.format}, {document.parameters / 1e6:.1f} M parameters of the whole model")
    print(f"files: {document.bytes / 1e6:.1f} MB, weights in {document.dtype}")
    print(f"needs: {'; '.join(document.needs)}")
    if document.calibrated_at:
        print(
            f"photos are resized to {size_text(document.image_size)}, but the model was trained at "
            f"{size_text(document.calibrated_at)}: the probabilities are not calibrated"
        )
    if document.opset:
        size = size_text(document.image_size, document.tiles)
        print(f"operators: ONNX opset {document.opset}, any number of photos of {size}")
    if given.no_proof:
        print("not verified: it is unknown whether this export gives the answers of the run")
        return
    base = given.base_output or (base_folder(given.output) if FORMS[given.format].on_base else None)
    who = {"client_python": given.client_python, "clients": clients_of(base)}
    shown = {"photos": photos, "dataset_name": given.dataset_name}
    try:
        proof = prove(run, given.output, base=base, say=print, **shown, **who)
    except UserError:
        # Remove an export that failed verification; --no_proof keeps it.
        for folder in filter(None, (given.output, given.base_output)):
            shutil.rmtree(Path(folder).expanduser(), ignore_errors=True)
        raise
    print("\n".join(_proof_lines(proof, given.dtype)))
    print(predict_line(given.output))


def _proof_lines(proof: Proof, dtype: str) -> list[str]:
    compared = "from the run" if dtype != "int8" else "of the graph from the run, and of clients from the graph"
    lines = [f"proof: {proof.photos.n} photos ({proof.photos.source}), largest differences {compared}"]
    for client in proof.clients:
        lines.append(
            f"  {client.client}: logits {client.logits:.1e}, probabilities {client.probabilities:.1e}, "
            f"pixels {client.pixels:.1e}; same decision on {client.decisions.same} of "
            f"{client.decisions.of}; {client.photos_per_second:.1f} photos/s"
        )
    return lines


if __name__ == "__main__":
    command(main)
