"""Builds figures, card and report page of a finished run from the files in its folder. Does not run the model."""

from __future__ import annotations

from pathlib import Path

from natix_hf import __version__
from natix_hf.data.splits.certificate import read_certificate
from natix_hf.decision.calibration import Calibration
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.gallery import Gallery
from natix_hf.documents.run_documents import RunDocuments
from natix_hf.errors import UserError
from natix_hf.files import write_text
from natix_hf.hub.cards import model_card
from natix_hf.hub.public_page import facts, lead, served_rows
from natix_hf.report import figures, figures_robustness
from natix_hf.report.chart_pictures import draw_charts
from natix_hf.report.page import charts_of, report_html
from natix_hf.report.page_sections import Picture, Rows
from natix_hf.runs.saved_logits import read_predictions
from natix_hf.runs.steps import REPORT, carried_out
from natix_hf.streetvision.reward_report import reward_figure, reward_sections


def write_report(run: Path, documents: RunDocuments) -> None:
    """Write the report page of a run, with its gallery; `hub.public_page` writes the page that may be shared.

    Raises:
        UserError: the run has no calibration or no predictions.
    """
    if documents.calibration is None:
        raise UserError(f"{run}: no calibration.json, so there is nothing to report: restore the file")
    page = report_html(
        run.resolve().name,
        documents,
        _rows(run, "val_test", documents.calibration),
        select=_rows(run, "val_select", documents.calibration),
        pictures=read_pictures(run),
        lead=lead(documents),
        extra=reward_sections(documents.reward),
        facts=facts(run, documents),
        version=__version__,
    )
    write_text(run / "report.html", page)


def draw_figures(run: Path, documents: RunDocuments) -> None:
    """Write the figures that the card shows to `figures/`."""
    test, folder = _rows(run, "val_test", documents.calibration), run / "figures"
    for name, charts in charts_of(documents, test).items():
        draw_charts(charts, folder / f"{name}.png")
    figures.confusion(test.labels, test.decided, documents.splits.label_names, folder / "confusion.png")
    if documents.robustness:
        figures_robustness.robustness(documents.robustness, folder / "robustness.png")
    if documents.reward:
        reward_figure(documents.reward, folder / "reward.png")  # draws nothing if there is no reward


def report_run(run: Path) -> None:
    """The last step of a run: `figures/`, the card `README.md` and the page `report.html`, from its documents."""
    with carried_out(run, REPORT):
        documents = RunDocuments.read(run, read_certificate(run))
        draw_figures(run, documents)
        write_text(run / "README.md", model_card(run, documents))
        write_report(run, documents)


def read_pictures(run: Path) -> dict[tuple[str, str], Picture]:
    """The photos saved for the page, by split and id; empty without `gallery.json`."""
    if not Gallery.there(run):
        return {}
    pictures = {}
    for entry in Gallery.read(run).photos:
        photo, heat = run / entry.photo, entry.attention and run / entry.attention
        if photo.is_file():  # the user may have deleted some
            pictures[entry.split, entry.id] = Picture(
                photo.read_bytes(),
                entry.width,
                entry.height,
                heat.read_bytes() if heat and heat.is_file() else None,
                tuple(entry.box),
            )
    return pictures


def rows_of(run: Path, split: str) -> Rows:
    """The rows of a split with the run's calibration applied."""
    return _rows(Path(run), split, CalibrationFile.read(run))


def _rows(run: Path, split: str, fitted: CalibrationFile) -> Rows:
    rows = read_predictions(run, split, fitted=fitted)
    return served_rows(split, rows, Calibration.from_document(fitted))
