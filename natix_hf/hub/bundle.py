"""Adds the other published files to an export: card, pictures, documents, report page, the Hub's evaluation results.

Everything comes from the files of the run. Without `include_photos` the files contain no photos, no names of photos or
groups and no places; the finished folder is checked for such names. Predictions, gallery, checkpoints and the full
certificate with its ids are never published.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import yaml

from natix_hf.data.splits.certificate import read_certificate
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.probe import ProbeSearch
from natix_hf.documents.provenance import Provenance
from natix_hf.documents.quantised import Quantised
from natix_hf.documents.reward import Reward
from natix_hf.documents.run_documents import RunDocuments
from natix_hf.errors import UserError
from natix_hf.files import hub_id, read_json, read_recipe, write_text
from natix_hf.hub.base_licence import Licence, base_licence
from natix_hf.hub.card_metadata import eval_results
from natix_hf.hub.card_sections import pictures
from natix_hf.hub.cards import model_card
from natix_hf.hub.privacy import Names, check_public, names_of, public, splits_summary
from natix_hf.hub.public_page import write_public_page
from natix_hf.modeling.exports import FORMS
from natix_hf.report.sections import Section


def write_bundle(
    run: Path,
    folder: Path,
    repo_id: str,
    form: str,
    *,
    include_photos: bool = False,
    extra: Sequence[Section] = (),
    quantised: Quantised | None = None,
) -> None:
    """Complete an export folder with the other files that are published.

    Args:
        form: one of `exports.FORMS`.
        include_photos: publish the gallery of the report page too, and withhold no texts.
        extra: further sections of the card.
        quantised: for an int8 graph, whose folder has a calibration of its own: what int8 changed.

    Raises:
        UserError: a file of the run is missing or invalid, the Hub would refuse the card, or a published text names a
            photo.
    """
    run, folder = Path(run), Path(folder)
    splits = read_certificate(run)
    documents = RunDocuments.read(run, splits)
    if documents.calibration is None:
        raise UserError(f"{run}: no calibration.json: run `python -m natix_hf.calibrate {run}` first")
    # The figures and the report page are the run's. The calibration is that of the published model.
    published = documents if quantised is None else replace(documents, calibration=CalibrationFile.read(folder))
    names = Names(frozenset()) if include_photos else names_of(run, splits)
    shown = documents if include_photos else public(documents, names)
    recipe = read_recipe(run)

    _write_documents(run, folder, shown)
    if not include_photos:  # replaces the copy in the export, which still holds all texts
        public(published, names).calibration.write(folder)
    splits_summary(splits, names).write(folder)
    _copy_pictures(run, folder, documents.reward, names, include_photos)
    _write_page(run, folder, shown, include_photos)
    if data := hub_id(recipe.get("dataset_name")):
        _write_eval_results(folder, shown, data, repo_id, int8=quantised is not None)
    base = None
    if FORMS[form].on_base:
        base = hub_id(read_json(folder / "adapter_config.json")["base_model_name_or_path"])
    card = model_card(
        run,
        published,
        repo_id,
        form=form,
        base=base,
        licence=_licence(recipe.get("model_name_or_path"), folder),
        extra=extra,
        include_photos=include_photos,
        quantised=quantised,
    )
    write_text(folder / "README.md", card)
    if not include_photos:
        check_public(folder, names)


def _write_documents(run: Path, folder: Path, shown: RunDocuments) -> None:
    """Write the documents with the run's figures and with the record of its steps."""
    figures = (shown.metrics, shown.slices, shown.selective, shown.robustness, shown.reward, shown.over_probe)
    for document in filter(None, (*figures, shown.photo_cost)):
        document.write(folder)
    if ProbeSearch.there(run):
        ProbeSearch.read(run).write(folder)
    Provenance.of(run).write(folder)


def _write_eval_results(folder: Path, documents: RunDocuments, data: str, repo_id: str, *, int8: bool) -> None:
    """Write the figures in the form that the Hub shows beside those of other models on this data set."""
    results = eval_results(
        documents.metrics,
        data=data,
        repo_id=repo_id,
        fingerprint=documents.splits.fingerprint,
        date=documents.record.finished or datetime.now(UTC).isoformat(timespec="seconds"),
        int8=int8,
    )
    write_text(folder / ".eval_results" / "natix_hf.yaml", yaml.safe_dump(results, sort_keys=False))


def _copy_pictures(run: Path, folder: Path, reward: Reward | None, names: Names, include_photos: bool) -> None:
    """Copy the pictures that the card shows; with `include_photos`, copy all pictures of the run."""
    paths = [run / path for path, _ in pictures(run, reward, names)]
    if include_photos:
        paths = sorted((run / "figures").glob("*.png"))
    for path in paths:
        (folder / "figures").mkdir(exist_ok=True)
        shutil.copyfile(path, folder / "figures" / path.name)


def _write_page(run: Path, folder: Path, documents: RunDocuments, include_photos: bool) -> None:
    """Write `report.html`: the run's own page with its gallery, or a page without anything about single photos."""
    if include_photos and (run / "report.html").is_file():
        shutil.copyfile(run / "report.html", folder / "report.html")
    elif (run / "predictions" / "val_test.parquet").is_file():  # a refit has no test photos
        write_public_page(run, documents, folder / "report.html")


def _licence(base: str | None, folder: Path) -> Licence:
    """The base checkpoint's licence; copies its text into `folder` if available, prints a line if it is unknown."""
    licence = base_licence(base, ask_hub=True)
    if not licence.known:
        print(
            f"the licence of the base checkpoint ({hub_id(base) or 'a local folder'}) is not known, and the card says "
            "so: if you know it, put a README.md with `license:` in its front matter into the checkpoint's folder"
        )
    if licence.file is not None and licence.front["license"] == "other":
        shutil.copyfile(licence.file, folder / "LICENSE.md")
    return licence
