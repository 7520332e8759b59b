"""Describes the sections of a report: a text, a table of figures and a line below it.

The page renders a `Section` as a table that can be sorted, and a card renders it as Markdown. Every figure comes with
its interval and the number of photos that it was measured on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from natix_hf.documents.figures import Difference, Interval
from natix_hf.documents.final_figures import FinalFigures
from natix_hf.documents.probe import OverProbe
from natix_hf.documents.robustness import Robustness
from natix_hf.documents.selective import Rate, Selective
from natix_hf.documents.slices import Slices
from natix_hf.report.decision_lines import shown_classes
from natix_hf.report.robustness import case_text, sent_text
from natix_hf.report.summary import LABELS, figure_and_interval, figure_text, interval_text

ROBUSTNESS_METRICS = ("mcc", "accuracy", "balanced_accuracy", "auroc", "ece")
SLICE_METRICS = ("balanced_accuracy", "mcc", "accuracy", "auroc")
STAGES = {"accuracy": "accuracy", "mcc": "MCC", "nll": "NLL", "brier": "Brier score", "ece": "ECE"}
RATES = ("value", "photos", "groups")


class Cell(NamedTuple):
    """A figure in a table.

    Attributes:
        sort: what its column is sorted by.
        value, interval: texts; an undefined interval is empty or a dash.
        tag: a word beside the value, such as `stands out`.
    """

    sort: float | str
    value: str
    interval: str = ""
    tag: str = ""


class Section(NamedTuple):
    """A part of a report.

    Attributes:
        id: anchor in a page.
        name: entry in the menu of a page.
        title: heading of the section.
        text: paragraph above the table.
        heads: headings of the columns.
        rows: texts, then `Cell`s. If a row has too few cells, its last text says why.
        words: number of columns with text.
        foot: line below the table.
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
    """A difference and its interval with explicit signs."""
    if gap.difference is None:
        return Cell("", "-")
    value, low, high = ("-" if end is None else f"{end:+.3f}" for end in (gap.difference, gap.low, gap.high))
    return Cell(gap.difference, value, f"{low} to {high}")


def count_cell(count: int) -> Cell:
    """A number of photos or groups."""
    return Cell(count, str(count))


def robustness_section(document: Robustness, *, distortions: bool = True) -> Section:
    """`robustness.json` as a section: figures on the photos of each profile, and on the original photos.

    Args:
        distortions: whether to include a row for each distortion at each severity.
    """
    rows = [["clean", "original photos", count_cell(document.n), *_robustness_cells(document.clean)]]
    for profile in document.profiles:
        rows += [
            [profile.profile, case_text(case), count_cell(case.n), *_robustness_cells(case.metrics)]
            for case in profile.cases
            if distortions or case.distortion is None
        ]
    latency, sent = document.latency, sent_text(document.profiles)
    return Section(
        "robustness",
        "Robustness",
        "Robustness",
        f"Figures on photos that were changed as on their way to a model in use, for example compressed, cropped or "
        f"blurred: {document.n} photos in {document.groups} groups of {document.split}; {100 * document.level:g}"
        f"\u00a0% intervals from {document.resamples} resamples of whole groups. A profile says what is done to the "
        "photos. It is an assumption, and its name ends with its date. A higher level means stronger changes."
        f"{f' How the photos were sent: {sent}.' if sent else ''}",
        ["profile", "change", "predictions", *(LABELS[name] for name in ROBUSTNESS_METRICS)],
        rows,
        words=2,
        foot=f"Time per photo on this CPU ({latency.threads} threads, {latency.n} photos one at a time): half of the "
        f"photos took at most {latency.p50:.2f} s, 99 of 100 at most {latency.p99:.2f} s, and the slowest took "
        f"{latency.max:.2f} s. A client has {latency.limit:g} s; {latency.over_limit} photos took longer."
        if latency
        else "",
    )


def slices_section(document: Slices, *, most: int | None = None, figures: int | None = None) -> Section:
    """`slices.json` as a section: every kind of photo compared with all others, in the document's order.

    Args:
        most: maximum number of kinds, without the small ones; None: all kinds, including the small ones.
        figures: number of figures per kind; None: all.
    """
    limits, stand_out = document.small, document.stand_out
    kinds = document.slices if most is None else [kind for kind in document.slices if not kind.small][:most]
    rows = []
    for kind in kinds:
        rates = [Cell("", "-") if rate is None else figure_cell(rate) for rate in (kind.fpr, kind.fnr)]
        measured = [figure_cell(kind.metrics[name]) for name in SLICE_METRICS]
        cells = [difference_cell(kind.difference[document.ranked_by]), *measured, *rates]
        tag = "stands out" if kind.stands_out else "small" * kind.small
        name = Cell(kind.value, kind.value, tag=tag)
        rows.append([kind.column, name, count_cell(kind.n), count_cell(kind.groups), *cells[:figures]])
    heads = ["difference to the rest", *(LABELS[name] for name in SLICE_METRICS)]
    heads += ["false-positive rate", "false-negative rate"]
    return Section(
        "slices",
        "Slices",
        "Slices",
        f"A slice is a kind of photo, for example all photos taken in rain. Each is compared with all other photos of "
        f"{document.split} ({document.n} photos in {document.groups} groups). {document.looked_at} kinds were "
        f"compared; {stand_out or 'none'} of them {'stand' if stand_out > 1 else 'stands'} out, that is, "
        f"{'differ' if stand_out > 1 else 'differs'} by more than chance explains in that many comparisons. The worst "
        f"kinds come first, by the upper end of the interval of their difference in {LABELS[document.ranked_by]}. "
        f"Kinds with fewer than {limits.rows} photos or {limits.groups} groups are marked as small and come last. "
        f"{100 * document.level:g}\u00a0% intervals from {document.resamples} resamples of whole groups.",
        ["column", "kind", "photos", "groups", *heads[:figures]],
        rows,
        words=2,
    )


