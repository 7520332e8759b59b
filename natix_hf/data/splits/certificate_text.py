"""The certificate as a person reads it: `SPLITS.md` beside the rows, and a few lines for the terminal.

Says only what `splits.json` says, and names no place on the machine that wrote it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from natix_hf.data.splits.certificate import SIZES
from natix_hf.data.splits.contracts import PARTS, SPLITS
from natix_hf.documents.split_certificate import PriorShift, SplitCertificate

LISTED = 50  # conflicts and rows left out; the rest is in splits.json
SHIFTED, POINTS = 0.01, 0.05  # p and difference of shares from which a prior shift is worth a warning


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """A Markdown table; every column but the first is of numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return [f"| {' | '.join(_cell(value) for value in line)} |" for line in lines]


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _code(name: str) -> str:
    """A name as code; a name may hold anything, backticks too."""
    return f"`{' '.join(name.split())}`" if "`" not in name else f"`` {' '.join(name.split())} ``"


def counted(number: int, what: str) -> str:
    """`1 group`, `2 groups`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def straddle(groups: int) -> str:
    """`0 groups straddle`, `1 group straddles`."""
    return f"{counted(groups, 'group')} straddle{'s' if groups == 1 else ''}"


def largest_difference(shares: Mapping[str, Mapping[str, float]]) -> tuple[float, str, str, str]:
    """The class whose share differs most between two splits: by how much, its name, the splits with the least and the
    most of it."""
    found = []
    for name in next(iter(shares.values())):
        least, most = (pick(SPLITS, key=lambda split: shares[split][name]) for pick in (min, max))
        found.append((round(shares[most][name] - shares[least][name], 9), name, least, most))
    return max(found)


def shift_sentence(shift: PriorShift) -> str:
    """What the test says of the classes' shares."""
    difference, name, least, most = largest_difference(shift.shares)
    test = f"chi-squared {shift.chi2:.2f}, {shift.dof} degrees of freedom, p = {shift.p:.3g}"
    if shift.p >= SHIFTED:
        return f"The splits do not differ in their classes by more than chance would ({test})."
    low, high = (f"{shift.shares[split][name]:.1%} in {split}" for split in (least, most))
    weight = "enough to matter" if difference > POINTS else f"though by less than {POINTS * 100:.0f} points"
    return f"The splits differ in their classes, {weight}: the share of {name} is {low} and {high} ({test})."


def summary_lines(certificate: SplitCertificate) -> list[str]:
    """The certificate in a few lines, for the terminal."""
    lines = [
        f"{split}: {counted(certificate.sizes[split], 'photo')} ({certificate.reached[split]:.1%}), "
        f"{counted(certificate.groups[split], 'group')}; "
        + ", ".join(f"{name} {count:,}" for name, count in certificate.class_counts[split].items())
        for split in SPLITS
    ]
    ties = ", ".join(f"{kind} {number:,}" for kind, number in certificate.ties.items())
    largest = f"{certificate.largest_group.rows:,} ({certificate.largest_group.share:.1%})"
    lines.append(f"ties: {ties or 'none looked for'}; the largest group holds {largest}")
    lines.append(straddle(certificate.straddling))
    for key, what in (
        ("conflicts", "copies of one photo with different labels: {}, see conflicts.png"),
        ("broken", "photos that cannot be read: {}, left out"),
        ("dropped", "rows left out on purpose: {}"),
        ("set_aside", "rows that fit into no split: {}, set aside"),
    ):
        if getattr(certificate, key):
            lines.append(what.format(f"{len(getattr(certificate, key)):,}"))
    return lines


def certificate_text(certificate: SplitCertificate) -> str:
    """The content of `SPLITS.md`.

    Args:
        certificate: of the splits.
    """
    return "\n".join(
        [
            "# Splits",
            "",
            *_divided(certificate),
            *_grouped(certificate),
            *_conflicts(certificate),
            "## Classes",
            "",
            shift_sentence(certificate.prior_shift),
            "",
            *_left_out(certificate),
            *_fingerprints(certificate),
        ]
    )


