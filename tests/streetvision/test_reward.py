"""The simulated reward: a day worked by hand, scikit-learn's figures, the means that are known, and its document."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, matthews_corrcoef

from natix_hf.documents.reward import Reward
from natix_hf.errors import UserError
from natix_hf.streetvision.field import LATE_2025, read_field
from natix_hf.streetvision.reward import (
    Photos,
    reward_document,
    rewards,
    running_score,
    simulate,
)
from natix_hf.streetvision.reward_report import reward_lines, reward_sections


def test_six_steps_worked_by_hand():
    predictions = [0.9, 0.5, 0.2, -1, 1.3, 0.8]
    labels = [1, 0, 1, 0, 0, 1]
    expected = [
        # 0.9 -> 1, label 1: accuracy 1/1; one class in the window: MCC 0.          (0 + 0.5 * 1)^3
        0.125,
        # 0.5 -> 0, label 0: accuracy 2/2; TP 1, TN 1: MCC 1.                       (0.5 * 1 + 0.5 * 1)^3
        1.0,
        # 0.2 -> 0, label 1: accuracy 2/3; TP 1, TN 1, FN 1, FP 0:
        # MCC = (1*1 - 0*1) / sqrt((1+0)(1+1)(1+0)(1+1)) = 1 / sqrt(4) = 1/2.        (1/4 + 1/3)^3 = (7/12)^3
        343 / 1728,
        # no answer.
        0.0,
        # outside [0, 1].
        0.0,
        # 0.8 -> 1, label 1. The figures leave the -1 out. 1.3 rounds to 1 at label 0: TP 2, TN 1, FN 1, FP 1,
        # accuracy 3/5; MCC = (2*1 - 1*1) / sqrt((2+1)(2+1)(1+1)(1+1)) = 1/6.        (1/12 + 3/10)^3 = (23/60)^3
        12167 / 216000,
    ]
    np.testing.assert_allclose(rewards(predictions, labels), expected, atol=1e-15)
    # Running score from 0: 0.05 * 0.125 = 0.00625; then 0.05 * 1 + 0.95 * 0.00625 = 0.0559375.
    np.testing.assert_allclose(running_score(np.array(expected))[:2], [0.00625, 0.0559375], atol=1e-15)
    np.testing.assert_allclose(running_score(np.array([0.5]), start=0.9), [0.05 * 0.5 + 0.95 * 0.9], atol=1e-15)


def test_a_negative_mcc_counts_as_none():
    # 1, 0 at labels 0, 1 and a right 1: TP 1, FP 1, FN 1, TN 0: MCC = -1/2 -> 0; accuracy 1/3: (1/6)^3.
    assert rewards([1.0, 0.0, 1.0], [0, 1, 1])[-1] == pytest.approx(1 / 216)


def test_no_answer_keeps_its_slot_and_a_foreign_number_spoils_the_window():
    labels = np.tile([0, 1], 10)
    predictions = labels.astype(float)
    predictions[5] = 1 - labels[5]  # a mistake ten steps before step 15 has left the accuracy's window
    predictions[8:14] = -1
    got = rewards(predictions, labels)
    # At step 14: the window of 10 holds steps 5 to 14, of them 8 to 13 unanswered: 4 answers, 3 of them right.
    # 9 answers in all: labels 0 at 0,2,4,6,14 (5, all right), labels 1 at 1,3,5,7 (3 right).
    # MCC = (3*5 - 0) / sqrt(3 * 4 * 5 * 6) = 15 / sqrt(360).
    assert got[14] == pytest.approx((0.5 * 15 / np.sqrt(360) + 0.5 * 3 / 4) ** 3)
    assert (got[8:14] == 0).all()
    foreign = labels.astype(float)
    foreign[3] = 7.0
    got = rewards(foreign, labels)
    assert (got[3:13] == 0).all()  # within ten steps neither figure is left
    np.testing.assert_allclose(got[13:], 0.125)  # then accuracy 1 and still no MCC


def literal(predictions, labels):
    """One step after the other with scikit-learn's figures."""
    paid = []
    for step, prediction in enumerate(predictions):
        seen = [(round(p), y) for p, y in zip(predictions[: step + 1], labels, strict=False)]
        kept = [[pair for pair in seen[-window:] if pair[0] != -1] for window in (100, 10)]
        if not kept[0] or not kept[1] or prediction == -1:
            paid.append(0.0)
            continue
        (first, first_labels), (last, last_labels) = (zip(*pairs, strict=True) for pairs in kept)
        mcc = max(0.0, matthews_corrcoef(first_labels, first)) if len(set(first_labels)) > 1 else 0.0
        paid.append((0.5 * mcc + 0.5 * accuracy_score(last_labels, last)) ** 3)
    return paid


