"""What `publish` refuses, and in which state it leaves the Hub; clients' processes are left out (see tests/verbs)."""

from __future__ import annotations

import json
import shutil

import huggingface_hub
import pytest
from finished_run import write_finished_run
from hub_state import READ, WRITE, sha256
from huggingface_hub import ModelCard

from natix_hf import publish as verb
from natix_hf.errors import command
from natix_hf.files import read_json, write_json
from natix_hf.hub import exporting, publishing
from natix_hf.hub.proof import WITH, WITHOUT, prove
from natix_hf.hub.publishing import OURS, Publication, publish
from natix_hf.schemas import validate

ALICE = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"


@pytest.fixture(scope="module")
def made(tmp_path_factory, make_base, make_run):
    """A finished run with weights, documents, predictions, a gallery and a checkpoint."""
    folder = tmp_path_factory.mktemp("publishing")
    base = make_base(folder / "base")
    run = make_run(folder / "run", base, temperature=(2.0, 2.0), logit_bias=(0.0, 0.0))
    recipe = {"model_name_or_path": str(base), "dataset_name": "me/streets", "image_size": 32, "lora_r": 4}
    write_finished_run(run, **recipe)
    (run / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    (run / "checkpoints" / "checkpoint-1" / "optimizer.pt").write_bytes(b"pickle")
    (run / "training_args.bin").write_bytes(b"pickle")
    return run


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


@pytest.fixture
def proofs(monkeypatch):
    """The proof in this process alone; what was proved, in order."""
    asked = []

    def alone(run, export, *, photos=None, client_python=None, base=None, online=False):
        asked.append("pushed" if online else "export")
        return prove(run, export, photos=photos, base=base, online=online, clients=())

    monkeypatch.setattr(publishing, "prove", alone)
    return asked


@pytest.fixture
def light(monkeypatch):
    """Exports and proofs that are none, for what happens at the Hub alone."""

    def export(run, form, folder, *, dtype, **_):
        folder.mkdir()
        for name in ("model-1.safetensors", "model-2.safetensors", "model.safetensors"):
            (folder / name).write_bytes(name.encode() * 2000)
        for name in ("config.json", *(["modeling_natix_dinov3.py"] if form == "merged" else [])):
            (folder / name).write_text("{}")

    client = {"client": WITHOUT, "probabilities": 0.0}
    document = {"photos": {"n": 32}, "clients": [client], "model": "0" * 32}
    monkeypatch.setattr(publishing, "export_run", export)
    monkeypatch.setattr(publishing, "prove", lambda *_, **__: document)
    monkeypatch.setattr(
        publishing, "write_bundle", lambda run, folder, *_, **__: (folder / "README.md").write_text("# Model")
    )


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """The Hub's client waits a second and more between two tries."""
    monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", lambda _: None)


def typed(capsys, *words: object) -> tuple[str, str]:
    """`python -m natix_hf.publish WORDS`, which is refused: its one line, and what it printed before."""
    with pytest.raises(SystemExit) as stop:
        command(verb.main, [str(word) for word in words])
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("error: ") or "Traceback" in line]
    assert len(lines) == 1, err
    assert err.rstrip().endswith(lines[0])
    for token in (WRITE, READ):
        assert token not in out + err
    return lines[0].removeprefix("error: "), out


def better(hub, name: str = "me/x", **changes) -> None:
    """The record of what stands there is changed."""
    held = hub.model(name)
    record = json.loads(held.files["publication.json"]) | changes
    held.commit({**held.files, "publication.json": json.dumps(record).encode()}, "changed by the test")


def test_one_commit_brings_all_and_nothing_else_leaves(hub, run, proofs):
    said = []
    address = publish(run, Publication("me/x"), said.append)
    assert address == f"{hub.address}/me/x"
    held = hub.model("me/x")
    assert held.messages == ["initial commit", "Version 1.0.0"]
    assert held.tags == {"1.0.0": held.head}
    assert proofs == ["export", "pushed"]
    assert not held.private
    wanted = {"config.json", "model.safetensors", "preprocessor_config.json", "calibration.json", "export.json"}
    wanted |= {"proof.json", "publication.json", "README.md", "metrics.json", "report.html", "splits_summary.json"}
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
    validate(record, "publication")
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
    with pytest.raises(publishing.UserError, match="run the same command again, what was uploaded is kept"):
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


