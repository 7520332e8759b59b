"""What `publish` refuses before it loads or pushes anything: one line, exit status 2, no token in it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hub_state import READ, WRITE

from natix_hf.files import write_json
from natix_hf.hub import publish_run as publishing
from natix_hf.hub.publish_run import Publication, publish

ALICE = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"

pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture
def run(whole_run, tmp_path) -> Path:
    return shutil.copytree(whole_run, tmp_path / "run")


def better(hub, name: str = "me/x", **changes) -> None:
    """The record of what stands there is changed."""
    held = hub.model(name)
    record = json.loads(held.files["publication.json"]) | changes
    held.commit({**held.files, "publication.json": json.dumps(record).encode()}, "changed by the test")


def test_a_version_is_given_once(hub, run, light, refused):
    publish(run, Publication("me/x"), lambda _: None)
    before = hub.model("me/x").head
    line, _ = refused(run, "me/x")
    assert line == "--model_version 1.0.0: me/x already has this version: give a higher one"
    assert hub.model("me/x").head == before


def test_a_better_model_on_the_same_photos_is_kept_unless_forced(hub, run, light, refused):
    publish(run, Publication("me/x"), lambda _: None)
    own = json.loads(hub.model("me/x").files["publication.json"])
    again = ["--model_version", "1.0.1"]
    for changes in ({"mcc": 1.0}, {"log_loss": own["log_loss"] / 2}):
        better(hub, **(own | changes))
        line, _ = refused(run, "me/x", *again)
        assert f"is better on the same {own['n']} test photos: MCC " in line
        assert line.endswith("add --force to replace it")
    better(hub, **(own | {"mcc": None, "log_loss": 0.0}))  # not defined: no better than any
    publish(run, Publication("me/x", version="1.0.1"), lambda _: None)
    better(hub, mcc=1.0, test="of other photos")
    publish(run, Publication("me/x", version="1.0.2"), lambda _: None)
    better(hub, mcc=1.0)
    publish(run, Publication("me/x", version="1.0.3", force=True), lambda _: None)
    assert json.loads(hub.model("me/x").files["publication.json"])["mcc"] == own["mcc"]


@pytest.mark.parametrize("record", [None, b"{}", b"\xff", b'{"schema": 1}'])
def test_somebody_elses_model_is_refused_and_replaced_whole_where_forced(hub, run, light, refused, record):
    files = {"pytorch_model.bin": b"other", ".gitattributes": b"a", "README.md": b"# other"}
    hub.add("me/x", files | ({"publication.json": record} if record is not None else {}))
    before = hub.model("me/x").head
    line, _ = refused(run, "me/x")
    assert line.startswith("push me/x: the repository holds a model that was not published by natix_hf: ")
    assert hub.model("me/x").head == before
    if record is None:
        publish(run, Publication("me/x", force=True), lambda _: None)
        assert "pytorch_model.bin" not in hub.model("me/x").files
        assert ".gitattributes" in hub.model("me/x").files


def test_invalid_options_are_refused_before_the_hub_is_asked(hub, run, refused, monkeypatch):
    cases = [
        (["streets"], "owner/name, such as me/roadwork-dinov3"),
        (["me/my streets"], "owner/name, such as me/roadwork-dinov3"),
        (["me/x", "--model_version", "1.0"], "expected X.Y.Z, such as 1.0.0"),
        (["me/x", "--hotkey", ALICE[:-1] + "Z"], "wrong checksum"),
        (["me/x", "--hotkey", ALICE, "--format", "merged"], "load only a stock model"),
    ]
    for words, said in cases:
        line, _ = refused(run, *words)
        assert said in line
    monkeypatch.delenv("HF_TOKEN")
    line, _ = refused(run, "me/x")
    assert line == "push me/x: the Hub requires a token: log in with `hf auth login` or set HF_TOKEN"
    assert not hub.requests


@pytest.mark.parametrize(
    ("token", "name", "said"),
    [
        ("hf_unknown", "me/x", "the Hub does not accept the token: log in with `hf auth login` or set HF_TOKEN"),
        (READ, "me/x", "the token can only read: make one with write access"),
        (WRITE, "natix/x", "the token belongs to tester, who is not a member of natix: push to tester/... or me/..."),
    ],
)
def test_tokens_that_cannot_write_are_refused_before_the_model_is_loaded(
    hub, run, refused, monkeypatch, token, name, said
):
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(publishing, "export_run", None)
    line, out = refused(run, name)
    assert said in line
    assert token not in line + out
    assert not hub.repositories


def test_int8_goes_with_onnx_alone_and_is_refused_before_the_hub_is_asked(hub, run, refused):
    for form in ("auto", "stock", "merged"):
        line, _ = refused(run, "me/x", "--format", form, "--dtype", "int8")
        assert line == f"--dtype int8: --format {form} cannot hold it: add --format onnx"
    assert not hub.repositories


def test_a_fine_grained_token_is_judged_by_the_hub(hub, run, light, refused, monkeypatch):
    hub.tokens["hf_fine"] = ("tester", "fineGrained", ())
    monkeypatch.setenv("HF_TOKEN", "hf_fine")
    line, _ = refused(run, "me/x")
    assert line.startswith("push me/x: the token cannot write there: make one with write access")
    assert "hf_fine" not in line


def test_a_gated_repository_and_a_gated_base_are_named(hub, run, proofs, refused):
    hub.tokens[WRITE] = ("tester", "fineGrained", ())
    hub.add("me/x", {"publication.json": b"{}"}, gated=True)
    line, _ = refused(run, "me/x")
    assert line == f"push me/x: the repository is gated and you have no access: ask for it at {hub.address}/me/x"
    hub.add("big/base", {"config.json": b"{}", "model.safetensors": b"x"}, gated=True)
    line, _ = refused(run, "me/y", "--format", "adapter", "--base_id", "big/base")
    assert f"'big/base' is gated and you have no access to it: accept its licence at {hub.address}/big/base" in line
    assert ("model", "me/y") not in hub.repositories


def test_a_run_that_was_not_evaluated_or_has_no_calibration_is_refused(hub, run, proofs, refused):
    (run / "metrics.json").unlink()
    line, _ = refused(run, "me/x")
    assert line == f"{run}: no metrics.json: run `python -m natix_hf.evaluate {run}` first"
    write_json(run / "run.json", {"version": 2, "status": "training"})
    line, _ = refused(run, "me/x")
    assert "the run is not finished" in line
    assert not hub.repositories


def test_a_run_that_was_calibrated_after_its_figures_were_computed_is_refused(hub, run, proofs, refused):
    from natix_hf.files import read_json
    from natix_hf.runs.steps import EVALUATE, carried_out

    with carried_out(run, EVALUATE):
        pass
    write_json(run / "calibration.json", read_json(run / "calibration.json") | {"threshold": 0.4})
    line, _ = refused(run, "me/x")
    assert "calibrated again after its figures were computed" in line
    assert f"run `python -m natix_hf.evaluate {run}` first" in line
