"""What a temperature from few photos costs a calibrated model, and what it gains a wrong one, by rule.

    python tests/bench/calibration_small.py --repeats 500

Two classes, log odds normal around +-m with variance 2m: calibrated as they are, and T times too large. Photos come in
groups of up to four with log odds that are alike (correlation 0.5) and, by `--alike`, mistakes that are. Each rule
sees n photos and is judged by its expected NLL on new ones, computed exactly: in nats where the model is calibrated,
as the share kept of what the best T gains elsewhere. Many repeats are computed at once over a grid of temperatures; at
the end the rule of the package is compared with `fit_calibrator` itself, draw by draw. Prints Markdown.

`0.1` is what version 0.1 did: maximum likelihood with one imaginary mistake, kept where the photos of the fit say so.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.special import expit, log_expit, ndtr, ndtri

from natix_hf.decision.calibrators.temperature import FIRST_STEP
from natix_hf.decision.fit_calibrator import FOLDS, fit_calibrator
from natix_hf.decision.temperature import BOUNDS, PRIOR_SD

GRID = np.arange(np.ceil(np.log(BOUNDS[0]) / 0.1), np.log(BOUNDS[1]) / 0.1) * 0.1  # log T, 0 among them
ONE, INVERSE = int(np.abs(GRID).argmin()), np.exp(-GRID)
SIZES, ACCURACIES, TEMPERATURES = (30, 60, 120, 250, 1000), (0.75, 0.85, 0.9, 0.95, 0.98), (1.0, 2.0, 0.5)
# Name -> standard deviation of the prior, part of the way that is asked, None: whether the fit's own NLL falls.
RULES = {
    "0.1": (np.inf, None),
    "no prior, whole way by one s.e.": (np.inf, 1.0),
    "prior, whole way by one s.e.": (PRIOR_SD, 1.0),
    "prior alone": (PRIOR_SD, 0.0),
    "the package's": (PRIOR_SD, FIRST_STEP),
}
CHUNK = 25  # repeats at once: 25 x 1,000 photos x 60 temperatures are 12 MB


def expected_nll(accuracy: float, temperature: float) -> np.ndarray:
    """Nats a new photo at each temperature of the grid."""
    m = 2 * ndtri(accuracy) ** 2
    odds = np.linspace(0, m + 8 * np.sqrt(2 * m), 4001)
    density = np.exp(-((odds - m) ** 2) / 4 / m) + np.exp(-((odds + m) ** 2) / 4 / m)
    right, scaled = expit(odds)[:, None], odds[:, None] * temperature * INVERSE
    return (density[:, None] * -(right * log_expit(scaled) + (1 - right) * log_expit(-scaled))).sum(0) / density.sum()


def draw(generator, repeats: int, n: int, accuracy: float, alike: float) -> tuple[np.ndarray, np.ndarray]:
    """Log odds of each photo's own label `(repeats, n)`, and groups `(n,)`."""
    groups = np.repeat(np.arange(n), generator.integers(1, 5, n))[:n]

    def normal(shared: float) -> np.ndarray:
        own, common = generator.normal(size=(2, repeats, n))
        return np.sqrt(shared) * common[:, groups] + np.sqrt(1 - shared) * own

    m = 2 * ndtri(accuracy) ** 2
    odds = np.abs(m + np.sqrt(2 * m) * normal(0.5))
    return np.where(ndtr(normal(alike)) < expit(odds), odds, -odds), groups


def design_effects(odds: np.ndarray, starts: np.ndarray) -> np.ndarray:
    score = odds * expit(-odds)
    score -= score.mean(axis=1, keepdims=True)
    sums = np.add.reduceat(score, starts, axis=1)
    return np.maximum(1.0, (sums**2).sum(axis=1) / (score**2).sum(axis=1))


