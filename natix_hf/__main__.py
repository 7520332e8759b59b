"""`natix-hf VERB ...` is `python -m natix_hf VERB ...` is `python -m natix_hf.VERB ...`."""

from __future__ import annotations

import importlib
from pathlib import Path

from natix_hf.errors import UserError, command


def verbs() -> dict[str, str]:
    """Verb -> what it does in a line: every module of the package that ends by calling `command(main)`."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if path.stem != "__main__" and "\n    command(main)\n" in text:
            found[path.stem] = text.removeprefix('"""').split("\n")[0].removesuffix('"""')
    return found | {"data": "Split photos, check a split, push it: see `natix-hf data --help`."}


def run(argv: list[str]) -> None:
    """Call the verb that the first word names with the others."""
    known = verbs()
    if not argv or argv[0] in ("-h", "--help"):
        print("natix-hf VERB ...; VERB --help says more\n")
        print("\n".join(f"  {verb:<12} {does}" for verb, does in known.items()))
        return
    if argv[0] not in known:
        raise UserError(f"{argv[0]}: one of {', '.join(known)} expected, see natix-hf --help")
    name = "natix_hf.data.__main__" if argv[0] == "data" else f"natix_hf.{argv[0]}"
    importlib.import_module(name).main(argv[1:])


def main() -> None:
    """The command `natix-hf`."""
    command(run)


if __name__ == "__main__":
    main()
