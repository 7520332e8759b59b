"""Compare finished runs that were tested on the same photos: paired differences, and who wins where.

python -m natix_hf.compare runs/lora runs/probe --output runs/comparison
"""

from __future__ import annotations

from pathlib import Path

from natix_hf.errors import CommandParser, command
from natix_hf.files import check_writable, write_text


def command_line() -> CommandParser:
    """The options of this verb."""
    parser = CommandParser(prog="python -m natix_hf.compare", description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", help="folders of finished runs; all are compared with the first")
    parser.add_argument("--output", type=Path, default=Path("comparison"), help="folder (default %(default)s)")
    return parser


def main(argv: list[str]) -> None:
    given = command_line().parse_args(argv)
    check_writable(given.output, "--output")

    from natix_hf.runs.folder import finished

    for run in given.runs:
        finished(run)

    from natix_hf import __version__
    from natix_hf.report.comparison_page import comparison_html, comparison_lines
    from natix_hf.runs.compare_runs import compare_runs

    document = compare_runs(given.runs)
    document.write(given.output)
    write_text(given.output / "comparison.html", comparison_html(document, __version__))
    print("\n".join([*comparison_lines(document), "", f"page: {given.output / 'comparison.html'}"]))


if __name__ == "__main__":
    command(main)
