"""Try every combination of some values of a recipe, one run after the other, and rank them by `val_select` alone.

python -m natix_hf.sweep recipes/lora.yaml --grid lora_r=8,16,32 learning_rate=1e-4,3e-4 --output_dir runs/sweep

Other keys (`--key value`) hold for all runs. The same command goes on where it was stopped: finished runs are kept,
an interrupted one resumes, one that failed is tried again. Ends with exit status 1 where runs failed. `val_test` is
not read: SWEEP.md says how the one that won gets its look.
"""

from __future__ import annotations

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from natix_hf.errors import UserError, command

USAGE = (
    "python -m natix_hf.sweep RECIPE --grid KEY=VALUE,VALUE [KEY=VALUE,...] [--output_dir FOLDER] [--KEY VALUE ...]"
)


class Planned(NamedTuple):
    """A run of the sweep: its name, what `natix_hf.train` is called with, its recipe.yaml and the values it tries."""

    name: str
    words: list[str]
    text: str
    values: dict[str, Any]


def divide(argv: list[str]) -> tuple[list[str], list[str]]:
    """The words behind `--grid`, and all others."""
    if argv.count("--grid") != 1:
        raise UserError(f"one --grid expected: {USAGE}")
    start = argv.index("--grid")
    end = next((i for i in range(start + 1, len(argv)) if argv[i].startswith("--")), len(argv))
    return argv[start + 1 : end], argv[:start] + argv[end:]


def plan(argv: list[str]) -> tuple[Path, list[Planned]]:
    """The folder of the sweep and its runs, every recipe of them parsed, before anything runs."""
    import yaml

    from natix_hf.recipe.yaml_and_command_line import parse, resolved
    from natix_hf.runs.sweep_runs import REFUSED, read_grid

    grid, rest = divide(argv)
    cells = read_grid(grid)
    for key in ("sweep", "find_lr", "refit", "refit_from", "resume_from_checkpoint", "overwrite_output_dir"):
        if any(word.split("=")[0] == f"--{key}" for word in rest):
            raise UserError(f"--{key} cannot be set: {REFUSED[key]}")
    given = [word.split("=")[0] for word in rest]
    if "--output_dir" in given:
        output = Path(parse(rest).training.output_dir)
        at = given.index("--output_dir")
        rest = rest[:at] + rest[at + (1 if "=" in rest[at] else 2) :]
    else:
        output = Path(f"{parse(rest).training.output_dir}-sweep")
    runs: list[Planned] = []
    for cell in cells:
        own = ["--output_dir", str(output / cell.name), "--sweep", "true"]
        # What one start alone may say; a recipe file that says so for its own run does not say it for the sweep.
        recipe = parse([*rest, *cell.words, *own, "--overwrite_output_dir", "false"])
        text = resolved(recipe)
        known = yaml.safe_load(text)
        runs.append(Planned(cell.name, [*rest, *cell.words, *own], text, {key: known.get(key) for key in cell.keys}))
        if twin := next((run for run in runs[:-1] if run.values == runs[-1].values), None):
            raise UserError(f"--grid: {twin.name} and {cell.name} are the same run: remove one")
    return output, runs


def main(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        print(f"{USAGE}\n\n{__doc__}")
        return
    output, runs = plan(argv)

    import yaml

    from natix_hf.data.sources.known_sources import LABEL_KEYS, tell_classes
    from natix_hf.files import check_writable, write_text
    from natix_hf.runs.processes import train
    from natix_hf.runs.sweep_runs import Outcome, ranking, state, table

    check_writable(output, "output_dir")
    states = {run.name: state(output / run.name, run.text) for run in runs}
    if set(states.values()) != {"finished"}:
        recipe = yaml.safe_load(runs[0].text)
        tell_classes(
            recipe["dataset_name"], partial(print, flush=True), **{key: recipe.get(key) for key in LABEL_KEYS}
        )
    outcomes = {
        run.name: Outcome(run.values, "finished" if states[run.name] == "finished" else "waiting") for run in runs
    }
    text = ""
    for place, run in enumerate(runs, start=1):
        found = states[run.name]
        told = {"new": "begins", "interrupted": "goes on", "finished": "is there already"}[found]
        print(f"run {place}/{len(runs)} {run.name}: {told}", flush=True)
        if found != "finished":
            failed = train(output, run.name, run.words, resume=found == "interrupted")
            outcomes[run.name] = Outcome(run.values, "failed" if failed else "finished", failed)
            if failed:
                print(f"run {place}/{len(runs)} {run.name}: failed: {failed}", file=sys.stderr, flush=True)
        document = ranking(output, outcomes)
        look = None
        if document.runs[0].rank and not any(one.status == "waiting" for one in document.runs):
            best = output / document.runs[0].name / "recipe.yaml"
            words = ["python", "-m", "natix_hf.train", str(best), "--output_dir", f"{output}-winner"]
            look = shlex.join(words)
        text = table(document, look)
        document.write(output)
        write_text(output / "SWEEP.md", text)
    print(f"\n{text}")
    if any(outcome.status == "failed" for outcome in outcomes.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    command(main)