def taken(odds: np.ndarray, groups: np.ndarray) -> dict[str, np.ndarray]:
    """By rule the number of the temperature on the grid, `(repeats,)`, from log odds `(repeats, n)` as they are."""
    repeats, n = odds.shape
    starts = np.flatnonzero(np.r_[True, np.diff(groups) > 0])
    fold_of_row = np.random.default_rng(0).permutation(len(starts))[groups] % FOLDS
    folds = [fold_of_row == fold for fold in np.unique(fold_of_row)]
    scaled = odds[:, :, None] * INVERSE
    real = -log_expit(scaled)
    imaginary = real + scaled  # -log_expit(-scaled)
    found = {}
    for name, (sd, step) in RULES.items():
        prior = (GRID / sd) ** 2 / 2
        alike = design_effects(odds, starts) if np.isfinite(sd) else np.ones(repeats)

        def fit(rows: np.ndarray, prior=prior, alike=alike) -> np.ndarray:
            tempered = real[:, rows].sum(axis=1) / alike[:, None]
            return (tempered + imaginary[:, rows].mean(axis=1) + prior).argmin(axis=1)

        best = fit(np.ones(n, dtype=bool))
        if step is None:
            keep = real.sum(axis=1)[np.arange(repeats), best] < real[:, :, ONE].sum(axis=1)
        elif step == 0:
            keep = np.ones(repeats, dtype=bool)
        else:
            inverse = np.zeros(odds.shape)
            for out in folds:
                inverse[:, out] = INVERSE[fit(~out)][:, None]
            before = -log_expit(odds)
            gain = before + log_expit(odds * (1 + step * (inverse - 1)))
            sums = np.add.reduceat(gain - gain.mean(axis=1, keepdims=True), starts, axis=1)
            error = np.sqrt((sums**2).sum(axis=1) * len(starts) / (len(starts) - 1)) / n
            whole = (before + log_expit(odds * inverse)).mean(axis=1)
            keep = (whole > 0) & (gain.mean(axis=1) > error)
        found[name] = np.where(keep, best, ONE)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=500)
    parser.add_argument(
        "--alike", type=float, nargs="+", default=[0.0, 0.3], help="correlation of mistakes in a group"
    )
    parser.add_argument("--check", type=int, default=20, help="draws that fit_calibrator repeats")
    given = parser.parse_args()
    for alike in given.alike:
        print(f"\nMistakes of a group correlate by {alike:g}; {given.repeats} repeats a cell.\n")
        print(f"| accuracy | T | best gain | rule | {' | '.join(f'n = {n}' for n in SIZES)} |")
        print("|---" * (4 + len(SIZES)) + "|")
        for accuracy in ACCURACIES:
            for temperature in TEMPERATURES:
                nats = expected_nll(accuracy, temperature)
                gain = nats[ONE] - nats.min()
                cells: dict[str, list[float]] = {name: [] for name in RULES}
                for n in SIZES:
                    generator, change = np.random.default_rng(n), {name: [] for name in RULES}
                    for _ in range(-(-given.repeats // CHUNK)):
                        odds, groups = draw(generator, CHUNK, n, accuracy, alike)
                        for name, best in taken(odds * temperature, groups).items():
                            change[name].append(nats[best] - nats[ONE])
                    for name, values in change.items():
                        cells[name].append(float(np.mean(values)))
                for name, row in cells.items():
                    told = [f"{x:+.4f}" if temperature == 1 else f"{-x / gain:.0%}" for x in row]
                    best = "-" if temperature == 1 else f"{gain:.3f}"
                    print(f"| {accuracy:g} | {temperature:g} | {best} | {name} | {' | '.join(told)} |", flush=True)
    generator, same = np.random.default_rng(1), 0
    for _ in range(given.check):
        odds, groups = draw(generator, 1, 120, 0.85, 0.3)
        labels = generator.integers(0, 2, 120)
        logits = np.stack([np.zeros(120), np.where(labels == 1, 2, -2) * odds[0]], axis=1)
        fitted = np.log(fit_calibrator(logits, labels, groups).calibration.temperature[0])
        same += abs(fitted - GRID[taken(2 * odds, groups)["the package's"][0]]) < 0.15
    print(f"\n{same} of {given.check} draws end where `fit_calibrator` ends, whose folds differ.")


if __name__ == "__main__":
    main()