def stages_section(metrics: FinalFigures, positive: int) -> Section | None:
    """Figures after each step from logits to decisions; None if the run has no prior and no folded threshold."""
    stages = metrics.stages
    if not stages:
        return None
    names, shares = list(metrics.labels), stages.shares
    shown = shown_classes(positive, len(names))
    measured = [name for name in STAGES if name in stages.steps[0].figures]
    return Section(
        "stages",
        "Stages",
        "Step by step",
        f"Figures after each step from the raw output of the model to its decisions, on the {stages.n} photos "
        f"({stages.groups} groups) of {metrics.split}, weighted to class shares of "
        f"{', '.join(f'{shares[k]:.1%} {names[k]}' for k in shown)}. NLL, Brier score and ECE measure the error of "
        "the probabilities; lower is better.",
        ["after", *(STAGES[name] for name in measured), "photos"],
        [
            [step.step, *(figure_cell(step.figures[name]) for name in measured), count_cell(stages.n)]
            for step in stages.steps
        ],
    )


def probe_section(document: OverProbe) -> Section:
    """What fine-tuning added to the probe that it started from."""
    return Section(
        "over-probe",
        "Over the probe",
        "What fine-tuning added",
        "A probe is a classifier on top of the unchanged network; fine-tuning started from it. The difference is "
        f"fine-tuned minus probe, on the same {document.n} photos ({document.groups} groups) of {document.split}, "
        "with 95\u00a0% intervals from resamples of whole groups.",
        ["metric", "probe", "tuned", "difference", "photos"],
        [
            [
                LABELS.get(name, name),
                figure_cell(metric.probe),
                figure_cell(metric.tuned),
                difference_cell(metric.difference),
                count_cell(document.n),
            ]
            for name, metric in document.metrics.items()
        ],
    )


def band_section(document: Selective) -> Section | None:
    """Results of a guarantee's band on the test rows; None if the run has no guarantee."""
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
        "Results of the guarantee on photos that it was not fitted on. Photos whose probability is inside the band "
        "get no answer and go to a person.",
        [f"on {document.split}", *RATES],
        _rate_rows(rates),
    )


def cascade_section(document: Selective) -> Section | None:
    """Errors and cost of a cascade on the test rows; None if the run is not a cascade."""
    figures = document.cascade
    if figures is None:
        return None
    rates = {
        "answered by the first stage": figures.early,
        "lost: first stage answers wrongly, second would be right": figures.loss,
        "lost among the answers of the first stage": figures.loss_of_early,
        "wrong answers of the cascade": figures.error,
        "wrong answers of the first stage alone": figures.error_of_first,
        "wrong answers of the second stage alone": figures.error_of_second,
    }
    photos, groups = count_cell(figures.early.n), count_cell(figures.early.groups)
    return Section(
        "cascade",
        "Cascade",
        "Early exits",
        "Errors and cost of the cascade on photos that were not used to choose its band.",
        [f"on {document.split}", *RATES],
        [*_rate_rows(rates), [f"{figures.cost_in} per photo", figure_cell(figures.mean_cost), photos, groups]],
    )


def calibration_section(metrics: FinalFigures) -> Section:
    """Log loss and ECE on the test rows before calibration and after all steps, the latter with intervals."""
    before = {"log_loss": metrics.uncalibrated.log_loss, "ece": metrics.uncalibrated.ece}
    rows = [
        [LABELS[name], figure_text(value), figure_cell(metrics.metrics[name]), count_cell(metrics.n)]
        for name, value in before.items()
    ]
    heads = [f"on {metrics.split}", "before", "after all steps", "photos"]
    return Section("calibrated", "Calibration", "Effect of calibration", "", heads, rows)


def selective_text(document: Selective) -> str:
    """The areas of `selective.json` in sentences."""
    areas = {
        "AURC, the mean height of this curve:": document.aurc,
        "AUGRC, the same for errors as a share of all photos:": document.augrc,
    }
    shown = ". ".join(f"{name} {figure_and_interval(area)}" for name, area in areas.items())
    return f"{shown}. Lower is better. {document.n} photos in {document.groups} groups of {document.split}."


def _rate_rows(rates: Mapping[str, Rate]) -> list[list[str | Cell]]:
    return [[name, figure_cell(rate), count_cell(rate.n), count_cell(rate.groups)] for name, rate in rates.items()]


def _robustness_cells(metrics: Mapping[str, Interval]) -> list[Cell]:
    return [figure_cell(metrics[name]) for name in ROBUSTNESS_METRICS]
