"""Make a verified model from photos with one command, which does only what is out of date and says why.

python -m natix_hf.pipeline recipes/streetvision.yaml
python -m natix_hf.pipeline recipes/streetvision.yaml --until report --dry_run --graph pipeline.svg
python -m natix_hf.pipeline runs/streetvision-pipeline/1a2b3c4d-5e6f70 --explain metrics.json

The steps are split, train, predict, calibrate, assemble, show, evaluate, report, export and prove. Each version has
its own folder in OUTPUT_DIR-pipeline, named by a hash of its inputs. Nothing is overwritten, and an earlier recipe
finds its results again. Nothing is published; natix_hf.publish does that.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from natix_hf.errors import CommandParser, UserError, command


def command_line() -> CommandParser:
    """The options of this verb besides the keys of a recipe."""
    about = {"prog": "python -m natix_hf.pipeline", "description": __doc__.split("\n")[0]}
    parser = CommandParser(**about, add_help=False, allow_abbrev=False)
    parser.add_argument("recipe", help="recipe, followed by keys of it (--key value); or the folder of a version")
    parser.add_argument("--until", default="prove", metavar="STEP", help="last step to do (default prove)")
    parser.add_argument("--dry_run", action="store_true", help="only say what would be done, and why")
    parser.add_argument("--graph", metavar="SVG", help="draw the steps and their states to a file")
    parser.add_argument("--explain", metavar="FILE", help="show how a file of a version was made from the photos")
    parser.add_argument(
        "--evaluate_again",
        action="store_true",
        help="read val_test again, which is counted, if its figures are out of date",
    )
    parser.add_argument(
        "--launcher",
        default="accelerate launch",
        metavar="COMMAND",
        help="command that starts training (default accelerate launch)",
    )
    return parser


def main(argv: list[str]) -> None:
    parser = command_line()
    if "-h" in argv or "--help" in argv:
        from natix_hf.recipe.yaml_and_command_line import help_text

        print(help_text(argv, about=parser.format_help()))
        return
    given, words = parser.parse_known_args(argv)
    if given.explain:
        from natix_hf.runs.pipeline.explain import explained

        if words:
            raise UserError(f"--explain: expected only the folder of a version and one of its files, found {words[0]}")
        print("\n".join(explained(Path(given.recipe), given.explain)))
        return

    from natix_hf.files import check_writable
    from natix_hf.runs.lease import held
    from natix_hf.runs.pipeline.asked_version import asked_version
    from natix_hf.runs.pipeline.picture import draw
    from natix_hf.runs.pipeline.plan import Pipeline, plan, wanted

    version = asked_version([given.recipe, *words], _resolve)
    steps = wanted(given.until, version.recipe)
    states = plan(version, steps)
    print(f"{version.run}")
    for state in states:
        print(f"  {state.step.name:<10} {'up to date' if state.why is None else state.why}")
    if given.graph:
        draw(states, version.name, Path(given.graph))
    if given.dry_run or (version.run.exists() and all(state.why is None for state in states)):
        return
    pipeline = Pipeline(
        version,
        launcher=given.launcher,
        evaluate_again=given.evaluate_again,
        say=lambda line: print(line, flush=True),
    )
    check_writable(version.store, "output_dir")
    with held(version.store / ".lease", "another pipeline is at work"):
        try:
            done = pipeline.carry_out(steps)
        except KeyboardInterrupt:
            print("\nstopped; the same command continues from here")
            raise
    print(f"{version.run}: {', '.join(done) or 'nothing'} done, all up to date to {given.until}")
    if (version.run / "report.html").is_file():
        print(f"report: {version.run / 'report.html'}")
        print(f"next: natix-hf publish {shlex.quote(str(version.run))} OWNER/NAME")


def _resolve(words: list[str]) -> dict[str, str]:
    """The `recipe.yaml`, the output_dir and the export format of a recipe and its keys."""
    from natix_hf.recipe.yaml_and_command_line import parse, resolved

    recipe = parse(words)
    if recipe.purpose.kind != "run":
        raise UserError(
            f"pipeline: the recipe is for a {recipe.purpose.kind}, which has no such steps: leave that key out"
        )
    return {"text": resolved(recipe), "output_dir": recipe.training.output_dir, "form": recipe.hub.hub_format}


if __name__ == "__main__":
    command(main)
