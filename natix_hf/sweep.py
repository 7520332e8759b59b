"""Try combinations of values of a recipe, one run after the other, and rank them by `val_select` alone.

python -m natix_hf.sweep recipes/lora.yaml --grid lora_r=8,16,32 learning_rate=1e-4,3e-4 --output_dir runs/sweep

Other keys (`--key value`) hold for all runs. `--seeds 0 1 2` trains each combination with each seed and ranks by the
mean. The same command goes on where it was stopped: finished runs are kept, an interrupted one resumes, one that
failed is tried again. Typed on several machines that share the folder, it shares the runs among them. `--only NAME`
trains one run, `--only` alone writes the table. Ends with exit status 1 where runs failed. `val_test` is not read:
SWEEP.md says how the one that won gets its look.
"""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path

from natix_hf.errors import command


def main(argv: list[str]) -> None:
    from natix_hf.runs.sweep_plan import USAGE, chosen, plan, read_request

    if not argv or argv[0] in ("-h", "--help"):
        print(f"{USAGE}\n\n{__doc__}")
        return
    request = read_request(argv)

    import yaml

    from natix_hf.recipe.yaml_and_command_line import parse, resolved

    output, runs = plan(request, parse, resolved)
    mine = chosen(runs, request.own["only"]) if "only" in request.own else runs

    from natix_hf.data.sources.known_sources import LABEL_KEYS, tell_classes
    from natix_hf.files import check_writable
    from natix_hf.runs.fan_out import outcomes, work

    check_writable(output, "output_dir")
    found = outcomes(output, runs, "sweep")
    if mine and {outcome.status for outcome in found.values()} != {"finished"}:
        recipe = yaml.safe_load(runs[0].text)
        tell_classes(
            recipe["dataset_name"], partial(print, flush=True), **{key: recipe.get(key) for key in LABEL_KEYS}
        )
    work(output, mine, noun="run", whose="sweep", after=lambda: write_tables(output, runs))
    print(f"\n{write_tables(output, runs)}")
    if any(outcome.status == "failed" for outcome in outcomes(output, runs, "sweep").values()):
        raise SystemExit(1)


def write_tables(output: Path, runs: list) -> str:
    """Write sweep.json and SWEEP.md of what stands on the disk now; returns the latter."""
    from natix_hf.files import write_text
    from natix_hf.runs.fan_out import lease_of, outcomes
    from natix_hf.runs.lease import waited_for
    from natix_hf.runs.sweep_ranking import ranking, table, winner, with_flattery

    with waited_for(lease_of(output, ".tables")):
        document = ranking(output, runs, outcomes(output, runs, "sweep"))
        look = None
        if (best := winner(document)) and not any(one.status == "waiting" for one in document.runs):
            document = with_flattery(output, document)
            recipe = output / best.name / "recipe.yaml"
            look = shlex.join(["python", "-m", "natix_hf.train", str(recipe), "--output_dir", f"{output}-winner"])
        text = table(document, look)
        document.write(output)
        write_text(output / "SWEEP.md", text)
    return text


if __name__ == "__main__":
    command(main)
