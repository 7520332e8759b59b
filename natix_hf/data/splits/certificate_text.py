"""Renders a split certificate for people: `SPLITS.md` beside the rows, and a short summary for the terminal.

The text contains only what `splits.json` contains, and no path of the machine that wrote it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from natix_hf.data.splits.certificate import SIZES
from natix_hf.data.splits.contracts import PARTS, SPLITS
from natix_hf.documents.split_certificate import PriorShift, SplitCertificate

LISTED = 50  # conflicts and left-out rows at most; splits.json has all of them
SHIFTED, POINTS = 0.01, 0.05  # warn about a prior shift if p is below SHIFTED and shares differ by more than POINTS


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """A Markdown table. All columns but the first hold numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return [f"| {' | '.join(_cell(value) for value in line)} |" for line in lines]


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _code(name: str) -> str:
    """A name as Markdown code. The name may contain any character, even backticks."""
    return f"`{' '.join(name.split())}`" if "`" not in name else f"`` {' '.join(name.split())} ``"


def counted(number: int, what: str) -> str:
    """`1 group`, `2 groups`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def straddle(groups: int) -> str:
    """`0 groups straddle`, `1 group straddles`."""
    return f"{counted(groups, 'group')} straddle{'s' if groups == 1 else ''}"


def largest_difference(shares: Mapping[str, Mapping[str, float]]) -> tuple[float, str, str, str]:
    """The class whose share differs most between two splits.

    Returns:
        The difference, the class, and the splits with its smallest and its largest share.
    """
    differences = []
    for name in next(iter(shares.values())):
        least, most = (pick(SPLITS, key=lambda split: shares[split][name]) for pick in (min, max))
        differences.append((round(shares[most][name] - shares[least][name], 9), name, least, most))
    return max(differences)


def shift_sentence(shift: PriorShift) -> str:
    """The result of the chi-squared test in a sentence."""
    difference, name, least, most = largest_difference(shift.shares)
    test = f"chi-squared {shift.chi2:.2f}, {shift.dof} degrees of freedom, p = {shift.p:.3g}"
    if shift.p >= SHIFTED:
        return f"Class shares do not differ between the splits by more than chance ({test})."
    low, high = (f"{shift.shares[split][name]:.1%} in {split}" for split in (least, most))
    weight = "enough to matter" if difference > POINTS else f"but by at most {POINTS * 100:.0f} points"
    return f"Class shares differ between the splits, {weight}: {name} is {low} and {high} ({test})."


def summary_lines(certificate: SplitCertificate) -> list[str]:
    """A summary of the certificate in a few lines, for the terminal."""
    lines = []
    for split in SPLITS:
        classes = ", ".join(f"{name} {count:,}" for name, count in certificate.class_counts[split].items())
        lines.append(
            f"{split}: {counted(certificate.sizes[split], 'photo')} ({certificate.reached[split]:.1%}), "
            f"{counted(certificate.groups[split], 'group')}; {classes}"
        )
    ties = ", ".join(f"{kind} {number:,}" for kind, number in certificate.ties.items())
    largest = f"{certificate.largest_group.rows:,} ({certificate.largest_group.share:.1%})"
    lines.append(f"ties: {ties or 'not searched'}; the largest group has {largest}")
    lines.append(straddle(certificate.straddling))
    for key, what in (
        ("conflicts", "photos with copies that are labelled differently: {}, see conflicts.png"),
        ("broken", "unreadable photos: {}, left out"),
        ("dropped", "rows excluded: {}, reasons in splits.json"),
        ("set_aside", "rows set aside: {}, no split can take them without a leak"),
    ):
        if rows := getattr(certificate, key):
            lines.append(what.format(f"{len(rows):,}"))
    return lines


def certificate_text(certificate: SplitCertificate) -> str:
    """The content of `SPLITS.md`.

    Args:
        certificate: the certificate of the splits.
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
        f"{counted(total, 'photo')}, split by whole groups and stratified by class, with seed {certificate.seed}."
        if certificate.ratios
        else f"{counted(total, 'photo')} in the splits that the data set came with."
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
        lines += [f"Also stratified by: {', '.join(map(_code, certificate.strata))}.", ""]
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
        f"{straddle(certificate.straddling)} two splits. Rows are kept in one split if they share one of: "
        f"{'; '.join(tied)}.",
        "",
    ]
    if certificate.ties:
        lines += [*table(["tied by", "ties"], [(kind, f"{n:,}") for kind, n in certificate.ties.items()]), ""]
    sizes = [[split, *(f"{certificate.group_sizes[split][size]:,}" for size in SIZES)] for split in SPLITS]
    return [
        *lines,
        "Number of groups by size (photos):",
        "",
        *table(["split", *SIZES], sizes),
        "",
        f"The largest group is {_code(largest.name)} with {counted(largest.rows, 'photo')} "
        f"({largest.share:.1%}). {certificate.repeated_photos:,} photos are byte-for-byte copies of another one.",
        "",
    ]


def _conflicts(certificate: SplitCertificate) -> list[str]:
    conflicts = certificate.conflicts
    if not conflicts:
        return ["## Label conflicts", "", "No photo has copies with different labels.", ""]
    lines = [
        "## Label conflicts",
        "",
        f"{counted(len(conflicts), 'photo')} {'has' if len(conflicts) == 1 else 'have'} copies with different labels. "
        "[conflicts.png](conflicts.png) shows the copies side by side.",
        "",
    ]
    for conflict in conflicts[:LISTED]:
        copies = ", ".join(f"{_code(i)} {label}" for i, label in zip(conflict.ids, conflict.labels))
        lines.append(f"- {conflict.kind}: {copies}")
    return [*lines, *_rest(len(conflicts)), ""]


def _left_out(certificate: SplitCertificate) -> list[str]:
    lines = ["## Left out", ""]
    for key, what in (
        ("broken", "whose photo cannot be read"),
        ("dropped", "excluded"),
        ("set_aside", "that no split can take without a leak"),
    ):
        if rows := getattr(certificate, key):
            lines += [f"{counted(len(rows), 'row')} {what}:", ""]
            lines += [f"- {_code(row.id)}: {' '.join(row.reason.split())}" for row in rows[:LISTED]]
            lines += [*_rest(len(rows)), ""]
    return lines if len(lines) > 2 else [*lines, "Nothing was left out.", ""]


def _rest(count: int) -> list[str]:
    return [f"- and {count - LISTED:,} more, see splits.json"] if count > LISTED else []


def _fingerprints(certificate: SplitCertificate) -> list[str]:
    rows = [
        [place, _code(certificate.fingerprints[place]), _code(certificate.byte_fingerprints[place])]
        for place in certificate.fingerprints
    ]
    return [
        "## Fingerprints",
        "",
        *table(["split", "ids and photos", "photos only"], rows),
        "",
        f"All four splits: {_code(certificate.fingerprint)}. Seal of splits.json: {_code(certificate.seal)}.",
        "",
        "## Check",
        "",
        "`python -m natix_hf.data check FOLDER` reads all photos again, searches for copies again and compares the "
        "results with this certificate. It exits with status 1 if it finds a violation.",
        "",
    ]
