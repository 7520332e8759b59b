"""The documents of a finished run are read by their classes and come out as they were; a missing key is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from finished_run import write_finished_run

from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.document import Document
from natix_hf.documents.final_figures import FinalFigures
from natix_hf.documents.ledger import LedgerEntry, note_reads, read_ledger
from natix_hf.documents.photo_cost import PhotoCost
from natix_hf.documents.probe import OverProbe
from natix_hf.documents.reward import Reward
from natix_hf.documents.robustness import Robustness
from natix_hf.documents.selective import Selective
from natix_hf.documents.several_runs import FoldRun, SweepRun
from natix_hf.documents.slices import Slices
from natix_hf.documents.split_certificate import SplitCertificate
from natix_hf.errors import UserError

KINDS = (
    CalibrationFile, FinalFigures, OverProbe, PhotoCost, Reward, Robustness, Selective, Slices, SplitCertificate
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_finished_run(tmp_path_factory.mktemp("finished") / "run")


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_comes_out_as_it_was(run: Path, kind: type[Document]) -> None:
    assert json.loads(kind.read(run).text()) == json.loads((run / kind.file_name).read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_key_is_named(run: Path, kind: type[Document], tmp_path: Path) -> None:
    content = json.loads((run / kind.file_name).read_text())
    required = [name for name, field in kind.model_fields.items() if field.is_required()]
    assert required
    for name in required:
        less = {key: value for key, value in content.items() if key != name}
        (tmp_path / kind.file_name).write_text(json.dumps(less))
        with pytest.raises(UserError, match=rf"{kind.file_name}.* at \$\.{name}: missing"):
            kind.read(tmp_path)


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        (
            SweepRun,
            {"name": "a", "values": {}, "rank": 1, "status": "pruned"},
            "pruned, but no metric, score, log_loss",
        ),
        (FoldRun, {"value": "x", "name": "a", "labels": {}, "status": "failed"}, "failed, but no reason"),
        (FoldRun, {"value": "x", "name": "a", "labels": {}, "status": "finished"}, "finished, but no n, groups"),
    ],
)
def test_a_run_without_what_its_status_needs_is_refused(kind, content, message):
    with pytest.raises(UserError, match=message):
        kind.check(content, "sweep.json")


@pytest.mark.parametrize(("name", "missing"), [("metrics", "mcc"), ("class_counts", "val_calib/fit")])
def test_a_missing_figure_or_place_is_named(run: Path, name: str, missing: str) -> None:
    kind = FinalFigures if name == "metrics" else SplitCertificate
    content = json.loads((run / kind.file_name).read_text())
    del content[name][missing]
    with pytest.raises(UserError, match=f"no {missing}"):
        kind.check(content)


def test_a_damaged_ledger_names_the_line(tmp_path: Path) -> None:
    entry = LedgerEntry(step="train", role="training", split="train", rows=3, fingerprint="0" * 32)
    note_reads(tmp_path, [entry])
    note_reads(tmp_path, [])
    assert read_ledger(tmp_path) == [entry]
    with open(tmp_path / "ledger.jsonl", "a") as file:
        file.write("{}\n")
    with pytest.raises(UserError, match=r"line 2: not a ledger entry"):
        read_ledger(tmp_path)
