"""The grid of heads as a run: the best on val_select becomes the model, and what is published is it."""

import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from natix_hf import UserError, finish_run, load_photos, train_run
from natix_hf.documents.probe import ProbeSearch
from natix_hf.report.metrics import classification_metrics
from natix_hf.training.probe import lbfgs_check

GRID = {
    "probe_heads": "grid",
    "probe_poolings": ["cls", "cls_mean"],
    "probe_layers": [1, 2],
    "probe_learning_rates": [0.001, 0.1, 1.0],
    "num_train_epochs": 5,
}


def test_the_best_head_on_val_select_becomes_the_model_and_is_what_the_run_folder_holds(job, tmp_path, capsys):
    trainer = job("probe", **GRID)
    train_run(trainer)
    search = ProbeSearch.read(tmp_path / "run")
    assert len(search.heads) == 12
    best = max(search.heads, key=lambda head: (head["mcc"], -head["log_loss"]))
    assert best.items() >= search.chosen.plain().items()
    config = trainer.model.config
    assert (config.pooling, config.feature_layers) == (best["pooling"], best["layers"])
    select = trainer.splits.rows("selection", step="predictions")
    logits = trainer.logits(select)
    found = classification_metrics(logits, np.array(select["label"][:]))
    assert found["mcc"] == pytest.approx(best["mcc"])
    assert found["log_loss"] == pytest.approx(best["log_loss"], abs=1e-4)
    metrics = finish_run(trainer)
    assert metrics.n > 0
    assert (tmp_path / "run" / "figures" / "probe.png").stat().st_size > 5000
    assert "12 heads" in capsys.readouterr().out
    from transformers import AutoModelForImageClassification

    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "run").eval()
    assert (loaded.config.pooling, loaded.config.feature_layers) == (best["pooling"], best["layers"])
    from natix_hf.inference.batches import client_pixels

    pixels = torch.stack([client_pixels(row["image"], trainer.processing_class) for row in select.select(range(4))])
    calibrated = loaded(pixels).logits.detach().numpy()
    calibration = json.loads((tmp_path / "run" / "calibration.json").read_text())
    expected = logits[:4] / np.array(calibration["temperature"]) + np.array(calibration["logit_bias"])
    np.testing.assert_allclose(calibrated, expected, atol=1e-4)


def test_fixed_views_are_seen_and_change_the_heads(job):
    plain = job("probe", name="plain", **GRID)
    train_run(plain)
    views = job("probe", name="views", augment="basic", speed={"fixed_views": 2}, **GRID)
    assert len(views.train_dataset.views) == 3
    train_run(views)
    assert not torch.equal(plain.model.head.linear.weight, views.model.head.linear.weight)


def test_lbfgs_is_sklearns_logistic_regression_at_its_best_strength():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(120, 6)), np.arange(120) % 2
    features[:, 0] += labels * 1.5
    found = lbfgs_check(features[:80], labels[:80], features[80:], labels[80:], positive=1)
    mean, spread = features[:80].mean(axis=0), features[:80].std(axis=0)
    model = LogisticRegression(C=found["C"], max_iter=500).fit((features[:80] - mean) / spread, labels[:80])
    probabilities = model.predict_proba((features[80:] - mean) / spread)
    assert found["log_loss"] == pytest.approx(-np.log(probabilities[np.arange(40), labels[80:]]).mean())


@pytest.mark.parametrize(
    ("method", "changes", "said"),
    [
        ("lora", {}, "probe_heads: grid given, but method is lora"),
        ("probe", {"loss": "focal"}, "loss: focal given, but probe_heads: grid trains with plain cross-entropy"),
        ("probe", {"model_options": {"head": "mlp"}}, "grid trains linear heads, but head is mlp"),
        ("probe", {"probe_layers": [99]}, "probe_layers: expected at most .*; found 99"),
        ("probe", {"probe_poolings": ["max"]}, "probe_poolings: expected .*; found max"),
    ],
)
def test_grids_that_cannot_be_trained_are_refused(job, photo_folder, method, changes, said):
    with pytest.raises(UserError, match=said):
        job(method, splits=load_photos(photo_folder), **{**GRID, **changes})
