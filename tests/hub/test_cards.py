"""The card says what the run's files say, with interval and n, and nothing about the machine."""

import json
import re

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard

from natix_hf.data.certificate import SIZES, VERSION, seal
from natix_hf.errors import UserError
from natix_hf.hub.cards import hub_id, model_card
from natix_hf.report.summary import metrics_document

RECIPE = {
    "model_name_or_path": "facebook/dinov3-vits16-pretrain-lvd1689m",
    "dataset_name": "natix-network-org/roadwork",
    "method": "lora",
    "learning_rate": 0.0002,
    "num_train_epochs": 3.0,
    "lora_r": 16,
    "lora_target_modules": ["all-linear"],
    "image_size": 224,
    "seed": 42,
}


def certificate(classes: list[str], ratios: list[float] | None) -> dict:
    """A whole `splits.json` in which every class has 30 photos in every split."""
    sizes = {"train": 600, "val_select": 150, "val_calib": 150, "val_test": 120}
    places = (*sizes, "val_calib/fit", "val_calib/control")
    counts = dict.fromkeys(classes, 30)
    shares = {split: dict.fromkeys(classes, 1 / len(classes)) for split in sizes}
    return seal(
        {
            "version": VERSION,
            "label_names": classes,
            "ratios": ratios,
            "seed": 0,
            "strata": [],
            "hold_out": {},
            "rules": {"group_columns": ["video"], "metres": None, "seconds": None, "near_duplicates": True},
            "sizes": sizes,
            "reached": {split: size / sum(sizes.values()) for split, size in sizes.items()},
            "class_counts": dict.fromkeys(places, counts),
            "prior_shift": {"chi2": 0.0, "dof": 3, "p": 1.0, "shares": shares},
            "groups": dict.fromkeys(places, 40),
            "group_sizes": {place: dict.fromkeys(SIZES, 8) for place in places},
            "largest_group": {"name": "v1", "rows": 9, "share": 0.01},
            "sources": {"all": 1020},
            "repeated_photos": 0,
            "fingerprint": "0123abcd" * 4,
            "fingerprints": dict.fromkeys(places, "0" * 32),
            "byte_fingerprints": dict.fromkeys(places, "1" * 32),
            "ids": {split: [] for split in sizes},
            "parts": {"val_calib": {"fit": [], "control": []}},
            "ties": {"video": 12, "bytes": 0, "near-duplicate": 5},
            "straddling": 0,
            "conflicts": [],
            "broken": [],
            "dropped": [],
            "set_aside": [],
        }
    )


@pytest.fixture
def run_folder(tmp_path):
    """A run folder as far as a card reads it; `write(**recipe changes)` makes it."""

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
            "metrics.json": metrics,
            "splits.json": certificate(list(classes), ratios and list(ratios)),
            "run.json": {"versions": {"natix_hf": "0.1.0", "torch": "2.14.1"}, "method": "lora"},
        }
        if calibrated:
            files["calibration.json"] = {
                "calibrator": "temperature",
                "fitted_on": "val_calib/fit",
                "n": 75,
                "temperature": 1.5,
                "kept": True,
                "nll_before": 0.3,
                "nll_after": 0.2,
                "ece_before": 0.05,
                "ece_after": 0.02,
            }
        for name, document in files.items():
            (tmp_path / name).write_text(json.dumps(document))
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | changes))
        return tmp_path

    return write


def test_front_matter_is_what_the_hub_reads(run_folder):
    front = ModelCard(model_card(run_folder())).data.to_dict()
    assert front["pipeline_tag"] == "image-classification"
    assert front["library_name"] == "transformers"
    assert front["base_model"] == RECIPE["model_name_or_path"]
    assert front["base_model_relation"] == "finetune"
    assert front["datasets"] == [RECIPE["dataset_name"]]
    assert (front["license"], front["license_name"]) == ("other", "dinov3-license")


def test_every_figure_has_its_interval_and_n(run_folder):
    folder = run_folder()
    text = model_card(folder)
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


def test_both_ways_of_use_and_the_calibration_are_told(run_folder):
    text = model_card(run_folder(), model_id="someone/street")
    assert 'pipeline("image-classification", model="someone/street")' in text
    assert "trust_remote_code=True" in text
    assert "Calibrator: a temperature, T = 1.500, fitted on 75 photos of `val_calib/fit`." in text
    assert "temperature fitted on 75 photos" in text
    assert "0.3000" not in text  # NLL on the rows of the fit, which has no interval
    assert "| `lora_r` | 16 |" in text
    assert "| `lora_target_modules` | all-linear |" in text


def test_local_paths_stay_out_of_the_card(run_folder, tmp_path):
    photos = tmp_path / "secret photos"
    photos.mkdir()
    text = model_card(run_folder(dataset_name=str(photos), model_name_or_path="../private/backbone"))
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
    text = model_card(run_folder(model_name_or_path="builtin:demo-backbone", dataset_name="builtin:scenes"))
    assert "trying things out" in text
    assert "Generated street photos" in text
    assert ModelCard(text).data.license == "apache-2.0"


def test_many_classes_and_odd_names_keep_the_tables_whole(run_folder):
    text = model_card(run_folder(classes=tuple(f"kind|{i}" for i in range(13)), ratios=None))
    assert "kind\\|3" in text
    assert "Street photos: 13 classes" in text
    assert "four splits that they came with" in text


def test_an_unfinished_run_is_named(run_folder):
    folder = run_folder()
    (folder / "metrics.json").unlink()
    with pytest.raises(UserError, match=r"metrics.json: there is no such file.*natix_hf.evaluate"):
        model_card(folder)


def test_a_run_without_calibration_says_so(run_folder):
    text = model_card(run_folder(calibrated=False))
    assert "The probabilities are not calibrated." in text
    assert "\n- Not calibrated.\n" in text


def test_a_run_from_python_has_no_recipe_and_still_a_card(run_folder):
    folder = run_folder()
    (folder / "recipe.yaml").unlink()
    text = model_card(folder)
    assert "from a local DINOv3 checkpoint: LoRA adapters and a head were trained" in text
    assert "Versions: natix_hf 0.1.0, torch 2.14.1." in text
    assert "| setting |" not in text
    assert not {"datasets", "base_model"} & ModelCard(text).data.to_dict().keys()


def test_the_card_tells_what_was_kept_together_and_that_nothing_straddles(run_folder):
    text = " ".join(model_card(run_folder()).split())
    assert "kept in one split (12 by video, 5 by near-duplicate). Groups that stand in two splits: 0." in text
