"""How often a guarantee is broken when whole groups are drawn again, beside what it promised.

    python tests/bench/guarantees.py --repeats 500
    python tests/bench/guarantees.py --run runs/lora --repeats 500

A population of cameras is drawn from again and again, whole cameras at a time; a band is fitted on each draw and its
rate looked up in the whole population. `groups` is the guarantee of this package, `rows` the same rows taken for
independent ones (exact binomial). With `--run` the population is what the run predicted on `val_calib` and `val_test`
together: figures of that table are about the method, never about the model. Prints Markdown.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from natix_hf.decision.calibration import Calibration
from natix_hf.decision.risk_control import answers, band_rates, control_risk
from natix_hf.documents.calibration import CalibrationFile
from natix_hf.logits import softmax

SETTINGS = [("fpr", 0.05, 0.1), ("fpr", 0.1, 0.1), ("fpr", 0.1, 0.05), ("error", 0.1, 0.1), ("precision", 0.1, 0.1)]
PREVALENCE = 0.5


class Population:
    """Rows sorted by camera: `scores`, `is_positive` `(n,)`, and `sizes` `(cameras,)`."""

    def __init__(self, scores: np.ndarray, is_positive: np.ndarray, groups: np.ndarray):
        order = np.argsort(groups, kind="stable")
        self.scores, self.is_positive = scores[order], is_positive[order]
        self.sizes = np.unique(groups, return_counts=True)[1]
        self.start = np.cumsum(self.sizes) - self.sizes

    def draw(self, cameras: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores, labels and cameras of whole cameras drawn with replacement."""
        drawn = generator.integers(0, len(self.sizes), cameras)
        rows = np.concatenate([np.arange(self.start[c], self.start[c] + self.sizes[c]) for c in drawn])
        return self.scores[rows], self.is_positive[rows], np.repeat(np.arange(cameras), self.sizes[drawn])

    def broken(self, document: dict) -> tuple[bool, float]:
        """Whether the promise is broken in the whole population, and the share of it that is answered."""
        rates = band_rates(self.scores, self.is_positive, document.low, document.high)
        if document.risk != "precision":
            worst = max(getattr(rates, name) for name in ("fpr", "fnr") if document.risk in (name, "error"))
            return worst > document.alpha, rates.coverage
        said, _ = answers(self.scores, document.low, document.high)
        right = PREVALENCE * said[self.is_positive].mean()
        wrong = (1 - PREVALENCE) * rates.fpr
        return wrong > document.alpha * (right + wrong), rates.coverage


def synthetic(kind: str, cameras: int = 8000) -> Population:
    """`alike`: photos of a camera succeed or fail together; `mixed`: in part; `long`: many photos of few cameras, and
    those are harder."""
    generator = np.random.default_rng(0)
    sizes = np.minimum(generator.geometric(0.15, cameras), 60) if kind == "long" else generator.integers(1, 9, cameras)
    camera = np.repeat(np.arange(cameras), sizes)
    shared = {"alike": 0.95, "mixed": 0.4, "long": 0.7}[kind]
    mostly = generator.random(cameras) < 0.5
    is_positive = np.where(generator.random(len(camera)) < 0.85, mostly[camera], ~mostly[camera])
    noise = np.sqrt(shared) * generator.normal(size=cameras)[camera]
    noise += np.sqrt(1 - shared) * generator.normal(size=len(camera))
    skill = 1.1 - (0.02 * sizes[camera] if kind == "long" else 0)
    return Population(1 / (1 + np.exp(-3 * (np.where(is_positive, skill, -skill) + noise))), is_positive, camera)


def of_run(run: Path) -> Population:
    """The calibrated predictions of a run on `val_calib` and `val_test`."""
    calibration = Calibration.from_document(CalibrationFile.read(run))
    tables = [pq.read_table(run / "predictions" / f"{name}.parquet") for name in ("val_calib", "val_test")]
    logits, labels, groups = (
        [row for t in tables for row in t[name].to_pylist()] for name in ("logits", "label", "group")
    )
    scores = softmax(calibration.calibrated(np.array(logits, dtype=np.float64)))[:, calibration.positive]
    return Population(scores, np.array(labels) == calibration.positive, np.array(groups))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=500)
    parser.add_argument("--cameras", type=int, nargs="+", default=[150, 500], help="drawn each time")
    parser.add_argument("--run", type=Path, help="folder of a finished run, in place of the synthetic populations")
    given = parser.parse_args()
    populations = (
        {given.run.name: of_run(given.run)} if given.run else {k: synthetic(k) for k in ("alike", "mixed", "long")}
    )
    print(
        "| population | cameras drawn | risk | alpha | broken: promised | by groups | by rows | reachable by groups | "
        "coverage by groups | by rows |"
    )
    print("|---" * 10 + "|")
    for name, population in populations.items():
        for cameras in given.cameras:
            for risk, alpha, delta in SETTINGS:
                generator = np.random.default_rng(1)
                found: dict[str, list[tuple[bool, float]]] = {"groups": [], "rows": []}
                for _ in range(given.repeats):
                    scores, is_positive, groups = population.draw(cameras, generator)
                    for way, names in (("groups", groups), ("rows", None)):
                        document = control_risk(
                            scores, is_positive, names, risk=risk, alpha=alpha, delta=delta, prevalence=PREVALENCE
                        )
                        if document.reachable:
                            found[way].append(population.broken(document))
                broken = {way: sum(bad for bad, _ in rows) / given.repeats for way, rows in found.items()}
                covered = {way: np.mean([c for _, c in rows]) if rows else 0.0 for way, rows in found.items()}
                print(
                    f"| {name} | {cameras} | {risk} | {alpha:g} | {delta:.0%} | {broken['groups']:.1%} | "
                    f"{broken['rows']:.1%} | {len(found['groups']) / given.repeats:.0%} | {covered['groups']:.0%} | "
                    f"{covered['rows']:.0%} |",
                    flush=True,
                )
    sizes = {name: (len(p.sizes), len(p.scores), p.sizes.max()) for name, p in populations.items()}
    told = "; ".join(f"{name}: {n} photos, {groups} cameras, at most {m}" for name, (groups, n, m) in sizes.items())
    print(f"\n{given.repeats} draws a line, precision at prevalence {PREVALENCE:g}. {told}.")


if __name__ == "__main__":
    main()
