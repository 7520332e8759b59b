"""Command-line options for the verification of an export. Imports nothing slow, because `--help` loads this module."""

from __future__ import annotations

from natix_hf.errors import CommandParser


def add_proof_options(parser: CommandParser, verified: str) -> None:
    """`--dataset_name`, `--photos` and `--client_python`; `verified` says what is verified."""
    parser.add_argument("--dataset_name", help="where the run's photos are now, if not where its recipe says")
    parser.add_argument(
        "--photos", help=f"folder or glob of photos to verify {verified} with, instead of val_select of the run"
    )
    parser.add_argument(
        "--client_python", help="Python interpreter of a client that must give the same answers as the run"
    )
