"""What `publish` refuses, and the state in which it leaves the Hub. tests/verbs covers the client processes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from finished_run import write_finished_run
from hub_state import WRITE, sha256
from huggingface_hub import ModelCard

from natix_hf.documents.published_version import PublishedVersion
from natix_hf.files import read_json, write_json
from natix_hf.hub import publish_run as publishing
from natix_hf.hub.export_forms import export_run
from natix_hf.hub.proof import WITH, WITHOUT
from natix_hf.hub.publish_run import OURS, Publication, publish
from natix_hf.modeling import stock as stock_form
from natix_hf.streetvision.client_files import ClientCheck, Latency

ALICE = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"

pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture
def run(whole_run, tmp_path) -> Path:
    return shutil.copytree(whole_run, tmp_path / "run")


def test_one_commit_brings_all_and_nothing_else_leaves(hub, run, proofs):
    said = []
    address = publish(run, Publication("me/x"), said.append)
    assert address == f"{hub.address}/me/x"
    held = hub.model("me/x")
    assert held.messages == ["initial commit", "Version 1.0.0"]
    assert held.tags == {"1.0.0": held.head}
    assert proofs == [("export", (WITH, WITHOUT)), ("pushed", (WITH, WITHOUT))]
    assert not held.private
    wanted = {"config.json", "model.safetensors", "preprocessor_config.json", "calibration.json", "export.json"}
    wanted |= {
        "proof.json",
        "publication.json",
        "README.md",
        "metrics.json",
        "report.html",
        "splits_summary.json",
        "provenance.json",
    }
    assert wanted <= set(held.files)
    assert all(name.endswith(OURS) for name in held.files)
    words = (
        "checkpoint",
        "gallery",
        "predictions",
        "optimizer",
        "splits.json",
        ".bin",
        ".pt",
        ".pkl",
        ".parquet",
        ".jpg",
    )
    assert not [name for name in held.files for word in words if word in name]
    record = json.loads(held.files["publication.json"])
    PublishedVersion.check(record)
    assert set(record["files"]) == set(held.files)
    assert record["mcc"] == read_json(run / "metrics.json")["metrics"]["mcc"]["value"]
    for content in held.files.values():
        assert WRITE.encode() not in content
    assert ModelCard(held.files["README.md"].decode()).data.pipeline_tag == "image-classification"
    assert not [line for line in said if WRITE in line]
    assert json.loads(held.files["config.json"])["model_type"] == "timm_wrapper"


def test_readers_see_the_old_state_until_the_commit(hub, run, light, monkeypatch):
    publish(run, Publication("me/x"), lambda _: None)
    before, usual, seen = dict(hub.model("me/x").files), publishing.write_bundle, []

    def bundle(*args, **kwargs):
        seen.append(hub.model("me/x").files == before)
        usual(*args, **kwargs)

    monkeypatch.setattr(publishing, "write_bundle", bundle)
    hub.answer("/commit/", 500)
    with pytest.raises(publishing.UserError, match="run the same command again; files that were uploaded are kept"):
        publish(run, Publication("me/x", version="1.1.0", form="merged"), lambda _: None)
    assert seen == [True]
    assert hub.model("me/x").files == before
    hub.refusals.clear()
    publish(run, Publication("me/x", version="1.1.0", form="merged"), lambda _: None)
    files = hub.model("me/x").files
    assert "modeling_natix_dinov3.py" in files
    publish(run, Publication("me/x", version="1.2.0"), lambda _: None)
    assert "modeling_natix_dinov3.py" not in hub.model("me/x").files  # of the version before
    assert set(hub.model("me/x").tags) == {"1.0.0", "1.1.0", "1.2.0"}


def test_files_that_a_person_added_are_kept(hub, run, light):
    publish(run, Publication("me/x"), lambda _: None)
    held = hub.model("me/x")
    held.commit({**held.files, "notes.md": b"mine"}, "by hand")
    publish(run, Publication("me/x", version="1.0.1", form="merged"), lambda _: None)
    assert held.files["notes.md"] == b"mine"


def test_an_empty_repository_with_a_card_is_filled(hub, run, light):
    hub.add("me/x", {"README.md": b"soon", ".gitattributes": b""}, private=True)
    publish(run, Publication("me/x", private=True), lambda _: None)
    assert "model.safetensors" in hub.model("me/x").files
    assert hub.model("me/x").private


def test_private_makes_a_private_one_and_refuses_a_public_one(hub, run, light, refused):
    publish(run, Publication("me/x", private=True), lambda _: None)
    assert hub.model("me/x").private
    hub.add("me/open", {})
    line, _ = refused(run, "me/open", "--private")
    assert "already exists and is public" in line
    assert not hub.model("me/open").files


def test_an_interrupted_push_is_one_line_and_resumes_without_uploading_twice(hub, run, light, refused):
    hub.cut_uploads(after=1)
    line, _ = refused(run, "me/x")
    assert line.startswith("push me/x: ")
    assert line.endswith("run the same command again; files that were uploaded are kept")
    assert not hub.model("me/x").files
    assert not hub.model("me/x").tags
    assert sum(hub.uploaded.values()) == 1
    hub.cut_uploads(0)
    publish(run, Publication("me/x"), lambda _: None)
    weights = [data for name, data in hub.model("me/x").files.items() if name.endswith(".safetensors")]
    assert hub.uploaded == {sha256(data): 1 for data in weights}
    assert len(weights) == 3
    assert hub.model("me/x").tags == {"1.0.0": hub.model("me/x").head}


def test_a_push_that_broke_before_its_tag_is_taken_up(hub, run, light, refused):
    hub.answer("/tag/", 500, times=1)
    line, _ = refused(run, "me/x")
    assert "run the same command again" in line
    assert not hub.model("me/x").tags
    publish(run, Publication("me/x"), lambda _: None)
    assert hub.model("me/x").tags == {"1.0.0": hub.model("me/x").head}


def test_a_change_by_somebody_else_meanwhile_is_a_conflict(hub, run, light, refused, monkeypatch):
    publish(run, Publication("me/x"), lambda _: None)
    usual = publishing.write_bundle

    def slowly(*args, **kwargs):
        held = hub.model("me/x")
        held.commit({**held.files, "notes.md": b"theirs"}, "by hand")
        usual(*args, **kwargs)

    monkeypatch.setattr(publishing, "write_bundle", slowly)
    line, _ = refused(run, "me/x", "--model_version", "1.1.0")
    assert line.startswith(
        "push me/x: somebody else changed the repository in the meantime: run the same command again"
    )
    assert hub.model("me/x").messages[-1] == "by hand"
    assert set(hub.model("me/x").tags) == {"1.0.0"}


def test_an_export_that_does_not_answer_like_the_run_is_not_pushed(hub, run, proofs, refused, monkeypatch):
    usual = stock_form.stock_model

    def spoiled(*args, **kwargs):
        model = usual(*args, **kwargs)
        model.timm_model.head.bias.data[0] += 0.01
        return model

    monkeypatch.setattr(stock_form, "stock_model", spoiled)
    line, _ = refused(run, "me/x")
    assert line.startswith("proof: same process: logits: expected to differ by at most ")
    assert line.endswith(": nothing was pushed")
    assert proofs == [("export", (WITH, WITHOUT))]
    assert not hub.repositories
    assert not hub.asked("/_lfs/")


def test_the_pushed_model_is_verified_and_gets_no_tag_if_it_differs(hub, run, proofs, refused, monkeypatch):
    usual = publishing._push

    def spoiled(*args):
        usual(*args)
        held = hub.model("me/x")
        weights = bytearray(held.files["model.safetensors"])
        weights[-1] ^= 0x40  # an exponent bit of the last weight
        return held.commit({**held.files, "model.safetensors": bytes(weights)}, "spoiled by the test")

    monkeypatch.setattr(publishing, "_push", spoiled)
    line, _ = refused(run, "me/x")
    assert line.startswith(
        f"push me/x: the model is at {hub.address}/me/x, but without the tag 1.0.0, because its proof "
    )
    assert proofs == [("export", (WITH, WITHOUT)), ("pushed", (WITH, WITHOUT))]
    assert not hub.model("me/x").tags


def test_stock_that_cannot_hold_the_model_becomes_merged_unless_asked_for(
    hub, tmp_path, make_base, make_run, proofs, refused
):
    base = make_base(tmp_path / "base")
    run = make_run(tmp_path / "run", base, temperature=(2.0, 2.0), logit_bias=(0.0, 0.0), pooling="cls_mean")
    write_finished_run(run, model_name_or_path=str(base), pooling="cls_mean", image_size=32)
    said = []
    publish(run, Publication("me/x"), said.append)
    assert any(line.startswith("stock cannot hold this model, so it is published as merged: ") for line in said)
    assert json.loads(hub.model("me/x").files["export.json"])["format"] == "merged"
    line, _ = refused(run, "me/y", "--format", "stock")
    assert "pooling cls_mean" in line
    line, _ = refused(run, "me/y", "--hotkey", ALICE)
    assert line.startswith("--hotkey: StreetVision's clients load a stock model: ")
    assert ("model", "me/y") not in hub.repositories


@pytest.mark.parametrize("raw", [True, False])
def test_the_adapter_is_proved_on_its_base_by_whoever_can_load_it(hub, run, proofs, tmp_path, raw):
    folder = Path(yaml.safe_load((run / "recipe.yaml").read_text())["model_name_or_path"])
    if not raw:
        export_run(run, "adapter", tmp_path / "adapter", base_output=tmp_path / "base")
        folder = tmp_path / "base"
    hub.add("me/base", folder)
    publish(run, Publication("me/x", form="adapter", base_id="me/base"), lambda _: None)
    files = hub.model("me/x").files
    assert "adapter_model.safetensors" in files
    assert "model.safetensors" not in files
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "me/base"
    clients = (WITH,) if raw else (WITH, WITHOUT)
    assert proofs == [("export", clients), ("pushed", clients)]


def test_the_network_s_pinned_client_is_told_what_to_upgrade_to(hub, run, light, refused, monkeypatch):
    def old(*_, **__):
        raise publishing.UserError("proof: client_python: `timm_wrapper`: does not recognize this architecture.")

    monkeypatch.setattr(publishing, "prove", old)
    line, _ = refused(run, "me/x", "--hotkey", ALICE, "--client_python", "python4.45")
    assert (
        "the smallest upgrade that was tested to work is transformers 4.56.0 with torch 2.6.0 and timm 1.0.22 " in line
    )
    line, _ = refused(run, "me/x", "--client_python", "python4.45")
    assert "smallest upgrade" not in line
    assert not hub.repositories


def test_a_hotkey_adds_what_streetvision_asks_for(hub, run, proofs, monkeypatch):
    asked = {}

    def client(folder, photos, expected, **options):
        asked.update(options, n=len(photos), p=expected.tolist())
        row = Latency(width=224, height=224, at_once=1, requests=4, p50=0.1, p99=0.2)
        return ClientCheck([row], cores=2, versions={}, difference=0.0)

    monkeypatch.setattr(publishing.streetvision, "check_client", client)
    said = []
    publish(run, Publication("me/x", version="2.1.0", hotkey=ALICE), said.append)
    files = hub.model("me/x").files
    card = json.loads(files["model_card.json"])
    assert (card["submitted_by"], card["version"], card["model_name"]) == (ALICE, "2.1.0", "x")
    assert yaml.safe_load(files["detector.yaml"])["hf_repo"] == "me/x"
    assert asked["n"] == len(asked["p"]) == 4
    assert any("p50 0.100, p99 0.200 of 4 requests" in line for line in said)
    assert any("the network pins transformers 4.45.2" in line for line in said)
    assert said[0].startswith("as of 2026-05 StreetVision is halted: ")
    assert any("detector.yaml goes to base_miner/detectors/configs/ " in line for line in said)
    assert any("since 2026-02 no code of the network reads it" in line for line in said)


def test_a_refit_is_published_with_figures_that_are_said_to_be_its_honest_run_s(hub, run, proofs):
    for name in ("slices", "selective", "robustness", "reward", "over_probe", "gallery"):
        (run / f"{name}.json").unlink()
    for name in ("predictions", "figures", "gallery"):  # a refit has no rows to leave these of
        shutil.rmtree(run / name)
    (run / "report.html").unlink()
    write_json(run / "metrics.json", read_json(run / "metrics.json") | {"honest_run": "lora"})
    refit = {"purpose": "refit", "refit": {"name": "lora", "steps": 7, "max_steps": 9}}
    write_json(run / "run.json", read_json(run / "run.json") | refit)
    publish(run, Publication("me/x"), lambda _: None)
    files = hub.model("me/x").files
    assert json.loads(files["publication.json"])["honest_run"] == "lora"
    card = files["README.md"].decode()
    assert "of the run lora before this refit" in card
    assert "**Refit.**" in card
    assert "report.html" not in files
    assert "report.html" not in card
