"""What goes to the Hub beside an export: all of it, nothing more, and no name of a photo, group or place."""

import ast
import json
import re
import shutil

import numpy as np
import pytest
import yaml
from finished_run import NAMES, calibration_document, write_finished_run
from huggingface_hub import ModelCard, parse_eval_result_entries
from PIL import Image

from natix_hf.data.splits.certificate import read_certificate
from natix_hf.documents.final_figures import FinalFigures
from natix_hf.documents.hub_metadata import EvaluationResult
from natix_hf.documents.photo_cost import PhotoCost
from natix_hf.documents.probe import OverProbe
from natix_hf.documents.quantised import Quantised
from natix_hf.documents.reward import Reward
from natix_hf.documents.robustness import Robustness
from natix_hf.documents.selective import Selective
from natix_hf.documents.slices import Slices
from natix_hf.errors import UserError
from natix_hf.hub.bundle import write_bundle
from natix_hf.hub.privacy import Names, check_public, names_of

MARKED = {"photo": "SECRETPHOTO-{:04d}.jpg", "group": "SECRETGROUP-{:03d}"}
# Nothing of these may be read anywhere; the last two stand in values of a slice.
SECRETS = ("SECRETPHOTO", "SECRETGROUP", "/home/me", "39.7, -86.1", "IMG_0001")

MEASURED = (FinalFigures, Slices, Selective, Robustness, Reward)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return write_finished_run(tmp_path_factory.mktemp("bundle") / "run", **MARKED)


@pytest.fixture
def export(finished, tmp_path):
    """A folder as an export leaves it, as far as this matters."""
    folder = tmp_path / "export"
    folder.mkdir()
    for name in ("config.json", "calibration.json"):
        shutil.copyfile(finished / name, folder / name)
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def bundle(finished, export):
    write_bundle(finished, export, "me/street", "stock", include_photos=False)
    return export


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_everything_is_there_and_nothing_more(bundle):
    from natix_hf.hub.publish_run import OURS

    documents = {kind.file_name for kind in (*MEASURED, OverProbe, PhotoCost)}
    pictures = {"figures/reliability.png", "figures/confusion.png"}
    assert files(bundle) == documents | pictures | {
        *("config.json", "calibration.json", "model.safetensors", "splits_summary.json", "provenance.json"),
        *("README.md", "report.html", ".eval_results/natix_hf.yaml"),
    }
    assert all(name.endswith(OURS) for name in files(bundle))


def test_no_name_and_no_place_is_in_any_file(bundle):
    for name in files(bundle):
        content = (bundle / name).read_bytes()
        assert not [secret for secret in SECRETS if secret.encode() in content], name


def test_with_photos_the_page_and_all_pictures_go_as_they_are(finished, export):
    write_bundle(finished, export, "me/street", "stock", include_photos=True)
    assert "SECRETPHOTO-0000" in (export / "report.html").read_text()
    assert {"figures/attention.png", "figures/reward.png"} <= files(export)
    assert "SECRETPHOTO-0000" in (export / "slices.json").read_text()
    assert not [name for name in files(export) if name.startswith(("gallery", "predictions", "splits.json"))]


