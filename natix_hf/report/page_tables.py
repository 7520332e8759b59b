"""The tables of a report from documents of the run: slices, robustness, guarantee."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from natix_hf.documents.figures import Difference, Interval
from natix_hf.documents.final_figures import FinalFigures
from natix_hf.documents.robustness import Case, Robustness
from natix_hf.documents.selective import Selective
from natix_hf.documents.slices import Slices
from natix_hf.report.charts import Chart, Table
from natix_hf.report.robustness import sent_text
from natix_hf.report.summary import LABELS, figure_text, interval_text

SHOWN = ("mcc", "accuracy", "balanced_accuracy", "auroc", "ece")
SLICED = ("balanced_accuracy", "mcc", "accuracy", "auroc")


class Cell(NamedTuple):
    """A figure in a table: what its column is sorted by, its text and that of its interval."""

    sort: float | str
    value: str
    interval: str


class SentRow(NamedTuple):
    """Photos as a challenge sends them in one way."""

    profile: str
    what: str
    n: int
    cells: list[Cell]


class RobustnessTable(NamedTuple):
    """All ways beside the photos as they are; `latency` is a line about the time for a photo, if that was measured."""

    text: str
    heads: list[str]
    rows: list[SentRow]
    latency: str | None


class SliceRow(NamedTuple):
    """One kind of photos."""

    column: str
    value: str
    n: int
    groups: int
    small: bool
    stands_out: bool
    cells: list[Cell]


class SlicesTable(NamedTuple):
    """Kinds of photos, in the document's order."""

    text: str
    columns: list[str]
    heads: list[str]
    rows: list[SliceRow]


def robustness_table(document: Robustness) -> RobustnessTable:
    """`robustness.json`: every profile, level and distortion beside the photos as they are."""
    rows = [
        SentRow("clean", "photos as they are", document.n, _cells(document.clean)),
        *(
            SentRow(one.profile, _what(case), case.n, _cells(case.metrics))
            for one in document.profiles
            for case in one.cases
        ),
    ]
    latency, sent = document.latency, sent_text(document.profiles)
    return RobustnessTable(
        text=f"The same photos as a challenge sends them: {document.n} photos in {document.groups} groups of "
        f"{document.split}; {100 * document.level:g}\u00a0% intervals from {document.resamples} resamples of "
        f"whole groups. A profile is a guess, with its date, at what is done to photos on their way"
        f"{f'; sent: {sent}' if sent else ''}.",
        heads=[LABELS[name] for name in SHOWN],
        rows=rows,
        latency=latency
        and f"Time for a photo on this CPU ({latency.threads} threads, {latency.n} photos one at a time): half "
        f"take up to {latency.p50:.2f} s, 99 of 100 up to {latency.p99:.2f} s, the slowest "
        f"{latency.max:.2f} s; {latency.over_limit} took longer than the {latency.limit:g} s that a client "
        "has.",
    )


def robustness_chart(document: Robustness) -> Chart | None:
    """MCC by level of each profile; None where no profile has levels."""
    styles = ("blue", "orange", "good", "gray")
    found = [
        (one.profile, [case for case in one.cases if case.level is not None and case.distortion is None])
        for one in document.profiles
    ]
    found = [(profile, cases) for profile, cases in found if len(cases) > 1]
    if not found:
        return None
    values = [case.metrics["mcc"] for _, cases in found for case in cases]
    highest = max(case.level for _, cases in found for case in cases)
    chart = Chart(
        "MCC by challenge level",
        "MCC at each level of the challenge profiles: "
        + "; ".join(
            f"{name} " + ", ".join(f"{case.level}: {figure_text(case.metrics['mcc'].value)}" for case in cases)
            for name, cases in found
        ),
        x=(0, highest),
        y=(min(0.0, *(v.low or 0.0 for v in values)), 1.0),
        x_label="level",
        y_label="MCC",
        count_x=True,
        note=f"{document.n} photos in {document.groups} groups; bands are {100 * document.level:g}\u00a0% "
        f"intervals. {sent_text(document.profiles)}",
    )
    for (name, cases), style in zip(found, styles):
        level = [case.level for case in cases]
        figures = [case.metrics["mcc"] for case in cases]
        chart.band(level, [figure.low for figure in figures], [figure.high for figure in figures], style)
        chart.line(level, [figure.value for figure in figures], style, name)
    return chart


