"""`natix_hf.export` typed as a command, and `predict` on what it wrote."""

from __future__ import annotations

import csv
import json

import pytest

from natix_hf.documents.export import Proof


@pytest.mark.slow
def test_a_trained_run_is_exported_proved_on_its_own_photos_and_predicts_the_same(finished, trained_desk):
    pytest.importorskip("timm")
    desk = trained_desk
    out = desk.folder / "stock"
    result = desk.type("export", finished, "--format", "stock", "--output", out)
    assert result.status == 0, result.err
    assert "fresh process without natix_hf: logits" in result.out
    proof = json.loads((out / "proof.json").read_text())
    Proof.check(proof)
    assert proof["photos"]["source"] == "val_select"
    tables = []
    for model in (finished, out):
        assert desk.type("predict", model, desk.folder / "photos", "--output", desk.folder / "p.csv").status == 0
        with (desk.folder / "p.csv").open(newline="") as file:
            tables.append(list(csv.DictReader(file)))
    assert len(tables[0]) == 48
    for one, other in zip(*tables, strict=True):
        assert (one["file"], one["label"]) == (other["file"], other["label"])
        assert float(one["p_Roadwork"]) == pytest.approx(float(other["p_Roadwork"]), abs=2e-6)
    missing = desk.folder / "no-python"
    line = desk.refusal(
        "export", finished, "--format", "merged", "--output", desk.folder / "m", "--client_python", missing
    )
    assert "cannot be started" in line
    assert not (desk.folder / "m").exists()
    again = desk.refusal("export", finished, "--format", "stock", "--output", out)
    assert "exists and is not empty" in again
    assert "only LoRA runs have one" in desk.refusal(
        "export", finished, "--format", "adapter", "--output", desk.folder / "adapter"
    )