def test_an_int8_graph_keeps_its_calibration_and_its_card_says_whose_the_figures_are(finished, export):
    calibration = calibration_document(temperature=[1.75, 1.75])
    (export / "calibration.json").write_text(json.dumps(calibration))
    bounds = {"value": 0.1, "low": 0.05, "high": 0.2}
    figures = dict.fromkeys(("accuracy", "nll", "brier", "ece"), bounds)
    change = {"value": 0.0234, "low": -0.01, "high": 0.05}
    sides = {"before": figures, "after": figures | {"nll": bounds | {"value": 0.1234}}}
    sides |= {"difference": dict.fromkeys(figures, change)}
    on = {"on": "val_calib/control", "n": 70, "groups": 35, "shares": [0.5, 0.5], "level": 0.95}
    decisions = {"on": "val_select", "n": 150, "groups": 40, "changed": 3, "share": 0.02, "low": 0.0, "high": 0.06}
    quantised = Quantised(
        ranges_from="train",
        photos=256,
        decisions=decisions | {"bound": 0.05},
        figures=on | sides,
        guarantee_before=None,
        guarantee_after=None,
    )
    write_bundle(finished, export, "me/street", "onnx", include_photos=False, quantised=quantised)
    assert json.loads((export / "calibration.json").read_text())["temperature"] == [1.75, 1.75]
    assert json.loads((export / "metrics.json").read_text()) == json.loads((finished / "metrics.json").read_text())
    card = ModelCard((export / "README.md").read_text())
    assert "T = 1.750, fitted on 75 photos" in card.text
    assert "**int8.** The backbone of this graph computes in int8" in card.text
    assert "150 photos (40 groups) of `val_select`, 3 get another decision" in card.text
    assert "2.0%, 95 % interval 0.0% to 6.0%; the export allowed 5.0%" in card.text
    row = "| NLL | 0.100 (0.0500 to 0.200) | 0.123 (0.0500 to 0.200) | +0.0234 (-0.0100 to +0.0500) | 70 |"
    assert row in card.text
    assert "int8" in card.data.tags
    assert all(result.metric_name.endswith(" of the run in fp32") for result in card.data.eval_results)
    notes = yaml.safe_load((export / ".eval_results" / "natix_hf.yaml").read_text())
    assert all(entry["notes"].endswith(", of the run in fp32") for entry in notes)


def test_figures_are_the_run_s_own_and_what_is_withheld_keeps_its_figures(finished, bundle):
    assert json.loads((bundle / "metrics.json").read_text()) == json.loads((finished / "metrics.json").read_text())
    before, after = (json.loads((folder / "slices.json").read_text())["slices"] for folder in (finished, bundle))
    assert sum(one["value"] == "withheld" for one in after) == 4
    assert {one["value"] for one in after} == {"rain", "sun", "harmless", "withheld"}
    assert [{**one, "value": ""} for one in after] == [{**one, "value": ""} for one in before]
    for kind in MEASURED:
        kind.read(bundle)
    for kind in (OverProbe, PhotoCost):
        assert kind.read(bundle) == kind.read(finished)
    page = (bundle / "report.html").read_text()
    for said in ("Cost per photo", "224 x 224", "9.24", "cpu, 1 threads"):
        assert said in page


def test_the_certificate_goes_in_numbers(finished, bundle):
    summary = json.loads((bundle / "splits_summary.json").read_text())
    whole = json.loads((finished / "splits.json").read_text())
    assert (summary["seal"], summary["sizes"]) == (whole["seal"], whole["sizes"])
    assert summary["left_out"] == {"conflicts": 0, "broken": 1, "dropped": 0, "set_aside": 0}
    assert summary["sources"] == {"withheld": 240, "public": 3}
    assert summary["hold_out"] == {"video": ["rain", "withheld"]}


def test_the_page_shows_figures_and_no_photo(bundle):
    page = (bundle / "report.html").read_text()
    assert "data:image/jpeg" not in page
    assert 'class="shot"' not in page
    assert "in 120 groups" in page
    assert "harmless" in page


def test_evaluation_results_are_of_the_hub_s_form(bundle):
    document = yaml.safe_load((bundle / ".eval_results/natix_hf.yaml").read_text())
    metrics = json.loads((bundle / "metrics.json").read_text())["metrics"]
    entries = parse_eval_result_entries(document)
    assert {entry.task_id for entry in entries} == {f"val_test_{name}" for name in metrics}
    assert {entry.dataset_id for entry in entries} == {"natix-network-org/roadwork"}
    for entry in entries:
        interval = metrics[entry.task_id.removeprefix("val_test_")]
        assert entry.value == pytest.approx(interval["value"], abs=1e-5)
        low, high = re.search(
            r"on 240 photos in 120 groups .* 95 % interval ([\d.]+) to ([\d.]+)$", entry.notes
        ).groups()
        assert (float(low), float(high)) == pytest.approx((interval["low"], interval["high"]), abs=6e-4)
        assert entry.source_url == "https://huggingface.co/me/street/blob/main/metrics.json"
        assert entry.date == "2026-01-02T03:04:05+00:00"


