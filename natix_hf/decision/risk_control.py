"""When to answer and when to ask a person: an abstain band with a guarantee, fitted on rows kept for nothing else.

Knows arrays only. A photo is answered with the positive class where its calibrated probability p >= `high`, with
another one where p <= `low`, and not at all in between. Promised is what happens *within a class*: of all photos
without roadwork at most alpha are answered "roadwork". Such a promise does not depend on how common roadwork is;
precision does, so it is promised for a declared `prevalence` only. An abstention is no mistake and is counted apart.

The promise holds with probability 1 - delta over draws of whole groups (`group_bounds`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from natix_hf.decision.group_bounds import Groups, safe_threshold, smallest_certifiable
from natix_hf.documents.guarantee import Abstention, ClassCounts, Guarantee, PerClassCounts
from natix_hf.errors import UserError

RISKS = ("fpr", "fnr", "error", "precision")
# Precision asks for a bound of each class. Each of these recalls is tried with its own share of delta.
RECALLS = (0.5, 0.8, 0.95)
CLASSES = ("negative", "positive")


def control_risk(
    scores: np.ndarray,
    is_positive: np.ndarray,
    groups: np.ndarray | None,
    *,
    risk: str,
    alpha: float,
    delta: float = 0.1,
    prevalence: float | None = None,
    threshold: float = 0.5,
    chosen_among: int = 1,
    fitted_on: str = "val_calib/control",
) -> Guarantee:
    """Find the widest band of answers for which a rate is proven.

    Args:
        scores: `(n,)` calibrated probabilities of the positive class; nothing about the calibration may have been
            learnt on these rows.
        is_positive: `(n,)` bool.
        groups: `(n,)`; None takes each row for a group of its own, which promises too much where they are alike.
        risk: `fpr`: share of the negatives that are answered "positive"; `fnr`: of the positives answered
            "negative"; `error`: both, each with delta / 2, so that the share of wrong answers stays below alpha at
            any prevalence; `precision`: at least 1 - alpha of the answers "positive" are right at `prevalence`.
        alpha: the largest rate that may be met.
        delta: how likely the promise may fail.
        prevalence: share of positives where the model will work, for `precision`.
        threshold: where p is cut without a guarantee. A side that nothing is promised of keeps it, and no promise
            moves a side across it: a guarantee takes answers away and adds none.
        chosen_among: how many sets of scores these same rows chose from; each has its share of delta, so that the
            promise holds for the one that was chosen (Bonferroni).
        fitted_on: which rows these are.

    Returns:
        The promise without its `lines`. Where it is out of reach `reachable` is False, `reason` one line, and the
        band with all that follows from it None. `fpr`, `fnr`, `abstention` and `coverage` are measured on the rows of
        the fit, hence no proof of anything. A `high` above 1 or a `low` below 0 means that this class is never
        answered.

    Raises:
        UserError: an unknown risk, numbers out of range, scores that are no probabilities, `precision` without
            prevalence.
    """
    scores, is_positive = _checked(scores, is_positive, groups, risk, alpha, delta, prevalence)
    groups = np.arange(len(scores)) if groups is None else np.asarray(groups)
    members = {"negative": ~is_positive, "positive": is_positive}
    of = {name: Groups.of(groups[rows], int(rows.sum())) for name, rows in members.items()}
    negative, positive = scores[members["negative"]], scores[members["positive"]]
    tested = delta / chosen_among
    smallest = smallest_alpha(of["negative"], of["positive"], risk=risk, delta=tested, prevalence=prevalence)

    def high_for(rate: float, share: float) -> float | None:
        return safe_threshold(negative, of["negative"], rate, share)

    def low_for(rate: float, share: float) -> float | None:
        found = safe_threshold(-positive, of["positive"], rate, share)
        return None if found is None else -found

    high: float | None = float(np.nextafter(threshold, 2.0))
    low: float | None = float(threshold)
    reason = None
    if alpha < smallest:
        reason = _unreachable(risk, alpha, delta, smallest, of)
    elif risk == "precision":
        bound = _precise(high_for, low_for, high, alpha, tested, prevalence)
        if bound is None:
            reason = (
                f"a precision of {1 - alpha:.4g} at a prevalence of {prevalence:.4g} is within what {len(scores)} "
                "control rows can certify, but not with this model: too many of its positives score below its worst "
                "negatives; a larger risk_alpha or a better model is needed"
            )
        else:
            high = bound
    else:
        share = tested / 2 if risk == "error" else tested
        if risk in ("fpr", "error"):
            high = max(high, high_for(alpha, share))
        if risk in ("fnr", "error"):
            low = min(low, low_for(alpha, share))
    rates = None if reason else band_rates(scores, is_positive, low, high)
    return Guarantee(
        risk=risk,
        alpha=float(alpha),
        delta=float(delta),
        prevalence=None if prevalence is None else float(prevalence),
        fitted_on=fitted_on,
        n=len(scores),
        groups=len(np.unique(groups)),
        per_class=PerClassCounts(negative=_counts(of["negative"]), positive=_counts(of["positive"])),
        smallest_alpha=smallest,
        reachable=reason is None,
        reason=reason,
        low=low if reason is None else None,
        high=high if reason is None else None,
        fpr=rates and rates.fpr,
        fnr=rates and rates.fnr,
        abstention=rates and rates.abstention,
        coverage=rates and rates.coverage,
    )


class BandRates(NamedTuple):
    """Shares of wrong answers and abstentions within a class, and of answers among all rows; None without rows."""

    fpr: float | None
    fnr: float | None
    abstention: Abstention
    coverage: float


def smallest_alpha(
    negative: Groups, positive: Groups, *, risk: str, delta: float, prevalence: float | None = None
) -> float:
    """The smallest alpha that `control_risk` could reach with these rows, were there no mistake among them."""
    if risk == "fpr":
        return smallest_certifiable(negative, delta)
    if risk == "fnr":
        return smallest_certifiable(positive, delta)
    if risk == "error":
        return max(smallest_certifiable(negative, delta / 2), smallest_certifiable(positive, delta / 2))
    share = delta / (2 * len(RECALLS))
    fpr, fnr = smallest_certifiable(negative, share), smallest_certifiable(positive, share)
    false = [(1 - prevalence) * fpr / (prevalence * recall) for recall in RECALLS if 1 - recall >= fnr]
    return min((odds / (1 + odds) for odds in false), default=1.0)


def band_rates(scores: np.ndarray, is_positive: np.ndarray, low: float, high: float) -> BandRates:
    """What a band gives on rows, `scores` and `is_positive` `(n,)`."""
    said_positive, said_negative = answers(scores, low, high)

    def share(of: np.ndarray, rows: np.ndarray) -> float | None:
        return float(np.mean(of[rows])) if rows.any() else None

    silent = ~said_positive & ~said_negative
    return BandRates(
        fpr=share(said_positive, ~is_positive),
        fnr=share(said_negative, is_positive),
        abstention=Abstention(negative=share(silent, ~is_positive), positive=share(silent, is_positive)),
        coverage=float(np.mean(~silent)),
    )


def answers(scores: np.ndarray, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Which rows a band answers with the positive class and which with another one, both `(n,)` bool; else abstain."""
    scores = np.asarray(scores, dtype=np.float64)
    return scores >= high, scores <= low


