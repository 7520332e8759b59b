"""Calibrate a finished run again, from its saved predictions and without running the model.

python -m natix_hf.calibrate runs/lora --calibrator temperature
"""

from __future__ import annotations

from natix_hf.errors import CommandParser, command


def main(argv: list[str]) -> None:
    parser = CommandParser(prog="python -m natix_hf.calibrate", description=__doc__.split("\n")[0])
    parser.add_argument("run", help="folder of a finished run")
    parser.add_argument(
        "--calibrator", choices=["temperature", "none"], default="temperature", help="what is fitted on val_calib"
    )
    given = parser.parse_args(argv)

    from natix_hf.training.run_folder import finished

    run = finished(given.run)

    from natix_hf.report.summary import calibration_lines
    from natix_hf.training.final import calibrate_run, write_into_weights

    document = calibrate_run(run, given.calibrator)
    write_into_weights(run, document)
    print("\n".join(calibration_lines(document)))
    print(f"the figures in metrics.json are those before; python -m natix_hf.evaluate {run} computes them again")


if __name__ == "__main__":
    command(main)
