"""Sections of a report, described once: a sentence, a table of figures, a line below it.

The page renders a `Section` as a table that sorts, a card as Markdown. Every figure comes with its interval and with
the number of photos that it rests on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from natix_hf.documents.figures import Difference, Interval
from natix_hf.documents.final_figures import FinalFigures
from natix_hf.documents.probe import OverProbe
from natix_hf.documents.robustness import Case, Robustness
from natix_hf.documents.selective import Selective
from natix_hf.documents.slices import Slices
from natix_hf.report.robustness import sent_text
from natix_hf.report.summary import LABELS, figure_text, interval_text

SENT = ("mcc", "accuracy", "balanced_accuracy", "auroc", "ece")
SLICED = ("balanced_accuracy", "mcc", "accuracy", "auroc")
STAGES = {"accuracy": "accuracy", "mcc": "MCC", "nll": "NLL", "brier": "Brier score", "ece": "ECE"}
RATES = ("value", "photos", "groups")


class Cell(NamedTuple):
    """A figure in a table.

    Attributes:
        sort: what its column is sorted by.
        value, interval: texts; an interval that is not defined is empty or a dash.
        tag: a word beside it, such as `stands out`.
    """

    sort: float | str
    value: str
    interval: str = ""
    tag: str = ""


class Section(NamedTuple):
    """A part of a report.

    Attributes:
        id: its anchor in a page.
        name: in a page's menu.
        title: above it.
        text: above the table.
        heads: of the table's columns.
        rows: each a list of words and then of `Cell`; a row that is too short has a reason for that in its last place.
        words: number of columns that hold words.
        foot: below the table.
    """

    id: str
    name: str
    title: str
    text: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    words: int = 1
    foot: str = ""


def figure_cell(interval: Interval) -> Cell:
    """A figure with its interval."""
    value = interval.value
    return Cell("" if value is None else value, figure_text(value), interval_text(interval))


def difference_cell(gap: Difference) -> Cell:
    """A difference with its interval, signs in front."""
    if gap.difference is None:
        return Cell("", "-")
    value, low, high = ("-" if end is None else f"{end:+.3f}" for end in (gap.difference, gap.low, gap.high))
    return Cell(gap.difference, value, f"{low} to {high}")


def count_cell(count: int) -> Cell:
    """A number of photos or groups."""
    return Cell(count, str(count))


def robustness_section(document: Robustness, *, distortions: bool = True) -> Section:
    """`robustness.json`: figures on the photos as each profile sends them, compared with the clean photos.

    Args:
        distortions: also show a row for each distortion at each severity.
    """
    rows = [["clean", "photos as they are", count_cell(document.n), *_sent_cells(document.clean)]]
    for one in document.profiles:
        rows += [
            [one.profile, _what(case), count_cell(case.n), *_sent_cells(case.metrics)]
            for case in one.cases
            if distortions or case.distortion is None
        ]
    latency, sent = document.latency, sent_text(document.profiles)
    return Section(
        "robustness",
        "Robustness",
        "Robustness",
        f"The {document.n} photos of {document.split} ({document.groups} groups) as challenge profiles send them, "
        f"with {100 * document.level:g}\u00a0% intervals from {document.resamples} resamples of whole groups. A "
        f"profile is a dated guess at what happens to photos on their way{f'; sent: {sent}' if sent else ''}.",
        ["profile", "what is done", "predictions", *(LABELS[name] for name in SENT)],
        rows,
        words=2,
        foot=f"Time per photo on this CPU ({latency.threads} threads, {latency.n} photos one at a time): median "
        f"{latency.p50:.2f} s, 99th percentile {latency.p99:.2f} s, longest {latency.max:.2f} s; {latency.over_limit} "
        f"took longer than the limit of {latency.limit:g} s for a client."
        if latency
        else "",
    )


def slices_section(document: Slices, *, most: int | None = None, figures: int | None = None) -> Section:
    """`slices.json`: every kind of photo beside all others, in the document's order.

    Args:
        most: number of kinds, small ones left out; None: all, small ones too.
        figures: number of figures of each; None: all.
    """
    few, stand_out = document.small, document.stand_out
    kinds = document.slices if most is None else [one for one in document.slices if not one.small][:most]
    rows = []
    for one in kinds:
        rates = [Cell("", "-") if rate is None else figure_cell(rate) for rate in (one.fpr, one.fnr)]
        cells = [difference_cell(one.difference[document.ranked_by])]
        cells += [*(figure_cell(one.metrics[name]) for name in SLICED), *rates]
        tag = "small" if one.small else "stands out" if one.stands_out else ""
        kind = Cell(one.value, one.value, tag=tag)
        rows.append([one.column, kind, count_cell(one.n), count_cell(one.groups), *cells[:figures]])
    heads = ["against the rest", *(LABELS[name] for name in SLICED), "false-positive rate", "false-negative rate"]
    return Section(
        "slices",
        "Slices",
        "Slices",
        f"Each kind of photo, compared with all others of {document.split}: {document.n} photos in "
        f"{document.groups} groups. {document.looked_at} kinds were compared; {stand_out or 'none'} of them "
        f"{'stands' if stand_out == 1 else 'stand'} out after correction for that number. The worst kinds come first, "
        f"by the upper end of the difference in {LABELS[document.ranked_by]}. Kinds with fewer than {few.rows} photos "
        f"or {few.groups} groups are small and come last. {100 * document.level:g}\u00a0% intervals from "
        f"{document.resamples} resamples of whole groups.",
        ["column", "kind", "photos", "groups", *heads[:figures]],
        rows,
        words=2,
    )


def stages_section(metrics: FinalFigures, positive: int) -> Section | None:
    """Figures after each step from logits to decisions; None where the run has no prior and no folded threshold."""
    stages = metrics.stages
    if not stages:
        return None
    names, shares = list(metrics.labels), stages.shares
    shown = [positive] if len(names) == 2 else range(len(names))
    found = [name for name in STAGES if name in stages.steps[0].figures]
    return Section(
        "stages",
        "Stages",
        "Step by step",
        f"On the {stages.n} photos ({stages.groups} groups) of {metrics.split}, at class shares of "
        f"{', '.join(f'{shares[k]:.1%} {names[k]}' for k in shown)}:",
        ["after", *(STAGES[name] for name in found), "photos"],
        [
            [step.step, *(figure_cell(step.figures[name]) for name in found), count_cell(stages.n)]
            for step in stages.steps
        ],
    )


def probe_section(found: OverProbe) -> Section:
    """What fine-tuning added to the probe that it started from."""
    return Section(
        "over-probe",
        "Over the probe",
        "What fine-tuning added",
        f"Tuned minus probe on the same {found.n} photos ({found.groups} groups) of {found.split}, 95\u00a0% "
        "intervals from resamples of whole groups:",
        ["metric", "probe", "tuned", "difference", "photos"],
        [
            [
                LABELS.get(name, name),
                figure_cell(one.probe),
                figure_cell(one.tuned),
                difference_cell(one.difference),
                count_cell(found.n),
            ]
            for name, one in found.metrics.items()
        ],
    )


def band_section(document: Selective) -> Section | None:
    """What the band of a guarantee gives on the test rows; None where there is none."""
    band = document.band
    if band is None:
        return None
    rates = {
        "false-positive rate": band.fpr,
        "false-negative rate": band.fnr,
        "positives without an answer": band.abstention.positive,
        "negatives without an answer": band.abstention.negative,
        "answered": band.coverage,
        "precision of positive answers": band.precision,
        "wrong among the answered": band.wrong_among_answered,
    }
    return Section(
        "band",
        "Guarantee",
        "Guarantee",
        "What the guarantee's band gives on photos that it was not fitted on, where photos between its ends go to a "
        "person:",
        [f"on {document.split}", *RATES],
        [_rate(name, rate, rate.n, rate.groups) for name, rate in rates.items()],
    )


def cascade_section(document: Selective) -> Section | None:
    """What a cascade loses and costs on the test rows; None where there is none."""
    found = document.cascade
    if found is None:
        return None
    rates = {
        "leave early": found.early,
        "lost: leave wrong, second stage right": found.loss,
        "lost among those that leave": found.loss_of_early,
        "wrong, cascade": found.error,
        "wrong, first stage alone": found.error_of_first,
        "wrong, second stage alone": found.error_of_second,
    }
    rows = [_rate(name, rate, rate.n, rate.groups) for name, rate in rates.items()]
    rows.append(_rate(f"{found.cost_in} a photo", found.mean_cost, found.early.n, found.early.groups))
    return Section(
        "cascade",
        "Cascade",
        "Early exits",
        "What the cascade loses and costs on photos that its band was not chosen on:",
        [f"on {document.split}", *RATES],
        rows,
    )


def calibration_section(metrics: FinalFigures) -> Section:
    """Log loss and ECE on the test rows before and after, with the interval of what the model gives."""
    before = {"log_loss": metrics.uncalibrated.log_loss, "ece": metrics.uncalibrated.ece}
    rows = [
        [LABELS[name], figure_text(value), figure_cell(metrics.metrics[name]), count_cell(metrics.n)]
        for name, value in before.items()
    ]
    heads = [f"on {metrics.split}", "before", "as served", "photos"]
    return Section("calibrated", "Calibration", "What calibration changed", "", heads, rows)


def selective_text(document: Selective) -> str:
    """The areas of `selective.json` in a sentence."""
    areas = (("AURC", document.aurc), ("AUGRC", document.augrc))
    shown = ", ".join(f"{name} {figure_text(area.value)} ({interval_text(area)})" for name, area in areas)
    return f"{shown}; {document.n} photos in {document.groups} groups of {document.split}."


def _rate(name: str, rate: Interval, photos: int, groups: int) -> list[str | Cell]:
    return [name, figure_cell(rate), count_cell(photos), count_cell(groups)]


def _what(case: Case) -> str:
    if case.distortion is not None:
        return case.distortion if case.severity is None else f"{case.distortion}, severity {case.severity}"
    return "all levels" if case.level is None else f"level {case.level}"


def _sent_cells(metrics: Mapping[str, Interval]) -> list[Cell]:
    return [figure_cell(metrics[name]) for name in SENT]
