"""Which photos may keep the first answer of a cascade: a band of its probability, chosen with a promise.

Works on arrays. A first stage answers every photo. Where its calibrated probability of the positive class lies between
`low` and `high`, a dearer second stage answers in its place; elsewhere the photo leaves early. With more than two
classes a photo leaves where the largest probability is at least `high`. An answer is the class of the largest
calibrated probability of a stage; class prior and threshold come later, and a promise of abstention covers them.

An exit is harmful where the first answer is wrong and the second would have been right. What is promised is the share
of harmful exits among *all* photos, R = E[harmful exits of a group] / E[photos of a group] <= alpha, with probability
1 - delta over draws of whole groups. It bounds what the cascade loses in accuracy against the second stage alone; the
share among the photos that leave early is reported beside it and not promised.

Bands are tested from "no photo leaves" towards "all leave", and the first that fails ends it (Learn Then Test,
Angelopoulos et al., 2021; for early exits Jazbec et al., arXiv 2405.20915, whose loss is the same gap between the
answers of exit and full model; Khazem, arXiv 2602.03043, bounds the share among exits in expectation). A wider exit
only adds harmful exits, so the walk is that of `group_bounds.safe_threshold`, on the rows where an exit could harm.
The band is symmetric, `low` = 1 - `high`: on a calibrated scale that is where both wrong answers are equally likely.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from natix_hf.decision.group_bounds import Groups, safe_threshold, smallest_certifiable
from natix_hf.documents.cascade import EarlyExit, cost_text
from natix_hf.errors import UserError

# Shares of the photos that leave early in the bands to choose from where a second promise rests on the same rows. A
# finer choice costs that promise more: each band takes its part of delta.
CANDIDATE_SHARES = (0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
NEVER = float(np.nextafter(1.0, 2.0))


def exit_confidence(probabilities: np.ndarray, positive: int = 1) -> np.ndarray:
    """What photos leave by, `(n,)`: the largest probability, of two classes from that of the positive one alone.

    Args:
        probabilities: `(n, classes)` calibrated, of the first stage.
        positive: class id.
    """
    if probabilities.shape[1] != 2:
        return probabilities.max(axis=1)
    score = probabilities[:, positive]
    return np.maximum(score, 1 - score)


def leaves_early(probabilities: np.ndarray, low: float | None, high: float | None, positive: int = 1) -> np.ndarray:
    """Which photos keep the first stage's answer, `(n,)` bool, from its calibrated probabilities `(n, classes)`."""
    if high is None:
        return np.zeros(len(probabilities), dtype=bool)
    if low is None:
        return probabilities.max(axis=1) >= high
    score = probabilities[:, positive]
    return (score >= high) | (score <= low)


