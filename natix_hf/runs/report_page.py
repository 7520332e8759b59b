"""`report.html` of a finished run, put together from the files in its folder; the model isn't run."""

from __future__ import annotations

from pathlib import Path

from natix_hf import __version__
from natix_hf.decision.calibration import Calibration
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.gallery import Gallery
from natix_hf.documents.run_documents import RunDocuments
from natix_hf.errors import UserError
from natix_hf.files import write_text
from natix_hf.hub.public_page import facts, lead, served_rows
from natix_hf.report import figures_decisions
from natix_hf.report.page import report_html
from natix_hf.report.page_sections import Picture, Rows
from natix_hf.runs.saved_logits import read_predictions
from natix_hf.streetvision.reward_report import reward_sections


def write_report(
    run: str | Path, documents: RunDocuments, *, path: str | Path | None = None, include_photos: bool = True
) -> Path:
    """Write the page that shows everything a run found out about itself.

    Args:
        run: its folder.
        documents: of the run.
        path: where to; `report.html` in the run by default.
        include_photos: False for a page that may be passed on: no photo, no name of a photo or group, no local path.

    Returns:
        Where the page is.

    Raises:
        UserError: the run has no calibration or no predictions.
    """
    run = Path(run)
    if documents.calibration is None:
        raise UserError(f"{run}: no calibration.json, so there is nothing to report: bring the file back")
    calibration = Calibration.from_document(documents.calibration)
    pictures = read_pictures(run) if include_photos else None
    page = report_html(
        run.resolve().name,
        documents,
        _rows(run, "val_test", calibration),
        select=_rows(run, "val_select", calibration) if include_photos else None,
        pictures=pictures,
        lead=lead(documents),
        extra=reward_sections(documents.reward),
        facts=facts(run, documents),
        version=__version__,
    )
    path = run / "report.html" if path is None else Path(path)
    write_text(path, page)
    return path


def write_decision_figures(run: str | Path, documents: RunDocuments) -> None:
    """The page's pictures of how decisions fall, as PNG in `figures/` for the card."""
    run, calibration, positive = Path(run), documents.calibration, documents.record["positive"]
    test = _rows(run, "val_test", Calibration.from_document(calibration))
    is_positive, folder = test.labels == positive, run / "figures"
    if choice := calibration.threshold_choice:
        figures_decisions.threshold_figure(choice, calibration.fitted_on, folder / "threshold.png")
    if documents.selective:
        figures_decisions.risk_coverage_figure(documents.selective, folder / "risk_coverage.png")
    if is_positive.any() and not is_positive.all():
        score, decided = test.log_odds[:, positive], test.decided == positive
        figures_decisions.ranking_figure(
            score, is_positive, decided, documents.splits.label_names[positive], folder / "ranking.png"
        )


def read_pictures(run: Path) -> dict[tuple[str, str], Picture]:
    """The photos that the end of training kept for the page, by split and id; none without a `gallery.json`."""
    if not Gallery.there(run):
        return {}
    pictures = {}
    for entry in Gallery.read(run).photos:
        photo, heat = run / entry.photo, entry.attention and run / entry.attention
        if photo.is_file():  # a person may have deleted some
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
    return _rows(Path(run), split, Calibration.from_document(CalibrationFile.read(run)))


def _rows(run: Path, split: str, calibration: Calibration) -> Rows:
    return served_rows(split, read_predictions(run, split), calibration)
