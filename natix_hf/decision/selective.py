"""Risk-coverage curve, AURC and AUGRC: the errors of a classifier among the photos that it is most confident of.

Rows of equal confidence have no order. So every value is the mean over all orders of tied rows and does not depend on
how rows are sorted. Intervals come from resampled groups.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.special

from natix_hf.decision.risk_control import answers
from natix_hf.documents.guarantee import Guarantee
from natix_hf.documents.selective import (
    AmountInterval,
    Band,
    BandAbstention,
    CascadeFigures,
    Rate,
    RiskCurve,
    Selective,
)
from natix_hf.logits import softmax
from natix_hf.resampling import LEVEL, flawless_high, group_numbers, interval_ends, on_resamples

CURVE_POINTS = 200


class RiskCoverage(NamedTuple):
    """The curve of `n` rows in `groups` groups, and the areas under it."""

    n: int
    groups: int
    curve: RiskCurve
    aurc: AmountInterval
    augrc: AmountInterval


def risk_coverage(
    confidence: np.ndarray,
    wrong: np.ndarray,
    groups: np.ndarray | None,
    *,
    n_boot: int = 1000,
    seed: int = 0,
) -> RiskCoverage:
    """Compute the risk-coverage curve and the areas under it; lower is better.

    - risk at coverage k/n: share of mistakes among the k most confident rows (Geifman and El-Yaniv, 2017).
    - AURC: mean of that risk over k = 1..n. Random confidence gives the error rate.
    - AUGRC: area under the *generalized* risk, mistakes among the k most confident divided by n (Traub et al., 2024):
      the probability that a row is wrong and is answered, over all thresholds. With accuracy a, and A the probability
      that a correct row is more confident than a wrong one, it equals (1 - A) a (1 - a) + (1 - a)^2 / 2.

    Args:
        confidence: `(n,)`, higher is more certain; any scale.
        wrong: `(n,)` bool.
        groups: `(n,)` or None.

    Returns:
        The curve, thinned to `CURVE_POINTS`, and both areas. Without a mistake the upper ends come from the mistake
        rate that so few groups could hide (`flawless_high`).

    Raises:
        ValueError: no rows, different lengths, or a NaN confidence.
    """
    confidence, wrong = np.asarray(confidence, dtype=np.float64), np.asarray(wrong).astype(np.float64)
    if confidence.ndim != 1 or wrong.shape != confidence.shape or len(wrong) == 0:
        raise ValueError(f"expected confidence (n,) and wrong (n,), found {confidence.shape} and {wrong.shape}")
    if np.isnan(confidence).any():
        raise ValueError(f"{int(np.isnan(confidence).sum())} of {len(confidence)} confidences are NaN")
    of_row = group_numbers(groups, len(wrong))
    n_groups = int(of_row.max()) + 1
    order = np.argsort(-confidence, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(confidence[order]) != 0])
    wrong, of_row = wrong[order], of_row[order]

    aurc, augrc = _areas(np.ones((1, len(wrong))), wrong, starts)[0]
    drawn = on_resamples(
        lambda times: _areas(times[:, of_row], wrong, starts), n_groups, n_boot, seed, width=len(wrong)
    )
    ends = [interval_ends(areas) for areas in drawn.T]
    if not wrong.any():
        # The worst order for a hidden mistake rate e has all mistakes first: AURC e (1 - log e), AUGRC e - e^2 / 2.
        hidden = flawless_high(n_groups)
        ends = [(0.0, hidden * (1 - np.log(hidden))), (0.0, hidden - hidden**2 / 2)]
    accepted = np.r_[starts[1:], len(wrong)]
    at = np.unique(np.linspace(0, len(accepted) - 1, CURVE_POINTS).round().astype(int))
    mistakes = np.cumsum(wrong)[accepted - 1]
    return RiskCoverage(
        n=len(wrong),
        groups=n_groups,
        curve=RiskCurve(
            coverage=(accepted / len(wrong))[at].tolist(),
            risk=(mistakes / accepted)[at].tolist(),
        ),
        aurc=AmountInterval(**_ends(aurc, *ends[0])),
        augrc=AmountInterval(**_ends(augrc, *ends[1])),
    )


def selective_document(
    calibrated_logits: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    guarantee: Guarantee | None,
    positive: int,
    *,
    split: str = "val_test",
    decisions: np.ndarray | None = None,
    cascade: CascadeFigures | None = None,
    n_boot: int = 1000,
    seed: int = 0,
) -> Selective:
    """Compute `selective.json`: risk against coverage, and the results of a guarantee's band on these rows.

    Args:
        calibrated_logits: `(n, classes)`, without a threshold. The confidence is the largest probability.
        labels: `(n,)`.
        groups: `(n,)` or None.
        guarantee: result of `control_risk`, or None.
        decisions: `(n,)` class ids; by default the largest logit.
        cascade: result of `cascade.cascade_figures` on the same rows, for a model with two stages.
    """
    probabilities, labels = softmax(calibrated_logits), np.asarray(labels)
    decided = probabilities.argmax(axis=1) if decisions is None else np.asarray(decisions)
    risk = risk_coverage(probabilities.max(axis=1), decided != labels, groups, n_boot=n_boot, seed=seed)
    band = None
    if guarantee is not None and guarantee.reachable:
        band = _band(probabilities[:, positive], labels == positive, groups, guarantee, n_boot=n_boot, seed=seed)
    more = {} if cascade is None else {"cascade": cascade}
    return Selective(
        split=split, level=LEVEL, resamples=n_boot, guarantee=guarantee, band=band, **risk._asdict(), **more
    )


def _band(scores, is_positive, groups, guarantee: Guarantee, *, n_boot: int, seed: int) -> Band:
    """Rates of the band on these rows, with intervals: errors and abstentions by class, coverage, precision."""
    said_positive, said_negative = answers(scores, guarantee.low, guarantee.high)
    silent = ~said_positive & ~said_negative
    everything = np.ones(len(scores), dtype=bool)

    def rate(of: np.ndarray, rows: np.ndarray) -> Rate:
        return share_with_interval(of, rows, groups, n_boot=n_boot, seed=seed)

    return Band(
        low=guarantee.low,
        high=guarantee.high,
        fpr=rate(said_positive, ~is_positive),
        fnr=rate(said_negative, is_positive),
        abstention=BandAbstention(negative=rate(silent, ~is_positive), positive=rate(silent, is_positive)),
        coverage=rate(~silent, everything),
        precision=rate(is_positive, said_positive),
        wrong_among_answered=rate((said_positive & ~is_positive) | (said_negative & is_positive), ~silent),
    )


def share_with_interval(
    of: np.ndarray, rows: np.ndarray, groups: np.ndarray | None, *, n_boot: int, seed: int
) -> Rate:
    """Share of `of` among `rows`, both `(n,)` bool, with its interval over resampled groups.

    If the share is 0 or 1, the other end is the exact binomial bound on the number of groups. Without rows all are
    None.
    """
    of_row = group_numbers(groups, len(of))
    n_groups, counts = int(of_row.max()) + 1, (of & rows, rows)
    hits, sizes = (np.bincount(of_row, weights=column, minlength=n_groups) for column in counts)
    groups_with_rows = int((sizes > 0).sum())
    if groups_with_rows == 0:
        return Rate(value=None, low=None, high=None, n=0, groups=0)
    value = float(hits.sum() / sizes.sum())
    if value in (0.0, 1.0):
        hidden = flawless_high(groups_with_rows)
        low, high = (0.0, hidden) if value == 0 else (1 - hidden, 1.0)
    else:
        sums = np.stack([hits, sizes], axis=1)
        drawn = on_resamples(lambda times: times @ sums, n_groups, n_boot, seed, width=n_groups)
        drawn = drawn[drawn[:, 1] > 0]
        low, high = interval_ends(drawn[:, 0] / drawn[:, 1])
    return Rate(**_ends(value, low, high), n=int(sizes.sum()), groups=groups_with_rows)


def _areas(weights: np.ndarray, wrong: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """AURC and AUGRC `(b, 2)` for row weights `(b, n)`, rows sorted by confidence, `starts` of the blocks of ties.

    In a block of b rows, e of them wrong, behind c rows with E mistakes, the mean over orders of the mistakes among
    the first c + j is E + j e / b; the sum of that over c + j for j = 1..b is e + (E - c e / b) (H(c + b) - H(c))
    with harmonic numbers H.
    """
    rows = np.add.reduceat(weights, starts, axis=1)  # (b, blocks)
    mistakes = np.add.reduceat(weights * wrong, starts, axis=1)
    total = rows.sum(axis=1)
    before, mistakes_before = np.cumsum(rows, axis=1) - rows, np.cumsum(mistakes, axis=1) - mistakes
    share = np.divide(mistakes, rows, out=np.zeros_like(rows), where=rows > 0)
    harmonic = scipy.special.digamma(before + rows + 1) - scipy.special.digamma(before + 1)
    risk = (mistakes + (mistakes_before - before * share) * harmonic).sum(axis=1)
    generalized = (rows * (mistakes_before + mistakes / 2)).sum(axis=1)
    return np.stack([risk / total, generalized / total**2], axis=1)


def _ends(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": float(value), "low": float(low), "high": float(high)}
