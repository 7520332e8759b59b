"""What goes to the Hub beside an export: card, pictures, figures as documents, the page, the Hub's evaluation results.

Filled from the files of the run. Without `include_photos` no photo, no name of a photo or group and no place is among
it, and the whole folder is read once more to make sure. Predictions, gallery, checkpoints and the certificate with its
ids never go along.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from natix_hf.data.splits.certificate import read_certificate
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.final_figures import FinalFigures
from natix_hf.documents.probe import OverProbe, ProbeSearch
from natix_hf.documents.reward import Reward
from natix_hf.documents.robustness import Robustness
from natix_hf.documents.selective import Selective
from natix_hf.documents.slices import Slices
from natix_hf.documents.split_certificate import SplitSummary
from natix_hf.errors import UserError
from natix_hf.files import hub_id, read_json, write_json, write_text
from natix_hf.hub.base_licence import Licence, base_licence
from natix_hf.hub.card_metadata import eval_results
from natix_hf.hub.card_sections import pictures
from natix_hf.hub.cards import model_card
from natix_hf.hub.privacy import Names, check_public, names_of, public, splits_summary
from natix_hf.hub.public_page import write_public_page
from natix_hf.modeling.exports import FORMS
from natix_hf.report.page_sections import ExtraSection

# Documents of a run that are published where there are any; the first is there in every finished run.
DOCUMENTS = (FinalFigures, Slices, Selective, Robustness, Reward)
PROBES = (OverProbe, ProbeSearch)
SHOWN_ON_PAGE = ("slices", "robustness", "reward", "selective")


def write_bundle(
    run: Path,
    folder: Path,
    repo_id: str,
    form: str,
    *,
    include_photos: bool = False,
    extra: Sequence[ExtraSection] = (),
) -> None:
    """Complete an export's folder with everything else that is published.

    Args:
        run: a finished and evaluated run.
        folder: of its export.
        repo_id: where it will stand.
        form: one of `exports.FORMS`.
        include_photos: the page keeps its gallery, and nothing is withheld.
        extra: further sections of the card.

    Raises:
        UserError: a file of the run is missing or not what it should be, the Hub would refuse the card, or a text
            names a photo although it must not.
    """
    run, folder = Path(run), Path(folder)
    splits, record = read_certificate(run), _document(run, "run")
    names = Names(frozenset()) if include_photos else names_of(run)
    recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8")) if _has(run, "recipe.yaml") else {}

    documents = {}
    for kind in DOCUMENTS:
        if kind is FinalFigures or kind.there(run):
            name = kind.file_name.removesuffix(".json")
            _check_there(run, name)
            documents[name] = kind.read(run) if include_photos else public(kind.read(run), names)
            documents[name].write(folder)
    for kind in PROBES:
        if kind.there(run):
            kind.read(run).write(folder)
    _check_there(run, "calibration")
    calibration = CalibrationFile.read(run)
    if not include_photos:
        calibration = public(calibration, names)
        calibration.write(folder)
    summary = splits_summary(splits, names)
    SplitSummary.check(summary)
    write_json(folder / "splits_summary.json", summary)

    _copy_pictures(run, folder, names, include_photos)
    further = {"calibration": calibration.plain(), "run": record, "splits": splits}
    _write_page(run, folder, documents | further, include_photos)

    data = hub_id(recipe.get("dataset_name"))
    if data:
        results = eval_results(
            documents["metrics"],
            data=data,
            repo_id=repo_id,
            fingerprint=splits["fingerprint"],
            date=record.get("finished") or datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_text(folder / ".eval_results" / "natix_hf.yaml", yaml.safe_dump(results, sort_keys=False))

    licence = _licence(recipe.get("model_name_or_path"), folder)
    base = None
    if FORMS[form].on_base:
        base = hub_id(read_json(folder / "adapter_config.json")["base_model_name_or_path"])
    card = model_card(run, repo_id, form=form, base=base, licence=licence, extra=extra, include_photos=include_photos)
    write_text(folder / "README.md", card)
    if not include_photos:
        check_public(folder, names)


def _has(run: Path, name: str) -> bool:
    return (run / name).is_file()


def _check_there(run: Path, name: str) -> None:
    if not _has(run, f"{name}.json"):
        raise UserError(
            f"{run}: no {name}.json, so nothing of what it measured could be published: run `python -m "
            f"natix_hf.{'calibrate' if name == 'calibration' else 'evaluate'} {run}` first"
        )


def _document(run: Path, name: str) -> dict[str, Any]:
    _check_there(run, name)
    return read_json(run / f"{name}.json")


def _copy_pictures(run: Path, folder: Path, names: Names, include_photos: bool) -> None:
    """The pictures that the card shows; all others that lie beside them only where photos may go."""
    found = [run / path for path, _ in pictures(run, names)]
    if include_photos:
        found = sorted((run / "figures").glob("*.png"))
    for path in found:
        (folder / "figures").mkdir(exist_ok=True)
        shutil.copyfile(path, folder / "figures" / path.name)


def _write_page(run: Path, folder: Path, documents: dict[str, Any], include_photos: bool) -> None:
    """`report.html`: the run's own, with its gallery, or one without anything of a single photo."""
    if include_photos and _has(run, "report.html"):
        shutil.copyfile(run / "report.html", folder / "report.html")
        return
    if not _has(run, "predictions/val_test.parquet"):
        return  # a refit has no photos left that it could be tested on
    wanted = ("metrics", "calibration", "run", "splits", *SHOWN_ON_PAGE)
    write_public_page(run, {key: documents[key] for key in wanted if key in documents}, folder / "report.html")


def _licence(base: str | None, folder: Path) -> Licence:
    """The base checkpoint's licence, its text beside the weights where it is at hand; unknown, a line says so."""
    licence = base_licence(base, ask_hub=True)
    if not licence.known:
        print(
            f"the licence of the base checkpoint ({hub_id(base) or 'a local folder'}) is not known: the card says so; "
            "put a README.md with `license:` in its front matter beside it if you know it"
        )
    if licence.file is not None and licence.front["license"] == "other":
        shutil.copyfile(licence.file, folder / "LICENSE.md")
    return licence
