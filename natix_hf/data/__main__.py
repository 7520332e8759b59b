"""Data sets that cannot leak: split photos into four, check the splits, push them to the Hub.

python -m natix_hf.data split photos/ --output data/streets
python -m natix_hf.data check data/streets
python -m natix_hf.data push data/streets me/streets-4way
"""

from __future__ import annotations

import argparse
from typing import Any

from natix_hf.errors import CommandParser, UserError, command


def _pairs(given: list[str] | None, option: str) -> dict[str, list[str]]:
    """`column=value` words as column -> values."""
    pairs: dict[str, list[str]] = {}
    for word in given or []:
        key, equals, value = word.partition("=")
        if not (key and equals and value):
            raise UserError(f"--{option} {word}: expected name=value")
        pairs.setdefault(key, []).append(value)
    return pairs


def _numbers(given: list[str] | None, option: str, cast: type) -> dict[str, Any]:
    pairs = {}
    for key, values in _pairs(given, option).items():
        try:
            pairs[key] = cast(values[-1])
        except ValueError:
            raise UserError(f"--{option} {key}={values[-1]}: expected a number") from None
    return pairs


def _split_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("sources", nargs="+", help="folders, tables, Hub ids; several may be named: real=photos/ t2i=made/")
    add("--output", required=True, help="folder to write, absent or empty")
    add("--extend", metavar="FOLDER", help="splits made earlier: their rows stay where they are, new ones join them")
    add("--split_ratios", nargs=4, type=float, metavar="R", help="shares of the splits (default 0.6 0.15 0.15 0.1)")
    add("--split_seed", type=int, help="the same rows and seed give the same split (default 0)")
    add("--strata", nargs="+", metavar="COLUMN", help="keep the values of these columns in proportion too")
    add("--hold_out", nargs="+", metavar="COLUMN=VALUE", help="rows with this value go to val_test and nowhere else")
    add(
        "--test_split",
        choices=("keep", "merge"),
        help="a test part of the source: keep it as val_test (default), or merge it with the rest",
    )
    add("--group_column", nargs="+", metavar="COLUMN", help="rows of one value stay together (a video, a sequence)")
    add("--place_column", help="column of latitude and longitude, for --metres")
    add("--time_column", help="column of dates, for --seconds")
    add("--metres", type=float, help="photos nearer than this stay together")
    add("--seconds", type=float, help="... if they are also nearer than this in time, where both times are known")
    add("--no_near_duplicates", action="store_true", help="do not look for altered copies")
    add("--largest_share", type=float, help="stop where a group holds more than this share of the rows (default 0.5)")
    add("--image_column_name", default="image", help="column of photos (default image)")
    add("--label_column_name", default="label", help="column of classes (default label)")
    add("--label_names", nargs="+", metavar="NAME", help="the classes in the order of their numbers")
    add("--description_column", help="rows whose label contradicts this text are left out and listed")
    add("--dataset_config", help="configuration of a Hub data set; for builtin:scenes the number of photos")
    add("--source_caps", nargs="+", metavar="NAME=N", help="at most so many rows of a source")
    add("--source_weights", nargs="+", metavar="NAME=W", help="shares of the sources, reached by taking fewer rows")
    add(
        "--broken_photos",
        choices=("skip", "refuse"),
        default="skip",
        help="what to do about photos that cannot be read (default skip: they are listed)",
    )
    add("--max_photo_mb", type=float, help="larger files are not decoded (default 64)")
    add("--num_proc", type=int, help="processes that read photos (default one per core)")
    add("--trust_remote_code", action="store_true", help="run code that comes with a data set")


def split(given: argparse.Namespace) -> None:
    """Write the splits with their certificate."""
    from natix_hf.data.photos import split_photos
    from natix_hf.data.saved import check_output, save

    check_output(given.output)
    plan = {
        "ratios": given.split_ratios,
        "seed": given.split_seed,
        "strata": given.strata,
        "hold_out": _pairs(given.hold_out, "hold_out") or None,
        "test_split": given.test_split,
        "near_duplicates": False if given.no_near_duplicates else None,
        "place_column": given.place_column,
        "time_column": given.time_column,
        "metres": given.metres,
        "seconds": given.seconds,
        "largest_share": given.largest_share,
    }
    options = {
        "dataset_config": given.dataset_config,
        "image_column_name": given.image_column_name,
        "label_column_name": given.label_column_name,
        "group_column": given.group_column,
        "label_names": given.label_names,
        "description_column": given.description_column,
        "source_caps": _numbers(given.source_caps, "source_caps", int) or None,
        "source_weights": _numbers(given.source_weights, "source_weights", float) or None,
        "broken_photos": given.broken_photos,
        "max_photo_mb": given.max_photo_mb,
        "num_proc": given.num_proc,
        "trust_remote_code": given.trust_remote_code or None,
    }
    done = split_photos(
        given.sources,
        extend=given.extend,
        plan={key: value for key, value in plan.items() if value is not None},
        **{key: value for key, value in options.items() if value is not None},
    )
    save(done, given.output)

    from natix_hf.data.certificate_text import summary_lines

    print(f"{given.output}: written")
    print("\n".join(summary_lines(done.description)))


def check(given: argparse.Namespace) -> int:
    """Print the certificate's lines; 1 where something is violated."""
    from natix_hf.data.checking import check as check_splits

    report = check_splits(given.data, max_auroc=given.max_auroc, contact_sheet=given.contact_sheet)
    print("\n".join(report.lines))
    return 1 if report.violations else 0


def push(given: argparse.Namespace) -> None:
    """Push a folder of splits."""
    from natix_hf.hub.dataset_push import push as push_folder

    print(push_folder(given.folder, given.repo_id, private=given.private))


def main(argv: list[str]) -> None:
    parser = CommandParser(prog="python -m natix_hf.data", description=__doc__.split("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="split|check|push")
    _split_options(verbs.add_parser("split", help="divide photos into four splits", description=split.__doc__))
    checked = verbs.add_parser("check", help="leaks, copies, broken photos, label conflicts, balance, shortcuts")
    checked.add_argument("data", help="folder of splits, or Hub id of one that was pushed")
    checked.add_argument("--max_auroc", type=float, default=0.75, help="limit of the shortcut test (default 0.75)")
    checked.add_argument("--contact_sheet", metavar="PNG", help="draw copies with different labels side by side")
    pushed = verbs.add_parser("push", help="push splits to the Hub as a data set")
    pushed.add_argument("folder", help="folder of splits")
    pushed.add_argument("repo_id", help="owner/name")
    pushed.add_argument("--private", action="store_true", help="only you may see it")
    given = parser.parse_args(argv)
    status = {"split": split, "check": check, "push": push}[given.verb](given)
    if status:
        raise SystemExit(status)


if __name__ == "__main__":
    command(main)
