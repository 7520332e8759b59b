"""The choice among milestones: by probes on held-out groups, with the original in the race."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from natix_hf.inference.feature_probes import STRENGTH, few_labels, neighbour_logits, probe_logits
from natix_hf.runs.choose_milestone import Judge, choice_lines, choose


def rows(count, seed=0):
    chance = np.random.default_rng(seed)
    labels = chance.integers(0, 2, count).tolist()
    features = Features({"label": ClassLabel(names=["None", "Roadwork"]), "group": Value("string")})
    return Dataset.from_dict({"label": labels, "group": [f"g{i // 2}" for i in range(count)]}, features=features)


def made(signal):
    """Features of rows: noise, and the label as strongly as told; the same noise for every milestone."""

    def features(place, data):
        labels = np.array(data["label"][:])
        chance = np.random.default_rng(len(labels))
        found = chance.normal(size=(len(labels), 6))
        found[:, 0] += signal[place] * (2 * labels - 1)
        return found

    return features


TRAIN, SELECT = rows(400, 1), rows(300, 2)


def chosen(signal, metric="mcc", **more):
    judge = Judge(TRAIN, SELECT, metric, 1)
    marks = [key for key in signal if key is not None]
    return choose(marks, [10 * (i + 1) for i in range(len(marks))], made(signal), judge, **more)


def test_the_best_milestone_wins_where_it_beats_the_original_beyond_the_interval():
    choice = chosen({None: 0.2, "a": 0.5, "b": 2.0, "c": 1.0})
    assert choice.chosen == 20
    assert "the milestone of step 20 beats the original" in choice.reason
    assert [one.step for one in choice.candidates] == [0, 10, 20, 30]
    assert choice.candidates[2].beside_original["100%"].low > 0
    assert set(choice.candidates[2].beside_original) == {"1%", "10%", "100%"}
    assert choice.candidates[0].beside_original == {}
    assert choice.level == pytest.approx(1 - 0.05 / 3)


@pytest.mark.parametrize("signal", [{None: 1.0, "a": 1.0}, {None: 1.0, "a": 1.02}, {None: 2.0, "a": 0.1}])
def test_the_original_is_kept_if_no_milestone_is_clearly_better(signal):
    choice = chosen(signal)
    assert choice.chosen == 0
    assert "the original is kept, because no milestone is clearly better" in choice.reason


def test_a_score_that_is_better_when_lower_is_read_that_way():
    assert chosen({None: 0.2, "a": 2.0}, metric="log_loss").chosen == 10
    assert chosen({None: 2.0, "a": 0.2}, metric="log_loss").chosen == 0


def test_without_any_effect_the_original_is_kept_as_often_as_the_level_promises():
    """Milestones that differ from the original by noise alone: one in twenty runs may be taken in, not more."""
    wrong = 0
    for run in range(30):
        chance = np.random.default_rng(run)

        def features(place, data, chance=chance):
            labels = np.array(data["label"][:])
            return chance.normal(size=(len(labels), 4)) + 0.5 * (2 * labels - 1)[:, None]

        choice = choose(["a", "b"], [1, 2], features, Judge(rows(120, run), rows(120, run + 99), "mcc", 1))
        wrong += choice.chosen != 0
    assert wrong <= 5  # of 30; 5 % are 1.5, and more than 5 would happen once in 300


def test_forgetting_is_measured_on_the_other_data_set():
    other = Judge(rows(100, 5), rows(80, 6), "mcc", 1)
    signal = {None: 2.0, "a": 2.0}
    choice = chosen(signal, forgetting=other, forgetting_name="birds")
    assert choice.forgetting_name == "birds"
    assert all(one.forgetting is not None for one in choice.candidates)
    lines = choice_lines(choice)
    assert "forgetting" in lines[1]
    assert lines[-1] == choice.reason


def test_the_probe_is_a_logistic_regression_on_standardised_features():
    chance = np.random.default_rng(0)
    train, judged = chance.normal(3, 5, size=(80, 4)), chance.normal(3, 5, size=(30, 4))
    labels = (train[:, 0] > 3).astype(int)
    train[:, 3] = judged[:, 3] = 7.0  # a constant says nothing
    mean, spread = train[:, :3].mean(0), train[:, :3].std(0)
    model = LogisticRegression(C=STRENGTH, max_iter=2000).fit((train[:, :3] - mean) / spread, labels)
    wanted = model.predict_log_proba((judged[:, :3] - mean) / spread)
    np.testing.assert_allclose(probe_logits(train, labels, judged, 2), wanted, atol=1e-4)
    assert (probe_logits(train, labels, judged, 3)[:, 2] == -30).all()


def test_neighbours_vote_as_scikit_learn_has_them():
    chance = np.random.default_rng(0)
    train, judged, labels = chance.normal(size=(90, 5)), chance.normal(size=(40, 5)), chance.integers(0, 3, 90)
    model = KNeighborsClassifier(20, metric="cosine", algorithm="brute").fit(train, labels)
    shares = np.exp(neighbour_logits(train, labels, judged, 3))
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    np.testing.assert_allclose((shares * 21 - 1 / 3) / 20, model.predict_proba(judged), atol=1e-6)


def test_few_labels_are_whole_groups_with_every_class():
    labels, groups = np.array(TRAIN["label"][:]), np.asarray(TRAIN["group"][:], dtype=object)
    drawn = [few_labels(labels, groups, 0.1, seed) for seed in range(5)]
    for found in drawn:
        assert 40 <= len(found) <= 42
        assert set(labels[found]) == {0, 1}
        inside = set(groups[found])
        assert set(np.flatnonzero(np.isin(groups, list(inside)))) == set(found)
    assert len({tuple(found) for found in drawn}) == 5
    assert np.array_equal(few_labels(labels, groups, 1.0, 0), np.arange(400))
    rare = np.zeros(400, dtype=int)
    rare[0] = 1
    assert few_labels(rare, groups, 0.01, 0) is None
