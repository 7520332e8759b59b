"""Two stages as one classifier: their composite, its cost, and two promises on the same rows."""

import json
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from two_stages import Streets

from natix_hf.decision.cascade import (
    StageRows,
    TwoStages,
    cascade_figures,
    check_deltas,
    cost_curve,
    fit_cascade,
    left_for_risk,
)
from natix_hf.decision.choice import nll
from natix_hf.decision.early_exit import candidate_bands, certified_exit, harmful_exits
from natix_hf.decision.fit_calibrator import fit_calibrator, fit_one
from natix_hf.decision.risk_control import band_rates, control_risk
from natix_hf.documents.cascade import Cascade
from natix_hf.documents.selective import CascadeFigures
from natix_hf.errors import UserError
from natix_hf.logits import softmax

AS_IT_IS = fit_one("none", np.zeros((2, 2)), np.zeros(2, dtype=np.int64))
STREETS = Streets(3)


@pytest.fixture(scope="module")
def fitted() -> tuple[StageRows, StageRows, Cascade]:
    fit, control = STREETS.draw(300), STREETS.draw(400)
    names = ["None", "Roadwork"]
    found = fit_cascade(fit, control, "risk", alpha=0.03, delta=0.05, class_names=names, other_promise=True)
    return fit, control, found


def test_a_composite_by_hand():
    twice = replace(AS_IT_IS, temperature=np.array([2.0, 2.0]))
    stages = TwoStages(AS_IT_IS, twice, low=0.1, high=0.9)
    early = np.array([[0.0, 3.0], [0.0, 1.0], [0.0, -3.0], [0.0, -2.0]])  # p .953 .731 .047 .119
    full = np.array([[np.nan, np.nan], [0.0, 4.0], [np.nan, np.nan], [0.0, -8.0]])
    logits, stage = stages.composite(early, full)
    assert logits.tolist() == [[0, 3], [0, 2], [0, -3], [0, -4]]
    assert stage.tolist() == [1, 2, 1, 2]


@pytest.mark.parametrize("calibrator", ["temperature", "vector", "isotonic"])
def test_the_document_says_all_that_an_answer_needs(calibrator):
    fit, control = STREETS.draw(300), STREETS.draw(100)
    found = fit_cascade(fit, control, (0.12, 0.88), alpha=0.02, calibrators=[calibrator])
    read = Cascade.check(json.loads(json.dumps(found.plain())), "")
    assert read == found
    stages = TwoStages.from_document(read)
    for part, logits in ((stages.first, control.early), (stages.second, control.full)):
        own = fit.early if part is stages.first else fit.full
        expected = fit_calibrator(own, fit.labels, fit.groups, [calibrator]).calibration
        np.testing.assert_allclose(part.calibrated(logits), expected.calibrated(logits))
    leaves = stages.leaves_early(control.early)
    assert found.exit.early == leaves.mean()
    assert not found.exit.certified


def test_stages_on_their_own_scales_make_a_calibrated_composite(fitted):
    """The second stage's logits are four times too small: one temperature cannot mend the raw composite."""
    fit, control, _ = fitted
    fit, other = (one._replace(full=one.full / 8) for one in (fit, STREETS.draw(2000)))
    found = fit_cascade(fit, control._replace(full=control.full / 8), (0.1, 0.9), alpha=0.02)
    stages = TwoStages.from_document(found)
    raw = replace(stages, first=AS_IT_IS, second=AS_IT_IS)
    nats = {}
    for name, way in (("by stage", stages), ("raw", raw)):
        calibration = fit_one("temperature", way.composite(*fit[:2]).logits, *fit[2:])
        nats[name] = nll(calibration.calibrated(way.composite(*other[:2]).logits), other.labels).mean()
    assert nats["by stage"] < nats["raw"] - 0.02


def test_a_second_promise_on_the_same_rows_gets_what_the_first_leaves(fitted):
    fit, control, found = fitted
    assert found.exit.candidates == len(
        candidate_bands(softmax(TwoStages.from_document(found).first.calibrated(fit.early)))
    )
    assert left_for_risk(found.exit, 0.1) == (pytest.approx(0.05), found.exit.candidates)
    given = fit_cascade(fit, control, (0.2, 0.8), alpha=0.03, other_promise=True).exit
    assert left_for_risk(given, 0.1) == (0.1, 1)
    unreachable = fit_cascade(fit, control, "risk", alpha=1e-4, other_promise=True).exit
    assert left_for_risk(unreachable, 0.1) == (0.1, 1)
    alone = fit_cascade(fit, control, "risk", alpha=0.03).exit
    assert alone.early >= found.exit.early
    with pytest.raises(ValueError, match="other_promise=True"):
        left_for_risk(alone, 0.1)
    with pytest.raises(UserError, match=r"views_exit_delta: expected less than risk_delta .* found 0\.05"):
        left_for_risk(found.exit, 0.05)
    check_deltas(0.05, 0.1)


