"""Data sets without leaks: divide photos into four splits, check the splits, push them to the Hub.

python -m natix_hf.data split photos/ --output data/streets
python -m natix_hf.data check data/streets
python -m natix_hf.data push data/streets me/streets-4way
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

from natix_hf.data.sources.named_places import check_there
from natix_hf.errors import CommandParser, command
from natix_hf.files import check_folder


def _pair(cast: Callable[[str], Any]) -> Callable[[str], tuple[str, Any]]:
    """An argparse type for `name=value`."""

    def read(word: str) -> tuple[str, Any]:
        name, equals, value = word.partition("=")
        try:
            if not (name and equals and value):
                raise ValueError
            return name, cast(value)
        except ValueError:
            what = "value" if cast is str else "number"
            raise argparse.ArgumentTypeError(f"{word}: expected name={what}") from None

    return read


def _split_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `split`. Options of `Plan` and `load_rows` have the same names; None if not given."""
    add = parser.add_argument
    add("sources", nargs="+", help="folders, tables or Hub ids; several can be given names: real=photos/ t2i=made/")
    add("--output", required=True, help="folder to write, absent or empty")
    add("--extend", metavar="FOLDER", help="add the photos to these earlier splits, whose rows stay where they are")
    ratios = "shares of the splits (default 0.6 0.15 0.15 0.1)"
    add("--split_ratios", dest="ratios", nargs=4, type=float, metavar="R", help=ratios)
    add("--split_seed", dest="seed", type=int, help="the same rows and seed give the same split (default 0)")
    add("--strata", nargs="+", metavar="COLUMN", help="also stratify by these columns")
    only_test = "rows with this value go to val_test only"
    add("--hold_out", nargs="+", type=_pair(str), metavar="COLUMN=VALUE", help=only_test)
    test = "keep a test split of the source as val_test (default), or merge it with the rest"
    add("--test_split", choices=("keep", "merge"), help=test)
    add(
        "--group_column",
        nargs="+",
        metavar="COLUMN",
        help="rows with the same value stay together (e.g. a video or sequence)",
    )
    add("--place_column", help="column with latitude and longitude, for --metres")
    add("--time_column", help="column with dates, for --seconds")
    add("--metres", type=float, help="photos closer than this stay together")
    add("--seconds", type=float, help="... if they are also within this time, for photos with known times")
    copies = "do not search for altered copies of photos"
    add("--no_near_duplicates", dest="near_duplicates", action="store_const", const=False, help=copies)
    add("--largest_share", type=float, help="stop if a group has more than this share of the rows (default 0.5)")
    add("--image_column_name", help="column with the photos (default image)")
    add("--label_column_name", help="column with the classes (default label)")
    add("--label_names", nargs="+", metavar="NAME", help="class names in the order of their ids")
    add("--description_column", help="column with a text; rows whose label contradicts it are left out and listed")
    add("--dataset_config", help="configuration of a Hub data set; for builtin:scenes COUNT [WIDTHxHEIGHT] [far]")
    add("--source_caps", nargs="+", type=_pair(int), metavar="NAME=N", help="largest number of rows of a source")
    weights = "shares of the sources; surplus rows are left out"
    add("--source_weights", nargs="+", type=_pair(float), metavar="NAME=W", help=weights)
    broken = "unreadable photos: refuse to start, or skip and list them (default skip)"
    add("--broken_photos", choices=("skip", "refuse"), default="skip", help=broken)
    add("--max_photo_mb", type=float, help="do not read larger files (default 64)")
    convert = "store photos that a client's pipeline would see differently (16-bit, transparent) as 8-bit PNG"
    add("--convert_photos", action="store_const", const=True, help=convert)
    add("--num_proc", type=int, help="processes that read photos (default one per core)")
    trust = "run code that comes with the data set"
    add("--trust_remote_code", action="store_const", const=True, help=trust)


def split(given: argparse.Namespace) -> None:
    """Divide photos into four splits, and write them with their certificate."""
    for source in given.sources:
        check_there(source, bare_ids=True)

    from natix_hf.data.load_photos import split_photos
    from natix_hf.data.splits.certificate_text import summary_lines
    from natix_hf.data.splits.saved_folder import check_output, save

    check_output(given.output)
    words = {name: value for name, value in vars(given).items() if value is not None}
    words |= {name: dict(words[name]) for name in ("source_caps", "source_weights") if name in words}
    if "hold_out" in words:
        words["hold_out"] = {name: [v for n, v in given.hold_out if n == name] for name, _ in given.hold_out}
    output, sources, _ = words.pop("output"), words.pop("sources"), words.pop("verb")
    done = split_photos(sources, say=partial(print, flush=True), **words)
    save(done, output)
    print(f"{output}: written")
    print("\n".join([*summary_lines(done.description), *done.notes]))


def check(given: argparse.Namespace) -> int:
    """Check splits and print the results; returns 1 if there is a violation."""
    check_there(given.data)

    from natix_hf.data.splits.checking import check as check_splits

    report = check_splits(given.data, max_auroc=given.max_auroc, contact_sheet=given.contact_sheet)
    print("\n".join(report.lines))
    return 1 if report.violations else 0


def push(given: argparse.Namespace) -> None:
    """Push a folder of splits to the Hub."""
    check_folder(given.folder)

    from natix_hf.hub.dataset_push import push as push_folder

    print(push_folder(given.folder, given.repo_id, private=given.private))


def command_line() -> CommandParser:
    """The options of this verb."""
    parser = CommandParser(prog="python -m natix_hf.data", description=__doc__.split("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="split|check|push")
    _split_options(verbs.add_parser("split", help="divide photos into four splits", description=split.__doc__))
    checked = verbs.add_parser(
        "check", help="check for leaks, copies, broken photos, label conflicts, class shares and shortcuts"
    )
    checked.add_argument("data", help="folder of splits, or Hub id of pushed splits")
    checked.add_argument("--max_auroc", type=float, default=0.75, help="limit of the shortcut test (default 0.75)")
    checked.add_argument(
        "--contact_sheet", metavar="PNG", help="PNG file for a picture of copies with different labels"
    )
    pushed = verbs.add_parser("push", help="push splits to the Hub as a data set")
    pushed.add_argument("folder", help="folder of splits")
    pushed.add_argument("repo_id", help="owner/name")
    pushed.add_argument("--private", action="store_true", help="make the data set private")
    return parser


def main(argv: list[str]) -> None:
    given = command_line().parse_args(argv)
    status = {"split": split, "check": check, "push": push}[given.verb](given)
    if status:
        raise SystemExit(status)


if __name__ == "__main__":
    command(main)
