"""`natix-hf VERB ...` is `python -m natix_hf VERB ...` is `python -m natix_hf.VERB ...`."""

from __future__ import annotations

import difflib
import importlib
import shutil
import textwrap

from natix_hf import __version__
from natix_hf.errors import UserError, command

# Each verb with one sentence, in the order of use.
VERBS = {
    "train": "Train a classifier on your photos, calibrate it and test it once.",
    "predict": "Classify photos; writes calibrated probabilities and decisions to a table.",
    "evaluate": "Compute the final figures of a run and write its report.",
    "calibrate": "Choose calibration, class shares and threshold of a run again, without running the model.",
    "recalibrate": "Fit a finished model to photos of your own, without training.",
    "compare": "Compare finished runs that were tested on the same photos.",
    "sweep": "Try combinations of a recipe's values and rank them.",
    "folds": "Train one run for each value of a column, tested only on photos with that value.",
    "pretrain": "Pretrain a backbone on photos without labels.",
    "pipeline": "Do all steps from photos to a verified export that are out of date.",
    "export": "Write a finished run in the form that clients load, and verify it.",
    "publish": "Publish a finished run on the Hugging Face Hub.",
    "data": "Split photos without leaks, check a split, push it: split, check, push.",
    "demo": "Show what a finished run says about generated streets.",
    "completion": "Print a script for bash or zsh that completes verbs, options and their values.",
}
BEGIN = """\
To begin:
  natix-hf train recipes/lora.yaml --dataset_name photos/   photos/ has one folder for each class
  natix-hf predict runs/lora photos/ --output predictions.csv
  natix-hf train --help"""


def overview() -> str:
    """The verbs and the first commands, as wide as the terminal."""
    width = min(shutil.get_terminal_size().columns, 100)
    lines = ["usage: natix-hf VERB ...   or   natix-hf --version", ""]
    for verb, does in VERBS.items():
        lines += textwrap.wrap(does, width, initial_indent=f"  {verb:<13}", subsequent_indent=" " * 15)
    return "\n".join([*lines, "", BEGIN])


def module_of(verb: str) -> str:
    """The module whose `main` is a verb."""
    return "natix_hf.data.__main__" if verb == "data" else f"natix_hf.{verb}"


def run(argv: list[str]) -> None:
    """Call the verb named by the first word with the other words."""
    if not argv or argv[0] in ("-h", "--help"):
        print(overview())
        return
    verb, *words = argv
    if verb == "--version":
        print(f"natix_hf {__version__}")
        return
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(VERBS)}"
        raise UserError(f"{verb}: unknown verb: {hint}")
    importlib.import_module(module_of(verb)).main(words)


def main() -> None:
    """The command `natix-hf`."""
    command(run)


if __name__ == "__main__":
    main()
