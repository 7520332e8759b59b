"""What calibration, class prior and threshold are worth on a finished run, from its predictions alone.

    python tests/bench/decision_figures.py runs/a runs/b

First: ECE, NLL and Brier score on val_test, at the class shares of val_calib, of each calibrator fitted there. Second,
for a run whose training and val_calib hold 9 positives of 10 photos (tests/bench/prior_shift.py leaves such), where 5
of 10 are met.
Where val_test has other shares, whole groups are left out of it. Accuracy and MCC at 0.5 of the logits as they are,
calibrated, moved to the known prior, moved to a prior estimated by EM from the test photos without their labels, and
with the threshold for MCC folded in. Differences to the logits as they are are paired. All intervals are 95 %, over
groups. Prints Markdown; reads val_test without counting, for it decides nothing about a model.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from natix_hf.decision.at_shares import before_and_after, figures_at_shares
from natix_hf.decision.calibration import Calibration
from natix_hf.decision.fit_calibrator import fit_calibrator
from natix_hf.decision.prior_shift import estimate_prior, importance_weights, prior_bias
from natix_hf.decision.threshold import fold_bias, threshold_curve
from natix_hf.documents.split_logits import SavedLogits
from natix_hf.errors import UserError
from natix_hf.files import read_json
from natix_hf.logits import softmax
from natix_hf.report.intervals import bootstrap_intervals, group_count, paired_differences
from natix_hf.runs.saved_logits import read_predictions

CALIBRATORS = ("temperature", "vector", "isotonic")
NEAR = 0.05  # shares nearer than this are taken as they are
TARGET = np.array([0.5, 0.5])


def with_share(rows: SavedLogits, positive: int, share: float, seed: int = 0) -> SavedLogits:
    """Rows in which `positive` has about this share: whole groups of whichever class is too common are left out."""
    is_positive = rows.label == positive
    if abs(is_positive.mean() - share) <= NEAR:
        return rows
    too_common = is_positive if is_positive.mean() > share else ~is_positive
    wanted = share if too_common is is_positive else 1 - share
    rest = np.sum(~too_common)
    excess = np.sum(too_common) - rest * wanted / (1 - wanted)
    names, number = np.unique(rows.group, return_inverse=True)
    commons, others = np.bincount(number, too_common), np.bincount(number, ~too_common)
    out = []
    for group in np.random.default_rng(seed).permutation(len(names)):
        if others[group] == 0 and commons[group] <= excess:
            out.append(group)
            excess -= commons[group]
    keep = ~np.isin(number, out)
    return SavedLogits(rows.logits[keep], rows.label[keep], rows.group[keep])


def counted(rows: SavedLogits, positive: int) -> str:
    n, labels = len(rows.label), rows.label
    return f"{n} photos in {group_count(rows.group, n)} groups, {np.mean(labels == positive):.0%} positive"


def interval(one: dict[str, float], sign: str = "") -> str:
    return f"{one['value']:{sign}.4f} [{one['low']:{sign}.4f}, {one['high']:{sign}.4f}]"


def calibration_table(fit: SavedLogits, test: SavedLogits, positive: int) -> None:
    """Print the first table."""
    zeros = np.zeros(2)
    none = Calibration("none", np.ones(2), zeros, zeros, zeros, positive)
    print(f"\nCalibrators, fitted on val_calib/fit ({counted(fit, positive)}), judged on val_test ", end="")
    print(f"({counted(test, positive)}) at the class shares of the former:\n")
    print("| calibrator | ECE | NLL | Brier | NLL, change |\n|---|---|---|---|---|")
    shares = np.bincount(fit.label, minlength=2) / len(fit.label)

    def judged(one: Calibration) -> dict[str, np.ndarray]:
        logits = one.calibrated(test.logits)
        given = test.label, test.group, shares
        return figures_at_shares(logits, logits.argmax(axis=1), *given, positive=positive)

    before = judged(none)
    for name in ("none", *CALIBRATORS):
        fitted = fit_calibrator(fit.logits, fit.label, fit.group, [name], positive=positive)
        if name != "none" and not fitted.kept:
            print(
                f"| {name} | not taken: {'; '.join(fitted.notes) or 'not clearly better on held-out groups'} | | | |"
            )
            continue
        both = before_and_after(before, judged(fitted.calibration))
        cells = [interval(both["after"][key]) for key in ("ece", "nll", "brier")]
        change = interval(both["difference"]["nll"], "+") if name != "none" else ""
        print(f"| {name} | {' | '.join(cells)} | {change} |")


def shift_table(fit: SavedLogits, test: SavedLogits, positive: int) -> None:
    """Print the second table."""
    candidates = ["temperature", "vector"]
    chosen = fit_calibrator(fit.logits, fit.label, fit.group, candidates, positive=positive)
    none, moved = chosen.calibration, {}
    seen = np.bincount(fit.label, minlength=2) / len(fit.label)
    estimate = estimate_prior(none.calibrated(test.logits), seen, test.group)
    for name, prior in (("known prior", TARGET), ("prior by EM", estimate.prior)):
        moved[name] = replace(none, prior_bias=prior_bias(seen, np.maximum(prior, 1e-6)))
    known = moved["known prior"]
    scores = softmax(known.calibrated(fit.logits))[:, positive]
    weights = importance_weights(fit.label, seen, TARGET)
    curve = threshold_curve(scores, fit.label == positive, fit.group, "mcc", weights=weights)
    folded = replace(known, threshold_bias=fold_bias(curve.threshold, positive, 2), threshold=curve.threshold)
    print(f"\nFrom 90 % to 50 %: calibrated on {counted(fit, positive)}; judged on {counted(test, positive)}.")
    found, low, high = (values[positive] for values in (estimate.prior, estimate.low, estimate.high))
    print(f"Calibrator: {none.calibrator if chosen.kept else 'none taken'}. ", end="")
    print(f"EM estimates {found:.1%} positives [{low:.1%}, {high:.1%}] in {estimate.iterations} steps. ", end="")
    print(f"Threshold for MCC {curve.threshold:.3f} [{curve.low:.3f}, {curve.high:.3f}].\n")
    print("| decided at 0.5 | accuracy | MCC | accuracy, change | MCC, change |\n|---|---|---|---|---|")
    ways = {"logits as they are": test.logits, "calibrated": none.served(test.logits)}
    ways |= {f"calibrated + {name}": one.served(test.logits) for name, one in moved.items()}
    ways["calibrated + known prior + threshold"] = folded.served(test.logits)
    for name, logits in ways.items():
        figures = bootstrap_intervals(logits, test.label, test.group, positive=positive)
        cells = [interval(figures[key]) for key in ("accuracy", "mcc")]
        changes = paired_differences(logits, test["logits"], test["label"], test["group"], positive=positive)
        for key in ("accuracy", "mcc"):
            change = changes[key]
            cells.append("" if logits is test.logits else interval({**change, "value": change["difference"]}, "+"))
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs on two classes")
    for run in parser.parse_args().runs:
        positive = read_json(run / "run.json")["positive"]
        fit, test = read_predictions(run, "val_calib", "fit"), read_predictions(run, "val_test")
        if fit.logits.shape[1] != 2:
            raise UserError(f"{run}: {fit['logits'].shape[1]} classes, this script is about two")
        print(f"\n## {run.name}")
        calibration_table(fit, test, positive)
        if abs(np.mean(fit.label == positive) - 0.9) > NEAR:
            print("\nNo shift from 90 % to 50 %: its val_calib, and so its training, has other shares.")
            continue
        shift_table(fit, with_share(test, positive, 0.5), positive)


if __name__ == "__main__":
    main()
