"""The model card reports the run's files, with intervals and numbers of photos, and nothing about the machine."""

import json
import re

import numpy as np
import pytest
import yaml
from finished_run import (
    RECIPE,
    THRESHOLD_CHOICE,
    calibration_document,
    card_of,
    certificate,
    write_finished_run,
)
from huggingface_hub import ModelCard
from two_stages import cascade_documents

from natix_hf.errors import UserError
from natix_hf.files import hub_id
from natix_hf.report.summary import metrics_document
from natix_hf.streetvision.client_files import ClientCheck, Latency, latency_section


@pytest.fixture
def run_folder(tmp_path):
    """`write(**recipe changes)` makes a run folder with the files that a card reads."""

    def write(classes=("None", "Roadwork"), calibrated=True, ratios=(0.6, 0.15, 0.15, 0.1), **changes):
        generator = np.random.default_rng(0)
        k = len(classes)
        labels = generator.integers(0, k, 120)
        logits = generator.normal(size=(120, k))
        logits[np.arange(120), labels] += 3
        metrics = metrics_document(
            logits, logits * 2, labels, np.arange(120) // 3, label_names=classes, times_read_before=0, n_boot=50
        )
        files = {
            "config.json": {"id2label": {str(i): name for i, name in enumerate(classes)}},
            "run.json": {
                "version": 2,
                "status": "finished",
                "versions": {"natix_hf": "0.1.0", "torch": "2.14.1"},
                "method": "lora",
            },
        }
        if calibrated:
            files["calibration.json"] = calibration_document(k)
        metrics.write(tmp_path)
        certificate(list(classes), ratios and list(ratios)).write(tmp_path)
        for name, document in files.items():
            (tmp_path / name).write_text(json.dumps(document))
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | changes))
        return tmp_path

    return write


def test_a_cascade_has_its_guarantee_and_its_cost(run_folder):
    folder, (cascade, selective) = run_folder(), cascade_documents()
    assert "cascade" not in card_of(folder)
    (folder / "calibration.json").write_text(json.dumps(calibration_document(cascade=cascade.plain())))
    selective.write(folder)
    card, found = card_of(folder), selective.cascade
    assert "- Early exits: with 95% confidence at most 5.00% of all photos leave" in card
    ends = f"{found.mean_cost.low:.3f} to {found.mean_cost.high:.3f}"
    assert f"| views per photo | {found.mean_cost.value:.3f} ({ends}) | {found.early.n} | 60 |" in card


def test_front_matter_is_what_the_hub_reads(run_folder):
    front = ModelCard(card_of(run_folder())).data.to_dict()
    assert front["pipeline_tag"] == "image-classification"
    assert front["library_name"] == "transformers"
    assert front["base_model"] == RECIPE["model_name_or_path"]
    assert front["base_model_relation"] == "finetune"
    assert front["datasets"] == [RECIPE["dataset_name"]]
    assert (front["license"], front["license_name"]) == ("other", "dinov3-license")


