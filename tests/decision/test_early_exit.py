"""Early exits: the band of small cases worked by hand, what is refused, and how often the promise is broken."""

import numpy as np
import pytest
import scipy.stats
from two_stages import Streets

from natix_hf.decision.cascade import StageRows
from natix_hf.decision.early_exit import (
    NEVER,
    candidate_bands,
    certified_exit,
    exit_confidence,
    given_exit,
    harmful_exits,
    leaves_early,
)
from natix_hf.decision.group_bounds import Groups, p_value, smallest_certifiable
from natix_hf.documents.cascade import EarlyExit
from natix_hf.errors import UserError
from natix_hf.logits import softmax


def of(positive: np.ndarray) -> np.ndarray:
    """Probabilities `(n, 2)` from those of the positive class."""
    return np.stack([1 - positive, positive], axis=1)


def hundred() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """100 photos of the positive class that the second stage gets right; the first is wrong on four.

    The wrong ones say "no" with confidence 0.97, 0.9, 0.8 and 0.7.
    """
    early = np.full(100, 0.99)
    early[:4] = [0.03, 0.1, 0.2, 0.3]
    return of(early), of(np.full(100, 0.9)), np.ones(100, dtype=np.int64)


def test_of_independent_photos_so_many_may_be_lost_as_the_binomial_test_lets_pass():
    early, full, labels = hundred()
    assert scipy.stats.binom.cdf([1, 2], 100, 0.05).round(3).tolist() == [0.037, 0.118]
    found = certified_exit(early, full, labels, None, alpha=0.05, delta=0.1)
    assert (found.high, found.low) == (pytest.approx(0.9), pytest.approx(0.1))
    assert found.high > 0.9  # the second of them stays in, and with it all below
    assert (found.loss, found.early, found.loss_of_early) == (0.01, 0.97, 1 / 97)
    assert found.mean_cost == pytest.approx(1 + 9 * 0.03)
    assert found.certified
    assert found.candidates is None
    stricter = certified_exit(early, full, labels, None, alpha=0.05, delta=0.01)
    assert stricter.high > 0.97
    assert stricter.loss == 0


def test_an_exit_harms_only_where_the_second_stage_is_right():
    early, full, labels = hundred()
    full[:4] = early[:4]
    assert not harmful_exits(early, full, labels).any()
    found = certified_exit(early, full, labels, None, alpha=0.05, delta=0.1)
    assert (found.high, found.early, found.mean_cost) == (0.5, 1.0, 1.0)  # the second stage brings nothing


@pytest.mark.parametrize("classes", [2, 4])
def test_the_band_is_that_of_a_walk_through_all_bands(classes):
    generator = np.random.default_rng(classes)
    labels, groups = generator.integers(0, classes, 400), np.arange(400) // 4
    signal = np.eye(classes)[labels]
    early = softmax(2 * signal + generator.normal(size=(400, classes)).round(1))
    full = softmax(6 * signal + generator.normal(size=(400, classes)))
    found = certified_exit(early, full, labels, groups, alpha=0.08, delta=0.1)
    harmful, top = harmful_exits(early, full, labels), exit_confidence(early)
    expected = None
    for high in np.unique(top)[::-1]:
        if p_value(harmful & (top >= high), Groups.of(groups, 400), 0.08) > 0.1:
            break
        expected = top >= high
    leaves = leaves_early(early, found.low, found.high)
    assert leaves.sum() == expected.sum()
    assert 0.1 < found.early < 0.95
    assert found.loss == (harmful & leaves).mean() > 0
    assert (found.low is None) == (classes > 2)


def test_a_candidate_is_the_next_stricter_band():
    early, full, labels = hundred()
    found = certified_exit(early, full, labels, None, alpha=0.05, delta=0.1, candidates=np.array([0.6, 0.95, NEVER]))
    assert (found.high, found.candidates) == (0.95, 3)
    none = certified_exit(early, full, labels, None, alpha=0.05, delta=0.1, candidates=np.array([0.6, NEVER]))
    assert (none.early, none.mean_cost) == (0.0, 10.0)
    assert none.certified


def test_candidates_are_shares_of_other_photos():
    scores = of(np.linspace(0.5, 0.99, 1001))
    bands = candidate_bands(scores)
    shares = [leaves_early(scores, 1 - high, high).mean() for high in bands]
    assert shares == pytest.approx([*np.arange(1, 0.39, -0.05), 0], abs=2e-3)
    assert candidate_bands(np.full((50, 3), 1 / 3)).tolist() == [1 / 3, NEVER]


