"""Train one run for each value of a metadata column: tested on the photos with that value, trained on the others.

python -m natix_hf.folds recipes/probe.yaml --hold_out_each city_name --output_dir runs/cities

Other keys (`--key value`) apply to all runs. A probe is cheap, because features are computed once for all folds. The
same command continues where it was stopped: finished folds are kept, an interrupted one resumes, a failed one is tried
again. On several machines that share the folder, it divides the folds among them. The exit status is 1 if folds
failed. Writes `folds.json` and `FOLDS.md`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from natix_hf.errors import UserError, command
from natix_hf.files import check_writable, write_text
from natix_hf.options import typed_keys, without_keys

USAGE = "python -m natix_hf.folds RECIPE --hold_out_each COLUMN [--output_dir FOLDER] [--KEY VALUE ...]"
OWN = ("hold_out_each", "output_dir")  # each fold has its own
REFUSED = ("sweep", "find_lr", "refit", "refit_from", "resume_from_checkpoint", "overwrite_output_dir", "test_on")


def main(argv: list[str]) -> None:
    if not argv or "-h" in argv or "--help" in argv:
        from natix_hf.recipe.yaml_and_command_line import help_text

        print(help_text(argv or ["--help"], about=f"{USAGE}\n\n{__doc__}"))
        return
    for key in REFUSED:
        if key in typed_keys(argv):
            raise UserError(f"--{key} cannot be set, because each fold sets its own: {USAGE}")

    from natix_hf.recipe.yaml_and_command_line import parse, resolved

    recipe = parse(argv)
    column = recipe.data.hold_out_each
    if column is None:
        raise UserError(f"no column to hold out: add --hold_out_each city_name: {USAGE}")
    if recipe.purpose.kind != "run" or recipe.data.test_on:
        raise UserError("the recipe has another purpose (sweep, find_lr, refit, test_on): leave out that key")
    ending = "" if "output_dir" in typed_keys(argv) else "-folds"
    output = Path(f"{recipe.training.output_dir}{ending}")
    check_writable(output, "output_dir")

    import yaml

    from natix_hf.runs.lease import waited_for
    from natix_hf.runs.many_runs.fan_out import Planned, lease_of, outcomes, work
    from natix_hf.runs.many_runs.held_out_folds import folds_document, folds_table, plan_folds, recipe_rows

    folds = plan_folds(recipe_rows(yaml.safe_load(resolved(recipe)), partial(print, flush=True)), column)

    runs: list[Planned] = []
    for fold in (fold for fold in folds if not fold.skipped):
        own = ["--test_on", f"{column}={fold.value}", "--output_dir", str(output / fold.name)]
        words = [*without_keys(argv, OWN), *own]
        runs.append(Planned(fold.name, words, resolved(parse([*words, "--overwrite_output_dir", "false"]))))
    outcomes(output, runs, "command")  # refuses folders that hold something else, before anything runs
    for fold in (fold for fold in folds if fold.skipped):
        print(f"{column} = {fold.value}: no fold: {fold.skipped}", flush=True)

    def write_tables():
        with waited_for(lease_of(output, ".tables")):
            document = folds_document(output, column, folds, outcomes(output, runs, "command"))
            document.write(output)
            write_text(output / "FOLDS.md", folds_table(document))
        return document

    work(output, runs, noun="fold", whose="command", after=write_tables)
    document = write_tables()
    print(f"\n{folds_table(document)}")
    if any(fold.status == "failed" for fold in document.folds):
        raise SystemExit(1)


if __name__ == "__main__":
    command(main)