def test_every_figure_has_its_interval_and_n(run_folder):
    folder = run_folder()
    text = card_of(folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    rows = re.findall(r"^\| (.+?) \| ([\d.]+) \| ([\d.]+) to ([\d.]+) \| 120 \| 40 \|$", text, re.MULTILINE)
    assert len(rows) == len(metrics["metrics"]) == 7
    for (_, value, low, high), interval in zip(rows, metrics["metrics"].values(), strict=True):
        assert (float(value), float(low), float(high)) == pytest.approx(
            (interval["value"], interval["low"], interval["high"]), abs=6e-4
        )
    index = ModelCard(text).data.eval_results
    named = {"mcc": "matthews_correlation", "auroc": "roc_auc", "macro_f1": "f1"}  # as hf.co/metrics calls them
    assert {result.metric_type for result in index} == {named.get(name, name) for name in metrics["metrics"]}
    assert all(
        result.metric_args["photos"] == 120 and result.metric_args["low"] <= result.metric_value for result in index
    )


def test_usage_calibration_and_settings_are_described(run_folder):
    text = card_of(run_folder(), model_id="someone/street")
    assert 'pipeline("image-classification", model="someone/street")' in text
    assert "trust_remote_code=True" in text
    assert "Calibrator: a temperature, T = 1.500, fitted on 75 photos in 40 groups of `val_calib/fit`." in text
    assert "temperature fitted on 75 photos" in text
    assert "(https://huggingface.co/datasets/natix-network-org/roadwork)" in text
    assert "0.3000" not in text  # NLL on the rows of the fit, which has no interval
    assert "| `lora_r` | 16 |" in text
    assert "| `lora_target_modules` | all-linear |" in text


def test_local_paths_stay_out_of_the_card(run_folder, tmp_path):
    photos = tmp_path / "secret photos"
    photos.mkdir()
    text = card_of(run_folder(dataset_name=str(photos), model_name_or_path="../private/backbone"))
    assert str(tmp_path) not in text
    assert "secret" not in text
    assert "private" not in text
    front = ModelCard(text).data.to_dict()
    assert not {"datasets", "base_model"} & front.keys()
    assert front["license"] == "unknown"
    assert "local DINOv3 checkpoint" in text


def test_an_existing_folder_with_one_slash_is_not_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub_id("photos/street") == "photos/street"
    (tmp_path / "photos" / "street").mkdir(parents=True)
    assert hub_id("photos/street") is None
    for name in ("builtin:scenes", "/a/b", "./a", "~/a", "photos/", "a/b/c", "..", "../a"):
        assert hub_id(name) is None, name


def test_the_demo_says_that_it_is_one(run_folder):
    text = card_of(run_folder(model_name_or_path="builtin:demo-backbone", dataset_name="builtin:scenes"))
    assert "trying things out" in text
    assert "Generated street photos" in text
    assert ModelCard(text).data.license == "apache-2.0"


def test_many_classes_and_odd_names_keep_the_tables_whole(run_folder):
    text = card_of(run_folder(classes=tuple(f"kind|{i}" for i in range(13)), ratios=None))
    assert "kind\\|3" in text
    assert "Street photos: 13 classes" in text
    assert "in their original four splits" in text


def test_an_unfinished_run_is_named(run_folder):
    folder = run_folder()
    (folder / "metrics.json").unlink()
    with pytest.raises(UserError, match=r"no metrics.json, so there is nothing to report: .*natix_hf.evaluate"):
        card_of(folder)


def test_a_run_without_calibration_says_so(run_folder):
    text = card_of(run_folder(calibrated=False))
    assert "The probabilities are not calibrated." in text
    assert "\n- Not calibrated.\n" in text


def test_a_run_from_python_has_no_recipe_and_still_a_card(run_folder):
    folder = run_folder()
    (folder / "recipe.yaml").unlink()
    text = card_of(folder)
    assert "from a local DINOv3 checkpoint: small added weights (LoRA adapters) and a classification" in text
    assert "Versions: natix_hf 0.1.0, torch 2.14.1." in text
    assert "| setting |" not in text
    assert not {"datasets", "base_model"} & ModelCard(text).data.to_dict().keys()


def test_the_card_reports_ties_and_that_no_group_is_in_two_splits(run_folder):
    text = " ".join(card_of(run_folder()).split())
    assert "kept in one split (12 by video, 5 by near-duplicate). Groups in more than one split: 0." in text


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run with all measurements."""
    return write_finished_run(tmp_path_factory.mktemp("cards") / "run")


LATENCY = ClientCheck(
    [Latency(width=224, height=224, at_once=4, requests=40, p50=0.25, p99=0.5)], cores=2, versions={}, difference=0.0
)


def test_every_section_that_the_run_can_fill_is_there(whole):
    text = card_of(whole, "me/street", form="stock", extra=[latency_section(LATENCY)])
    headings = re.findall(r"^##+ (.+)$", text, re.MULTILINE)
    assert headings == [
        *("How to use it", "Figures", "What fine-tuning added", "Calibration and decisions", "Robustness"),
        *("Where it is worst", "Simulated reward", "Latency", "Pictures", "Photos", "Training", "Limits", "Licence"),
    ]
    assert "| 224 x 224 | 4 | 0.250 | 0.500 | 40 |" in text
    assert "0.480 (95 % interval 0.400 to 0.600; 75 photos, 40 groups)." in text
    assert "is 0.900 (0.850 to 0.950). It is not used: the model decides at 0.5." in text
    assert "At most 10.00%" in text or "at most 10.00%" in text
    assert "](figures/reliability.png)" in text
    assert "gallery" not in text
    assert "\n\nA photo costs 1 view of 224 x 224 px, 201 tokens, 9.24 GFLOP and 0.0614 s of" in text


def test_every_figure_in_a_table_has_its_interval_and_n(whole):
    text = card_of(whole, "me/street", form="stock")
    tables = re.findall(r"^\|.*\|\n\|[-|]+\|\n(?:\|.*\|\n?)+", text.split("## Photos")[0], re.MULTILINE)
    assert len(tables) == 7
    for table in tables:
        heads, _, *rows = (line.strip("| ").split(" | ") for line in table.strip().splitlines())
        counted = [i for i, head in enumerate(heads) if head in ("photos", "predictions", "groups")]
        assert counted, heads
        intervals = "interval" in " ".join(heads)
        for row in rows:
            assert re.match(r"\d", row[counted[0]]), row
            for i, value in enumerate(row):
                if re.fullmatch(r"[+-]?\d+\.\d+", value):  # a figure alone in its cell: its interval has one too
                    assert intervals, (heads, row)
                    assert " to " in " ".join(row), (i, row)


def test_names_of_photos_and_places_are_withheld_on_the_card_of_the_run_folder(whole):
    text = card_of(whole)
    assert "withheld" in text
    for secret in ("photo-0", "street-0", "39.7", "IMG_0001", "/home/me"):
        assert secret not in text, secret
    assert "photo-0000.jpg" in card_of(whole, include_photos=True)


def test_a_folded_threshold_and_a_prior_are_described(run_folder):
    folder = run_folder()
    path = folder / "calibration.json"
    calibration = json.loads(path.read_text())
    calibration |= {"prior": {"seen": [0.5, 0.5], "target": [0.98, 0.02]}, "folded": True, "threshold": 0.3}
    calibration |= {"threshold_choice": THRESHOLD_CHOICE | {"threshold": 0.3}}
    path.write_text(json.dumps(calibration))
    text = card_of(folder)
    assert "75 photos in 40 groups of `val_calib/fit` to those expected in use: Roadwork 50.0% -> 2.0%." in text
    assert "folded into the model, which therefore decides at 0.5" in text


@pytest.mark.parametrize(
    ("form", "there", "absent"),
    [
        ("stock", "without our code", "trust_remote_code"),
        ("merged", "trust_remote_code=True", "onnxruntime"),
        ("adapter", "and peft", "onnxruntime"),
        ("onnx", "onnxruntime.InferenceSession", "pipeline("),
    ],
)
def test_the_card_describes_how_to_use_each_form(whole, form, there, absent):
    text = card_of(whole, "me/street", form=form)
    how = text.split("## How to use it")[1].split("## Figures")[0]
    assert there in how
    assert absent not in how
    assert "python -m natix_hf.predict me/street photos/" in how
    for code in re.findall(r"```python\n(.*?)```", how, re.DOTALL):
        compile(code, "card", "exec")
