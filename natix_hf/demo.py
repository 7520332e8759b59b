"""The last step of `make demo`: use a finished run as a user would.

python -m natix_hf.demo runs/demo
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

from natix_hf.errors import UserError, command

if TYPE_CHECKING:
    from natix_hf.scenes.photos import Scene


def streets(count: int) -> list[Scene]:
    """One photo each of the first streets of a series that the demo does not train on."""
    from natix_hf.scenes.photos import scene

    shown: dict[str, Scene] = {}
    for index in itertools.count():
        photo = scene(7, index)
        shown.setdefault(photo.group, photo)
        if len(shown) == count:
            return list(shown.values())


def command_line() -> argparse.ArgumentParser:
    """The options of this verb."""
    parser = argparse.ArgumentParser(prog="python -m natix_hf.demo", description=__doc__.split("\n")[0])
    parser.add_argument("run", help="folder of a finished run")
    return parser


def main(argv: list[str]) -> None:
    given = command_line().parse_args(argv)
    if not (Path(given.run) / "metrics.json").is_file():
        raise UserError(f"{given.run}: not a finished run: train it first with make demo")

    from transformers import pipeline
    from transformers.utils import logging

    logging.disable_progress_bar()
    print("\nfrom transformers import pipeline; import natix_hf")
    print(f"pipeline('image-classification', model='{given.run}')(photo)")
    classify = pipeline("image-classification", model=given.run)
    for number, photo in enumerate(streets(6), start=1):
        scores = classify(photo.image)
        shown = ", ".join(f"{score['label']} {score['score']:.3f}" for score in scores)
        shows = "roadwork" if photo.label else "no roadwork"
        print(f"  new street {number} ({photo.daytime}, {photo.weather}, {shows}): {shown}")
    print(f"\nNext: your own photos, see README.md. The run, with its card, figures and splits, is in {given.run}/")


if __name__ == "__main__":
    command(main)
