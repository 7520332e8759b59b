"""The final figures of a run, computed from the saved predictions on `val_test` and its calibration.

python -m natix_hf.evaluate runs/lora
"""

from __future__ import annotations

from natix_hf.errors import CommandParser, command


def main(argv: list[str]) -> None:
    parser = CommandParser(prog="python -m natix_hf.evaluate", description=__doc__.split("\n")[0])
    parser.add_argument("run", help="folder of a finished run")
    given = parser.parse_args(argv)

    from natix_hf.training.run_folder import finished

    run = finished(given.run)

    from natix_hf.files import read_json
    from natix_hf.report.summary import summary_lines
    from natix_hf.training.final import evaluate_run

    document = evaluate_run(run)
    print("\n".join(summary_lines(document, read_json(run / "calibration.json"))))


if __name__ == "__main__":
    command(main)