def _divided(certificate: SplitCertificate) -> list[str]:
    total = sum(certificate.sizes.values())
    how = (
        f"{counted(total, 'photo')}, divided by class and whole groups with seed {certificate.seed}."
        if certificate.ratios
        else f"{counted(total, 'photo')}; the data set brought its own splits, which were kept."
    )
    targets = dict(zip(SPLITS, certificate.ratios or []))
    names = certificate.label_names
    rows = []
    for place in (*SPLITS, *(f"val_calib/{part}" for part in PARTS)):
        counts = certificate.class_counts[place]
        whole = place in SPLITS
        rows.append(
            [
                place,
                f"{sum(counts.values()):,}",
                f"{targets[place]:.1%}" if place in targets else "",
                f"{certificate.reached[place]:.1%}" if whole else "",
                f"{certificate.groups[place]:,}",
                *(f"{counts[name]:,}" for name in names),
            ]
        )
    lines = [how, "", *table(["split", "photos", "target", "reached", "groups", *names], rows), ""]
    if certificate.strata:
        lines += [f"Kept in proportion too: {', '.join(map(_code, certificate.strata))}.", ""]
    for column, values in certificate.hold_out.items():
        lines += [f"Only in val_test: {_code(column)} = {', '.join(map(_code, values))}.", ""]
    if len(certificate.sources) > 1:
        lines += [*table(["source", "photos"], [(k, f"{n:,}") for k, n in certificate.sources.items()]), ""]
    return lines


def _grouped(certificate: SplitCertificate) -> list[str]:
    rules, largest = certificate.rules, certificate.largest_group
    tied = [f"the same {_code(column)}" for column in rules.group_columns]
    if rules.metres is not None:
        seconds = "" if rules.seconds is None else f" and {rules.seconds:g} s where both times are known"
        tied.append(f"within {rules.metres:g} m{seconds}")
    tied += ["byte-equal photos"] + ["near-duplicate photos (altered copies)"] * rules.near_duplicates
    lines = [
        "## Groups",
        "",
        f"{straddle(certificate.straddling)}. Rows stay together that share one of: {'; '.join(tied)}.",
        "",
    ]
    if certificate.ties:
        lines += [*table(["tied by", "ties"], [(kind, f"{n:,}") for kind, n in certificate.ties.items()]), ""]
    sizes = [[split, *(f"{certificate.group_sizes[split][size]:,}" for size in SIZES)] for split in SPLITS]
    return [
        *lines,
        "Groups by their number of photos:",
        "",
        *table(["split", *SIZES], sizes),
        "",
        f"The largest group is {_code(largest.name)} with {counted(largest.rows, 'photo')} "
        f"({largest.share:.1%}). {certificate.repeated_photos:,} photos repeat another one byte for byte.",
        "",
    ]


def _conflicts(certificate: SplitCertificate) -> list[str]:
    conflicts = certificate.conflicts
    if not conflicts:
        return ["## Label conflicts", "", "No copies of one photo carry different labels.", ""]
    lines = [
        "## Label conflicts",
        "",
        f"{counted(len(conflicts), 'photo')} {'stands' if len(conflicts) == 1 else 'stand'} here more than once with "
        "different labels. [conflicts.png](conflicts.png) shows them side by side.",
        "",
    ]
    for conflict in conflicts[:LISTED]:
        copies = ", ".join(f"{_code(i)} {label}" for i, label in zip(conflict.ids, conflict.labels))
        lines.append(f"- {conflict.kind}: {copies}")
    return [*lines, *_rest(len(conflicts)), ""]


def _left_out(certificate: SplitCertificate) -> list[str]:
    lines = ["## Left out", ""]
    for key, what in (
        ("broken", "that cannot be read"),
        ("dropped", "left out on purpose"),
        ("set_aside", "that fit into no split"),
    ):
        rows = getattr(certificate, key)
        if rows:
            lines += [f"{counted(len(rows), 'row')} {what}:", ""]
            lines += [f"- {_code(row.id)}: {' '.join(row.reason.split())}" for row in rows[:LISTED]]
            lines += [*_rest(len(rows)), ""]
    return lines if len(lines) > 2 else [*lines, "Nothing was left out.", ""]


def _rest(count: int) -> list[str]:
    return [f"- and {count - LISTED:,} more, listed in splits.json"] if count > LISTED else []


def _fingerprints(certificate: SplitCertificate) -> list[str]:
    rows = [
        [place, _code(certificate.fingerprints[place]), _code(certificate.byte_fingerprints[place])]
        for place in certificate.fingerprints
    ]
    return [
        "## Fingerprints",
        "",
        *table(["split", "ids and photos", "photos alone"], rows),
        "",
        f"Of all four: {_code(certificate.fingerprint)}. Seal of splits.json: {_code(certificate.seal)}.",
        "",
        "## Check it again",
        "",
        "`python -m natix_hf.data check FOLDER` reads the photos anew, looks for copies again and compares everything "
        "with this certificate; it ends with status 1 where something is violated.",
        "",
    ]