def capacity_line(document: Guarantee, names: tuple[str, str] = CLASSES) -> str:
    """What the rows can certify at best, one line; `names` of the negative and the positive class."""
    negative, positive = (names[0], document.per_class.negative), (names[1], document.per_class.positive)
    one = {"fpr": (negative,), "fnr": (positive,)}.get(document.risk, (negative, positive))
    rows = " and ".join(
        f"{c.n} photos of {name} in {c.groups} groups (largest: {c.largest}, weight {c.effective:.0f})"
        for name, c in one
    )
    smallest = document.smallest_alpha
    at = f" at prevalence {document.prevalence:g}" if document.risk == "precision" else ""
    what = f"precision {1 - smallest:.4f}{at}" if document.risk == "precision" else f"{document.risk} {smallest:.4f}"
    return f"{rows} of {document.fitted_on} can certify {what} at best, with {1 - document.delta:.0%} confidence"


def guarantee_line(document: Guarantee, names: tuple[str, str] = CLASSES) -> str:
    """The promise, or why there is none, one line; `names` of the negative and the positive class."""
    if not document.reachable:
        return f"no guarantee: {document.reason}"
    negative, positive = names
    alpha = document.alpha
    promise = {
        "fpr": f"at most {alpha:.2%} of photos of {negative} are answered {positive}",
        "fnr": f"at most {alpha:.2%} of photos of {positive} are answered {negative}",
        "error": f"at most {alpha:.2%} of photos of {negative} and of {positive} each are answered wrongly",
    }
    if document.risk == "precision":
        text = f"at least {1 - alpha:.2%} of the answers {positive} are right at prevalence {document.prevalence:g}"
    else:
        text = promise[document.risk]
    return (
        f"with {1 - document.delta:.0%} confidence {text}; {positive} from p {document.high:.4f}, {negative} "
        f"up to p {document.low:.4f}, {document.coverage:.1%} of {document.n} control photos answered"
    )


