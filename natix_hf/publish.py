"""Publish a finished run on the Hub: export it, verify it before and after the upload, and push it in one commit.

python -m natix_hf.publish runs/lora me/roadwork-dinov3
"""

from __future__ import annotations

from natix_hf.errors import CommandParser, command
from natix_hf.hub.proof_options import add_proof_options
from natix_hf.modeling.exports import FORMS
from natix_hf.modeling.exports.export_form import DTYPE_HELP
from natix_hf.modeling.exports.onnx import Onnx
from natix_hf.modeling.exports.stored_weights import DTYPES


def command_line() -> CommandParser:
    """The options of this verb."""
    parser = CommandParser(prog="python -m natix_hf.publish", description=__doc__.split("\n")[0])
    parser.add_argument("run", help="folder of a finished run")
    parser.add_argument("repo_id", help="owner/name on the Hub, created if it does not exist")
    parser.add_argument(
        "--format",
        dest="form",
        default="auto",
        choices=["auto", *FORMS],
        help="auto: stock if it can hold the model, else merged",
    )
    parser.add_argument("--private", action="store_true", help="create the repository as private")
    parser.add_argument(
        "--model_version", dest="version", default="1.0.0", help="X.Y.Z, also the tag (default %(default)s)"
    )
    parser.add_argument(
        "--hotkey",
        help="SS58 address of a StreetVision participant; adds the files that it requires (halted as of 2026-05)",
    )
    parser.add_argument("--dtype", default="fp32", choices=[*DTYPES, "int8"], help=DTYPE_HELP)
    parser.add_argument(
        "--max_changed",
        type=float,
        default=Onnx.max_changed,
        help="int8: highest share of val_select that may be decided otherwise than by the run (default %(default)s)",
    )
    parser.add_argument("--base_id", help="adapter: Hub id of the base for clients")
    add_proof_options(parser, "the model")
    parser.add_argument("--force", action="store_true", help="replace a better model, or somebody else's")
    parser.add_argument(
        "--include_photos",
        action="store_true",
        help="also upload the gallery of the report: photos leave this machine",
    )
    return parser


def main(argv: list[str]) -> None:
    given = vars(command_line().parse_args(argv))
    folder = given.pop("run")

    from natix_hf.runs.folder import check_one_model, finished

    check_one_model(folder, "natix_hf.publish")
    run = finished(folder)

    from transformers.utils import logging

    from natix_hf.hub.proof_photos import photo_files
    from natix_hf.hub.publish_run import Publication, publish
    from natix_hf.runs.export_int8 import export_int8

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    asked = Publication(**given | {"photos": photo_files(given["photos"])})
    print(publish(run, asked, export_int8=export_int8))


if __name__ == "__main__":
    command(main)
