"""Simulates StreetVision's reward: what a participant would have been paid for the decisions of a classifier.

It follows the public description of the task between 2025 and May 2026. The network has been halted since then
(`HALTED`), so the figures rate the decisions as the network did, but do not promise any pay. This module works on
arrays. `field.py` has the scores of other participants, and `reward_report.py` renders the results.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import RectBivariateSpline
from scipy.signal import lfilter

from natix_hf.documents.reward import Ranged, Reward, RewardEntry
from natix_hf.logits import softmax
from natix_hf.resampling import ENDS, LEVEL, flawless_high, group_numbers, interval_ends, on_resamples
from natix_hf.streetvision.field import Field

MCC_WINDOW, ACCURACY_WINDOW = 100, 10  # predictions
EXPONENT, ALPHA = 3, 0.05
NO_ANSWER = -1.0

HALTED = (
    "as of 2026-05 StreetVision is halted: since 2026-05-06 its validators send no challenges, all weights go to the "
    "subnet's owner, and nobody is paid"
)
SENT_LAST = (
    "in the last versions one third of the photos were synthetic, one third real and one third from an API, and a "
    "validator made about 57 challenges a day for each of 251 participants (288 for each of 50)"
)

# 288 rounds per day (one every five minutes) each ask 50 of 251 participants: 57 challenges per participant. The
# number of challenges changes the spread between days, but not the means.
DAYS, CHALLENGES = 500, 57
WARM_UP = 200  # challenges before a day: they fill the windows, and only 0.95^100 = 0.6 % of the first score is left
WINDOWS = 4000  # simulated windows from which the interval is computed
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def rewards(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The reward of every step: `(0.5 max(0, MCC) + 0.5 accuracy)^3`, MCC of the last 100 and accuracy of the last 10.

    Both figures include the prediction of the current step. Predictions are rounded half to even, so 0.5 becomes 0.
    A prediction of -1 (no answer) has a place in both windows but does not count in either figure; the reward of its
    step is 0. Any other prediction outside [0, 1] also has reward 0. If it rounds to neither 0 nor 1, both figures are
    0 while it is in their window. MCC is 0 if all labels or all predictions of the window are of one class.

    Args:
        predictions: `(..., steps)` probabilities of the positive class in the order of time, from the first step on.
        labels: `(..., steps)` 0 or 1.

    Returns:
        `(..., steps)` in [0, 1].
    """
    predictions, positive = np.asarray(predictions, dtype=np.float64), np.asarray(labels) == 1
    answered, rounded = predictions != NO_ANSWER, np.round(predictions)
    decided = answered & ((rounded == 0) | (rounded == 1))
    yes, foreign = rounded == 1, answered & ~decided

    def last(window: int, steps: np.ndarray) -> np.ndarray:
        sums = np.cumsum(steps, axis=-1, dtype=np.float64)
        sums[..., window:] -= sums[..., :-window].copy()
        return sums

    right, seen = last(ACCURACY_WINDOW, decided & (yes == positive)), last(ACCURACY_WINDOW, answered)
    accuracy = np.divide(right, seen, out=np.zeros_like(right), where=seen > 0)
    accuracy[last(ACCURACY_WINDOW, foreign) > 0] = 0.0
    tp, tn, fp, fn = (
        last(MCC_WINDOW, decided & (yes == decision) & (positive == label))
        for decision, label in ((True, True), (False, False), (True, False), (False, True))
    )
    mcc = _mcc(tp, tn, fp, fn)
    mcc[last(MCC_WINDOW, foreign) > 0] = 0.0
    valid = answered & ~(predictions < 0) & ~(predictions > 1)
    return np.where(valid, _reward(mcc, accuracy), 0.0)


