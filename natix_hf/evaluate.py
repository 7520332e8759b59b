"""The final figures of a run, computed from the saved predictions on `val_test` and its calibration.

python -m natix_hf.evaluate runs/lora
"""

from __future__ import annotations

import argparse
from pathlib import Path

from natix_hf.errors import UserError, command


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m natix_hf.evaluate", description=__doc__.split("\n")[0])
    parser.add_argument("run", help="folder of a finished run")
    given = parser.parse_args(argv)
    run = Path(given.run)
    if not (run / "run.json").is_file():
        raise UserError(f"{run}: not a run of natix_hf: it has no run.json")

    from natix_hf.files import read_json
    from natix_hf.report.summary import summary_lines
    from natix_hf.training.final import evaluate_run

    if read_json(run / "run.json").get("status") != "finished":
        raise UserError(f"{run}: the run is not finished: train it with --resume_from_checkpoint true first")
    document = evaluate_run(run)
    print("\n".join(summary_lines(document, read_json(run / "calibration.json"))))


if __name__ == "__main__":
    command(main)