def slices_table(document: Slices) -> SlicesTable:
    """`slices.json`: every kind of photo beside all others, in the document's order."""
    few, stand_out = document.small, document.stand_out
    rows = [
        SliceRow(
            column=one.column,
            value=one.value,
            n=one.n,
            groups=one.groups,
            small=one.small,
            stands_out=one.stands_out,
            cells=[
                _difference(one.difference[document.ranked_by]),
                *(figure_cell(one.metrics[name]) for name in SLICED),
                *(Cell("", "-", "") if rate is None else figure_cell(rate) for rate in (one.fpr, one.fnr)),
            ],
        )
        for one in document.slices
    ]
    return SlicesTable(
        text=f"Each kind of photo beside all others of {document.split}: {document.n} photos in "
        f"{document.groups} groups, {document.looked_at} kinds looked at, {stand_out or 'none'} of which "
        f"{'stands' if stand_out == 1 else 'stand'} out after correction for that many looks. Worst first, by the "
        f"kinder end of the difference in {LABELS[document.ranked_by]}; kinds with fewer than {few.rows} photos "
        f"or {few.groups} groups are small and stand last. {100 * document.level:g}\u00a0% intervals from "
        f"{document.resamples} resamples of whole groups.",
        columns=list(document.columns),
        heads=["against the rest", *(LABELS[name] for name in SLICED), "false-positive rate", "false-negative rate"],
        rows=rows,
    )


def selective_text(document: Selective) -> str:
    """The areas of `selective.json` in a sentence."""
    areas = (("AURC", document.aurc), ("AUGRC", document.augrc))
    told = ", ".join(f"{name} {figure_text(area.value)} ({interval_text(area)})" for name, area in areas)
    return f"{told}; {document.n} photos in {document.groups} groups of {document.split}."


def band_table(document: Selective) -> Table | None:
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
    rows = [
        [name, figure_text(rate.value), interval_text(rate), str(rate.n), str(rate.groups)]
        for name, rate in rates.items()
    ]
    return Table([f"on {document.split}", "value", "interval", "photos", "groups"], rows)


def cascade_table(document: Selective) -> Table | None:
    """What a cascade gives on the test rows; None where there is none."""
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
    rows = [
        [name, figure_text(rate.value), interval_text(rate), str(rate.n), str(rate.groups)]
        for name, rate in rates.items()
    ]
    cost, share = found.mean_cost, found.early
    rows.append(
        [f"{found.cost_in} a photo", figure_text(cost.value), interval_text(cost), str(share.n), str(share.groups)]
    )
    return Table([f"on {document.split}", "value", "interval", "photos", "groups"], rows)


def calibration_table(metrics: FinalFigures) -> Table:
    """Log loss and ECE on the test rows before and after, with the interval of what the model gives."""
    rows = [
        [
            LABELS[name],
            figure_text(before),
            figure_text(metrics.metrics[name].value),
            interval_text(metrics.metrics[name]),
            str(metrics.n),
        ]
        for name, before in (("log_loss", metrics.uncalibrated.log_loss), ("ece", metrics.uncalibrated.ece))
    ]
    return Table([f"on {metrics.split}", "before", "as served", "interval", "photos"], rows)


def _what(case: Case) -> str:
    if case.distortion is not None:
        severity = "" if case.severity is None else f", severity {case.severity}"
        return f"{case.distortion}{severity}"
    return "all levels" if case.level is None else f"level {case.level}"


def _cells(metrics: Mapping[str, Interval]) -> list[Cell]:
    return [figure_cell(metrics[name]) for name in SHOWN]


def figure_cell(interval: Interval) -> Cell:
    """A figure as a cell of a table."""
    value = interval.value
    return Cell("" if value is None else value, figure_text(value), interval_text(interval))


def _difference(interval: Difference) -> Cell:
    if interval.difference is None:
        return Cell("", "-", "")
    value, low, high = (
        "-" if end is None else f"{end:+.3f}" for end in (interval.difference, interval.low, interval.high)
    )
    return Cell(interval.difference, value, f"{low} to {high}")