def harmful_exits(early: np.ndarray, full: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Where the first answer is wrong and the second right, `(n,)` bool, from probabilities `(n, classes)` of both."""
    return (early.argmax(axis=1) != labels) & (full.argmax(axis=1) == labels)


def candidate_bands(early: np.ndarray, positive: int = 1, shares: Sequence[float] = CANDIDATE_SHARES) -> np.ndarray:
    """Values of `high` to choose from, ascending; in the last one no photo leaves.

    Args:
        early: `(n, classes)` calibrated probabilities of the first stage, of other rows than those that choose.
        shares: of these rows that would leave early.
    """
    confidence, classes = exit_confidence(early, positive), early.shape[1]
    found = [1 / classes if share == 1 else np.quantile(confidence, 1 - share) for share in shares]
    return np.unique([*found, NEVER])


def certified_exit(
    early: np.ndarray,
    full: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    *,
    alpha: float,
    delta: float = 0.05,
    positive: int = 1,
    candidates: np.ndarray | None = None,
    cost: Sequence[float] = (1.0, 9.0),
    cost_in: str = "views",
    fitted_on: str = "val_calib/control",
) -> EarlyExit:
    """The band in which the most photos leave early while the share of harmful exits is proven to stay below alpha.

    Args:
        early, full: `(n, classes)` calibrated probabilities of both stages; nothing about either calibration may have
            been learnt on these rows.
        labels: `(n,)` class ids.
        groups: `(n,)`; None takes each row for a group of its own, which promises too much where they are alike.
        alpha: the largest share of all photos that may leave early with a wrong answer where the second stage is
            right.
        delta: how likely the promise may fail.
        positive: class id that the band is about, of two classes.
        candidates: `candidate_bands` of other rows; needed where another promise about the cascade will rest on these
            rows. None: any band.
        cost: of the first stage, and what the second adds; `cost_in`, the unit.
        fitted_on: which rows these are.

    Returns:
        The band. Where so few groups prove nothing, `high` is None and `reason` says what could be promised.

    Raises:
        UserError: alpha or delta out of range, no rows, arrays that do not fit.
    """
    for name, value in (("views_exit_alpha", alpha), ("views_exit_delta", delta)):
        if not 0 < value < 1:
            raise UserError(f"{name}: {value:g} given, a number above 0 and below 1 expected")
    labels = _checked(early, full, labels)
    of = Groups.of(groups, len(labels))
    smallest = smallest_certifiable(of, delta)
    harmful = harmful_exits(early, full, labels)
    # Rows whose exit cannot harm have the lowest score there is: they are counted among all photos and never at risk.
    found = safe_threshold(np.where(harmful, exit_confidence(early, positive), -np.inf), of, alpha, delta)
    high = reason = None
    if found is None:
        reason = _unreachable(alpha, delta, smallest, of)
    else:
        high = max(found, 1 / early.shape[1])
        if candidates is not None:
            high = float(min((one for one in candidates if one >= high), default=NEVER))
    return _measured(
        early,
        harmful,
        of,
        low=1 - high if high is not None and early.shape[1] == 2 else None,
        high=high,
        positive=positive,
        cost=cost,
        cost_in=cost_in,
        asked="risk",
        alpha=float(alpha),
        delta=float(delta),
        certified=reason is None,
        reason=reason,
        smallest_alpha=smallest,
        # Whether a promise is in reach depends on the sizes of the groups alone: where it is not, nothing was chosen.
        candidates=1 if reason else None if candidates is None else len(candidates),
        fitted_on=fitted_on,
    )


def given_exit(
    early: np.ndarray,
    full: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    band: tuple[float, float],
    *,
    positive: int = 1,
    cost: Sequence[float] = (1.0, 9.0),
    cost_in: str = "views",
    fitted_on: str = "val_calib/control",
) -> EarlyExit:
    """A band that somebody chose, measured on these rows and marked as promising nothing.

    Args:
        band: `low` and `high` on the calibrated probability of the positive class.
        early, full, labels, groups, positive, cost, cost_in, fitted_on: as `certified_exit` takes them.

    Raises:
        UserError: more than two classes, no rows, arrays that do not fit.
    """
    labels = _checked(early, full, labels)
    if early.shape[1] != 2:
        raise UserError(
            f"views_exit: a band [low, high] is for two classes, these are {early.shape[1]}: use views_exit: risk"
        )
    return _measured(
        early,
        harmful_exits(early, full, labels),
        Groups.of(groups, len(labels)),
        low=float(band[0]),
        high=float(band[1]),
        positive=positive,
        cost=cost,
        cost_in=cost_in,
        asked="band",
        alpha=None,
        delta=None,
        certified=False,
        reason="the band was given, not chosen by a test; views_exit: risk chooses one with a promise",
        smallest_alpha=None,
        candidates=1,
        fitted_on=fitted_on,
    )


def mean_cost(leaves: np.ndarray, cost: Sequence[float]) -> float:
    """What a photo costs on average.

    Args:
        leaves: `(n,)` bool, which photos leave early.
        cost: of the first stage, and what the second adds.
    """
    return float(cost[0] + cost[1] * np.mean(~leaves))


def exit_line(document: EarlyExit, name: str = "the positive class") -> str:
    """The promise, or why there is none, and what an answer costs, one line; `name` of the positive class."""
    if document.high is None:
        return f"early exits: no promise and no exit: {document.reason}"
    alpha, rows = document.alpha, f"{document.n} photos of {document.fitted_on} in {document.groups} groups"
    promise = (
        f"with {1 - document.delta:.0%} confidence at most {alpha:.2%} of all photos leave with a wrong answer where "
        "the second stage is right"
        if document.certified
        else f"no promise: {document.reason}"
    )
    band = (
        f"the largest probability is at least {document.high:.4f}"
        if document.low is None
        else f"p of {name} is up to {document.low:.4f} or from {document.high:.4f}"
    )
    return (
        f"early exits: {promise}; photos leave where {band}: {document.early:.1%} of {rows}, lost "
        f"{document.loss:.2%}, {cost_text(document.mean_cost)} {document.cost_in} a photo"
    )


def _measured(early, harmful, of: Groups, *, low, high, positive, cost, **about) -> EarlyExit:
    """The document of a band with what it gives on these rows."""
    leaves = leaves_early(early, low, high, positive)
    lost = harmful & leaves
    return EarlyExit(
        low=low,
        high=high,
        n=len(leaves),
        groups=len(of.sizes),
        largest=of.largest,
        effective=round(of.effective, 3),
        early=float(leaves.mean()),
        loss=float(lost.mean()),
        loss_of_early=float(lost.sum() / leaves.sum()) if leaves.any() else None,
        cost=[float(one) for one in cost],
        mean_cost=mean_cost(leaves, cost),
        **about,
    )


def _unreachable(alpha: float, delta: float, smallest: float, of: Groups) -> str:
    rows = f"{int(of.sizes.sum())} control photos in {len(of.sizes)} groups (largest: {of.largest})"
    if smallest >= 1:
        return f"{rows} can certify no views_exit_alpha: more photos in other groups are needed"
    return (
        f"views_exit_alpha {alpha:g} is out of reach: with {1 - delta:.0%} confidence {rows} certify {smallest:.4f} "
        f"at best; set views_exit_alpha to {np.ceil(smallest * 1e4) / 1e4:g} or more, or give val_calib more groups"
    )


def _checked(early: np.ndarray, full: np.ndarray, labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if len(labels) == 0 or early.shape != full.shape or labels.shape != early.shape[:1]:
        raise UserError(
            "views_exit: expected probabilities (n, classes) of both stages and labels (n,), at least one row, found "
            f"{early.shape}, {full.shape} and {labels.shape}"
        )
    return labels