def _precise(high_for, low_for, at_least, alpha, delta, prevalence) -> float | None:
    """The lowest threshold with a proven precision, or None.

    Where the false-positive rate is at most f above `t` and the recall at least r up to `s`, any threshold in [t, s]
    has a precision of at least prevalence r / (prevalence r + (1 - prevalence) f). Both bounds are of one class and
    monotone; six of them, two for each of `RECALLS`, share delta.
    """
    share = delta / (2 * len(RECALLS))
    found = []
    for recall in RECALLS:
        rate = recall * prevalence * alpha / ((1 - prevalence) * (1 - alpha))
        bottom, top = high_for(min(rate, 1 - 1e-9), share), low_for(1 - recall, share)
        if bottom is not None and top is not None:
            # Recall counts p >= threshold, low_for bounds the positives at or below `top`: the next number is safe.
            bottom = max(bottom, at_least)
            if bottom <= np.nextafter(top, 2.0):
                found.append(bottom)
    return min(found, default=None)


def _counts(groups: Groups) -> ClassCounts:
    return ClassCounts(
        n=int(groups.sizes.sum()),
        groups=len(groups.sizes),
        largest=groups.largest,
        effective=round(groups.effective, 3),
    )


def _unreachable(risk: str, alpha: float, delta: float, smallest: float, of: dict[str, Groups]) -> str:
    one = {"fpr": ("negative",), "fnr": ("positive",)}.get(risk, CLASSES)
    rows = " and ".join(f"{int(of[k].sizes.sum())} {k} control photos in {len(of[k].sizes)} groups" for k in one)
    if smallest >= 1:
        return f"{rows} can certify no risk_alpha for {risk}: more photos in other groups are needed"
    return (
        f"risk_alpha {alpha:g} is out of reach for {risk}: with {1 - delta:.0%} confidence {rows} certify "
        f"{smallest:.4f} at best; set risk_alpha to {np.ceil(smallest * 1e4) / 1e4:g} or more, or give val_calib more "
        "groups"
    )


def _checked(scores, is_positive, groups, risk, alpha, delta, prevalence) -> tuple[np.ndarray, np.ndarray]:
    scores, is_positive = np.asarray(scores, dtype=np.float64), np.asarray(is_positive)
    if risk not in RISKS:
        raise UserError(f"risk: {risk!r} given, one of {', '.join(RISKS)} expected")
    for name, value in (("risk_alpha", alpha), ("risk_delta", delta)):
        if not 0 < value < 1:
            raise UserError(f"{name}: {value:g} given, a number above 0 and below 1 expected")
    if risk == "precision" and prevalence is None:
        raise UserError(
            "risk precision needs prevalence: which share of the photos is positive where the model will work? "
            "Precision depends on it"
        )
    if prevalence is not None and not 0 < prevalence < 1:
        raise UserError(f"prevalence: {prevalence:g} given, a share above 0 and below 1 expected")
    if scores.ndim != 1 or is_positive.shape != scores.shape or len(scores) == 0:
        shapes = f"{scores.shape} and {is_positive.shape}"
        raise UserError(f"guarantee: expected scores (n,) and labels (n,), at least one row, found {shapes}")
    if groups is not None and np.shape(groups) != scores.shape:
        raise UserError(f"guarantee: {len(scores)} rows and {np.shape(groups)[0]} groups, one a row expected")
    outside = np.flatnonzero(~((scores >= 0) & (scores <= 1)))
    if len(outside):
        raise UserError(
            f"guarantee: score {scores[outside[0]]:g} of row {outside[0]} is no probability; were these logits?"
        )
    return scores, is_positive.astype(bool)
