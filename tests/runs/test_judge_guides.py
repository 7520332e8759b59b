"""What guides did: probes of their columns on frozen features, the worst slice, and what is said of it."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

from natix_hf.documents.pretraining import MilestoneChoice
from natix_hf.inference.feature_probes import probe_logits
from natix_hf.runs.choose_milestone import Judge, best_milestone, choice_lines, choose
from natix_hf.runs.judge_guides import GuideJudge
from natix_hf.runs.pretrained_card import pretrained_card

FACTS = {"objective": "distill", "train": "explora", "steps": 20, "batch": 8, "rate": 1e-3}


def rows(count, seed, kinds=("rain", "sun"), missing=0):
    """Photos in groups of two; the first ones have no weather."""
    chance = np.random.default_rng(seed)
    data = {
        "label": chance.integers(0, 2, count).tolist(),
        "group": [f"g{i // 2}" for i in range(count)],
        "weather": [""] * missing + chance.choice(kinds, count - missing).tolist(),
    }
    text = {"group": Value("string"), "weather": Value("string")}
    return Dataset.from_dict(data, features=Features({"label": ClassLabel(names=["None", "Roadwork"]), **text}))


TRAIN, SELECT = rows(400, 1, missing=40), rows(300, 2, kinds=("rain", "sun", "fog"), missing=20)


def made(signal):
    """Features of rows: noise, the label, and the weather as strongly as told for each milestone."""

    def features(place, data):
        chance = np.random.default_rng(len(data))
        found = chance.normal(size=(len(data), 6))
        found[:, 0] += 2 * np.array(data["label"][:]) - 1
        found[:, 1] += signal[place] * (np.array(data["weather"][:]) == "sun")
        return found

    return features


def chosen(signal, train=TRAIN, select=SELECT, word="spurious"):
    marks = [key for key in signal if key is not None]
    judge, guides = Judge(train, select, "mcc", 1), GuideJudge(train, select, {"weather": word}, 1)
    return choose(marks, [10 * (i + 1) for i in range(len(marks))], made(signal), judge, guides=guides)


@pytest.fixture(scope="module")
def choice():
    return chosen({None: 3.0, "a": 0.0})


def test_the_probe_of_a_column_is_that_of_rows_with_a_value_that_train_has(choice):
    told = choice.guides["weather"]
    weather, ours = np.array(SELECT["weather"][:]), np.array(TRAIN["weather"][:])
    there = np.isin(weather, ["rain", "sun"])
    assert (told.rows, told.kinds, told.chance) == (there.sum(), 2, 0.5)
    assert told.groups == len(set(np.array(SELECT["group"][:])[there]))
    features = made({None: 3.0})
    own, judged, known = features(None, TRAIN), features(None, SELECT), ours != ""
    logits = probe_logits(own[known], (ours[known] == "sun").astype(int), judged[there], 2)
    wanted = (weather[there] == "sun").astype(int)
    found = choice.candidates[0].guides["weather"]
    assert found.accuracy.value == pytest.approx(accuracy_score(wanted, logits.argmax(1)))
    assert found.balanced_accuracy.value == pytest.approx(balanced_accuracy_score(wanted, logits.argmax(1)))
    assert found.auroc.value == pytest.approx(roc_auc_score(wanted, logits[:, 1] - logits[:, 0]))
    assert found.beside_original is None
    assert found.balanced_accuracy.low < found.balanced_accuracy.value < found.balanced_accuracy.high


def test_a_column_that_is_forgotten_is_told_with_chance_and_difference(choice):
    original, after = (one.guides["weather"] for one in choice.candidates)
    assert original.balanced_accuracy.value > 0.9
    assert after.balanced_accuracy.value < 0.6
    assert after.beside_original.high < -0.2
    text = "\n".join(choice_lines(choice))
    assert "weather (spurious): predicted at 0.9" in text
    assert "after (chance 0.50); balanced accuracy of a probe, difference -0." in text
    assert "after: the milestone of step 10; the original, which is kept, is as before" in text


def test_the_worst_slice_has_the_lowest_balanced_accuracy_and_is_not_small(choice):
    weather, labels = np.array(SELECT["weather"][:]), np.array(SELECT["label"][:])
    features = made({None: 3.0})
    logits = probe_logits(features(None, TRAIN), np.array(TRAIN["label"][:]), features(None, SELECT), 2)
    scores = {
        kind: balanced_accuracy_score(labels[weather == kind], logits[weather == kind].argmax(1))
        for kind in ("rain", "sun", "fog")
    }
    worst = choice.candidates[0].worst_slice
    assert worst.value == min(scores, key=scores.get)
    assert worst.balanced_accuracy.value == pytest.approx(min(scores.values()))
    assert worst.n == (weather == worst.value).sum()
    few = chosen({None: 1.0, "a": 1.0}, select=rows(24, 5))
    assert few.candidates[0].worst_slice is None
    assert "worst slice of the class probe: none of 30 photos in 10 groups" in "\n".join(choice_lines(few))


def test_a_column_of_which_val_select_knows_one_value_is_not_measured():
    choice = chosen({None: 1.0, "a": 1.0}, select=rows(60, 3, kinds=("sun", "fog")))
    assert choice.guides["weather"].chance is None
    assert choice.candidates[1].guides == {}
    line = "weather (spurious): not measured: val_select has 1 of the values that train has, two are needed"
    assert line in choice_lines(choice)
    assert line in pretrained_card("builtin:demo-backbone", choice, None, 400, FACTS)


def test_the_choice_is_the_same_with_and_without_guides_and_its_file_too(choice, tmp_path):
    signal = {None: 3.0, "a": 0.0}
    plain = choose(["a"], [10], made(signal), Judge(TRAIN, SELECT, "mcc", 1))
    assert (plain.chosen, plain.reason) == (choice.chosen, choice.reason)
    assert plain.candidates[1].probes == choice.candidates[1].probes
    assert "guides" not in plain.text()
    assert "slice" not in plain.text()
    assert "Guides" not in pretrained_card("builtin:demo-backbone", plain, None, 400, FACTS)
    choice.write(tmp_path)
    assert MilestoneChoice.read(tmp_path) == choice


def test_the_card_has_the_probes_and_the_worst_slice_of_every_milestone(choice):
    card = pretrained_card("builtin:demo-backbone", choice, None, 400, FACTS)
    assert "## Guides" in card
    assert "| step | weather | worst slice of the class probe |" in card
    score = best_milestone("mcc", choice.candidates).guides["weather"].balanced_accuracy
    assert f"| 10 | {score.value:.3f} ({score.low:.3f} to {score.high:.3f}), AUROC 0." in card