def test_what_a_person_put_there_stays(hub, run, light):
    publish(run, Publication("me/x"), lambda _: None)
    held = hub.model("me/x")
    held.commit({**held.files, "notes.md": b"mine"}, "by hand")
    publish(run, Publication("me/x", version="1.0.1", form="merged"), lambda _: None)
    assert held.files["notes.md"] == b"mine"


def test_a_version_is_given_once(hub, run, light, capsys):
    publish(run, Publication("me/x"), lambda _: None)
    before = hub.model("me/x").head
    line, _ = typed(capsys, run, "me/x")
    assert line == "--model_version 1.0.0: me/x has a version of that number: give a higher one"
    assert hub.model("me/x").head == before


def test_a_better_model_on_the_same_photos_is_kept_unless_forced(hub, run, light, capsys):
    publish(run, Publication("me/x"), lambda _: None)
    own = json.loads(hub.model("me/x").files["publication.json"])
    again = ["--model_version", "1.0.1"]
    for changes in ({"mcc": 1.0}, {"log_loss": own["log_loss"] / 2}):
        better(hub, **(own | changes))
        line, _ = typed(capsys, run, "me/x", *again)
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
def test_somebody_elses_model_is_refused_and_replaced_whole_where_forced(hub, run, light, capsys, record):
    files = {"pytorch_model.bin": b"other", ".gitattributes": b"a", "README.md": b"# other"}
    hub.add("me/x", files | ({"publication.json": record} if record is not None else {}))
    before = hub.model("me/x").head
    line, _ = typed(capsys, run, "me/x")
    assert line.startswith("push me/x: the repository holds a model that was not published by natix_hf: ")
    assert hub.model("me/x").head == before
    if record is None:
        publish(run, Publication("me/x", force=True), lambda _: None)
        assert "pytorch_model.bin" not in hub.model("me/x").files
        assert ".gitattributes" in hub.model("me/x").files


def test_an_empty_repository_with_a_card_is_filled(hub, run, light):
    hub.add("me/x", {"README.md": b"soon", ".gitattributes": b""}, private=True)
    publish(run, Publication("me/x", private=True), lambda _: None)
    assert "model.safetensors" in hub.model("me/x").files
    assert hub.model("me/x").private


def test_private_makes_a_private_one_and_refuses_a_public_one(hub, run, light, capsys):
    publish(run, Publication("me/x", private=True), lambda _: None)
    assert hub.model("me/x").private
    hub.add("me/open", {})
    line, _ = typed(capsys, run, "me/open", "--private")
    assert "is there already and public" in line
    assert not hub.model("me/open").files


def test_a_push_that_is_cut_is_one_line_and_taken_up_without_uploading_twice(hub, run, light, capsys):
    hub.cut_uploads(after=1)
    line, _ = typed(capsys, run, "me/x")
    assert line.startswith("push me/x: ")
    assert line.endswith("run the same command again, what was uploaded is kept")
    assert not hub.model("me/x").files
    assert not hub.model("me/x").tags
    assert sum(hub.uploaded.values()) == 1
    hub.cut_uploads(0)
    publish(run, Publication("me/x"), lambda _: None)
    weights = [data for name, data in hub.model("me/x").files.items() if name.endswith(".safetensors")]
    assert hub.uploaded == {sha256(data): 1 for data in weights}
    assert len(weights) == 3
    assert hub.model("me/x").tags == {"1.0.0": hub.model("me/x").head}


