"""What a column of licences says, as the Hub's licence id and as words for a card.

Knows licences by their names only: it reads no terms and gives no advice. A licence is put into the front matter only
where all photos agree on one that the Hub knows; anything less is said in words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from natix_hf.documents.hub_metadata import LICENCES

LICENCE_COLUMNS = ("license", "licence")
_BINDING = (
    (r"(?<![a-z])nc(?![a-z])|non-?\s?commercial", "commercial use"),
    (r"(?<![a-z])nd(?![a-z])|no-?\s?deriv", "passing on altered copies"),
)
_SHOWN = 12  # values of their own line; a column of links would fill the card


def hub_licence(value: str) -> str | None:
    """The Hub's id of a licence as people write it (`CC BY-NC 4.0`, a creativecommons.org address), else None."""
    text = value.strip().lower()
    address = re.search(r"creativecommons\.org/(licenses|publicdomain)/([a-z-]+)/(\d\.\d)", text)
    if address:
        name = "cc0" if address[2] == "zero" else f"cc-{address[2]}"
        text = f"{name}-{address[3]}"
    text = re.sub(r"[\s_-]+", "-", text)
    return text if text in LICENCES and text not in ("unknown", "other") else None


def licence_front(counts: Mapping[str | None, int] | None) -> str:
    """The `license` of the front matter: an id that all rows agree on, `other`, or `unknown` where nothing is said.

    Args:
        counts: value -> rows, None for rows without one; None if there is no such column.
    """
    if counts is None or set(counts) <= {None}:
        return "unknown"
    ids = {None if value is None else hub_licence(value) for value in counts}
    return next(iter(ids - {None})) if len(ids) == 1 and None not in ids else "other"


def licence_lines(counts: Mapping[str | None, int] | None) -> list[str]:
    """Sentences about the licences: how many photos of each, and which of them bind whoever uses the photos."""
    if counts is None:
        return ["The rows carry no column of licences, so nothing is known about what the photos may be used for."]
    named = {value: count for value, count in counts.items() if value is not None}
    front = licence_front(counts)
    lines = []
    if not named:
        lines.append("The column of licences is empty.")
    elif front != "other":
        lines.append(f"All photos are under {front}.")
    else:
        lines.append(
            "The photos have no single licence that the Hub knows; what each is under stands in its row, and the "
            "terms of each hold."
        )
    missing = counts.get(None, 0)
    if missing and named:
        lines.append(f"{missing} photos name no licence: ask before they are used or passed on.")
    for pattern, rule in _BINDING:
        bound = sum(count for value, count in named.items() if re.search(pattern, value.lower()))
        if bound:
            lines.append(f"{bound} photos are under a licence that forbids {rule}.")
    return lines


def licence_rows(counts: Mapping[str | None, int] | None) -> list[tuple[str, int]]:
    """`(licence, photos)`, the most common first, the many rare ones as one."""
    rows = sorted((counts or {}).items(), key=lambda row: (-row[1], row[0] or ""))
    shown = [(value or "none named", count) for value, count in rows[:_SHOWN]]
    rest = rows[_SHOWN:]
    return [*shown, (f"{len(rest)} others", sum(count for _, count in rest))] if rest else shown