def test_lines_tell_promise_band_and_cost(fitted):
    _, _, found = fitted
    (line,) = found.lines
    assert line.startswith("early exits: with 95% confidence at most 3.00% of all photos leave with a wrong answer")
    assert f"p of Roadwork is up to {found.exit.low:.4f} or from {found.exit.high:.4f}" in line
    assert f"{found.exit.mean_cost:.2f} views a photo" in line


def test_the_cost_curve_counts_what_each_band_gives():
    generator = np.random.default_rng(0)
    confidence = generator.random(150).round(2)  # ties
    first, second = generator.random(150) < 0.3, generator.random(150) < 0.1
    curve = cost_curve(confidence, first, second, (1, 9))
    assert len(curve.high) == len(np.unique(confidence)) + 1
    for high, early, cost, error, loss in zip(*curve.plain().values(), strict=True):
        leaves = confidence >= high
        assert early == pytest.approx(leaves.mean())
        assert cost == pytest.approx(1 + 9 * (1 - leaves.mean()))
        assert error == pytest.approx(np.where(leaves, first, second).mean())
        assert loss == pytest.approx((leaves & first & ~second).mean())
    assert (curve.error[0], curve.error[-1]) == (second.mean(), first.mean())
    assert len(cost_curve(generator.random(5000), np.zeros(5000, bool), np.zeros(5000, bool), (1, 9)).cost) == 200


def test_figures_on_other_rows_are_those_of_the_deployed_cascade(fitted):
    _, _, found = fitted
    other = STREETS.draw(200)
    figures = cascade_figures(found, other, n_boot=50)
    assert CascadeFigures.check(figures.plain(), "") == figures
    logits, stage = TwoStages.from_document(found).composite(other.early, other.full)
    assert figures.early.value == (stage == 1).mean()
    assert figures.error.value == (logits.argmax(axis=1) != other.labels).mean()
    assert figures.error_of_second.value == (other.full.argmax(axis=1) != other.labels).mean()
    assert figures.mean_cost.value == pytest.approx(1 + 9 * (stage == 2).mean())
    assert figures.mean_cost.low < figures.mean_cost.value < figures.mean_cost.high
    assert figures.error.value <= figures.error_of_second.value + figures.loss.value


def test_more_than_two_classes_leave_by_the_largest_probability():
    generator = np.random.default_rng(0)
    labels, groups = generator.integers(0, 3, 900), np.arange(900) // 3
    early = 2 * np.eye(3)[labels] + generator.normal(size=(900, 3))
    full = early + 3 * np.eye(3)[labels] + generator.normal(size=(900, 3))
    parts = [StageRows(early[half], full[half], labels[half], groups[half]) for half in (slice(450), slice(450, None))]
    found = fit_cascade(*parts, "risk", alpha=0.05)
    assert found.exit.low is None
    assert 0.05 < found.exit.early < 1
    stages = TwoStages.from_document(found)
    top = softmax(stages.first.calibrated(parts[1].early)).max(axis=1)
    assert ((stages.composite(*parts[1][:2]).stage == 1) == (top >= found.exit.high)).all()
    assert "the largest probability is at least" in found.lines[0]


@pytest.mark.slow
def test_both_promises_hold_together_in_300_draws_of_whole_cameras():
    """The same 500 cameras choose exit and abstention; in at most `risk_delta` of draws one of the two is broken."""
    streets, repeats, risk_delta, most_lost, most_fpr = Streets(5), 300, 0.1, 0.03, 0.06
    fit, everybody = streets.draw(300), streets.all
    first, second = (fit_one("temperature", logits, *fit[2:]) for logits in fit[:2])
    bands = candidate_bands(softmax(first.calibrated(fit.early)))
    of_all = softmax(first.calibrated(everybody.early)), softmax(second.calibrated(everybody.full))
    harmful, is_positive = harmful_exits(*of_all, everybody.labels), everybody.labels == 1
    broken, answered, early = [], [], []
    for _ in range(repeats):
        drawn = streets.draw(500)
        judged = softmax(first.calibrated(drawn.early)), softmax(second.calibrated(drawn.full))
        found = certified_exit(*judged, *drawn[2:], alpha=most_lost, delta=0.05, candidates=bands)
        stages = TwoStages(first, second, found.low, found.high)
        scores = softmax(stages.composite(*drawn[:2]).logits)[:, 1]
        terms = left_for_risk(found, risk_delta)._asdict()
        promise = control_risk(scores, drawn.labels == 1, drawn.groups, risk="fpr", alpha=most_fpr, **terms)
        logits, stage = stages.composite(*everybody[:2])
        rates = band_rates(softmax(logits)[:, 1], is_positive, promise.low, promise.high)
        broken.append((harmful & (stage == 1)).mean() > most_lost or rates.fpr > most_fpr)
        answered.append(rates.coverage)
        early.append(found.early)
    assert np.mean(broken) <= scipy.stats.binom.ppf(0.999, repeats, risk_delta) / repeats
    assert np.mean(early) > 0.5
    assert np.mean(answered) > 0.8