@pytest.mark.parametrize("groups", [None, np.arange(300) // 5])
def test_out_of_reach_says_what_could_be_promised(groups):
    early, labels = of(np.full(300, 0.99)), np.ones(300, dtype=np.int64)
    found = certified_exit(early, early, labels, groups, alpha=0.001, delta=0.1)
    assert not found.certified
    assert found.high is found.low is None
    assert (found.early, found.mean_cost, found.candidates) == (0.0, 10.0, 1)
    smallest = smallest_certifiable(Groups.of(groups, 300), 0.1)
    assert found.smallest_alpha == smallest
    assert f"set views_exit_alpha to {np.ceil(smallest * 1e4) / 1e4:g} or more" in found.reason
    assert certified_exit(early, early, labels, groups, alpha=smallest, delta=0.1).early == 1.0
    assert not certified_exit(early, early, labels, groups, alpha=0.99 * smallest, delta=0.1).certified


def test_a_given_band_is_measured_and_promises_nothing():
    early, full, labels = hundred()
    found = given_exit(early, full, labels, None, (0.12, 0.88), cost=(12.0, 344.0), cost_in="GFLOP")
    assert not found.certified
    assert "given" in found.reason
    assert (found.low, found.high, found.alpha, found.delta) == (0.12, 0.88, None, None)
    assert (found.loss, found.early) == (0.02, 0.98)
    assert found.mean_cost == pytest.approx(12 + 344 * 0.02)
    assert EarlyExit.check(found.plain(), "") == found
    three = np.full((4, 3), 1 / 3)
    with pytest.raises(UserError, match="two classes, these are 3: use views_exit: risk"):
        given_exit(three, three, np.zeros(4), None, (0.1, 0.9))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 0.0}, "views_exit_alpha: expected .*, found 0"),
        ({"delta": 1.0}, "views_exit_delta: expected .*, found 1"),
        ({"labels": np.zeros(3)}, "one row; found"),
        ({"early": np.zeros((0, 2)), "full": np.zeros((0, 2)), "labels": np.zeros(0)}, "at least one row"),
        ({"groups": np.array(["a"])}, "expected one group per row, found 1 for 100 rows"),
    ],
)
def test_bad_input_is_one_clear_line(change, message):
    early, full, labels = hundred()
    given = {"early": early, "full": full, "labels": labels, "groups": None, "alpha": 0.1} | change
    with pytest.raises(UserError, match=message) as caught:
        certified_exit(**given)
    assert "\n" not in str(caught.value)


def test_the_promise_is_kept_in_300_draws_of_whole_cameras_and_that_of_a_naive_choice_is_not():
    """Naive: the widest band whose loss on the drawn photos is at most alpha. Rows: photos taken for independent."""
    streets, alpha, delta, repeats = Streets(), 0.03, 0.1, 300
    everybody = as_probabilities(streets.all)
    harmful = harmful_exits(*everybody, streets.all.labels)
    at_risk = np.sort(exit_confidence(everybody[0])[harmful])

    def true_loss(high: float) -> float:
        return (len(at_risk) - np.searchsorted(at_risk, high)) / len(harmful)

    losses: dict[str, list[float]] = {"groups": [], "rows": [], "naive": []}
    early = []
    for _ in range(repeats):
        drawn = streets.draw(300)
        stages = as_probabilities(drawn)
        found = certified_exit(*stages, drawn.labels, drawn.groups, alpha=alpha, delta=delta)
        losses["groups"].append(true_loss(found.high))
        early.append(found.early)
        rows = certified_exit(*stages, drawn.labels, None, alpha=alpha, delta=delta)
        losses["rows"].append(true_loss(rows.high))
        losses["naive"].append(true_loss(naive_band(*stages, drawn.labels, alpha)))
    broken = {way: np.mean(np.array(found) > alpha) for way, found in losses.items()}
    most = scipy.stats.binom.ppf(0.999, repeats, delta) / repeats
    assert broken["groups"] <= most
    assert broken["rows"] > most
    assert broken["naive"] > 0.35
    assert np.mean(losses["groups"]) > alpha / 4  # a band that lets nobody leave would keep the promise as well
    assert np.mean(early) > 0.5


def as_probabilities(stages: StageRows) -> tuple[np.ndarray, np.ndarray]:
    return softmax(stages.early), softmax(stages.full)


def naive_band(early: np.ndarray, full: np.ndarray, labels: np.ndarray, alpha: float) -> float:
    at_risk = np.sort(exit_confidence(early)[harmful_exits(early, full, labels)])[::-1]
    let_pass = int(alpha * len(labels))
    return 0.5 if len(at_risk) <= let_pass else float(np.nextafter(at_risk[let_pass], 2.0))