def test_windows_agree_with_one_step_after_the_other():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 260)
    predictions = np.where(rng.random(260) < 0.85, labels, 1 - labels) * 0.8 + 0.1
    predictions[rng.random(260) < 0.1] = -1
    predictions[rng.random(260) < 0.05] = 0.5
    np.testing.assert_allclose(
        rewards(predictions, labels), literal(predictions.tolist(), labels.tolist()), atol=1e-12
    )


def known(accuracy: float, n: int = 1000):
    labels = np.repeat([0, 1], n)
    right = np.tile(np.arange(n) < accuracy * n, 2)
    return np.where(right, labels, 1 - labels), labels, right


@pytest.mark.parametrize(("accuracy", "mean"), [(0.90, 0.63), (0.95, 0.81), (0.98, 0.92), (0.99, 0.96)])
def test_mean_rewards_are_those_that_are_known(accuracy, mean):
    predictions, labels, _ = known(accuracy)
    days = simulate(predictions.astype(float), labels, days=400)
    assert days.reward.mean() == pytest.approx(mean, abs=0.016)
    # The running score follows the rewards: the same mean, and it moves more than a day's mean does.
    assert days.score.mean() == pytest.approx(days.reward.mean(), abs=0.01)
    assert days.score.std() > days.reward.std()


def logits_of(decisions):
    return np.where(decisions[:, None] == np.arange(2), 2.0, -2.0)


def document(accuracy, groups=None, **kwargs):
    predictions, labels, _ = known(accuracy, 200)
    photos = [
        Photos("clean", None, logits_of(predictions), labels, groups),
        Photos("challenge@2025", "paris", logits_of(predictions[:50]), labels[:50], None),
    ]
    return reward_document(photos, LATE_2025, label_names=["None", "Roadwork"], days=200, n_boot=100, **kwargs)


def test_the_document_is_of_its_class_and_names_profile_source_and_field():
    got = document(0.95)
    assert Reward.parse(got.text(), "") == got
    whole, one_class = got.entries
    assert whole.recall == whole.specificity == 0.95
    assert whole.reward.low < whole.reward.value < whole.reward.high
    assert whole.relative_pay.value == pytest.approx(whole.reward.value / got.field.mean)
    assert one_class.left_out == "all photos are None"
    assert (one_class.profile, one_class.source) == ("challenge@2025", "paris")
    assert "unconfirmed" in reward_lines(got)[-1]
    assert got == document(0.95)  # same rows and seed, same document


def test_a_simulated_reward_says_that_nobody_is_paid_how_often_photos_come_and_how_they_were_sent():
    labels = np.repeat([0, 1], 40)
    photos = [Photos("challenge@2025", None, logits_of(labels * 1.0), labels, None, how_sent="pixels as stored")]
    got = reward_document([*photos], LATE_2025, label_names=["None", "Roadwork"], days=20, n_boot=20)
    assert Reward.parse(got.text(), "") == got
    assert got.challenges == 57
    lines, (section,) = reward_lines(got), reward_sections(got)
    for text in ("\n".join(lines), section.text):
        assert "as of 2026-05 StreetVision is halted" in text
        assert "nobody is paid" in text
        assert "57 challenges a day for each of 251 participants (288 for each of 50)" in text
        assert "one third of the photos were synthetic, one third real and one third from an API" in text
        assert "pixels as stored (challenge@2025)" in text
    assert len([line for line in lines if "as of 2026-05" in line]) == 1