@pytest.mark.parametrize(
    "breaks",
    [
        lambda e: e.pop("value"),
        lambda e: e.update(value="0.9"),
        lambda e: e["dataset"].pop("task_id"),
        lambda e: e["dataset"].update(id="photos"),
        lambda e: e["source"].pop("url"),
        lambda e: e.update(date="2nd of January"),
        lambda e: e.update(notes="good"),
        lambda e: e.update(metric="accuracy"),
    ],
)
def test_broken_evaluation_results_are_refused(bundle, breaks):
    document = yaml.safe_load((bundle / ".eval_results/natix_hf.yaml").read_text())
    EvaluationResult.check(document[0], "eval_results")
    breaks(document[0])
    with pytest.raises(UserError, match="eval_results"):
        EvaluationResult.check(document[0], "eval_results")


def test_results_on_own_photos_are_not_reported_to_a_data_set(tmp_path, export):
    run = write_finished_run(tmp_path / "own", dataset_name=str(tmp_path), **MARKED)
    write_bundle(run, export, "me/street", "merged", include_photos=False)
    assert not (export / ".eval_results").exists()


def test_an_unknown_licence_is_said_once_and_on_the_card(tmp_path, export, capsys):
    run = write_finished_run(tmp_path / "run", model_name_or_path=str(tmp_path), **MARKED)
    write_bundle(run, export, "me/street", "merged", include_photos=False)
    (line,) = capsys.readouterr().out.splitlines()
    assert "licence of the base checkpoint (a local folder) is not known" in line
    text = (export / "README.md").read_text()
    assert ModelCard(text).data.license == "unknown"
    assert "Its licence is not known" in text


def test_the_licence_s_text_goes_along_where_it_is_at_hand(tmp_path, export, capsys):
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: other\nlicense_name: road\nlicense_link: https://a.b/c\n---\n")
    (base / "LICENSE.md").write_text("terms")
    run = write_finished_run(tmp_path / "run", model_name_or_path=str(base), **MARKED)
    write_bundle(run, export, "me/street", "merged", include_photos=False)
    assert (export / "LICENSE.md").read_text() == "terms"
    front = ModelCard((export / "README.md").read_text()).data
    assert (front.license, front.license_name, front.license_link) == ("other", "road", "https://a.b/c")
    assert capsys.readouterr().out == ""


def test_a_name_that_got_through_stops_the_push(finished, export):
    config = json.loads((export / "config.json").read_text())
    (export / "config.json").write_text(json.dumps(config | {"note": "as in SECRETPHOTO-0007.jpg"}))
    with pytest.raises(UserError, match=r"config\.json: names a photo or a group \(SECRETPHOTO-0007\.jpg\)"):
        write_bundle(finished, export, "me/street", "stock", include_photos=False)


def test_odd_names_are_found_and_counters_and_classes_are_not(tmp_path):
    names = Names(frozenset({"my photo (1).jpg", "12", "a&b/street view"}))
    for text in ("see my photo (1).jpg", "{&quot;a&amp;b/street view&quot;"):
        (tmp_path / "page.html").write_text(text)
        with pytest.raises(UserError, match="names a photo"):
            check_public(tmp_path, names)
    (tmp_path / "page.html").write_text("12 photos, my photo of a street view")
    check_public(tmp_path, names)
    assert not names.hides("12")


