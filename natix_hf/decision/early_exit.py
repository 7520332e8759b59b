"""Early exits of a cascade: which photos keep the answer of the first stage, with a guarantee.

Works on arrays. The first stage answers every photo. If its calibrated probability of the positive class lies between
`low` and `high`, the more expensive second stage answers instead; otherwise the photo leaves early. With more than two
classes a photo leaves if the largest probability is at least `high`. The answer of a stage is the class with its
largest calibrated probability. Class prior and threshold are applied later and are covered by the abstention
guarantee.

An exit is harmful if the first answer is wrong and the second would have been right. The guarantee bounds the share of
harmful exits among *all* photos, R = E[harmful exits of a group] / E[photos of a group] <= alpha, with probability
1 - delta over draws of whole groups. So it bounds the accuracy that the cascade loses against the second stage alone.
The share among photos that leave early is reported too, without a guarantee.

Bands are tested from "no photo leaves" to "all photos leave", and the first failure ends the test (Learn Then Test,
Angelopoulos et al., 2021; for early exits Jazbec et al., arXiv 2405.20915, with the same loss between the answers of
exit and full model; Khazem, arXiv 2602.03043, bounds the share among exits in expectation). A wider exit only adds
harmful exits, so `group_bounds.safe_threshold` applies, on the rows where an exit could harm. The band is symmetric,
`low` = 1 - `high`: on a calibrated scale both wrong answers are equally likely at its ends.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from natix_hf.decision.group_bounds import Groups, safe_threshold, smallest_certifiable
from natix_hf.documents.cascade import EarlyExit, cost_text
from natix_hf.errors import UserError

# Shares of photos that leave early, one for each candidate band. Used if a second guarantee uses the same rows: each
# band takes a part of its delta, so a finer choice costs that guarantee more.
CANDIDATE_SHARES = (0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
NEVER = float(np.nextafter(1.0, 2.0))


def exit_confidence(probabilities: np.ndarray, positive: int = 1) -> np.ndarray:
    """The confidence that decides about exits, `(n,)`: the largest probability; with two classes max(p, 1 - p).

    Args:
        probabilities: `(n, classes)`, calibrated probabilities of the first stage.
        positive: class id.
    """
    if probabilities.shape[1] != 2:
        return probabilities.max(axis=1)
    score = probabilities[:, positive]
    return np.maximum(score, 1 - score)


def leaves_early(probabilities: np.ndarray, low: float | None, high: float | None, positive: int = 1) -> np.ndarray:
    """Whether each photo leaves early, `(n,)` bool, from calibrated first-stage probabilities `(n, classes)`."""
    if high is None:
        return np.zeros(len(probabilities), dtype=bool)
    if low is None:
        return probabilities.max(axis=1) >= high
    score = probabilities[:, positive]
    return (score >= high) | (score <= low)


def harmful_exits(early: np.ndarray, full: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether only the second answer is right, `(n,)` bool, from probabilities `(n, classes)` of both stages."""
    return (early.argmax(axis=1) != labels) & (full.argmax(axis=1) == labels)


