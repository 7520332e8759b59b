"""Try combinations of values of a recipe, one run after the other, and rank them on `val_select`.

python -m natix_hf.sweep recipes/lora.yaml --grid lora_r=8,16,32 learning_rate=1e-4,3e-4 --output_dir runs/sweep
python -m natix_hf.sweep recipes/lora.yaml --search tpe --trials 40 --space lora_r=4..64:log augment=basic,auto

Other keys (`--key value`) apply to all runs. `--seeds 0 1 2` trains each combination of a grid with each seed and
ranks by the mean. The same command continues where it was stopped: finished runs are kept, an interrupted one resumes,
a failed run of a grid is tried again. On several machines that share the folder, it divides the runs among them.
`--only NAME` trains one run (`--only next` one trial of a search), and `--only` without a name writes the table.
`--emit` prints such commands for a shell, Slurm or Hugging Face Jobs, and trains nothing. The exit status is 1 if runs
failed. `val_test` is not read; SWEEP.md says how to test the winner.
"""

from __future__ import annotations

from functools import partial

from natix_hf.errors import command

USAGE = (
    "python -m natix_hf.sweep RECIPE (--grid KEY=VALUE,VALUE ... [--seeds 0 1 2] | --search tpe --trials N --space "
    "KEY=LOW..HIGH[:log] KEY=VALUE,VALUE ...) [--output_dir FOLDER] [--only NAME ... | --emit commands | --emit slurm "
    "| --emit hf-jobs --flavor NAME --bucket OWNER/NAME [--timeout 2h] [--package PACKAGE]] [--KEY VALUE ...]"
)


def main(argv: list[str]) -> None:
    if not argv or "-h" in argv or "--help" in argv:
        from natix_hf.recipe.yaml_and_command_line import help_text

        print(help_text(argv or ["--help"], about=f"{USAGE}\n\n{__doc__}"))
        return

    from natix_hf.recipe.yaml_and_command_line import find_recipe, parse, resolved
    from natix_hf.runs.many_runs.sweep_plan import Grid, read_request

    request = read_request(argv, USAGE)
    parse(request.rest)  # a recipe that is wrong is refused before torch is imported

    from natix_hf.data.sources.known_sources import LABEL_KEYS, report_classes
    from natix_hf.files import check_writable
    from natix_hf.runs.many_runs import emit
    from natix_hf.runs.many_runs.search import TpeSearch
    from natix_hf.runs.many_runs.sweep_ranking import write_tables

    emit.check(request)
    sweep = (TpeSearch if "search" in request.own else Grid)(request, parse, resolved)
    check_writable(sweep.output, "output_dir")
    sweep.begin()
    if "emit" in request.own:
        print("\n".join(emit.emit(sweep, request, find_recipe(request.rest[0]))))
        return
    if not sweep.done():
        labels = {key: sweep.recipe.get(key) for key in LABEL_KEYS}
        report_classes(sweep.recipe["dataset_name"], partial(print, flush=True), **labels)
    sweep.work(after=lambda: write_tables(sweep.output, sweep))
    document = write_tables(sweep.output, sweep)
    print(f"\n{(sweep.output / 'SWEEP.md').read_text(encoding='utf-8')}")
    if any(run.status == "failed" for run in document.runs):
        raise SystemExit(1)


if __name__ == "__main__":
    command(main)