def test_classes_may_be_named_whatever_photos_are_called(tmp_path):
    run = write_finished_run(tmp_path / "run", group="Roadwork", n=40)
    assert "Roadwork" not in names_of(run, read_certificate(run)).hidden


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("39.7684, -86.1581", True),
        ("[39.7, -86.1]", True),
        ("39.76° N, 86.15° W", True),
        ("near 39.7684;-86.1581 at night", True),
        ("cam3/IMG_2211.jpeg", True),
        ("/home/me/photos", True),
        ("C:\\photos", True),
        ("rain", False),
        ("fog+rain", False),
        ("1 to 3 MP", False),
        ("2026", False),
        ("1.5", False),
        ("challenge@2025", False),
        ("T = 1.500, NLL 0.3 -> 0.2", False),
    ],
)
def test_places_files_and_paths_are_told_from_kinds(text, hidden):
    assert Names(frozenset()).hides(text) == hidden


@pytest.mark.parametrize("name", ["metrics", "calibration", "run"])
def test_a_missing_file_is_named(tmp_path, finished, export, name):
    run = shutil.copytree(finished, tmp_path / "copy")
    (run / f"{name}.json").unlink()
    with pytest.raises(UserError, match=rf"no {name}\.json"):
        write_bundle(run, export, "me/street", "stock", include_photos=False)


def answers_of_the_card(folder, photo, capsys):
    """What each block of Python on a card prints, as scores by class, when it is run on a folder."""
    how = (folder / "README.md").read_text().split("## How to use it")[1].split("## Figures")[0]
    found = []
    for code in re.findall(r"```python\n(.*?)```", how, re.DOTALL):
        code = code.replace('snapshot_download("me/street")', repr(str(folder)))
        capsys.readouterr()
        exec(code.replace('"me/street"', repr(str(folder))).replace("street.jpg", str(photo)), {})
        answer = ast.literal_eval(capsys.readouterr().out)
        if isinstance(answer, list):
            answer = {one["label"]: one["score"] for one in answer}
        found.append([answer[name] for name in NAMES])
    return found


@pytest.fixture
def photo(tmp_path):
    Image.effect_noise((90, 60), 80).convert("RGB").save(tmp_path / "street.jpg")
    return tmp_path / "street.jpg"


@pytest.mark.slow
def test_the_code_on_the_card_runs_and_agrees_with_the_run(make_base, make_run, tmp_path, photo, capsys):
    """Against the run's own probabilities, on real exports: what a reader copies from the card has to work."""
    from natix_hf.hub.export_forms import export_run
    from natix_hf.inference.classify import load_classifier, predict_photos

    run = make_run(tmp_path / "run", make_base(tmp_path / "base"))
    model, processor = load_classifier(str(run))
    (row,) = predict_photos(model, processor, ["street.jpg"], [str(photo)], num_workers=0)
    for form in ("stock", "merged"):
        export_run(run, form, tmp_path / form)
    write_finished_run(run, **MARKED)
    for form in ("stock", "merged"):
        write_bundle(run, tmp_path / form, "me/street", form, include_photos=False)
        found = answers_of_the_card(tmp_path / form, photo, capsys)
        assert len(found) == 2
        for scores in found:
            assert scores == pytest.approx(list(row.probabilities), abs=1e-5)


@pytest.mark.slow
def test_the_code_on_the_card_of_an_onnx_model_runs(finished, export, photo, capsys):
    """On a graph by hand, mean colour times weights, since a real export takes half a minute."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from transformers import DINOv3ViTImageProcessor

    weights = np.array([[1.0, -2.0], [0.5, 3.0], [-1.5, 0.25]], dtype=np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["pixel_values"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        ],
        "colour",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, export / "model.onnx")
    (export / "labels.json").write_text(json.dumps(NAMES))
    processor = DINOv3ViTImageProcessor(size={"height": 32, "width": 32})
    processor.save_pretrained(export)
    write_bundle(finished, export, "me/street", "onnx", include_photos=False)
    (scores,) = answers_of_the_card(export, photo, capsys)
    pixels = processor(Image.open(photo), return_tensors="pt")["pixel_values"].numpy()
    logits = pixels.mean(axis=(0, 2, 3)) @ weights
    assert scores == pytest.approx(np.exp(logits) / np.exp(logits).sum(), abs=1e-5)