def _mcc(tp: np.ndarray, tn: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> np.ndarray:
    spread = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return np.divide(tp * tn - fp * fn, np.sqrt(spread), out=np.zeros_like(spread), where=spread > 0)


def _reward(mcc: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    return (0.5 * np.maximum(mcc, 0) + 0.5 * accuracy) ** EXPONENT


def running_score(reward: np.ndarray, start: float | np.ndarray = 0.0) -> np.ndarray:
    """The exponential moving average `(..., steps)` of rewards `(..., steps)`: `0.05 reward + 0.95 score before`.

    Args:
        reward: in the order of time.
        start: the score before the first step, one or `(...)`; a newcomer has 0.
    """
    reward = np.asarray(reward, dtype=np.float64)
    state = (1 - ALPHA) * np.broadcast_to(start, reward.shape[:-1])[..., None]
    return lfilter([ALPHA], [1, ALPHA - 1], reward, axis=-1, zi=state)[0]


@dataclass(frozen=True)
class Days:
    """Simulated days, each after a warm-up that fills the windows.

    Attributes:
        reward: `(days,)` mean reward of the day's challenges.
        score: `(days,)` running score at the end of the day, which determines the pay.
    """

    reward: np.ndarray
    score: np.ndarray


def simulate(
    predictions: np.ndarray, labels: np.ndarray, *, days: int = DAYS, challenges: int = CHALLENGES, seed: int = 0
) -> Days:
    """Simulate days of challenges. Each challenge draws a label uniformly from {0, 1}, then a photo with that label.

    Args:
        predictions: `(n,)` probabilities of the positive class for the photos to draw from.
        labels: `(n,)` 0 or 1; both must occur.
        days: number of independent days.
        challenges: number of challenges per day.
        seed: the same photos and seed give the same days.
    """
    rng, steps = np.random.default_rng(seed), WARM_UP + challenges
    # Photos sorted by label, so that one random number selects a photo of either label.
    order, negatives = np.argsort(labels, kind="stable"), int(np.sum(labels == 0))
    counts, starts = np.array([negatives, len(labels) - negatives]), np.array([0, negatives])
    reward, score = np.empty(days), np.empty(days)
    at_once = max(1, 1_000_000 // steps)
    for begin in range(0, days, at_once):
        block = slice(begin, min(begin + at_once, days))
        shape = (block.stop - begin, steps)
        drawn = rng.integers(0, 2, size=shape)
        photo = order[starts[drawn] + (rng.random(shape) * counts[drawn]).astype(np.int64)]
        paid = rewards(predictions[photo], drawn)
        reward[block], score[block] = paid[:, WARM_UP:].mean(axis=1), running_score(paid)[:, -1]
    return Days(reward, score)


@functools.cache
def _mean_reward(seed: int) -> RectBivariateSpline:
    """The mean reward as a function of `sqrt(1 - specificity), sqrt(1 - recall)`.

    Photos are drawn independently given their label, so the mean reward depends only on the two recalls. It is
    computed on a grid, with the same windows of 100 challenges at every grid point, so that the randomness of the
    windows cancels between two classifiers. The spline interpolates in the square roots of the error rates, in which
    the function is smooth.
    """
    rng = np.random.default_rng(seed)
    positive = rng.integers(0, 2, size=(WINDOWS, MCC_WINDOW)).astype(bool)
    luck, roots = rng.random((WINDOWS, MCC_WINDOW)), np.linspace(0, 1, 13)
    positives = positive.sum(axis=1)
    # Correct decisions on positives depend only on the recall, those on negatives only on the specificity.
    correct = [[(luck < 1 - root**2) & side for root in roots] for side in (~positive, positive)]
    right = [[of_root.sum(axis=1) for of_root in side] for side in correct]
    lately = [[of_root[:, -ACCURACY_WINDOW:].sum(axis=1) for of_root in side] for side in correct]
    means = np.empty((len(roots), len(roots)))
    for i, j in np.ndindex(means.shape):
        tn, tp = right[0][i], right[1][j]
        cells = (tp, tn, MCC_WINDOW - positives - tn, positives - tp)
        mcc = _mcc(*(np.asarray(cell, dtype=np.float64) for cell in cells))
        means[i, j] = _reward(mcc, (lately[0][i] + lately[1][j]) / ACCURACY_WINDOW).mean()
    return RectBivariateSpline(roots, roots, means)


def _means(recalls: np.ndarray, seed: int) -> np.ndarray:
    """Mean rewards `(b,)` at specificity and recall `(b, 2)`."""
    roots = np.sqrt(1 - np.atleast_2d(recalls))
    return _mean_reward(seed).ev(roots[:, 0], roots[:, 1])


def _interval(
    value: float, right: np.ndarray, labels: np.ndarray, groups: np.ndarray, n_boot: int, seed: int
) -> tuple[float, float]:
    """Ends of the interval of the mean reward, over resampled groups.

    A class without a mistake has recall 1 in every resample. For the lower end, its recall is therefore the lowest
    that its number of groups cannot rule out (Clopper and Pearson, 1934; alpha is split over the two classes), as in
    `intervals`.
    """
    group = group_numbers(groups, len(labels))
    cells = np.zeros((group.max() + 1, 2, 2))  # groups, label, right
    np.add.at(cells, (group, labels, right.astype(int)), 1)
    drawn = on_resamples(lambda times: np.tensordot(times, cells, axes=1), len(cells), n_boot, seed, width=len(cells))
    drawn = drawn[(drawn.sum(axis=2) > 0).all(axis=1)]  # a resample without a class has no reward
    recalls = np.array([right[labels == k].mean() for k in (0, 1)])
    shift = value - _means(recalls, seed)[0]
    draws = _means(drawn[:, :, 1] / drawn.sum(axis=2), seed) + shift if len(drawn) else np.array([value])
    low, high = interval_ends(draws)
    if (recalls == 1).any():
        hidden = [1 - flawless_high(len(np.unique(group[labels == k])), ENDS[0] / 2) for k in (0, 1)]
        low = min(low, _means(np.where(recalls == 1, hidden, recalls), seed)[0] + shift)
    return float(np.clip(low, 0, value)), float(np.clip(high, value, 1))


@dataclass(frozen=True)
class Photos:
    """Predictions for the photos to draw from.

    Args:
        profile: dated name of the challenge profile, or `clean` for unchanged photos.
        source: the source of the photos; None for all sources.
        logits: `(n, 2)` logits of the served model; a photo may occur several times, once for each way of sending it.
        labels: `(n,)` class ids.
        groups: `(n,)` names of the groups; None if each row is a group.
        how_sent: how the profile read the photos, which is reported with the figures.
    """

    profile: str
    source: str | None
    logits: np.ndarray
    labels: np.ndarray
    groups: np.ndarray | None
    how_sent: str | None = None


def reward_document(
    photos: Sequence[Photos],
    field: Field,
    *,
    label_names: Sequence[str],
    positive: int = 1,
    split: str = "val_test",
    days: int = DAYS,
    challenges: int = CHALLENGES,
    n_boot: int = 500,
    seed: int = 0,
) -> Reward:
    """The content of `reward.json`.

    Args:
        photos: each gives one entry; if its photos are all of one class, the entry has no reward and says why.
        field: the scores of the other participants.
        label_names: class names in the order of their ids.
        positive: id of the class whose probability is the prediction.
        split: name of the split of the photos.
        days, challenges, seed: see `simulate`.
        n_boot: number of resamples of groups for the intervals.
    """
    simulation = {"days": days, "challenges": challenges, "n_boot": n_boot, "seed": seed}
    return Reward(
        split=split,
        positive_label=label_names[positive],
        prior=0.5,
        level=LEVEL,
        resampled="groups",
        resamples=n_boot,
        days=days,
        challenges=challenges,
        seed=seed,
        field=field.document(),
        entries=[_entry(part, field, label_names, positive, **simulation) for part in photos],
    )


def _entry(
    photos: Photos,
    field: Field,
    label_names: Sequence[str],
    positive: int,
    *,
    days: int,
    challenges: int,
    n_boot: int,
    seed: int,
) -> RewardEntry:
    """The simulated reward of one set of photos; arguments as in `reward_document`."""
    labels = (np.asarray(photos.labels) == positive).astype(np.int64)
    groups = np.arange(len(labels)) if photos.groups is None else np.asarray(photos.groups)
    facts = {
        "profile": photos.profile,
        **({} if photos.how_sent is None else {"sent": photos.how_sent}),
        "source": photos.source,
        "n": len(labels),
        "groups": len(np.unique(groups)),
        "positives": int(labels.sum()),
    }
    if labels.all() or not labels.any():
        why = f"all photos are {label_names[positive if labels.all() else 1 - positive]}"
        return RewardEntry(**facts, left_out=why)
    predictions = softmax(photos.logits)[:, positive]
    right = (predictions > 0.5) == (labels == 1)
    simulated = simulate(predictions, labels, days=days, challenges=challenges, seed=seed)
    value = float(simulated.reward.mean())
    low, high = _interval(value, right, labels, groups, n_boot, seed)
    ends = {"value": value, "low": low, "high": high}
    return RewardEntry(
        **facts,
        recall=float(right[labels == 1].mean()),
        specificity=float(right[labels == 0].mean()),
        reward=Ranged(**ends),
        day_reward=_quantiles(simulated.reward),
        day_score=_quantiles(simulated.score),
        relative_pay=Ranged(**{end: number / field.mean for end, number in ends.items()}),
        percentile=Ranged(**{end: field.percentile(number) for end, number in ends.items()}),
    )


def _quantiles(values: np.ndarray) -> dict[str, float]:
    return {f"{q:g}": float(v) for q, v in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)}
