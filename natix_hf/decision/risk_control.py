"""An abstain band with a guarantee, fitted on rows that are used for nothing else.

A photo gets the positive class if its calibrated probability p >= `high`, another class if p <= `low`, and no answer
in between. The guarantee is about rates *within a class*: of all photos without roadwork, at most a share alpha is
answered "roadwork". Such a guarantee does not depend on how common roadwork is. Precision does, so it is guaranteed
only for a declared `prevalence`. An abstention is not a mistake and is counted separately.

The guarantee holds with probability 1 - delta over draws of whole groups (`group_bounds`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from natix_hf.decision.group_bounds import Groups, safe_threshold, smallest_certifiable
from natix_hf.documents.guarantee import Abstention, ClassCounts, Guarantee, PerClassCounts
from natix_hf.errors import UserError

RISKS = ("fpr", "fnr", "error", "precision")
# Precision needs a bound for each class. Each of these recalls is tried with its own share of delta.
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
    """Find the narrowest abstain band for which the rate is proven.

    Args:
        scores: `(n,)` calibrated probabilities of the positive class. The calibration must not have used these rows.
        is_positive: `(n,)` bool.
        groups: `(n,)`; None: each row is a group, which promises too much if rows resemble each other.
        risk: `fpr`: share of negatives that are answered "positive"; `fnr`: share of positives that are answered
            "negative"; `error`: both, each with delta / 2, so the share of wrong answers stays below alpha at any
            prevalence; `precision`: at least 1 - alpha of the answers "positive" are right at `prevalence`.
        alpha: the largest allowed rate.
        delta: probability that the guarantee fails.
        prevalence: share of positives where the model is used, for `precision`.
        threshold: threshold on p without a guarantee. A side of the band without a guarantee stays at it. A guarantee
            never moves a side across it; it only removes answers.
        chosen_among: number of sets of scores from which these rows chose one. Each gets an equal share of delta, so
            the guarantee holds for the chosen one (Bonferroni).
        fitted_on: which rows these are.

    Returns:
        The guarantee without its `lines`. If it is out of reach, `reachable` is False, `reason` says why, and the band
        and its rates are None. `fpr`, `fnr`, `abstention` and `coverage` are measured on the rows of the fit, so they
        prove nothing. A `high` above 1 or a `low` below 0 means that this class is never answered.

    Raises:
        UserError: an unknown risk; numbers out of range; scores that are not probabilities; `precision` without
            prevalence.
    """
    scores, is_positive = _checked(scores, is_positive, groups, risk, alpha, delta, prevalence)
    groups = np.arange(len(scores)) if groups is None else np.asarray(groups)
    members = {"negative": ~is_positive, "positive": is_positive}
    of = {name: Groups.of(groups[rows], int(rows.sum())) for name, rows in members.items()}
    tested = delta / chosen_among
    smallest = smallest_alpha(of["negative"], of["positive"], risk=risk, delta=tested, prevalence=prevalence)
    band = reason = None
    if alpha < smallest:
        reason = _unreachable(risk, alpha, delta, smallest, of)
    else:
        by_class = {name: scores[rows] for name, rows in members.items()}
        band = _narrowest_band(by_class, of, risk, alpha, tested, prevalence, threshold)
        if band is None:
            reason = (
                f"{len(scores)} control rows could certify a precision of {1 - alpha:.4g} at a prevalence of "
                f"{prevalence:.4g}, but not with this model: too many of its positives score below its worst "
                "negatives; a larger risk_alpha or a better model is needed"
            )
    low, high = band or (None, None)
    rates = BandRates() if band is None else band_rates(scores, is_positive, low, high)
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
        low=low,
        high=high,
        **rates._asdict(),
    )


class BandRates(NamedTuple):
    """Rates of wrong answers and abstentions by class, and the share of answered rows; None without rows or band."""

    fpr: float | None = None
    fnr: float | None = None
    abstention: Abstention | None = None
    coverage: float | None = None


def smallest_alpha(
    negative: Groups, positive: Groups, *, risk: str, delta: float, prevalence: float | None = None
) -> float:
    """The smallest alpha that `control_risk` could certify with these rows if they had no mistake."""
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
    """Rates of a band on rows with `scores` and `is_positive`, both `(n,)`."""
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
    """Rows that a band answers with the positive class, and rows answered with another one, both `(n,)` bool."""
    scores = np.asarray(scores, dtype=np.float64)
    return scores >= high, scores <= low


def capacity_line(document: Guarantee, names: tuple[str, str] = CLASSES) -> str:
    """One line on the best rate that the rows can certify; `names` of the negative and the positive class."""
    negative, positive = (names[0], document.per_class.negative), (names[1], document.per_class.positive)
    bounded = {"fpr": (negative,), "fnr": (positive,)}.get(document.risk, (negative, positive))
    rows = " and ".join(
        f"{c.n} photos of {name} in {c.groups} groups (largest: {c.largest}, weight {c.effective:.0f})"
        for name, c in bounded
    )
    smallest = document.smallest_alpha
    at = f" at prevalence {document.prevalence:g}" if document.risk == "precision" else ""
    what = f"precision {1 - smallest:.4f}{at}" if document.risk == "precision" else f"{document.risk} {smallest:.4f}"
    return f"{rows} of {document.fitted_on} can certify {what} at best, with {1 - document.delta:.0%} confidence"


def guarantee_line(document: Guarantee, names: tuple[str, str] = CLASSES) -> str:
    """One line with the guarantee, or why there is none; `names` of the negative and the positive class."""
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


def _narrowest_band(
    scores: dict[str, np.ndarray],
    of: dict[str, Groups],
    risk: str,
    alpha: float,
    delta: float,
    prevalence: float | None,
    threshold: float,
) -> tuple[float, float] | None:
    """`low` and `high` of the narrowest band with a proven rate; None if no band has the precision.

    Args:
        scores, of: the scores of each class, and their groups.
        risk, alpha, delta, prevalence, threshold: as in `control_risk`; `alpha` can be certified with these rows.
    """

    def high_for(rate: float, share: float) -> float | None:
        return safe_threshold(scores["negative"], of["negative"], rate, share)

    def low_for(rate: float, share: float) -> float | None:
        negated = safe_threshold(-scores["positive"], of["positive"], rate, share)
        return None if negated is None else -negated

    low, high = float(threshold), float(np.nextafter(threshold, 2.0))
    if risk == "precision":
        high = _precise(high_for, low_for, high, alpha, delta, prevalence)
        return None if high is None else (low, high)
    share = delta / 2 if risk == "error" else delta
    if risk in ("fpr", "error"):
        high = max(high, high_for(alpha, share))
    if risk in ("fnr", "error"):
        low = min(low, low_for(alpha, share))
    return low, high


def _precise(high_for, low_for, at_least, alpha, delta, prevalence) -> float | None:
    """The lowest threshold with a proven precision, or None.

    If the false-positive rate is at most f from `t` on and the recall is at least r up to `s`, every threshold in
    [t, s] has a precision of at least prevalence r / (prevalence r + (1 - prevalence) f). Each bound concerns one
    class and is monotone. The six bounds, two for each of `RECALLS`, share delta.
    """
    share = delta / (2 * len(RECALLS))
    proven = []
    for recall in RECALLS:
        rate = recall * prevalence * alpha / ((1 - prevalence) * (1 - alpha))
        bottom, top = high_for(min(rate, 1 - 1e-9), share), low_for(1 - recall, share)
        if bottom is not None and top is not None:
            # Recall counts p >= threshold, while low_for bounds the positives at or below `top`: the next number is
            # safe.
            bottom = max(bottom, at_least)
            if bottom <= np.nextafter(top, 2.0):
                proven.append(bottom)
    return min(proven, default=None)


def _counts(groups: Groups) -> ClassCounts:
    return ClassCounts(
        n=int(groups.sizes.sum()),
        groups=len(groups.sizes),
        largest=groups.largest,
        effective=round(groups.effective, 3),
    )


def _unreachable(risk: str, alpha: float, delta: float, smallest: float, of: dict[str, Groups]) -> str:
    bounded = {"fpr": ("negative",), "fnr": ("positive",)}.get(risk, CLASSES)
    rows = " and ".join(f"{int(of[k].sizes.sum())} {k} control photos in {len(of[k].sizes)} groups" for k in bounded)
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
        raise UserError(f"risk: expected one of {', '.join(RISKS)}; found {risk!r}")
    for name, value in (("risk_alpha", alpha), ("risk_delta", delta)):
        if not 0 < value < 1:
            raise UserError(f"{name}: expected a number above 0 and below 1, found {value:g}")
    if risk == "precision" and prevalence is None:
        raise UserError(
            "risk precision needs prevalence, the share of positive photos where the model is used: precision "
            "depends on it"
        )
    if prevalence is not None and not 0 < prevalence < 1:
        raise UserError(f"prevalence: expected a share above 0 and below 1, found {prevalence:g}")
    if scores.ndim != 1 or is_positive.shape != scores.shape or len(scores) == 0:
        shapes = f"{scores.shape} and {is_positive.shape}"
        raise UserError(f"guarantee: expected scores (n,) and labels (n,), at least one row; found {shapes}")
    if groups is not None and np.shape(groups) != scores.shape:
        raise UserError(f"guarantee: expected one group per row, found {np.shape(groups)[0]} for {len(scores)} rows")
    outside = np.flatnonzero(~((scores >= 0) & (scores <= 1)))
    if len(outside):
        raise UserError(
            f"guarantee: score {scores[outside[0]]:g} of row {outside[0]} is not a probability; were these logits?"
        )
    return scores, is_positive.astype(bool)
