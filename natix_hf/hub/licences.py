"""Turns a licence column into the Hub's licence id and into sentences for a dataset card.

Licences are recognised by name only; no licence text is read. The front matter names a licence only if all photos have
the same one and the Hub knows it. All other cases are described in sentences.
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
_SHOWN = 12  # most licences listed separately; a column of links would fill the card


def hub_licence(value: str) -> str | None:
    """The Hub's id for a licence name (`CC BY-NC 4.0`) or a creativecommons.org address; None if unknown."""
    text = value.strip().lower()
    address = re.search(r"creativecommons\.org/(licenses|publicdomain)/([a-z-]+)/(\d\.\d)", text)
    if address:
        name = "cc0" if address[2] == "zero" else f"cc-{address[2]}"
        text = f"{name}-{address[3]}"
    text = re.sub(r"[\s_-]+", "-", text)
    return text if text in LICENCES and text not in ("unknown", "other") else None


def licence_front(counts: Mapping[str | None, int] | None) -> str:
    """`license` of the front matter: the id that all rows share, `other`, or `unknown` if no row has a licence.

    Args:
        counts: licence -> number of rows, with None for rows without one; None if there is no licence column.
    """
    if counts is None or set(counts) <= {None}:
        return "unknown"
    ids = {None if value is None else hub_licence(value) for value in counts}
    return next(iter(ids - {None})) if len(ids) == 1 and None not in ids else "other"


def licence_lines(counts: Mapping[str | None, int] | None) -> list[str]:
    """Sentences about the licences of the photos and the uses that they forbid."""
    if counts is None:
        return ["The data has no licence column, so the permitted uses of the photos are not known."]
    named = {value: count for value, count in counts.items() if value is not None}
    front = licence_front(counts)
    lines = []
    if not named:
        lines.append("The licence column is empty.")
    elif front != "other":
        lines.append(f"All photos are under {front}.")
    else:
        lines.append(
            "The photos have no single licence that the Hub knows. Each row names the licence of its photo, and the "
            "terms of that licence apply."
        )
    missing = counts.get(None, 0)
    if missing and named:
        lines.append(f"{missing} photos have no licence: ask for permission before you use or share them.")
    for pattern, rule in _BINDING:
        bound = sum(count for value, count in named.items() if re.search(pattern, value.lower()))
        if bound:
            lines.append(f"{bound} photos are under a licence that forbids {rule}.")
    return lines


def licence_rows(counts: Mapping[str | None, int] | None) -> list[tuple[str, int]]:
    """`(licence, number of photos)`, the most common first; the rarest are added up in one row."""
    rows = sorted((counts or {}).items(), key=lambda row: (-row[1], row[0] or ""))
    shown = [(value or "none", count) for value, count in rows[:_SHOWN]]
    rare = rows[_SHOWN:]
    return [*shown, (f"{len(rare)} others", sum(count for _, count in rare))] if rare else shown
