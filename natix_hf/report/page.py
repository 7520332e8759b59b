"""Renders self-contained HTML pages from documents, arrays and encoded images.

The caller passes everything that a page shows; this module reads no run folder, model or data set. Every value is
escaped, since names of classes, files and metadata are not trusted. The content security policy of the page forbids
loading anything from outside.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np

from natix_hf.documents.run_documents import RunDocuments
from natix_hf.report import page_charts, page_sections, sections
from natix_hf.report.charts import Chart, Table, svg_path
from natix_hf.report.decision_lines import calibration_lines
from natix_hf.report.page_sections import Picture, Rows
from natix_hf.report.sections import Section
from natix_hf.report.summary import counts_text, figure_text, interval_text, read_before_line, sentence


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("natix_hf.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": figure_text, "interval": interval_text, "percent": percent, "svg_path": svg_path}
    return environment


def render(template: str, **context: Any) -> str:
    """Render one of the templates in `report/templates`, which extend `base.html.jinja`.

    Args:
        template: file name, e.g. `comparison.html.jinja`.
        context: variables of the template; all text is escaped.
    """
    return _environment().get_template(template).render(**context)


def percent(share: float | None) -> str:
    """Format `0.1234` as `12.3 %`, and an undefined share as a dash."""
    return "-" if share is None else f"{100 * share:.1f}\u00a0%"


def report_html(
    name: str,
    documents: RunDocuments,
    test: Rows,
    *,
    select: Rows | None = None,
    pictures: Mapping[tuple[str, str], Picture] | None = None,
    lead: str = "",
    extra: Sequence[Section] = (),
    facts: Sequence[tuple[str, Table]] = (),
    version: str = "",
) -> str:
    """The report of one run as one HTML page.

    Args:
        name: of the run.
        documents: of the run, with a calibration; the page omits sections without a document.
        test: rows that the figures are computed from.
        select: rows that chose the checkpoint; suspected label errors are searched in both.
        pictures: by split and id. If None, the page shows no photo, no id and no other data of a single row.
        lead: sentence below the title.
        extra: sections between robustness and mistakes.
        facts: titles and tables of the last section.
        version: of natix_hf.
    """
    metrics, calibration, run, splits = documents.metrics, documents.calibration, documents.record, documents.splits
    names, positive = splits.label_names, run.positive
    selective, slices, robustness = documents.selective, documents.slices, documents.robustness
    return render(
        "report.html.jinja",
        name=name,
        lead=lead,
        names=names,
        metrics=metrics,
        counts=counts_text(metrics.labels),
        level=f"{100 * metrics.level:g}\u00a0%",
        figures=page_sections.figures(metrics),
        ledger=page_sections.ledger(documents.ledger, splits),
        read_before=sentence(read_before_line(metrics)),
        confusion=page_sections.confusion(test.labels, test.decided, names),
        charts=charts_of(documents, test),
        calibration=[sentence(line) for line in calibration_lines(calibration, names, guarantee=False)],
        calibrated=sections.calibration_section(metrics),
        stages=sections.stages_section(metrics, positive),
        over_probe=documents.over_probe and sections.probe_section(documents.over_probe),
        guarantee=calibration.guarantee and [sentence(line) for line in calibration.guarantee.lines],
        band=selective and sections.band_section(selective),
        cascade=calibration.cascade and [sentence(line) for line in calibration.cascade.lines],
        cascade_figures=selective and sections.cascade_section(selective),
        slices=slices and sections.slices_section(slices),
        robustness=robustness and sections.robustness_section(robustness),
        robustness_chart=robustness and page_charts.robustness_chart(robustness),
        extra=extra,
        mistakes=[] if pictures is None else page_sections.mistakes(test, names, positive, pictures),
        wrong=int(np.sum(test.decided != test.labels)),
        label_errors=[]
        if pictures is None
        else page_sections.label_errors([test] if select is None else [select, test], names, pictures),
        facts=facts,
        version=version,
    )


def charts_of(documents: RunDocuments, test: Rows) -> dict[str, list[Chart]]:
    """The charts of a run by name; charts without data are omitted.

    Args:
        documents: of the run, with a calibration.
        test: rows that the figures are computed from.
    """
    calibration, selective, positive = documents.calibration, documents.selective, documents.record.positive
    charts = {"reliability": [page_charts.reliability_chart(test.before, test.after, test.labels)]}
    is_positive, decided = test.labels == positive, test.decided == positive
    if is_positive.any() and not is_positive.all():
        name = documents.splits.label_names[positive]
        charts["ranking"] = page_charts.ranking_charts(test.log_odds[:, positive], is_positive, decided, name)
    if choice := calibration.threshold_choice:
        charts["threshold"] = [page_charts.threshold_chart(choice, calibration.fitted_on)]
    if selective:
        curve, note = selective.curve, sections.selective_text(selective)
        charts["risk_coverage"] = [page_charts.risk_coverage_chart(curve.coverage, curve.risk, note=note)]
        if selective.cascade:
            charts["cost"] = [page_charts.cost_chart(selective.cascade, selective.split)]
    if training := page_charts.training_charts(documents.record.log_history or []):
        charts["training"] = training
    return charts