def test_a_push_that_broke_before_its_tag_is_taken_up(hub, run, light, capsys):
    hub.answer("/tag/", 500, times=1)
    line, _ = typed(capsys, run, "me/x")
    assert "run the same command again" in line
    assert not hub.model("me/x").tags
    publish(run, Publication("me/x"), lambda _: None)
    assert hub.model("me/x").tags == {"1.0.0": hub.model("me/x").head}


def test_a_change_by_somebody_else_meanwhile_is_a_conflict(hub, run, light, capsys, monkeypatch):
    publish(run, Publication("me/x"), lambda _: None)
    usual = publishing.write_bundle

    def slowly(*args, **kwargs):
        held = hub.model("me/x")
        held.commit({**held.files, "notes.md": b"theirs"}, "by hand")
        usual(*args, **kwargs)

    monkeypatch.setattr(publishing, "write_bundle", slowly)
    line, _ = typed(capsys, run, "me/x", "--model_version", "1.1.0")
    assert line.startswith("push me/x: somebody else changed the repository meanwhile: run the same command again")
    assert hub.model("me/x").messages[-1] == "by hand"
    assert set(hub.model("me/x").tags) == {"1.0.0"}


def test_what_can_be_seen_at_once_is_refused_before_the_hub_is_asked(hub, run, capsys, monkeypatch):
    cases = [
        (["streets"], "owner/name, such as me/roadwork-dinov3"),
        (["me/my streets"], "owner/name, such as me/roadwork-dinov3"),
        (["me/x", "--model_version", "1.0"], "X.Y.Z expected, such as 1.0.0"),
        (["me/x", "--hotkey", ALICE[:-1] + "Z"], "wrong checksum"),
        (["me/x", "--hotkey", ALICE, "--format", "merged"], "load a stock model and nothing else"),
    ]
    for words, said in cases:
        line, _ = typed(capsys, run, *words)
        assert said in line
    monkeypatch.delenv("HF_TOKEN")
    line, _ = typed(capsys, run, "me/x")
    assert line == "push me/x: the Hub wants a token: log in with `hf auth login` or set HF_TOKEN"
    assert not hub.requests


@pytest.mark.parametrize(
    ("token", "name", "said"),
    [
        ("hf_unknown", "me/x", "the Hub does not know the token: log in with `hf auth login` or set HF_TOKEN"),
        (READ, "me/x", "the token may only read: make one with write access"),
        (WRITE, "natix/x", "the token is that of tester, who does not belong to natix: push to tester/... or me/..."),
    ],
)
def test_tokens_that_cannot_write_are_refused_before_the_model_is_loaded(
    hub, run, capsys, monkeypatch, token, name, said
):
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(publishing, "export_run", None)
    line, out = typed(capsys, run, name)
    assert said in line
    assert token not in line + out
    assert not hub.repositories


def test_what_a_fine_grained_token_may_only_the_hub_knows(hub, run, light, capsys, monkeypatch):
    hub.tokens["hf_fine"] = ("tester", "fineGrained", ())
    monkeypatch.setenv("HF_TOKEN", "hf_fine")
    line, _ = typed(capsys, run, "me/x")
    assert line.startswith("push me/x: the token may not write there: make one with write access")
    assert "hf_fine" not in line


def test_a_gated_repository_and_a_gated_base_are_named(hub, run, proofs, capsys):
    hub.tokens[WRITE] = ("tester", "fineGrained", ())
    hub.add("me/x", {"publication.json": b"{}"}, gated=True)
    line, _ = typed(capsys, run, "me/x")
    assert line == f"push me/x: the repository is gated and you have no access: ask for it at {hub.address}/me/x"
    hub.add("big/base", {"config.json": b"{}", "model.safetensors": b"x"}, gated=True)
    line, _ = typed(capsys, run, "me/y", "--format", "adapter", "--base_id", "big/base")
    assert f"'big/base' is gated and you have no access to it: accept its licence at {hub.address}/big/base" in line
    assert ("model", "me/y") not in hub.repositories


