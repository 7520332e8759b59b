"""`report.html` of a finished run, put together from the files in its folder; the model isn't run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from natix_hf import __version__
from natix_hf.data.splits.certificate import read_certificate
from natix_hf.decision.calibration import Calibration
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.final_figures import FinalFigures
from natix_hf.documents.gallery import Gallery
from natix_hf.documents.reward import Reward
from natix_hf.documents.robustness import Robustness
from natix_hf.documents.selective import Selective
from natix_hf.documents.slices import Slices
from natix_hf.errors import UserError
from natix_hf.files import read_json, write_text
from natix_hf.hub.public_page import facts, lead, served_rows
from natix_hf.report import figures_decisions
from natix_hf.report.page import report_html
from natix_hf.report.page_sections import Picture, Rows
from natix_hf.runs.saved_logits import read_predictions
from natix_hf.streetvision.reward_report import reward_sections

OPTIONAL = {"slices": Slices, "robustness": Robustness, "reward": Reward, "selective": Selective}


def write_report(run: str | Path, *, path: str | Path | None = None, include_photos: bool = True) -> Path:
    """Write the page that shows everything a run found out about itself.

    Args:
        run: a folder whose figures were computed.
        path: where to; `report.html` in the run by default.
        include_photos: False for a page that may be passed on: no photo, no name of a photo or group, no local path.

    Returns:
        Where the page is.

    Raises:
        UserError: the run was never evaluated, or a file of it is missing or not what it should be.
    """
    run = Path(run)
    _check_there(run, "calibration")
    documents = {"calibration": CalibrationFile.read(run), "run": _document(run, "run")}
    _check_there(run, "metrics")
    documents["metrics"] = FinalFigures.read(run)
    documents["splits"] = read_certificate(run)
    documents |= {name: kind.read(run) for name, kind in OPTIONAL.items() if kind.there(run)}
    calibration = Calibration.from_document(documents["calibration"])
    pictures = read_pictures(run) if include_photos else None
    page = report_html(
        run.resolve().name,
        documents,
        _rows(run, "val_test", calibration),
        select=_rows(run, "val_select", calibration) if include_photos else None,
        pictures=pictures,
        lead=lead(documents),
        extra=reward_sections(documents.get("reward")),
        facts=facts(run, documents),
        version=__version__,
    )
    path = run / "report.html" if path is None else Path(path)
    write_text(path, page)
    return path


def write_decision_figures(run: str | Path) -> None:
    """The page's pictures of how decisions fall, as PNG in `figures/` for the card."""
    run = Path(run)
    calibration, splits = CalibrationFile.read(run), read_certificate(run)
    test, positive = _rows(run, "val_test", Calibration.from_document(calibration)), _document(run, "run")["positive"]
    is_positive, folder = test.labels == positive, run / "figures"
    if calibration.threshold_choice:
        figures_decisions.threshold_figure(
            calibration.threshold_choice, calibration.fitted_on, folder / "threshold.png"
        )
    if Selective.there(run):
        figures_decisions.risk_coverage_figure(Selective.read(run), folder / "risk_coverage.png")
    if is_positive.any() and not is_positive.all():
        score, decided = test.log_odds[:, positive], test.decided == positive
        figures_decisions.ranking_figure(
            score, is_positive, decided, splits.label_names[positive], folder / "ranking.png"
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


def _check_there(run: Path, name: str) -> None:
    if not (run / f"{name}.json").is_file():
        how = "python -m natix_hf.evaluate writes it" if name == "metrics" else "bring the file back"
        raise UserError(f"{run}: no {name}.json, so there is nothing to report: {how}")


def _document(run: Path, name: str) -> dict[str, Any]:
    _check_there(run, name)
    path = run / f"{name}.json"
    try:
        return read_json(path)
    except ValueError:
        raise UserError(f"{path}: not JSON that natix_hf wrote: bring the file back") from None