def test_the_interval_follows_the_groups_and_covers_the_mean():
    labels = np.repeat([0, 1], 200)
    pairs = np.concatenate([np.arange(200) // 20, 10 + np.arange(200) // 20])
    rows, groups = document(0.9).entries[0], document(0.9, groups=pairs).entries[0]
    # The mistakes of `known` stand together: by groups of 20 they are 1 group in 10 of a class.
    assert groups.groups == 20
    assert len(labels) == rows.groups == 400
    assert groups.reward.high - groups.reward.low > 2 * (rows.reward.high - rows.reward.low)


def test_the_interval_holds_the_true_mean_as_often_as_it_says():
    rng, held = np.random.default_rng(0), 0
    population, labels, _ = known(0.95)
    truth = simulate(population.astype(float), labels, days=400).reward.mean()
    for _ in range(60):
        y = np.repeat([0, 1], 150)
        p = np.where(rng.random(300) < 0.95, y, 1 - y)
        photos = [Photos("clean", None, logits_of(p), y, None)]
        got = reward_document(photos, LATE_2025, label_names=["a", "b"], days=100, n_boot=200)
        held += got.entries[0].reward.low <= truth <= got.entries[0].reward.high
    assert 49 <= held <= 60  # 95 % of 60 is 57; below 49 lie 0.01 % of the repeats of a right interval


def test_a_model_without_a_mistake_is_not_certain_of_its_reward():
    entry = document(1.0).entries[0]
    assert entry.reward.value == entry.reward.high == 1.0
    # 200 photos of a class without a mistake leave a recall of (0.0125)^(1/200) = 0.978 possible.
    assert 0.85 < entry.reward.low < 0.95


def test_the_positive_class_may_be_the_first():
    predictions, labels, _ = known(0.95, 200)
    photos = [Photos("clean", None, logits_of(1 - predictions), 1 - labels, None)]
    got = reward_document(photos, LATE_2025, label_names=["a", "b"], positive=0, days=50, n_boot=20)
    assert got.positive_label == "a"
    assert got.entries[0].recall == 0.95


def test_the_field_s_mean_and_ranks():
    # Trapezoids of the record's quantiles: .25*(.8935 + .9305 + .963) + .15*.987 + .1*.9985
    assert LATE_2025.mean == pytest.approx(0.25 * (0.8935 + 0.9305 + 0.963) + 0.15 * 0.987 + 0.1 * 0.9985)
    assert LATE_2025.percentile(0.949) == pytest.approx(50, abs=0.1)
    assert LATE_2025.percentile(0.2) == 0
    assert LATE_2025.document().confirmed is False


@pytest.mark.parametrize(
    "text", ["0.5\n0.9\n0.9\n\n1\n", "hotkey,score\na,0.5\nb,0.9\nc,0.9\nd,1\n", "score\r\n.5\r\n.9\r\n.9\r\n1"]
)
def test_a_field_is_read_from_a_csv(tmp_path, text):
    (tmp_path / "scores.csv").write_text(text)
    field = read_field(tmp_path / "scores.csv")
    assert (field.n, field.confirmed) == (4, True)
    assert field.mean == pytest.approx(3.3 / 4)
    assert field.percentile(0.9) == pytest.approx(50, abs=0.2)  # one of four below, two the same
    assert field.percentile(0.95) == pytest.approx(75, abs=0.2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no scores in the file"),
        (b"score\n", "no scores in the file"),
        (b"0.5\nhigh\n", "line 2: 'high' is not a score"),
        (b"0.5\nnan\n", "line 2: 'nan'"),
        (b"0.5\n1.5\n", "line 2: '1.5'"),
        (b"a,b\n1,2\n", "2 columns and none is called score"),
        (b"name,score\nx\n", "line 2: ''"),
        (b"0\n0\n", "at least one positive score, found only zeros"),
        (b"\xff\xfe\x00", "cannot be read as CSV"),
    ],
)
def test_a_bad_field_gives_one_line(tmp_path, content, message):
    (tmp_path / "scores.csv").write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_field(tmp_path / "scores.csv")
    assert "\n" not in str(error.value)


def test_a_field_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_field(tmp_path / "no.csv")
