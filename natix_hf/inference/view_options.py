"""Command-line options for how a finished model sees photos: size, test-time views, speed.

Imports nothing slow, because `--help` loads this module.
"""

from __future__ import annotations

from argparse import ArgumentTypeError

from natix_hf.errors import CommandParser, UserError

# Views besides the photo itself.
TEST_VIEWS = {"flip": "its mirror image", "scales": "3/4 and 5/4 of the size"}


def add_size_options(parser: CommandParser) -> None:
    """`--image_size H [W]` and `--force`."""
    parser.add_argument(
        "--image_size",
        type=int,
        nargs="+",
        metavar="PIXELS",
        help="height and width of the view, one number for a square (default: as in training)",
    )
    parser.add_argument(
        "--force", action="store_true", help="allow an --image_size that the model was not trained with"
    )


def add_views_option(parser: CommandParser) -> None:
    """`--tta NAMES`: None if not given, otherwise a tuple of names (empty for `none`)."""
    known = ", ".join(f"{name} ({meaning})" for name, meaning in TEST_VIEWS.items())
    parser.add_argument(
        "--tta",
        type=_views,
        metavar="VIEWS",
        help=f"average the logits over more views of a photo: {known}, both as flip,scales; or none",
    )


def check_speed(batch_size: int | None, num_workers: int | None) -> None:
    """Raise `UserError` if `--batch_size` or `--num_workers` is too small; None is `auto`."""
    for option, number, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
        if number is not None and number < least:
            raise UserError(f"--{option}: expected at least {least}, found {number}")


def _views(text: str) -> tuple[str, ...]:
    names = text.split(",")
    if names != ["none"] and not set(names) <= TEST_VIEWS.keys():
        raise ArgumentTypeError(
            f"expected {', '.join(TEST_VIEWS)}, both with a comma between them, or none; found {text!r}"
        )
    return tuple(name for name in TEST_VIEWS if name in names)