def test_an_export_that_does_not_answer_like_the_run_is_not_pushed(hub, run, proofs, capsys, monkeypatch):
    usual = exporting.stock_model

    def spoiled(*args, **kwargs):
        model = usual(*args, **kwargs)
        model.timm_model.head.bias.data[0] += 0.01
        return model

    monkeypatch.setattr(exporting, "stock_model", spoiled)
    line, _ = typed(capsys, run, "me/x")
    assert line.startswith("proof: same process: logits differ by up to ")
    assert proofs == ["export"]
    assert not hub.repositories
    assert not hub.asked("/_lfs/")


def test_what_was_pushed_is_fetched_and_proved_and_has_no_tag_where_it_differs(hub, run, proofs, capsys, monkeypatch):
    usual = publishing._push

    def spoiled(*args):
        usual(*args)
        held = hub.model("me/x")
        weights = bytearray(held.files["model.safetensors"])
        weights[-1] ^= 0x40  # an exponent bit of the last weight
        return held.commit({**held.files, "model.safetensors": bytes(weights)}, "spoiled by the test")

    monkeypatch.setattr(publishing, "_push", spoiled)
    line, _ = typed(capsys, run, "me/x")
    assert line.startswith(f"push me/x: it is at {hub.address}/me/x, without the tag 1.0.0, since what clients get ")
    assert proofs == ["export", "pushed"]
    assert not hub.model("me/x").tags


def test_clients_of_a_publication_are_fresh_processes(hub, run, monkeypatch):
    started = []

    def stub(who, python, target, form, work, online):
        started.append((who, target == "me/x", online))
        raise publishing.UserError("far enough") if online else StopIteration

    monkeypatch.setattr("natix_hf.hub.proof._elsewhere", stub)
    with pytest.raises(StopIteration):
        publish(run, Publication("me/x"), lambda _: None)
    assert started == [(WITH, False, False)]
    assert WITHOUT in prove.__kwdefaults__["clients"]


def test_stock_that_cannot_hold_the_model_becomes_merged_unless_asked_for(
    hub, tmp_path, make_base, make_run, proofs, capsys
):
    base = make_base(tmp_path / "base")
    run = make_run(tmp_path / "run", base, temperature=(2.0, 2.0), logit_bias=(0.0, 0.0), pooling="cls_mean")
    write_finished_run(run, model_name_or_path=str(base), pooling="cls_mean", image_size=32)
    said = []
    publish(run, Publication("me/x"), said.append)
    assert any(line.startswith("stock cannot hold this model, it is published as merged: ") for line in said)
    assert json.loads(hub.model("me/x").files["export.json"])["format"] == "merged"
    line, _ = typed(capsys, run, "me/y", "--format", "stock")
    assert "pooling cls_mean" in line
    line, _ = typed(capsys, run, "me/y", "--hotkey", ALICE)
    assert line.startswith("--hotkey: StreetVision's clients load a stock model: ")
    assert ("model", "me/y") not in hub.repositories


def test_the_adapter_is_proved_on_its_base(hub, run, proofs, make_base, tmp_path):
    from natix_hf.hub.exporting import export_run

    export_run(run, "adapter", tmp_path / "adapter", base_id="me/base", base_output=tmp_path / "pushed-base")
    hub.add("me/base", tmp_path / "pushed-base")
    publish(run, Publication("me/x", form="adapter", base_id="me/base"), lambda _: None)
    files = hub.model("me/x").files
    assert "adapter_model.safetensors" in files
    assert "model.safetensors" not in files
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "me/base"
    assert proofs == ["export", "pushed"]


def test_a_run_that_was_not_evaluated_or_has_no_calibration_is_refused(hub, run, proofs, capsys):
    (run / "metrics.json").unlink()
    line, _ = typed(capsys, run, "me/x")
    assert line == f"{run}: no metrics.json: run `python -m natix_hf.evaluate {run}` first"
    write_json(run / "run.json", {"status": "training"})
    line, _ = typed(capsys, run, "me/x")
    assert "the run is not finished" in line
    assert not hub.repositories
