"""Compute the final figures of a run from its saved predictions on `val_test`, and write report.html.

python -m natix_hf.evaluate runs/lora
python -m natix_hf.evaluate runs/lora --robustness challenge@2025 --field scores.csv
"""

from __future__ import annotations

from natix_hf.errors import CommandParser, command


def command_line() -> CommandParser:
    """The options of this verb."""
    parser = CommandParser(prog="python -m natix_hf.evaluate", description=__doc__.split("\n")[0])
    parser.add_argument("run", help="folder of a finished run")
    parser.add_argument(
        "--robustness",
        nargs="+",
        default=[],
        metavar="PROFILE",
        help="first run the model on val_test as these challenge profiles distort it, e.g. challenge@2025; needs the "
        "photos of the run's recipe",
    )
    parser.add_argument("--field", metavar="CSV", help="scores of other participants, for the simulated reward")
    return parser


def main(argv: list[str]) -> None:
    given = command_line().parse_args(argv)

    from natix_hf.runs.folder import check_one_model, finished
    from natix_hf.streetvision.field import read_field

    run = finished(given.run)
    if given.robustness:
        check_one_model(run, "--robustness")
    field = read_field(given.field) if given.field else None

    from natix_hf.documents.calibration import CalibrationFile
    from natix_hf.documents.reward import Reward
    from natix_hf.documents.robustness import Robustness
    from natix_hf.documents.run_record import RunRecord
    from natix_hf.documents.slices import Slices
    from natix_hf.report.robustness import robustness_lines
    from natix_hf.report.slices import slice_lines
    from natix_hf.report.summary import summary_lines
    from natix_hf.runs.evaluate_run import evaluate_run
    from natix_hf.runs.report_page import report_run
    from natix_hf.streetvision.reward_report import reward_lines

    if given.robustness:
        from natix_hf.runs.measure_robustness import measure_robustness

        measure_robustness(run, given.robustness)
    document = evaluate_run(run, field=field)
    if RunRecord.read(run).purpose != "refit":  # a refit has the figures of its honest run
        report_run(run)
    lines = summary_lines(document, CalibrationFile.read(run))
    for kind, lines_of in ((Slices, slice_lines), (Robustness, robustness_lines), (Reward, reward_lines)):
        if kind.there(run):
            lines += lines_of(kind.read(run))
    print("\n".join(lines))
    if (run / "report.html").is_file():  # a refit has no report
        print(f"report: {run / 'report.html'}")


if __name__ == "__main__":
    command(main)