def candidate_bands(early: np.ndarray, positive: int = 1) -> np.ndarray:
    """Candidate values of `high` for `CANDIDATE_SHARES`, ascending; with the last one no photo leaves.

    Args:
        early: `(n, classes)` calibrated first-stage probabilities on rows that are not used for the choice.
    """
    confidence, classes = exit_confidence(early, positive), early.shape[1]
    highs = [1 / classes if share == 1 else np.quantile(confidence, 1 - share) for share in CANDIDATE_SHARES]
    return np.unique([*highs, NEVER])


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
    """The band with the most early exits for which the share of harmful exits is proven to be at most alpha.

    Args:
        early, full: `(n, classes)` calibrated probabilities of both stages, on rows that were not used to calibrate
            them.
        labels: `(n,)` class ids.
        groups: `(n,)`; None: each row is a group, which promises too much if rows are alike.
        alpha: largest share of all photos that may leave with a wrong answer while the second stage is right.
        delta: probability that the guarantee fails.
        positive: class id of the band's probability, with two classes.
        candidates: `candidate_bands` from other rows; required if a second guarantee uses these rows. None: any band.
        cost: cost of the first stage, and what the second adds; `cost_in` is the unit.
        fitted_on: name of these rows.

    Returns:
        The band. If the groups are too few for a proof, `high` is None and `reason` says what they could guarantee.

    Raises:
        UserError: alpha or delta is out of range, there are no rows, or shapes differ.
    """
    for name, value in (("views_exit_alpha", alpha), ("views_exit_delta", delta)):
        if not 0 < value < 1:
            raise UserError(f"{name}: expected a number above 0 and below 1, found {value:g}")
    labels = _checked(early, full, labels)
    of = Groups.of(groups, len(labels))
    smallest = smallest_certifiable(of, delta)
    harmful = harmful_exits(early, full, labels)
    # Rows whose exit cannot harm get the lowest score: they count as photos but never as harmful.
    safe_high = safe_threshold(np.where(harmful, exit_confidence(early, positive), -np.inf), of, alpha, delta)
    high = reason = None
    if safe_high is None:
        reason = _unreachable(alpha, delta, smallest, of)
    else:
        high = max(safe_high, 1 / early.shape[1])
        if candidates is not None:
            high = float(min((band for band in candidates if band >= high), default=NEVER))
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
        # Only the group sizes decide whether a guarantee is reachable: without one, no choice was made on the rows.
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
    """A band given by the user, measured on these rows and marked as having no guarantee.

    Args:
        band: `low` and `high` on the calibrated probability of the positive class.
        early, full, labels, groups, positive, cost, cost_in, fitted_on: as in `certified_exit`.

    Raises:
        UserError: there are more than two classes or no rows, or shapes differ.
    """
    labels = _checked(early, full, labels)
    if early.shape[1] != 2:
        raise UserError(
            f"views_exit: a band [low, high] needs two classes, these are {early.shape[1]}: use views_exit: risk"
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
        reason="the band was given, not chosen by a test; views_exit: risk chooses one with a guarantee",
        smallest_alpha=None,
        candidates=1,
        fitted_on=fitted_on,
    )


def mean_cost(leaves: np.ndarray, cost: Sequence[float]) -> float:
    """The mean cost of a photo.

    Args:
        leaves: `(n,)` bool, which photos leave early.
        cost: cost of the first stage, and what the second adds.
    """
    return float(cost[0] + cost[1] * np.mean(~leaves))


def exit_line(document: EarlyExit, name: str = "the positive class") -> str:
    """One line: the guarantee, or why there is none, and the cost of an answer; `name` is the positive class."""
    if document.high is None:
        return f"early exits: no guarantee and no exit: {document.reason}"
    alpha, rows = document.alpha, f"{document.n} photos of {document.fitted_on} in {document.groups} groups"
    guarantee = (
        f"with {1 - document.delta:.0%} confidence at most {alpha:.2%} of all photos leave with a wrong answer where "
        "the second stage is right"
        if document.certified
        else f"no guarantee: {document.reason}"
    )
    band = (
        f"the largest probability is at least {document.high:.4f}"
        if document.low is None
        else f"p of {name} is up to {document.low:.4f} or from {document.high:.4f}"
    )
    return (
        f"early exits: {guarantee}; photos leave if {band}: {document.early:.1%} of {rows}, lost "
        f"{document.loss:.2%}, {cost_text(document.mean_cost)} {document.cost_in} a photo"
    )


def _measured(early, harmful, of: Groups, *, low, high, positive, cost, **about) -> EarlyExit:
    """The document of a band, measured on these rows."""
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
        cost=[float(part) for part in cost],
        mean_cost=mean_cost(leaves, cost),
        **about,
    )


def _unreachable(alpha: float, delta: float, smallest: float, of: Groups) -> str:
    rows = f"{int(of.sizes.sum())} control photos in {len(of.sizes)} groups (largest: {of.largest})"
    return (
        f"views_exit_alpha {alpha:g} is out of reach: with {1 - delta:.0%} confidence {rows} certify {smallest:.4f} "
        f"at best; set views_exit_alpha to {np.ceil(smallest * 1e4) / 1e4:g} or more, or give val_calib more groups"
    )


def _checked(early: np.ndarray, full: np.ndarray, labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if len(labels) == 0 or early.shape != full.shape or labels.shape != early.shape[:1]:
        raise UserError(
            "views_exit: expected probabilities (n, classes) of both stages and labels (n,), at least one row; found "
            f"{early.shape}, {full.shape} and {labels.shape}"
        )
    return labels
