"""What a user may name as a source: a folder, a file, a pattern or a Hub id, each also as `name=place`.

Imports nothing heavy, so a command can refuse a place that does not exist before it loads anything.
"""

from __future__ import annotations

import re
from glob import has_magic
from pathlib import Path

from natix_hf.errors import UserError
from natix_hf.files import only_a_path, text_path

_NAMED = re.compile(r"(?P<name>[^/=]+)=(?P<place>.+)")


def name_and_place(text: str) -> tuple[str | None, str]:
    """The name that the user gave a source, if any, and its place."""
    match = _NAMED.fullmatch(text)
    if match and not Path(text_path(text)).expanduser().exists():
        return match["name"], match["place"]
    return None, text


def check_there(source: str, *, bare_ids: bool = False) -> None:
    """Raise `UserError` if a source can only be a path on this disk and nothing is there.

    Args:
        bare_ids: whether a name without a slash may be the id of a Hub data set.
    """
    _, place = name_and_place(source)
    of_the_hub = not only_a_path(place) and (bare_ids or "/" in place)
    if of_the_hub or has_magic(place) or place.startswith("builtin:"):
        return
    if not Path(text_path(place)).expanduser().exists():
        raise UserError(f"{place}: no such file or folder")
