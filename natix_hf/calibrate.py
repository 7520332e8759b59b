"""Choose calibration and threshold of a finished run again, from its saved predictions, without running the model.

python -m natix_hf.calibrate runs/lora --calibrator temperature vector --target_prior 0.5 --fold_threshold true
python -m natix_hf.calibrate runs/lora --deployment predictions.csv
python -m natix_hf.calibrate --cascade runs/small runs/large --views_exit_alpha 0.01 --output runs/cascade

Every option except --deployment, --cascade and --output is a key of the recipe. A key that is not given has the value
of the run; for a cascade, of its second run.
"""

from __future__ import annotations

from natix_hf.decision.calibrators import CALIBRATORS
from natix_hf.errors import CommandParser, UserError, command
from natix_hf.runs.decision_options import add_fold_threshold

NUMBERS = ("risk_alpha", "risk_delta", "prevalence", "views_exit_alpha", "views_exit_delta")
HELP = {
    "threshold_metric": "mcc, accuracy, f1, fbeta:B, cost:FP:FN, precision>=P or recall>=R",
    "calibrate_on": "clean, or the challenge profile that the run was trained with",
    "risk": "rate to guarantee on the control part: none, fpr, fnr, error, precision",
    "risk_alpha": "highest rate allowed",
    "risk_delta": "probability that the guarantee fails",
    "prevalence": "share of positives that a guarantee of precision assumes",
    "views_exit_alpha": "largest share of all photos that the first stage gets wrong and the second would get right",
    "views_exit_delta": "probability that this guarantee fails",
}


def command_line() -> CommandParser:
    parser = CommandParser(prog="python -m natix_hf.calibrate", description=__doc__.split("\n")[0])
    parser.add_argument("run", nargs="?", help="folder of a finished run")
    parser.add_argument(
        "--cascade",
        nargs="+",
        metavar="RUN",
        help="two finished runs instead, the cheaper first; the second answers if the first is not certain",
    )
    parser.add_argument("--output", metavar="FOLDER", help="for --cascade: folder to write, absent or empty")
    parser.add_argument("--calibrator", nargs="+", help=f"one or more of {', '.join(CALIBRATORS)}")
    parser.add_argument(
        "--target_prior",
        nargs="+",
        help="expected class shares, for two classes the share of the positive one; or none",
    )
    add_fold_threshold(parser, default=None)
    parser.add_argument(
        "--views_exit",
        nargs="+",
        help="which photos a run on tiles decides without its tiles, or a cascade with its first model: risk (default "
        "for a cascade), two numbers low and high, or none",
    )
    parser.add_argument(
        "--deployment",
        metavar="TABLE",
        help="table that natix-hf predict RUN wrote for photos without labels: their class shares become target_prior",
    )
    for name, text in HELP.items():
        parser.add_argument(f"--{name}", type=float if name in NUMBERS else str, help=text)
    return parser


def main(argv: list[str]) -> None:
    parser = command_line()
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}

    folders, output, run = (given.pop(name, None) for name in ("cascade", "output", "run"))
    if (
        (folders is None) != (output is None)
        or (folders is None) == (run is None)
        or (folders and "deployment" in given)
    ):
        raise UserError(
            "expected one run, or --cascade SMALL LARGE --output FOLDER without a run and without --deployment: "
            f"see {parser.prog} --help"
        )
    if folders:
        _cascade(folders, output, _cast(given))
        return

    from natix_hf.runs.folder import finished

    run = finished(run)

    from dataclasses import replace

    from natix_hf.data.splits.certificate import read_certificate
    from natix_hf.documents.run_record import RunRecord
    from natix_hf.report.decision_lines import calibration_lines
    from natix_hf.runs.assemble_model import recalibrate_weights
    from natix_hf.runs.calibrate_run import calibrate_run, options_of
    from natix_hf.runs.deployment_shares import deployment_lines, deployment_prior

    table = given.pop("deployment", None)
    # Only a guarantee that is asked for here must be within reach; one from the recipe need not be.
    insist = any(name.startswith(("risk", "views_exit")) for name in given)
    options = replace(options_of(run), **_cast(given))
    deployment = None
    if table is not None:
        if "target_prior" in given:
            raise UserError("--deployment, --target_prior: both give class shares: leave one of them out")
        target, deployment = deployment_prior(run, table)
        options = replace(options, target_prior=target)
    document = calibrate_run(run, options, deployment=deployment, insist=insist)
    names = read_certificate(run).label_names
    if deployment is not None:
        print("\n".join(deployment_lines(deployment, names, document.positive)))
    if RunRecord.read(run).purpose != "cascade":  # a cascade does not change its two models
        recalibrate_weights(run, document)
    print("\n".join(calibration_lines(document, names)))
    print(f"the figures in metrics.json are older; to compute them again: python -m natix_hf.evaluate {run}")


def _cascade(folders: list[str], output: str, given: dict) -> None:
    """Combine two finished runs into the folder of a cascade."""
    from pathlib import Path

    from natix_hf.data.splits.certificate import read_certificate
    from natix_hf.documents.cascade import TwoModels
    from natix_hf.report.decision_lines import calibration_lines
    from natix_hf.runs.combine_runs import combine_runs, price_line

    folder = Path(output).expanduser()
    document, line = combine_runs(folders, folder, given)
    lines = [line, *calibration_lines(document, read_certificate(folder).label_names)]
    print("\n".join(filter(None, [*lines, price_line(TwoModels.read(folder))])))
    print(f"next: python -m natix_hf.evaluate {output} computes the figures; natix_hf.predict classifies photos")


def _cast(given: dict) -> dict:
    """The options of the command line with the types of the recipe."""
    if given.get("views_exit") in (["none"], ["null"]):  # `null` as in a recipe
        given["views_exit"] = None
    if "target_prior" in given:
        words = given["target_prior"]
        try:
            given["target_prior"] = None if words == ["none"] else [float(word) for word in words]
        except ValueError:
            raise UserError(f"target_prior: expected numbers or none, found {' '.join(words)}") from None
    return given


if __name__ == "__main__":
    command(main)
