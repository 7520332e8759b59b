"""Risk against coverage: equal to plain sums, to a closed form, and honest about few groups."""

import itertools

import numpy as np
import pytest
import sklearn.metrics

from natix_hf.decision.risk_control import control_risk
from natix_hf.decision.selective import flawless_high, risk_coverage, selective_document, share_with_interval
from natix_hf.documents.selective import Selective


def draw(n: int, seed: int = 0, decimals: int = 6) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    confidence = generator.random(n).round(decimals)
    return confidence, generator.random(n) > 0.6 + 0.4 * confidence


def areas(confidence: np.ndarray, wrong: np.ndarray) -> tuple[float, float]:
    order = np.argsort(-confidence, kind="stable")
    n, mistakes, aurc, augrc = len(wrong), 0, 0.0, 0.0
    for k, row in enumerate(order, start=1):
        augrc += mistakes / n / n / 2
        mistakes += int(wrong[row])
        aurc += mistakes / k / n
        augrc += mistakes / n / n / 2
    return aurc, augrc


def test_areas_equal_a_plain_sum():
    confidence, wrong = draw(500)
    found = risk_coverage(confidence, wrong, None, n_boot=10)
    assert (found.aurc.value, found.augrc.value) == pytest.approx(areas(confidence, wrong))


def test_ties_give_the_mean_over_all_orders():
    confidence, wrong = np.array([0.9, 0.5, 0.5, 0.5, 0.5, 0.2]), np.array([1, 0, 1, 0, 0, 1], dtype=bool)
    orders = [areas(np.array([9, *order, 0]), wrong) for order in itertools.permutations([4, 3, 2, 1])]
    found = risk_coverage(confidence, wrong, None, n_boot=10)
    assert (found.aurc.value, found.augrc.value) == pytest.approx(np.mean(orders, axis=0))


def test_augrc_is_the_closed_form_of_its_paper():
    confidence, wrong = draw(400, decimals=1)
    accuracy = 1 - wrong.mean()
    ranking = sklearn.metrics.roc_auc_score(~wrong, confidence)
    expected = (1 - ranking) * accuracy * (1 - accuracy) + (1 - accuracy) ** 2 / 2
    assert risk_coverage(confidence, wrong, None, n_boot=10).augrc.value == pytest.approx(expected)


def test_resamples_equal_the_areas_of_their_rows():
    from natix_hf.resampling import times_drawn

    confidence, wrong = draw(40, decimals=1)
    groups = np.arange(40) // 3
    found = risk_coverage(confidence, wrong, groups, n_boot=30, seed=4)
    drawn = []
    for times in np.concatenate(list(times_drawn(14, 30, 4, at_once=30))):
        rows = np.repeat(np.arange(40), times[groups].astype(int))
        one = risk_coverage(confidence[rows], wrong[rows], None, n_boot=1)
        drawn.append((one.aurc.value, one.augrc.value))
    for name, values in zip(("aurc", "augrc"), np.transpose(drawn), strict=True):
        low, high = np.quantile(values, [0.025, 0.975])
        assert (getattr(found, name).low, getattr(found, name).high) == pytest.approx((low, high))


def test_the_curve_ends_at_the_error_rate_and_stays_short():
    confidence, wrong = draw(5000)
    curve = risk_coverage(confidence, wrong, None, n_boot=2).curve
    assert curve.coverage[-1] == 1.0
    assert curve.risk[-1] == pytest.approx(wrong.mean())
    assert len(curve.risk) == len(curve.coverage) <= 200
    order = np.argsort(-confidence)
    k = round(curve.coverage[57] * 5000)
    assert curve.risk[57] == pytest.approx(wrong[order[:k]].mean())


def test_no_mistake_leaves_what_so_few_groups_could_hide():
    found = risk_coverage(np.random.default_rng(0).random(100), np.zeros(100), np.arange(100) // 10)
    rate = 1 - 0.025 ** (1 / 10)
    assert found.aurc.plain() == {"value": 0.0, "low": 0.0, "high": pytest.approx(rate * (1 - np.log(rate)))}
    assert found.augrc.high == pytest.approx(rate - rate**2 / 2)
    worst = np.zeros(100_000, dtype=bool)
    worst[: round(rate * 100_000)] = True  # all hidden mistakes in front
    aurc, augrc = areas(-np.arange(100_000), worst)
    assert (aurc, augrc) == pytest.approx((found.aurc.high, found.augrc.high), rel=1e-3)


def test_a_share_has_the_interval_of_its_groups():
    generator = np.random.default_rng(0)
    of, rows = generator.random(4000) < 0.3, generator.random(4000) < 0.5
    found = share_with_interval(of, rows, None, n_boot=2000, seed=0)
    half = 1.96 * np.sqrt(found.value * (1 - found.value) / found.n)
    assert found.value == of[rows].mean()
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=0.15 * half)
    none = share_with_interval(np.zeros(30, bool), np.ones(30, bool), np.arange(30) // 3, n_boot=10, seed=0)
    assert none.plain() == {"value": 0.0, "low": 0.0, "high": pytest.approx(flawless_high(10)), "n": 30, "groups": 10}
    assert share_with_interval(of, np.zeros(4000, bool), None, n_boot=10, seed=0).value is None


@pytest.mark.parametrize("alpha", [None, 0.06, 1e-5])
def test_the_document_is_of_its_class_and_counts_the_band_on_other_rows(alpha):
    generator = np.random.default_rng(3)
    labels, groups = generator.integers(0, 2, 1200), np.arange(1200) // 3
    logits = np.stack([np.zeros(1200), np.where(labels == 1, 2.0, -2.0) + generator.normal(0, 1.5, 1200)], axis=1)
    scores = 1 / (1 + np.exp(-logits[:, 1]))
    guarantee, test = None, slice(600, 1200)
    if alpha is not None:
        guarantee = control_risk(scores[:600], labels[:600] == 1, groups[:600], risk="fpr", alpha=alpha)
    document = selective_document(logits[test], labels[test], groups[test], guarantee, 1, n_boot=100)
    assert Selective.parse(document.text(), "") == document
    decided = logits[test].argmax(axis=1)
    assert document.curve.risk[-1] == pytest.approx((decided != labels[test]).mean())
    assert (document.n, document.groups) == (600, 200)
    if alpha is None or not guarantee.reachable:
        assert document.band is None
        return
    negative = labels[test] == 0
    band, wrong = document.band, scores[test][negative] >= guarantee.high
    assert band.fpr.value == pytest.approx(wrong.mean())
    assert band.fpr.low <= wrong.mean() <= band.fpr.high
    assert (band.fpr.n, band.fpr.groups) == (negative.sum(), len(np.unique(groups[test][negative])))
    between = (scores[test] < guarantee.high) & (scores[test] > guarantee.low)
    assert band.coverage.value == pytest.approx(1 - between.mean())
    assert band.abstention.positive.value == pytest.approx(between[~negative].mean())


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="1 of 3 confidences are NaN"):
        risk_coverage(np.array([0.1, np.nan, 0.2]), np.zeros(3), None)
    with pytest.raises(ValueError, match="found"):
        risk_coverage(np.zeros(3), np.zeros(2), None)
    with pytest.raises(ValueError, match="one group per row"):
        risk_coverage(np.zeros(3), np.zeros(3), np.array(["a", "b"]))
