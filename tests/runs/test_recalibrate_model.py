"""A new calibration from one's own photos: what it must mend in a world that is known, and what it must refuse."""

from __future__ import annotations

import numpy as np
import pytest
from finished_run import calibration_document

from natix_hf import UserError
from natix_hf.decision.calibration import Calibration
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.documents.recalibration import OwnPhotosCounted, Recalibration
from natix_hf.documents.split_logits import SavedLogits
from natix_hf.runs.calibrated_model import CalibratedModel
from natix_hf.runs.decision_options import DecisionOptions
from natix_hf.runs.recalibrate_model import (
    _into_stock_head,
    certifiable_line,
    recalibrate,
    recalibrated_card,
    shares_line,
)
from natix_hf.runs.unlabelled_estimates import unlabelled_lines, unlabelled_report

NAMES = ["None", "Roadwork"]
NOTHING = Calibration("none", np.ones(2), np.zeros(2), np.zeros(2), np.zeros(2))


def city(n: int, seed: int, *, share: float = 0.5, sharpness: float = 3.0) -> SavedLogits:
    """Photos whose logits are `sharpness` times too far apart; exactly calibrated under equal shares at 1."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < share).astype(int)
    x = rng.normal(np.where(labels == 1, 1.5, -1.5))
    logits = sharpness * np.stack([-1.5 * x, 1.5 * x], axis=1)
    return SavedLogits(logits, labels, np.array([f"g{i}" for i in range(n)], dtype=object))


def seen(*shares: float) -> CalibrationFile:
    """A calibration on photos whose classes have these shares."""
    return CalibrationFile.check(calibration_document(prior={"seen": list(shares), "target": None}))


def options(**given) -> DecisionOptions:
    return DecisionOptions(**given)


def test_overconfidence_is_corrected_and_figures_come_from_the_other_half():
    document, figures = recalibrate(city(300, 1), city(900, 2), NOTHING, options(), NAMES, 1)
    assert document.temperature[0] == pytest.approx(3, rel=0.25)
    assert document.fitted_on == "own photos/fit"
    assert (document.n, figures.n, figures.groups) == (300, 900, 900)
    assert figures.difference["nll"].high < 0
    assert figures.difference["accuracy"].value == 0  # a temperature moves no decision
    truth = city(20_000, 3)
    after = Calibration.from_document(document)
    log_loss = -np.log(
        np.exp(
            after.calibrated(truth.logits) - np.logaddexp.reduce(after.calibrated(truth.logits), axis=1, keepdims=True)
        )[np.arange(20_000), truth.label]
    ).mean()
    assert figures.after["nll"].low < log_loss < figures.after["nll"].high


def test_a_prevalence_moves_prior_and_threshold_and_the_figures_are_those_of_that_prevalence():
    document, figures = recalibrate(city(400, 1), city(400, 2), NOTHING, options(target_prior=[0.02]), NAMES, 1)
    assert document.prior_bias[1] - document.prior_bias[0] == pytest.approx(np.log(0.02 / 0.98), abs=0.3)
    assert figures.shares == pytest.approx([0.98, 0.02])
    rare = city(200_000, 5, share=0.02)
    after = Calibration.from_document(document)
    truth = (after.decisions(rare.logits) == rare.label).mean()
    assert figures.after["accuracy"].low < truth < figures.after["accuracy"].high
    assert figures.difference["accuracy"].low > 0  # deciding as at 50 % raises too many alarms among 2 %


def test_photos_in_other_shares_than_the_model_learnt_need_a_bias_and_lead_to_the_same_place():
    asked = options(target_prior=[0.02], calibrator=["temperature", "vector"])
    document, _ = recalibrate(city(400, 1, share=0.9), city(400, 2, share=0.9), NOTHING, asked, NAMES, 1)
    assert document.calibrator == "vector"
    total = document.logit_bias[1] - document.logit_bias[0]
    assert total == pytest.approx(np.log(0.02 / 0.98), abs=0.6)  # of logits that hold where both are as frequent
    assert shares_line(document, seen(0.5, 0.5), NAMES) == []
    plain, _ = recalibrate(city(400, 1, share=0.9), city(400, 2, share=0.9), NOTHING, options(), NAMES, 1)
    (line,) = shares_line(plain, seen(0.5, 0.5), NAMES)
    assert line.startswith("note: 9")
    assert "of these photos show Roadwork, but 50% of those that the model was calibrated on" in line
    assert shares_line(plain, seen(0.15, 0.85), NAMES) == shares_line(plain, None, NAMES) == []


def test_the_guarantee_is_fitted_on_the_checking_half_alone():
    asked = options(risk="fpr", risk_alpha=0.05, risk_delta=0.1)
    one, _ = recalibrate(city(300, 1), city(600, 2), NOTHING, asked, NAMES, 1)
    other, _ = recalibrate(city(300, 1), city(600, 4), NOTHING, asked, NAMES, 1)
    assert one.temperature == other.temperature
    assert one.guarantee.high != other.guarantee.high
    assert one.guarantee.fitted_on == "own photos/control"
    assert one.guarantee.n == 600
    truth = city(100_000, 9)
    scores = Calibration.from_document(one).calibrated(truth.logits)
    p = 1 / (1 + np.exp(scores[:, 0] - scores[:, 1]))
    assert (p[truth.label == 0] >= one.guarantee.high).mean() <= 0.05


def test_the_certifiable_rate_is_printed_before_fitting_and_a_lower_one_is_refused():
    labels, groups = np.repeat([0, 1], [187, 100]), np.arange(287)
    # 187 negatives without an error bound the false-positive rate at 1.59 % with 95 % confidence: 1 - 0.05^(1/187).
    line = certifiable_line(labels, groups, options(risk="fpr", risk_alpha=0.02, risk_delta=0.05), NAMES, 1)
    assert line == (
        "the checking half (187 photos of None in 187 groups) can certify fpr 0.0159 at best, with 95% confidence; "
        "requested: --max_fpr 0.02"
    )
    with pytest.raises(UserError) as caught:
        certifiable_line(labels, groups, options(risk="fpr", risk_alpha=0.01, risk_delta=0.05), NAMES, 1)
    assert str(caught.value) == (
        "--max_fpr 0.01 is out of reach: with 95% confidence the checking half (187 photos of None in 187 groups) can "
        "certify fpr 0.0159 at best: set --max_fpr 0.0159 or more, or add more photos from other groups"
    ).replace("0.0159 or more", f"{np.ceil((1 - 0.05 ** (1 / 187)) * 1e4) / 1e4:g} or more")
    rate = options(risk="precision", risk_alpha=0.02, risk_delta=0.05, prevalence=0.02)
    with pytest.raises(UserError, match=r"--min_precision 0\.98 is out of reach: .* photos of None .* of Roadwork"):
        certifiable_line(labels, groups, rate, NAMES, 1)


def test_photos_without_labels_tell_shares_accuracy_and_drift(tmp_path):
    from datasets import Dataset

    from natix_hf.runs.saved_logits import write_predictions

    calibrated_on, new = city(400, 1, share=0.8, sharpness=1), city(400, 2, share=0.2, sharpness=1)
    odds = np.log([0.2, 0.8]) - np.log([0.5, 0.5])
    rows = Dataset.from_dict(
        {"id": [str(i) for i in range(400)], "group": list(calibrated_on.group), "label": calibrated_on.label}
    )
    write_predictions(tmp_path / "predictions" / "val_calib.parquet", [("fit", rows, calibrated_on.logits + odds)])
    shares = np.array([0.2, 0.8])
    model = CalibratedModel(tmp_path, NOTHING, None, positive=1)
    report = unlabelled_report(model, shares, new.logits + odds, new.group)
    truth = new.label.mean()
    assert report.prior.low[1] < truth < report.prior.high[1]
    right = ((new.logits + odds).argmax(axis=1) == new.label).mean()
    assert report.expected_accuracy.as_it_decides.low < right
    assert report.expected_accuracy.as_it_decides.high > right
    better = report.expected_accuracy.with_this_prior.value
    assert better > report.expected_accuracy.as_it_decides.value
    assert not report.drift.found
    photos = OwnPhotosCounted(n=400, groups=400, broken=[], known={}, ties={})
    about = {"source": "m", "labelled": False, "classes": NAMES, "positive": 1, "seed": 0, "photos": photos}
    lines = unlabelled_lines(Recalibration(**about, **report._asdict()))
    assert lines[0].startswith(f"estimated class shares: {report.prior.estimated[1]:.1%} Roadwork (95% interval")
    assert "the model was calibrated on 80.0%" in lines[0]
    assert lines[-1].startswith("no drift found")
    vague = new.logits * 0.2  # photos that the model makes little of
    report = unlabelled_report(model, shares, vague + odds, new.group)
    assert report.drift.found
    nowhere = model._replace(folder=tmp_path / "nowhere")
    assert unlabelled_report(nowhere, shares, new.logits + odds, new.group).drift is None


def test_the_card_begins_with_the_recalibration_and_drops_the_hub_results():
    text = (
        "---\nlicense: apache-2.0\nmodel-index:\n- name: m\n  results:\n  - task:\n      type: image-classification\n"
        "    dataset:\n      type: d\n      name: d\n    metrics:\n    - type: accuracy\n      value: 0.9\n---\n\n"
        "# A model\n\nWhat it does.\n\n## Figures\n\naccuracy 0.9\n"
    )
    card = recalibrated_card(text, ["T = 2"])
    assert "license: apache-2.0" in card
    assert "model-index" not in card
    assert (
        card.index("# A model") < card.index("## Recalibrated on other photos\n\n- T = 2") < card.index("## Figures")
    )
    assert "All figures below were measured earlier" in card


def test_a_stock_head_gives_the_logits_of_the_new_calibration(tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    rng = np.random.default_rng(0)
    weight, bias, features = rng.normal(size=(2, 8)), rng.normal(size=2), rng.normal(size=(5, 8))
    before = Calibration("temperature", np.array([2.0, 2.0]), np.zeros(2), np.array([0.3, -0.4]), np.zeros(2))
    after = Calibration("temperature", np.array([0.7, 0.7]), np.zeros(2), np.array([-1.0, 1.0]), np.array([0.0, 0.5]))
    raw = features @ weight.T + bias
    held = {
        "timm_model.head.weight": torch.tensor(weight / 2, dtype=torch.float32),
        "timm_model.head.bias": torch.tensor(bias / 2 + before.logit_bias, dtype=torch.float32),
        "timm_model.norm.weight": torch.ones(3),
    }
    save_file(held, tmp_path / "model.safetensors", metadata={"format": "pt"})
    _into_stock_head(tmp_path, before, after)
    found = load_file(tmp_path / "model.safetensors")
    logits = features @ found["timm_model.head.weight"].double().numpy().T + found["timm_model.head.bias"].numpy()
    np.testing.assert_allclose(logits, after.served(raw), atol=1e-5)
    torch.testing.assert_close(found["timm_model.norm.weight"], torch.ones(3))
    save_file({"classifier.weight": torch.ones(2, 8)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="in the weights, found 0 of them"):
        _into_stock_head(tmp_path, before, after)
